"""Stable hashes: entity keys, dictionary codes, tie-breaks and assignment buckets.

Every id that leaves the event's text form becomes 64 bits of BLAKE2b. The same text gives the same
key on every machine and in every version: these functions have fixed test vectors and must never
change. Two of a hundred million keys collide with probability 3e-4; of ten million, 3e-6.

    hash64(text)      = BLAKE2b(text in UTF-8, digest_size=8, person="tailorbird"), little endian
    combine_keys(a, b, …)  = h ← MIX(h ^ part) for each part in order, from h = 0x243F6A8885A308D3
    MIX               = the finaliser of splitmix64 (Steele, Lea, Flood, OOPSLA 2014), a bijection
"""

from collections.abc import Iterable
from hashlib import blake2b
from numbers import Real

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]

_COMBINE_SEED = np.uint64(0x243F6A8885A308D3)
_MULTIPLIER_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLIER_2 = np.uint64(0x94D049BB133111EB)
_SHIFT_30 = np.uint64(30)
_SHIFT_27 = np.uint64(27)
_SHIFT_31 = np.uint64(31)


def to_id_text(value: str | int) -> str:
    """Return an id as text: a number, as frames hold it, loses a fraction of zero.

    A value that is no number is returned as it is, for the contract to judge.
    """
    if isinstance(value, str | bool) or not isinstance(value, Real):
        return value  # type: ignore[return-value]
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def hash64(text: str) -> int:
    """Return the 64-bit key of a text, in [0, 2**64)."""
    return int.from_bytes(
        blake2b(text.encode(), digest_size=8, person=b"tailorbird").digest(), "little"
    )


def hash64s(texts: Iterable[str]) -> Keys:
    """Return the keys of many texts, shape (n,).

    Hash unique values where texts repeat: this costs 1 µs per text.
    """
    data = b"".join(
        blake2b(text.encode(), digest_size=8, person=b"tailorbird").digest() for text in texts
    )
    return np.frombuffer(data, dtype="<u8").astype(np.uint64, copy=False)


def combine_keys(*part_keys: Keys) -> Keys:
    """Combine the keys of parts, in order, into the key of a composite entity; shapes broadcast."""
    key = np.asarray(_COMBINE_SEED)
    with np.errstate(over="ignore"):
        for part_key in part_keys:
            key = _mix(key ^ np.asarray(part_key, np.uint64))
    return key


def _mix(z: Keys) -> Keys:
    z = (z ^ (z >> _SHIFT_30)) * _MULTIPLIER_1
    z = (z ^ (z >> _SHIFT_27)) * _MULTIPLIER_2
    return z ^ (z >> _SHIFT_31)
