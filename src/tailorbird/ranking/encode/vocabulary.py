"""Vocabularies: codes for the values of a categorical column, which models take instead of keys."""

from functools import cached_property

import msgspec
import numpy as np
import numpy.typing as npt

from tailorbird.errors import BundleError
from tailorbird.ranking.encode.computed import Keys
from tailorbird.ranking.encode.steps import MISSING, UNKNOWN

Matrix = npt.NDArray[np.float32]


class Vocabulary(msgspec.Struct, frozen=True, dict=True):
    """The values of a categorical column: the key at position i has the code i + 2."""

    name: str
    keys: list[int]

    def __post_init__(self) -> None:
        if not all(0 <= key < 1 << 64 for key in self.keys):
            raise BundleError(f"the vocabulary of {self.name!r} holds a key that is none")

    @cached_property
    def _sorted_keys_and_codes(self) -> tuple[Keys, npt.NDArray[np.float32]]:
        keys = np.array(self.keys, np.uint64)
        order = np.argsort(keys)
        return keys[order], (order + 2).astype(np.float32)

    @property
    def size(self) -> int:
        """The number of codes, missing and unknown included."""
        return len(self.keys) + 2

    def encode(self, column: Keys) -> Matrix:
        """Encode keys as codes (n,), float32, exact below 2**24."""
        sorted_keys, sorted_codes = self._sorted_keys_and_codes
        if not sorted_keys.size:
            return np.where(column == 0, np.float32(MISSING), np.float32(UNKNOWN))
        positions = np.minimum(np.searchsorted(sorted_keys, column), sorted_keys.size - 1)
        codes = np.where(
            sorted_keys[positions] == column, sorted_codes[positions], np.float32(UNKNOWN)
        )
        return np.where(column == 0, np.float32(MISSING), codes)
