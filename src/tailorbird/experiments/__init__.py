"""Experiments: who is in which arm, and what came of it."""

from tailorbird.experiments.assign import Experiment, assign

__all__ = ["Experiment", "assign"]
