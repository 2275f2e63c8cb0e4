"""Ranking: from a bundle and features to a slate with known propensities.

Pure functions, shared by serving and evaluation. `ranking.bundle` (ONNX Runtime) and
`ranking.encode.encoder` are imported by their own names, so that declaring slots needs neither.
"""

from tailorbird.ranking.churn.declaration import Churn, Contact
from tailorbird.ranking.scores import ChurnScore, NextBest
from tailorbird.ranking.slot import Boost, Cap, Diversity, Explore, Pin, Promotion, Quota, Slot

__all__ = [
    "Boost",
    "Cap",
    "Churn",
    "ChurnScore",
    "Contact",
    "Diversity",
    "Explore",
    "NextBest",
    "Pin",
    "Promotion",
    "Quota",
    "Slot",
]
