"""For all tests: an example that Hypothesis draws has no deadline, which would be a timed test on
machines that others use. Compiled modules are kept, since hundreds of processes load them.
"""

import os
import sys

from hypothesis import HealthCheck, settings

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

settings.register_profile(
    "shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("shared machine")
