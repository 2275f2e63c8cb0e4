"""Watching what is live: figures by time, arm and slot, and the decision to retrain."""

from tailorbird.monitoring.live import Figure, figures_by_period
from tailorbird.monitoring.retrain import Decision, Trigger, decide, decide_on

__all__ = ["Decision", "Figure", "Trigger", "decide", "decide_on", "figures_by_period"]
