"""Experiments: assignment to arms, and evaluation.

`experiments.report` and its dependencies are not imported here, so that the serving path, which
only assigns, stays light.
"""

from tailorbird.experiments.assign import Enrolment, Experiment, assign
from tailorbird.experiments.metrics import Metric

__all__ = ["Enrolment", "Experiment", "Metric", "assign"]
