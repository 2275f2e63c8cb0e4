"""Similarity of a candidate to the last items of a sequence: `features.similarity` at run time.

    value = Σ (or max) over the last items i, newest first, of decay**age · M[i, candidate]

M is the item co-occurrence used for candidates (`candidates.item_knn`), as of the request. The
value is missing if none of the items has neighbours yet, and 0 for a candidate that is a neighbour
of none. Sums run in float64 in order of age and are rounded once; `features.reference.learned` is
the reference in plain Python.
"""

import math

import msgspec
import numpy as np
import numpy.typing as npt

from tailorbird.candidates.protocol import Keys
from tailorbird.candidates.query import RequestLists
from tailorbird.errors import BundleError
from tailorbird.features.declare import declarations
from tailorbird.features.declare.limits import SIMILARITY_LENGTH_DEFAULT, SIMILARITY_LENGTH_MAX

Floats = npt.NDArray[np.float64]


class Similarity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A similarity column as the encoder stores it, with the fields of the declaration.

    Attributes:
        of: the sequence whose last `length` items count.
        table: M.
        how: `sum` or `max`.
    """

    name: str
    of: str
    table: declarations.LearnedTable = "cooccurrence"
    how: declarations.SimilarityHow = "sum"
    length: int = SIMILARITY_LENGTH_DEFAULT
    decay: float = 0.8

    def __post_init__(self) -> None:
        if not (
            1 <= self.length <= SIMILARITY_LENGTH_MAX
            and math.isfinite(self.decay)
            and 0 < self.decay <= 1
        ):
            raise BundleError(
                f"the encoder holds a similarity {self.name!r} without bounds",
                fix="tailorbird train",
            )

    def describe(self) -> str:
        """Describe the column, for cards and reports."""
        kind = "largest" if self.how == "max" else "sum"
        return (
            f"{kind} of what goes with the last {self.length} items of {self.of}, times "
            f"{self.decay:g} ** age, by {self.table}"
        )

    def column(self, lists: RequestLists, sequence: Keys, candidates: Keys) -> Floats:
        """Return the values, (n,), of a request's candidates.

        Args:
            sequence: keys of the sequence's items, oldest first.
            candidates: (n,): keys.
        """
        recent = sequence[::-1][: self.length]
        neighbours = lists.neighbours_of(recent)
        if not len(neighbours.keys):
            return np.full(len(candidates), np.nan)
        value = np.zeros(len(candidates))
        for age in range(len(recent)):
            decayed_score = neighbours.list_for(age).scores_of(candidates) * self.decay**age
            value = np.maximum(value, decayed_score) if self.how == "max" else value + decayed_score
        return value


def from_declaration(declared: declarations.Similarity) -> Similarity:
    """Convert a declared similarity to the form that an encoder stores."""
    names = Similarity.__struct_fields__
    return Similarity(*(getattr(declared, name) for name in names))
