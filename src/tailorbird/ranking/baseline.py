"""Baselines: orders of items by candidate sources alone, without a model.

    popular:24h              by share of the last day's traffic
    repeat+popular:28d       the user's past items, most frequent first, then popular items
    item_knn+trending        neighbours of the user's last items, then trending items

The scores of the sources are summed as they are. Counts of `repeat` exceed the weights of
`item_knn`, and these exceed traffic shares, so the first source with a score decides, and later
ones break ties.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.candidates.contract import SERVED_KINDS, SOURCE_KINDS
from tailorbird.candidates.own import OWN_KIND
from tailorbird.candidates.query import RequestLists, source_of
from tailorbird.errors import DeclarationError

Keys = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]

JOIN = "+"
FALLBACK = "popular"  # where nothing was judged yet


@dataclass(frozen=True)
class Baseline:
    """A baseline: sources whose scores are summed."""

    sources: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Baseline":
        """Parse a baseline.

        Raises DeclarationError.
        """
        names = tuple(part.strip() for part in text.split(JOIN))
        for name in names:
            if source_of(name).kind not in SERVED_KINDS:
                raise DeclarationError(
                    f"{name!r} orders no items",
                    where=f"baseline {text}",
                    fix="use sources such as repeat, popular:24h",
                )
        return cls(names)

    def __str__(self) -> str:
        return JOIN.join(self.sources)

    @property
    def is_global(self) -> bool:
        """True if all users get the same order: each source is a leaderboard of all users."""
        boards = [source_of(name).board for name in self.sources]
        return all(board is not None and not board.segment for board in boards)

    def values(self, lists: RequestLists, keys: Keys) -> Floats:
        """Return the value of each item, (n,); 0 for an item without a score."""
        values = np.zeros(len(keys))
        for name in self.sources:
            values += lists.get(name).scores_of(keys)
        return values

    def leading_sources(self, lists: RequestLists, keys: Keys) -> list[str]:
        """Return the first source that scores each item, or ""."""
        scored_masks = [(name, lists.get(name).scores_of(keys) > 0) for name in self.sources]
        return [
            next((name for name, is_scored in scored_masks if is_scored[index]), "")
            for index in range(len(keys))
        ]

    def top(self, lists: RequestLists, excluded_keys: Keys, limit: int) -> Keys:
        """Return the keys of the best items but the excluded, best first, ties by key."""
        keys = np.unique(
            np.concatenate(
                [np.zeros(0, np.uint64), *(lists.get(name).keys for name in self.sources)]
            )
        )
        keys = keys[~np.isin(keys, excluded_keys)] if len(excluded_keys) else keys
        values = self.values(lists, keys)
        return keys[np.lexsort((keys, -values))[:limit]]


def default_baselines(sources: Iterable[str]) -> list[str]:
    """Return the baselines that a slot's model is compared with, by the slot's sources."""
    parsed_sources = [
        source_of(name) for name in ("popular:1h", "popular:24h", "popular:7d", *sources)
    ]
    source_name_by_board = {
        source.board: source.name for source in reversed(parsed_sources) if source.board is not None
    }  # each once, the first named
    longest_window_source = source_name_by_board[
        max(board for board in source_name_by_board if not board.segment)
    ]
    personal_sources = [
        source.name
        for source in parsed_sources
        if source.kind == OWN_KIND or SOURCE_KINDS[source.kind].is_personal
    ]
    personal_sources = (
        personal_sources
        if any(source_of(name).kind == "item_knn" for name in personal_sources)
        else ["item_knn", *personal_sources]
    )
    return [
        *reversed(source_name_by_board.values()),
        *(f"{name}{JOIN}{longest_window_source}" for name in dict.fromkeys(personal_sources)),
    ]
