"""Experiments: who is in which arm, and what came of it.

`experiments.report` and what it needs are not imported here, so that the serving path, which only
assigns, stays light.
"""

from tailorbird.experiments.assign import Experiment, assign

__all__ = ["Experiment", "assign"]
