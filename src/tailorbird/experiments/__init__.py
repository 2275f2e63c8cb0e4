"""Experiments: assignment to arms, and evaluation.

`experiments.report` and its dependencies are not imported here, so that the serving path, which
only assigns, stays light.
"""

from tailorbird.experiments.assign import Experiment, assign

__all__ = ["Experiment", "assign"]
