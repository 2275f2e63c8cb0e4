"""Where some of many byte strings stand in long data: by their first six bytes, all places at once."""

from collections.abc import Collection, Iterator

import numpy as np

from tailorbird.events.free import WITHIN_MIN

_TABLE_BITS = 22
_MIX = np.uint64(0x9E3779B97F4A7C15)


class Spots:
    """Finds strings of six bytes or more; what it costs hardly depends on how many there are.

    >>> list(Spots([b"user-12", b"user-1"]).at(b"of user-12"))
    [(3, b'user-1'), (3, b'user-12')]
    """

    def __init__(self, needles: Collection[bytes]) -> None:
        self._by_prefix: dict[int, list[bytes]] = {}
        for needle in sorted(needles):
            self._by_prefix.setdefault(int.from_bytes(needle[:WITHIN_MIN], "little"), []).append(needle)
        self._prefixes = np.array(sorted(self._by_prefix), np.uint64)
        self._table = np.zeros(1 << _TABLE_BITS if needles else 0, bool)
        if needles:
            self._table[_slot(self._prefixes)] = True
        self.longest = max(map(len, needles), default=0)

    def at(self, data: bytes | memoryview) -> Iterator[tuple[int, bytes]]:
        """Each place where one stands, in order, with which."""
        if len(data) < WITHIN_MIN or not len(self._prefixes):
            return
        padded = bytes(data) + bytes(8)
        values = np.ndarray((len(padded) - 8,), np.dtype("<u8"), padded, strides=(1,)) & np.uint64((1 << 8 * WITHIN_MIN) - 1)
        places = np.flatnonzero(self._table[_slot(values)])
        places = places[np.isin(values[places], self._prefixes)]
        for place, prefix in zip(places.tolist(), values[places].tolist(), strict=True):
            yield from ((place, needle) for needle in self._by_prefix[prefix] if padded.startswith(needle, place))


def _slot(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return ((values * _MIX) >> np.uint64(64 - _TABLE_BITS)).astype(np.intp)
