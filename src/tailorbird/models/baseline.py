"""Baselines to compare a model with: orders of items without a model."""

from collections.abc import Sequence
from dataclasses import dataclass

DEFAULT = ("popular:1h", "popular:24h", "popular:7d", "item_knn+popular:7d")


@dataclass(frozen=True)
class BaselineModel:
    """Candidate sources joined by "+", whose scores order the items; there is nothing to fit."""

    name: str


def baselines(names: Sequence[str] = DEFAULT) -> dict[str, BaselineModel]:
    """Return baselines by name, to be evaluated beside a model.

    Args:
        names: sources joined by "+", such as `repeat+popular:28d`; by default popularity in three
            windows, and the neighbours of the user's last items.
    """
    return {name: BaselineModel(name) for name in names}
