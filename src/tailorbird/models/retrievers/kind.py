"""More of the same kind: what is popular among items that are like those of the context. For people, and items, that are new.

    score(j) = (count(j) + 1) · (prior + Σ over the last 10 items i, the newest first, of 0.8**age · alike(i, j))

alike is the cosine of what two items are made of (tokens). Without a context, what is popular is left; without a count, what is alike.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tailorbird.errors import UsageError
from tailorbird.models.baselines import Interactions
from tailorbird.models.retrievers.popular import Popular, PopularItems
from tailorbird.models.retrievers.protocol import Contexts, Top, best_of
from tailorbird.retrieval.cooccurrence import RECENT_DECAY, RECENT_MAX

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

ROWS = 512  # questions at once: scores of the whole catalogue for each


@dataclass(frozen=True)
class OfItsKind:
    """What an item is, times how popular it is.

    Attributes:
        content: shape (items, tokens): codes from 1, 0 for none.
        window_us: of what is popular.
        prior: weight of being popular alone.
    """

    content: npt.NDArray[np.int64] = field(repr=False, compare=False)
    window_us: int | None = None
    prior: float = 0.05

    def fit(self, seen: Interactions, t: int) -> "KindOfItems":
        if len(self.content) < seen.items:
            raise UsageError(f"content of {len(self.content)} items for a catalogue of {seen.items}", fix="give a row for each item code")
        return KindOfItems(self, Popular(self.window_us).fit(seen, t), _units(self.content[: seen.items]))


@dataclass(frozen=True)
class KindOfItems:
    """`units`: sparse float32 (items, tokens), rows of length 1, or 0 where nothing is known of an item."""

    recipe: OfItsKind
    popular: PopularItems
    units: "csr_matrix"

    @property
    def items(self) -> int:
        return self.units.shape[0]

    def updated(self, more: Interactions, t: int) -> "KindOfItems":
        popular = self.popular.updated(more, t)
        return KindOfItems(self.recipe, popular, _units(self.recipe.content[: popular.items]))

    def top(self, contexts: Contexts, n: int, *, repeats: bool = False) -> Top:
        item, score = np.full((len(contexts), n), -1, np.int32), np.zeros((len(contexts), n), np.float32)
        count = (self.popular.count + 1).astype(np.float32)
        for low in range(0, len(contexts) if self.items else 0, ROWS):
            some = contexts.part(low, min(low + ROWS, len(contexts)))
            recent = some.newest(RECENT_MAX)
            known = (recent.item >= 0) & (recent.item < self.items)
            age = recent.offsets[1:][recent.owner] - 1 - np.arange(len(recent.item))
            weight = (RECENT_DECAY ** age[known]).astype(np.float32)
            places = (recent.owner[known], recent.item[known])
            profile = type(self.units)((weight, places), shape=(len(some), self.items)) @ self.units
            alike = np.ascontiguousarray((self.units @ profile.toarray().T).T)
            scores = ((self.recipe.prior + alike) * count).astype(np.float32, copy=False)
            own = Contexts(some.t, np.where(some.item < self.items, some.item, -1), some.ts, some.offsets)
            found = best_of(scores, own, n, repeats=repeats)
            item[low : low + len(some)], score[low : low + len(some)] = found.item, found.score
        return Top(item, score)


def _units(content: npt.NDArray[np.int64]) -> "csr_matrix":
    from scipy.sparse import csr_matrix

    row, place = np.nonzero(content)  # 0 is no token
    pair = np.unique(np.stack((row, content[row, place] - 1)), axis=1)  # a token that is named twice counts once
    length = np.sqrt(np.bincount(pair[0], minlength=len(content)))
    values = (1 / length[pair[0]]).astype(np.float32)
    return csr_matrix((values, (pair[0], pair[1])), shape=(len(content), int(content.max(initial=0))))
