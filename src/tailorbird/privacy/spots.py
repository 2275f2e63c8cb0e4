"""Where some of many byte strings stand in long data: by six bytes of each, all places at once."""

from collections import Counter
from collections.abc import Collection, Iterator

import numpy as np

from tailorbird.events.free import WITHIN_MIN

_TABLE_BITS = 22
_MIX = np.uint64(0x9E3779B97F4A7C15)
_COUNTED = 20_000  # strings, of which it is counted which bytes many have
Shapes = tuple[
    tuple[int, int], ...
]  # where the six bytes stand in strings that have them, and how long these are
_LOOKED_AT = 12  # places at each end of a string, of which one is chosen


class Spots:
    """Finds strings of six bytes or more, and none that is shorter; what it costs hardly depends on
    how many there are.

    Each is looked for by the six of its bytes that fewest of the others have: ids of events may all
    begin alike, or end alike, and would else be held against every such id in the data.

    >>> list(Spots([b"user-12", b"user-1"]).at(b"of user-12"))
    [(3, b'user-1'), (3, b'user-12')]
    """

    def __init__(self, needles: Collection[bytes]) -> None:
        needles = [needle for needle in needles if len(needle) >= WITHIN_MIN]
        seen = Counter(
            needle[at : at + WITHIN_MIN] for needle in needles[:_COUNTED] for at in _places(needle)
        )
        self._needles = frozenset(needles)
        self._by_six: dict[int, Shapes] = {}
        same: dict[Shapes, Shapes] = {}  # few, for many strings
        for needle in needles:
            at = min(_places(needle), key=lambda at: seen[needle[at : at + WITHIN_MIN]])
            six, shape = int.from_bytes(needle[at : at + WITHIN_MIN], "little"), (at, len(needle))
            before = self._by_six.get(six, ())
            if shape not in before:
                shapes = (*before, shape)
                self._by_six[six] = same.setdefault(shapes, shapes)
        self._sixes = np.array(sorted(self._by_six), np.uint64)
        self._table = np.zeros(1 << _TABLE_BITS if needles else 0, bool)
        if needles:
            self._table[_slot(self._sixes)] = True
        self.longest = max(map(len, needles), default=0)

    def at(self, data: bytes | memoryview) -> Iterator[tuple[int, bytes]]:
        """Each place where one stands, in order, with which."""
        if len(data) < WITHIN_MIN or not len(self._sixes):
            return
        padded = bytes(data) + bytes(8)
        values = np.ndarray((len(padded) - 8,), np.dtype("<u8"), padded, strides=(1,)) & np.uint64(
            (1 << 8 * WITHIN_MIN) - 1
        )
        places = np.flatnonzero(self._table[_slot(values)])
        places = places[np.isin(values[places], self._sixes)]
        found: set[tuple[int, bytes]] = (
            set()
        )  # a string may have the six, and the place of them, by which another is looked for
        for place, six in zip(places.tolist(), values[places].tolist(), strict=True):
            for at, length in self._by_six[six]:
                if (
                    at <= place
                    and (stands := padded[place - at : place - at + length]) in self._needles
                ):
                    found.add((place - at, stands))
        yield from sorted(found)


def _places(needle: bytes) -> Collection[int]:
    """Where six bytes of a string may be chosen from."""
    last = len(needle) - WITHIN_MIN
    if last < 2 * _LOOKED_AT:
        return range(last + 1)
    return [*range(_LOOKED_AT), *range(last + 1 - _LOOKED_AT, last + 1)]


def _slot(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return ((values * _MIX) >> np.uint64(64 - _TABLE_BITS)).astype(np.intp)
