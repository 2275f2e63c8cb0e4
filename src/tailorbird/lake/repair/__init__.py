"""Mending a damaged lake, see `repair.repairer`."""

from tailorbird.lake.repair.plan import Beyond, Mend, Plan
from tailorbird.lake.repair.repairer import Repairer

__all__ = ["Beyond", "Mend", "Plan", "Repairer"]
