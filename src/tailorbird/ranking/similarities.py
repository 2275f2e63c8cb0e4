"""How much a candidate goes with the last items of a sequence, by a table that a bundle brings: `features.similarity` as it is computed.

    value = Σ over the last items i, the newest first, of decay**age · M[i, candidate]        or the largest of these

M is the item-to-item table of the bundle's index, trained until the index's `as_of`. Missing are a request before that moment, a request
none of whose items the table knows, and a candidate that it does not know, such as one that came after it was made. Sums run in float64
in order of age and are rounded once, so a row is the same, bit for bit, however many are asked for at once; its meaning in plain Python
is `features.reference_learned`.
"""

import math

import msgspec
import numpy as np
import numpy.typing as npt

from tailorbird.errors import BundleError
from tailorbird.features import declare
from tailorbird.features.declare import SIMILARITY_LENGTH_MAX
from tailorbird.ranking.computed import Keys, RaggedLike, Rows, Times, recent_at
from tailorbird.retrieval import Cooccurrence, Index

Floats = npt.NDArray[np.float64]


class Similarity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A column, as the encoder keeps it; the fields are those of the declaration."""

    name: str
    of: str
    table: declare.LearnedTable = "cooccurrence"
    how: declare.How = "sum"
    length: int = declare.SIMILARITY_LENGTH
    decay: float = 0.8

    def __post_init__(self) -> None:
        if not (1 <= self.length <= SIMILARITY_LENGTH_MAX and math.isfinite(self.decay) and 0 < self.decay <= 1):
            raise BundleError(f"the encoder holds a similarity {self.name!r} without bounds", fix="tailorbird train")

    def told(self) -> str:
        """In words, for cards and reports."""
        kind = "largest" if self.how == "max" else "sum"
        return f"{kind} of what goes with the last {self.length} items of {self.of}, times {self.decay:g} ** age, by {self.table}"

    def column(self, item_keys: Keys, request: Rows, sequence: RaggedLike | None, t: Times, index: Index) -> Floats:
        """The values (n,) of n rows.

        Args:
            item_keys: (n,): the candidates.
            request: (n,): which request a row belongs to.
            sequence: that of each request; None if there is none.
            t: (requests,): their times.
            index: whose table is asked.
        """
        candidate = _known(index, item_keys)
        if sequence is None or not sequence.item.size or not len(index):
            return np.full(item_keys.size, np.nan)
        recent, weights = [], []
        weight = 1.0
        for age in range(self.length):
            keys, there = recent_at(sequence, age)
            if not there.any():
                break
            recent.append(np.where(there, _known(index, keys), -1))
            weights.append(weight)
            weight *= self.decay
        heard = (t >= index.as_of) & np.any([rows >= 0 for rows in recent], axis=0)
        if len(t) == 1:
            value = _of_one(index.item_item, recent, weights, candidate, self.how)
        else:
            value = self._of_many(index, recent, weights, candidate, request)
        value[~heard[request] | (candidate < 0)] = np.nan
        return value

    def _of_many(self, index: Index, recent: list[Rows], weights: list[float], candidate: Rows, request: Rows) -> Floats:
        value = np.zeros(candidate.size)
        for rows, weight in zip(recent, weights, strict=True):
            worth = weight * index.item_item.lookup(rows[request], candidate).astype(np.float64)
            value = np.maximum(value, worth) if self.how == "max" else value + worth
        return value


def _of_one(table: Cooccurrence, recent: list[Rows], weights: list[float], candidate: Rows, how: declare.How) -> Floats:
    """The same for one request, whose rows of the table are spread out once: its cost grows with their entries, not with the candidates."""
    spread = np.zeros(table.indptr.size)  # one longer than the columns, so that -1 finds a zero
    for rows, weight in zip(recent, weights, strict=True):
        row = int(rows[0])
        if row < 0:
            continue
        entries = slice(*table.indptr[row : row + 2])
        at, worth = table.items[entries], weight * table.weights[entries].astype(np.float64)
        spread[at] = np.maximum(spread[at], worth) if how == "max" else spread[at] + worth
    return spread[candidate]


def _known(index: Index, keys: Keys) -> Rows:
    """Rows of what the index was made of, −1 for the others: items that came later have rows, and the table knows nothing of them."""
    rows = index.find(keys)
    return np.where((rows < index.later_at) & (keys != 0), rows, -1)
