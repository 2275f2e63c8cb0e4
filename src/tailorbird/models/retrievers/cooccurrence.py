"""What goes with the last items of a sequence, by the very table that an index serves (`retrieval.cooccurrence`).

M[i, j] = Σ over distances k ≤ 10 of (how often j stands k places from i) / k, rows divided by their sum + 10
score(j) = Σ over the last 10 items i of the context, the newest first, of 0.8**age · M[i, j]
"""

from dataclasses import dataclass

import numpy as np

from tailorbird.events import DAY
from tailorbird.features.kernels import compiled, in_shares
from tailorbird.models.baselines import Interactions
from tailorbird.models.retrievers.neighbours import Floats, Int32s, keep_best, mark
from tailorbird.models.retrievers.protocol import Contexts, Ints, Scores, Top, joined
from tailorbird.retrieval.cooccurrence import RECENT_DECAY, RECENT_MAX, Cooccurrence, cooccurrence


@dataclass(frozen=True)
class WhatGoesWith:
    """Co-occurrence; the names of the settings are those of `retrieval.build_index`.

    Attributes:
        memory_us: how far back counts; None: everything.
        gap_us: a sequence is cut where more time passes.
        backward: whether an item also leads to what came before it.
    """

    memory_us: int | None = None
    gap_us: int = DAY
    backward: bool = True

    def fit(self, seen: Interactions, t: int) -> "ItemToItem":
        kept = seen.before(t, None if self.memory_us is None else t - self.memory_us)
        order = np.lexsort((kept.ts, kept.person))
        order = order[(kept.person[order] >= 0) & (kept.item[order] >= 0)]
        columns = (kept.person[order], kept.item[order], kept.ts[order])
        return ItemToItem(self, cooccurrence(*columns, items=seen.items, gap_us=self.gap_us, backward=self.backward), kept)


@dataclass(frozen=True)
class ItemToItem:
    """A fitted table, and the interactions within its memory."""

    recipe: WhatGoesWith
    table: Cooccurrence
    kept: Interactions

    @property
    def items(self) -> int:
        return len(self.table.indptr) - 1

    def updated(self, more: Interactions, t: int) -> "ItemToItem":
        return self.recipe.fit(joined(self.kept, more), t)

    def top(self, contexts: Contexts, n: int, *, repeats: bool = False) -> Top:
        some = contexts.newest(RECENT_MAX)
        item, score = np.full((len(some), n), -1, np.int32), np.zeros((len(some), n), np.float32)
        weight = RECENT_DECAY ** np.arange(RECENT_MAX)
        table = (self.table.indptr, self.table.items, self.table.weights)
        left_out = contexts if not repeats else contexts.newest(0)  # the whole context, not only its newest items
        in_shares(_spread, len(some), some.item, some.offsets, left_out.item, left_out.offsets, *table, weight, item, score)
        return Top(item, score)


@compiled
def _spread(
    low: int, high: int,
    recent: Ints, offsets: Ints, own: Ints, own_offsets: Ints,
    indptr: Ints, follower: Int32s, strength: Scores, weight: Floats,
    out_item: Int32s, out_score: Scores,
) -> None:  # fmt: skip
    items = len(indptr) - 1
    sums, touched, left_out = np.zeros(items), np.empty(items, np.int64), np.zeros(items, np.bool_)
    for q in range(low, high):
        mark(left_out, own, own_offsets[q], own_offsets[q + 1], True)
        count = 0
        for at in range(offsets[q], offsets[q + 1]):
            i = recent[at]
            if i < 0 or i >= items:
                continue
            share = weight[offsets[q + 1] - 1 - at]
            for entry in range(indptr[i], indptr[i + 1]):
                j = follower[entry]
                if left_out[j]:
                    continue
                if sums[j] == 0.0:
                    touched[count] = j
                    count += 1
                sums[j] += share * strength[entry]
        keep_best(sums, touched, count, out_item[q], out_score[q])
        mark(left_out, own, own_offsets[q], own_offsets[q + 1], False)
