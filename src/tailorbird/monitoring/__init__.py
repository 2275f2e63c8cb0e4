"""Monitoring of live traffic: metrics by time, arm and slot, and the decision to retrain."""

from tailorbird.monitoring.live import PeriodFigures, figures_by_period
from tailorbird.monitoring.retrain import (
    RetrainCriteria,
    RetrainVerdict,
    decide_from_steps,
    decide_retrain,
)

__all__ = [
    "PeriodFigures",
    "RetrainCriteria",
    "RetrainVerdict",
    "decide_from_steps",
    "decide_retrain",
    "figures_by_period",
]
