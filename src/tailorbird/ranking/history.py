"""Columns for neural nets: the candidate and the user's newest items as codes, and their ages.

    item_code                     the candidate
    recent_item_1 … _L            the newest items, newest first; 0 where there is none
    recent_gap_1 … _L             hours since each; NaN where there is none

Codes: 0 missing, 1 unknown, 2.. as learned. An item that training did not see has the code of the
unknown, whose vector was learned: from items of a few rows, which have it too, and from a share of
all codes (`unknown_share`). With `buckets`, what has no code of its own has one of so many codes
behind them instead of 1; training does not ask for them any more: of a bucket that no training row
fell into, a net says what its first weights say, and of one of a few rare items little else. Words
of the candidate's attributes are in `retrieval.words`.
"""

from functools import cached_property

import msgspec
import numpy as np
import numpy.typing as npt

from tailorbird.errors import BundleError
from tailorbird.events.clock import HOUR
from tailorbird.ranking.computed import Keys, RaggedLike, Rows, Times, recent_at
from tailorbird.ranking.steps import UNKNOWN, Codes

Matrix = npt.NDArray[np.float32]

LENGTH_MAX = 64


class History(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """The candidate and the newest items of the user as codes.

    Attributes:
        sequence: which sequence the items are of.
        length: how many of them.
        keys: the item at place i has the code i + 2.
        buckets: codes that all other items share by hash; 0, as training has it, makes them
            unknown.
    """

    sequence: str
    length: int
    keys: list[int]
    buckets: int = 0

    def __post_init__(self) -> None:
        if not (1 <= self.length <= LENGTH_MAX and 0 <= self.buckets < 1 << 22):
            raise BundleError("the encoder holds a history without bounds", fix="tailorbird train")

    @property
    def names(self) -> tuple[str, ...]:
        places = range(1, self.length + 1)
        return (
            "item_code",
            *(f"recent_item_{place}" for place in places),
            *(f"recent_gap_{place}" for place in places),
        )

    @property
    def size(self) -> int:
        """The number of codes, missing and unknown included."""
        return len(self.keys) + 2 + self.buckets

    @cached_property
    def _codes(self) -> Codes:
        return Codes(self.keys)

    def codes(self, keys: Keys) -> Matrix:
        """Encode item keys of any shape."""
        flat = keys.ravel()
        code = self._codes.apply(flat)
        if self.buckets:
            hashed = 2.0 + len(self.keys) + (flat % np.uint64(self.buckets)).astype(np.float64)
            code = np.where(code == UNKNOWN, hashed, code)
        return code.astype(np.float32).reshape(keys.shape)

    def columns(
        self, item_keys: Keys, request: Rows, sequence: RaggedLike | None, t: Times
    ) -> Matrix:
        """Return the columns (n, len(names)) of n rows.

        Args:
            request: (n,): which request a row belongs to.
            sequence: that of each request, with times; None if there is none.
            t: (requests,): their times.
        """
        out = np.empty((item_keys.size, 1 + 2 * self.length), np.float32)
        out[:, 0] = self.codes(item_keys)
        keys = np.zeros((len(t), self.length), np.uint64)
        gaps = np.full((len(t), self.length), np.nan)
        if sequence is not None and sequence.item.size:
            for age in range(self.length):
                key, there = recent_at(sequence, age)
                if not there.any():
                    break
                ts = sequence.ts[np.where(there, sequence.offsets[1:] - 1 - age, 0)]
                keys[:, age] = np.where(there, key, np.uint64(0))
                gaps[:, age] = np.where(there, (t - ts) / HOUR, np.nan)
        out[:, 1 : 1 + self.length] = self.codes(keys)[request]
        out[:, 1 + self.length :] = gaps.astype(np.float32)[request]
        return out

    def describe_columns(self) -> dict[str, str]:
        """Describe each column."""
        descriptions = {"item_code": f"the candidate, codes of {len(self.keys):,} items"}
        descriptions |= dict.fromkeys(
            self.names[1 : 1 + self.length],
            f"the person's newest items ({self.sequence}), by the same codes",
        )
        return descriptions | dict.fromkeys(self.names[1 + self.length :], "hours since then")
