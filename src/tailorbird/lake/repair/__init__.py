"""Mending a damaged lake, see `repair.repairer`."""

from tailorbird.lake.repair.repairer import Beyond, Mend, Plan, Repairer

__all__ = ["Beyond", "Mend", "Plan", "Repairer"]
