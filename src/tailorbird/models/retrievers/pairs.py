"""Candidates from several retrievers, side by side: which (question, item) pairs to rank, and what each retriever says of each.

tops → pool → pairs, sorted by (question, item) → scores_of → columns for `models.gbdt`; what the crowd does adds `crowd`'s
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.models.retrievers.protocol import Ints, Scores, Top


@dataclass(frozen=True)
class Pairs:
    """Pairs of question and item, each once, sorted by both; shape (n,) each.

    Attributes:
        questions, items: how many there are of each.
    """

    question: Ints
    item: Ints
    questions: int
    items: int

    @property
    def offsets(self) -> Ints:
        """Question q owns rows offsets[q]:offsets[q + 1]."""
        return np.concatenate(([0], np.cumsum(np.bincount(self.question, minlength=self.questions)))).astype(np.int64)

    def best(self, score: npt.NDArray[np.floating], n: int) -> Top:
        """The best `n` pairs of each question by a score of each pair, of any sign; ties by the smaller item."""
        item, kept = np.full((self.questions, n), -1, np.int32), np.zeros((self.questions, n), np.float32)
        order = np.lexsort((-score, self.question))
        nth = np.arange(len(order)) - self.offsets[self.question[order]]
        order, nth = order[nth < n], nth[nth < n]
        item[self.question[order], nth] = self.item[order]
        kept[self.question[order], nth] = score[order]
        return Top(item, kept)


def pool(tops: Mapping[str, Top], take: Mapping[str, int], items: int) -> Pairs:
    """The first `take` items of each retriever's list, merged."""
    keys = []
    questions = len(next(iter(tops.values())).item)
    for name, top in tops.items():
        item = top.item[:, : take[name]].astype(np.int64)
        row, column = np.nonzero(item >= 0)
        keys.append(row * items + item[row, column])
    key = np.unique(np.concatenate(keys))
    return Pairs(key // items, key % items, questions, items)


def scores_of(name: str, top: Top, pairs: Pairs) -> dict[str, Scores]:
    """What a retriever says of each pair: its score, 0 below the end of its list; the share of its best score; that best score."""
    found = np.zeros(len(pairs.item), np.float32)
    row, column = np.nonzero(top.item >= 0)
    key = row * pairs.items + top.item[row, column].astype(np.int64)
    wanted = pairs.question * pairs.items + pairs.item
    at = np.searchsorted(wanted, key)
    listed = (at < len(wanted)) & (wanted[np.minimum(at, len(wanted) - 1)] == key) if len(wanted) else np.zeros(len(key), bool)
    found[at[listed]] = top.score[row[listed], column[listed]]
    best = top.score[:, 0][pairs.question]
    return {name: found, f"{name}_share": (found / np.maximum(best, 1e-9)).astype(np.float32), f"{name}_best": best}
