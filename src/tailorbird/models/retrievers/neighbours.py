"""Nearest sessions over whole logs: V-SkNN and STAN, fitted on interactions and asked for many contexts at once.

What they are, and their settings, stand in `retrieval.neighbours`; an index holds the newest sessions and asks them in NumPy
(`retrieval.sessions`), which gives the same lists.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tailorbird.features.kernels import compiled, in_shares
from tailorbird.models.baselines import Interactions
from tailorbird.models.retrievers.protocol import Contexts, Ints, Scores, Top
from tailorbird.models.retrievers.sessions import Int32s, Sequences
from tailorbird.retrieval import neighbours
from tailorbird.retrieval.neighbours import CONTEXT_MAX, Floats


class VSkNN(neighbours.VSkNN):
    """V-SkNN as a recipe."""

    def fit(self, seen: Interactions, t: int) -> "Neighbours":
        return Neighbours(self, Sequences.of(seen))


class STAN(neighbours.STAN):
    """STAN as a recipe."""

    def fit(self, seen: Interactions, t: int) -> "Neighbours":
        return Neighbours(self, Sequences.of(seen))


@dataclass(frozen=True)
class Neighbours:
    """A fitted V-SkNN or STAN."""

    recipe: VSkNN | STAN
    sequences: Sequences

    @property
    def items(self) -> int:
        return self.sequences.log.items

    def updated(self, more: Interactions, t: int) -> "Neighbours":
        return Neighbours(self.recipe, self.sequences.with_more(more))

    def top(self, contexts: Contexts, n: int, *, repeats: bool = False) -> Top:
        some = contexts.newest(CONTEXT_MAX)
        item, score = np.full((len(some), n), -1, np.int32), np.zeros((len(some), n), np.float32)
        s, how = self.sequences, self.recipe.search()
        table = (s.starts, s.item, s.place, s.last, s.lists, s.holder)
        lift = how.lift(np.diff(s.lists), len(s))
        search = (how.k, how.sample, how.weight, how.cosine, how.recency, how.decay, how.closeness, lift)
        left_out = contexts if not repeats else contexts.newest(0)  # the whole context, not only its newest items
        questions = (some.t, some.item, some.offsets, left_out.item, left_out.offsets)
        in_shares(_search, len(some), *questions, *table, *search, item, score)
        return Top(item, score)


@compiled
def _search(
    low: int, high: int,
    t: Ints, context: Ints, offsets: Ints, unwanted: Ints, unwanted_offsets: Ints,
    starts: Ints, item: Int32s, place: Int32s, last: Ints, lists: Ints, holder: Int32s,
    k: int, sample: int, weight: Floats, cosine: bool, recency: float, decay: Floats, closeness: float, lift: Floats,
    out_item: Int32s, out_score: Scores,
) -> None:  # fmt: skip
    """Questions low … high − 1. The lists of the context's items are merged from their ends: newest sequences first."""
    items = len(lift)
    sums, touched = np.zeros(items), np.empty(items, np.int64)
    is_own, left_out = np.zeros(items, np.bool_), np.zeros(items, np.bool_)
    near, likeness, faded = np.empty(sample, np.int64), np.empty(sample), np.empty(sample)
    own, own_weight, own_back = np.empty(CONTEXT_MAX, np.int64), np.empty(CONTEXT_MAX), np.empty(CONTEXT_MAX, np.int64)
    cursor = np.empty(CONTEXT_MAX, np.int64)
    for q in range(low, high):
        begin, end = offsets[q], offsets[q + 1]
        length, known, norm = end - begin, 0, 0.0
        for at in range(end - 1, begin - 1, -1):  # newest first, so that an item keeps its last place
            code = context[at]
            if code < 0 or code >= items or is_own[code]:
                continue
            is_own[code] = True
            own[known], own_back[known] = code, end - 1 - at
            own_weight[known] = weight[length, at - begin]
            norm += own_weight[known] ** 2
            cursor[known] = lists[code + 1] - 1
            known += 1
        if known == 0:
            continue
        scale = math.sqrt(norm) if cosine else float(known)
        found = 0
        while found < sample:
            newest = -1
            for j in range(known):
                if cursor[j] >= lists[own[j]] and holder[cursor[j]] > newest:
                    newest = holder[cursor[j]]
            if newest < 0:
                break
            total, nearest = 0.0, CONTEXT_MAX
            for j in range(known):
                if cursor[j] >= lists[own[j]] and holder[cursor[j]] == newest:
                    cursor[j] -= 1
                    total += own_weight[j]
                    nearest = min(nearest, own_back[j])
            total /= scale
            if cosine:
                total /= math.sqrt(starts[newest + 1] - starts[newest])
            if recency != math.inf:
                total *= math.exp(-(t[q] - last[newest]) / recency)
            near[found], likeness[found], faded[found] = newest, total, total * decay[nearest]
            found += 1
        if found > k:
            chosen = np.argsort(-likeness[:found], kind="mergesort")[:k]
        else:
            chosen = np.arange(found)
        mark(left_out, unwanted, unwanted_offsets[q], unwanted_offsets[q + 1], True)
        count = 0
        for c in chosen:
            first, stop = starts[near[c]], starts[near[c] + 1]
            star = 0
            if closeness != math.inf:
                for at in range(first, stop):
                    if is_own[item[at]]:
                        star = max(star, place[at])
            for at in range(first, stop):
                code = item[at]
                if left_out[code]:
                    continue
                gain = faded[c]
                if closeness != math.inf:
                    gain *= math.exp(-abs(place[at] - star) / closeness)
                if sums[code] == 0.0 and gain > 0.0:
                    touched[count] = code
                    count += 1
                sums[code] += gain * lift[code] if gain > 0.0 else 0.0
        keep_best(sums, touched, count, out_item[q], out_score[q])
        mark(left_out, unwanted, unwanted_offsets[q], unwanted_offsets[q + 1], False)
        for j in range(known):
            is_own[own[j]] = False


@compiled
def mark(marks: Any, item: Ints, low: int, high: int, value: bool) -> None:
    """Set the marks of some items; those that the model does not know have none."""
    for at in range(low, high):
        if 0 <= item[at] < len(marks):
            marks[item[at]] = value


@compiled
def keep_best(sums: Floats, touched: Ints, count: int, out_item: Any, out_score: Any) -> None:
    """Write the best of `touched` items, best first, ties by code; `sums` is 0 again afterwards."""
    n, size = len(out_item), 0
    for j in range(count):
        code = touched[j]
        value = np.float32(sums[code])
        sums[code] = 0.0
        if value <= 0 or (size == n and (value < out_score[n - 1] or (value == out_score[n - 1] and code > out_item[n - 1]))):
            continue
        at = size if size < n else n - 1
        while at > 0 and (out_score[at - 1] < value or (out_score[at - 1] == value and out_item[at - 1] > code)):
            out_score[at], out_item[at] = out_score[at - 1], out_item[at - 1]
            at -= 1
        out_score[at], out_item[at] = value, code
        size = min(size + 1, n)
