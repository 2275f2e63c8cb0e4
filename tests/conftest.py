"""For all tests: an example that Hypothesis draws has no deadline, which would be a timed test on
machines that others use.
"""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("shared machine")
