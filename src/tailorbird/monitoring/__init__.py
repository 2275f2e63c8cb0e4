"""Monitoring of live traffic: metrics by time, arm and slot, and the decision to retrain."""

from tailorbird.monitoring.live import PeriodFigures, figures_by_period
from tailorbird.monitoring.retrain import Decision, Trigger, decide, decide_from_steps

__all__ = [
    "Decision",
    "PeriodFigures",
    "Trigger",
    "decide",
    "decide_from_steps",
    "figures_by_period",
]
