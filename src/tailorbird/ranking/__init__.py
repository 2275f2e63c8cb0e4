"""From a bundle and features to an ordered answer with known propensities: pure functions, used by serving and by evaluation."""

from tailorbird.ranking.slot import Explore, Slot

__all__ = ["Explore", "Slot"]
