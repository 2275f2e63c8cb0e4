"""What somebody chose before, again: how often, what is long ago counting less. Hard to beat for groceries."""

from dataclasses import dataclass

import numpy as np

from tailorbird.events import DAY
from tailorbird.models.baselines import Interactions
from tailorbird.models.retrievers.pairs import Pairs
from tailorbird.models.retrievers.popular import Popular, PopularItems
from tailorbird.models.retrievers.protocol import Contexts, Top


@dataclass(frozen=True)
class OwnItems:
    """Σ 2^(−age / half_life) over the question's own context, ages counted to the question; then what is popular.

    Attributes:
        half_life_us: age at which a choice counts half.
        window_us: of what is popular, which breaks ties and fills up.
    """

    half_life_us: int = 90 * DAY
    window_us: int = 28 * DAY

    def fit(self, seen: Interactions, t: int) -> "Habits":
        return Habits(self, Popular(self.window_us).fit(seen, t))


@dataclass(frozen=True)
class Habits:
    """Knows nothing but what is popular: habits stand in the questions. With `repeats=False` only that is left."""

    recipe: OwnItems
    popular: PopularItems

    @property
    def items(self) -> int:
        return self.popular.items

    def updated(self, more: Interactions, t: int) -> "Habits":
        return Habits(self.recipe, self.popular.updated(more, t))

    def top(self, contexts: Contexts, n: int, *, repeats: bool = False) -> Top:
        fill = self.popular.top(contexts, n, repeats=repeats)
        row, column = np.nonzero(fill.item >= 0)
        # What is popular ends below any habit that is less than 20 half-lives old.
        crowd = fill.score[row, column] / max(float(self.popular.count.max(initial=0)), 1.0) * 2.0**-20
        owner, item, weight = row, fill.item[row, column].astype(np.int64), crowd.astype(np.float64)
        if repeats:
            known = (contexts.item >= 0) & (contexts.item < self.items)
            age = contexts.t[contexts.owner[known]] - contexts.ts[known]
            owner = np.concatenate((owner, contexts.owner[known]))
            item = np.concatenate((item, contexts.item[known]))
            weight = np.concatenate((weight, np.exp2(-age / self.recipe.half_life_us)))
        key, position = np.unique(owner * self.items + item, return_inverse=True)
        pairs = Pairs(key // self.items, key % self.items, len(contexts), self.items)
        return pairs.best(np.bincount(position, weight, minlength=len(key)).astype(np.float64), n)
