"""Monitoring of live traffic: metrics by time, arm and slot, and the decision to retrain."""

from tailorbird.monitoring.live import PeriodFigures, figures_by_period
from tailorbird.monitoring.retrain import (
    Decision,
    RetrainCriteria,
    decide_from_steps,
    decide_retrain,
)

__all__ = [
    "Decision",
    "PeriodFigures",
    "RetrainCriteria",
    "decide_from_steps",
    "decide_retrain",
    "figures_by_period",
]
