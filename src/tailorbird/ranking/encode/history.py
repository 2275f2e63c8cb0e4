"""Columns for neural nets: the candidate and the user's newest items as codes, and their ages.

    item_code                     the candidate
    recent_item_1 … _L            the newest items, newest first; 0 where there is none
    recent_gap_1 … _L             hours since each; NaN where there is none

Codes: 0 missing, 1 unknown, 2.. as learned. An item unseen in training has the code 1, whose vector
is learned from rare items and from a share of all codes (`unknown_share`). With `buckets`, unseen
items share hash buckets instead. Training no longer uses buckets: the net has only initial weights
for a bucket without training rows, and little more for one with a few rare items. Words of the
candidate's attributes are in `retrieval.words`.
"""

from functools import cached_property

import msgspec
import numpy as np
import numpy.typing as npt

from tailorbird.errors import BundleError
from tailorbird.events.clock import HOUR
from tailorbird.ranking.encode.computed import Keys, RaggedLike, Rows, Times, item_at_rank
from tailorbird.ranking.encode.steps import UNKNOWN, Codes

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
        positions = range(1, self.length + 1)
        return (
            "item_code",
            *(f"recent_item_{position}" for position in positions),
            *(f"recent_gap_{position}" for position in positions),
        )

    @property
    def size(self) -> int:
        """The number of codes, missing and unknown included."""
        return len(self.keys) + 2 + self.buckets

    @cached_property
    def _key_codes(self) -> Codes:
        return Codes(self.keys)

    def codes(self, keys: Keys) -> Matrix:
        """Encode item keys of any shape."""
        flat_keys = keys.ravel()
        code = self._key_codes.apply(flat_keys)
        if self.buckets:
            bucket_codes = (
                2.0 + len(self.keys) + (flat_keys % np.uint64(self.buckets)).astype(np.float64)
            )
            code = np.where(code == UNKNOWN, bucket_codes, code)
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
        matrix = np.empty((item_keys.size, 1 + 2 * self.length), np.float32)
        matrix[:, 0] = self.codes(item_keys)
        keys = np.zeros((len(t), self.length), np.uint64)
        gaps = np.full((len(t), self.length), np.nan)
        if sequence is not None and sequence.item.size:
            for rank in range(self.length):
                key, is_present = item_at_rank(sequence, rank)
                if not is_present.any():
                    break
                ts = sequence.ts[np.where(is_present, sequence.offsets[1:] - 1 - rank, 0)]
                keys[:, rank] = np.where(is_present, key, np.uint64(0))
                gaps[:, rank] = np.where(is_present, (t - ts) / HOUR, np.nan)
        matrix[:, 1 : 1 + self.length] = self.codes(keys)[request]
        matrix[:, 1 + self.length :] = gaps.astype(np.float32)[request]
        return matrix

    def describe_columns(self) -> dict[str, str]:
        """Describe each column."""
        descriptions = {"item_code": f"the candidate, codes of {len(self.keys):,} items"}
        descriptions |= dict.fromkeys(
            self.names[1 : 1 + self.length],
            f"the person's newest items ({self.sequence}), by the same codes",
        )
        return descriptions | dict.fromkeys(self.names[1 + self.length :], "hours since then")
