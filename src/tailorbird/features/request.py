"""What is asked of the features and what comes back; plain values, shared by reading, backfill and
serving.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np
import numpy.typing as npt

Lists = dict[str, list[list[int]]]  # sequences by name, as `Sequence.lists` has each
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Lists).decode


@dataclass(frozen=True)
class ReadRequest:
    """Who asks, and when.

    Attributes:
        person: whose features are read, as the router calls them; None if it has to be looked up by
            one of the next two.
        anonymous_id: of a visitor, who may be a user by now.
        user_id: of a user, who may be another by now; goes before the visitor.
        local_hour: 0 to 23 where the person is; None if unknown.
        query: what is searched for, as it was typed.
        now: the clock, microseconds; the values are read at this time or later.
        position: where the items are to be thought of as shown, from 1.
        given: parts of keys that are asked for rather than found, such as `item.category`: by
            field, their text.
    """

    person: str | None = None
    anonymous_id: str | None = None
    session_id: str | None = None
    device: str | None = None
    country: str | None = None
    local_hour: int | None = None
    now: int = 0
    query: str | None = None
    position: int = 1
    given: Mapping[str, str] = field(default_factory=dict)
    user_id: str | None = None


@dataclass(frozen=True)
class Sequence:
    """The last events of an entity, oldest first: hashes of item (0: none) and type, times in
    microseconds; shape (k,) each.

    `values` has what the declaration asks for besides, by its text: float64 (NaN: missing) or
    hashes of texts (0: missing).
    """

    item: npt.NDArray[np.uint64]
    type: npt.NDArray[np.uint64]
    ts: npt.NDArray[np.int64]
    values: dict[str, npt.NDArray] = field(default_factory=dict)

    def lists(self) -> list[list[int]]:
        """Items, types, times and the bits of each further value: how the log keeps it, and how it
        is compared.
        """
        values = (one.view(np.uint64).tolist() for one in self.values.values())
        return [self.item.tolist(), self.type.tolist(), self.ts.tolist(), *values]


def pack_sequences(lists: Lists) -> bytes:
    """Sequences as an answer's record keeps them."""
    return _encode(lists)


def unpack_sequences(packed: bytes | None) -> Lists:
    """What `pack_sequences` was given; nothing where nothing was logged. Raises
    msgspec.DecodeError.
    """
    return _decode(packed) if packed else {}


@dataclass(frozen=True)
class Rows:
    """The features of one request: a row for each item asked for.

    Attributes:
        numeric: float32, shape (n, len(features.numeric)); missing is NaN.
        categorical: hash64 of the text, shape (n, len(features.categorical)); 0 is missing.
        sequences: by name.
        t: what was read is what was true just before this time; the answer's own `ts`. commit, p:
        of the state that was read; the newest of all parts, where several workers keep it.
        positions: by part, the p that was read; empty where one worker keeps the state.
        person: as resolved, `anon:…` for a person who is not known, None without any id.
        stale: rows whose reading record had run out, so that the state was read; for metrics.
        published_at: when the copies that were read were last known to be up to date, in
            microseconds; 0 where it was the state itself.
    """

    numeric: npt.NDArray[np.float32]
    categorical: npt.NDArray[np.uint64]
    sequences: dict[str, Sequence]
    t: int
    commit: int
    p: int
    person: str | None = None
    stale: int = 0
    published_at: int = 0
    positions: tuple[int, ...] = ()
