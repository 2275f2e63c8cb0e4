"""Popular within a window before the moment of the model: the same items for everybody, but for what they had already."""

from dataclasses import dataclass

import numpy as np

from tailorbird.models.baselines import Interactions
from tailorbird.models.retrievers.protocol import Contexts, Ints, Top, joined


@dataclass(frozen=True)
class Popular:
    """Counts of the last `window_us` before t; of everything without one.

    Attributes:
        window_us: how far back counts.
        half_life_us: a count that is so old counts half; None: all count alike.
    """

    window_us: int | None = None
    half_life_us: int | None = None

    def fit(self, seen: Interactions, t: int) -> "PopularItems":
        kept = seen.before(t, None if self.window_us is None else t - self.window_us)
        weight = None if self.half_life_us is None else np.exp2(-(t - kept.ts) / self.half_life_us)
        known = kept.item >= 0
        count = np.bincount(kept.item[known], None if weight is None else weight[known], minlength=seen.items).astype(np.float64)
        order = np.lexsort((np.arange(seen.items), -count))
        return PopularItems(self, count, order[: int((count > 0).sum())], kept)


@dataclass(frozen=True)
class PopularItems:
    """A fitted count.

    Attributes:
        count: float64 (items,).
        order: the items that were chosen at all, most often first.
        kept: the interactions within the window.
    """

    recipe: Popular
    count: np.ndarray
    order: Ints
    kept: Interactions

    @property
    def items(self) -> int:
        return len(self.count)

    def updated(self, more: Interactions, t: int) -> "PopularItems":
        return self.recipe.fit(joined(self.kept, more), t)

    def top(self, contexts: Contexts, n: int, *, repeats: bool = False) -> Top:
        item, score = np.full((len(contexts), n), -1, np.int32), np.zeros((len(contexts), n), np.float32)
        longest = 0 if repeats or not len(contexts) else int(np.diff(contexts.offsets).max())
        listed = self.order[: n + longest]
        if not len(listed) or not len(contexts):
            return Top(item, score)
        rank = np.full(self.items + 1, -1, np.int64)  # one longer, so that −1 finds none
        rank[listed] = np.arange(len(listed))
        kept = np.ones((len(contexts), len(listed)), bool)
        if not repeats:
            at = rank[np.where(contexts.item < self.items, contexts.item, -1)]
            kept[contexts.owner[at >= 0], at[at >= 0]] = False
        nth = np.cumsum(kept, axis=1) - 1
        kept &= nth < n
        row, column = np.nonzero(kept)
        item[row, nth[row, column]] = listed[column]
        score[row, nth[row, column]] = self.count[listed[column]]
        return Top(item, score)
