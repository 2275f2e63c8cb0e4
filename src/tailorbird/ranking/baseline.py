"""Baselines: orders of items by candidate sources alone, without a model.

    popular:24h                  by share of the last day's traffic
    repeat+popular:28d           what the person had before, most often first, and behind it what is popular
    item_knn+trending            what goes with the person's last items, and behind it what is read now

The scores of the sources are added up as they are: counts of `repeat` are above the weights of
`item_knn`, and these above shares of traffic, so the first source that knows an item decides, and a
later one breaks ties.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.candidates.query import LIVE, RequestLists, source_of
from tailorbird.errors import DeclarationError

Keys = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]

JOIN = "+"
FALLBACK = "popular"  # where nothing was judged yet


@dataclass(frozen=True)
class Baseline:
    """Sources whose scores are added up."""

    sources: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Baseline":
        """Read a baseline as it is written. Raises DeclarationError."""
        names = tuple(part.strip() for part in text.split(JOIN))
        for name in names:
            if source_of(name).kind not in LIVE:
                raise DeclarationError(
                    f"{name!r} orders no items",
                    where=f"baseline {text}",
                    fix="use sources such as repeat, popular:24h",
                )
        return cls(names)

    def __str__(self) -> str:
        return JOIN.join(self.sources)

    @property
    def is_alike(self) -> bool:
        """Whether everybody gets the same order: from leaderboards that look at nobody's segment or
        category.
        """
        boards = [source_of(name).board for name in self.sources]
        return all(board is not None and not board.segment for board in boards)

    def values(self, lists: RequestLists, keys: Keys) -> Floats:
        """Return the value of each item, (n,); 0 for one that no source knows."""
        values = np.zeros(len(keys))
        for name in self.sources:
            values += lists.of(name).scores_of(keys)
        return values

    def leading(self, lists: RequestLists, keys: Keys) -> list[str]:
        """Return for each item the first source that knows it, "" where none does."""
        has_score = [(name, lists.of(name).scores_of(keys) > 0) for name in self.sources]
        return [
            next((name for name, there in has_score if there[place]), "") for place in range(len(keys))
        ]

    def top(self, lists: RequestLists, without: Keys, most: int) -> Keys:
        """Return the keys of the best items, the best first, ties by key, without some."""
        keys = np.unique(
            np.concatenate(
                [np.zeros(0, np.uint64), *(lists.of(name).keys for name in self.sources)]
            )
        )
        keys = keys[~np.isin(keys, without)] if len(without) else keys
        values = self.values(lists, keys)
        return keys[np.lexsort((keys, -values))[:most]]


def default_baselines(sources: Iterable[str]) -> list[str]:
    """Return the baselines that a slot's model is judged beside, by the sources of the slot."""
    parsed = [source_of(name) for name in ("popular:1h", "popular:24h", "popular:7d", *sources)]
    boards = {
        source.board: source.name for source in reversed(parsed) if source.board is not None
    }  # each once, the first named
    longest = boards[max(board for board in boards if not board.segment)]
    personal = [
        source.name
        for source in parsed
        if source.kind in ("item_knn", "session_knn", "stan", "repeat")
    ]
    personal = (
        personal
        if any(source_of(name).kind == "item_knn" for name in personal)
        else ["item_knn", *personal]
    )
    return [
        *reversed(boards.values()),
        *(f"{name}{JOIN}{longest}" for name in dict.fromkeys(personal)),
    ]
