"""Requests for features and their result: plain values, shared by reading, backfill and serving."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np
import numpy.typing as npt

SequenceLists = dict[str, list[list[int]]]  # sequences by name, as `Sequence.to_lists` has each
_encode_lists = msgspec.msgpack.Encoder().encode
_decode_lists = msgspec.msgpack.Decoder(SequenceLists).decode


@dataclass(frozen=True)
class ReadRequest:
    """The person, context and time of a request.

    Attributes:
        person: whose features are read, as resolved by the router; None to resolve one of the next
            two.
        anonymous_id: of a visitor, who may be a user by now.
        user_id: of a user, who may be merged by now; takes precedence over the visitor.
        local_hour: 0 to 23 where the person is; None if unknown.
        query: the search query, as typed.
        now: the clock, microseconds; the values are read at this time or later.
        position: the position at which items are scored, from 1.
        key_overrides: fields of keys that are set instead of looked up, such as
            `item.category`, as text.
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
    key_overrides: Mapping[str, str] = field(default_factory=dict)
    user_id: str | None = None


@dataclass(frozen=True)
class Sequence:
    """The last events of an entity, oldest first; shape (k,) each.

    Hashes of item (0: none) and type, times in microseconds. `values` are the further declared
    values by their text: float64 (NaN: missing) or hashes of texts (0: missing).
    """

    item: npt.NDArray[np.uint64]
    type: npt.NDArray[np.uint64]
    ts: npt.NDArray[np.int64]
    values: dict[str, npt.NDArray] = field(default_factory=dict)

    def to_lists(self) -> list[list[int]]:
        """Return items, types, times and the bits of each further value, as logged and compared."""
        values = (value.view(np.uint64).tolist() for value in self.values.values())
        return [self.item.tolist(), self.type.tolist(), self.ts.tolist(), *values]


# Key of the sequence that candidate sources read, in a response whose features read a newer one.
CANDIDATES_KEY = "candidates"


def pack_sequences(lists: SequenceLists) -> bytes:
    """Encode sequences for a response's record."""
    return _encode_lists(lists)


def unpack_sequences(packed: bytes | None) -> SequenceLists:
    """Decode `pack_sequences`; {} where nothing was logged. Raises msgspec.DecodeError."""
    return _decode_lists(packed) if packed else {}


@dataclass(frozen=True)
class Rows:
    """The features of one request: a row for each requested item.

    Attributes:
        numeric: float32, shape (n, len(features.numeric)); missing is NaN.
        categorical: hash64 of the text, shape (n, len(features.categorical)); 0 is missing.
        sequences: by name.
        t: values are those just before this time; the response's own `ts`.
        commit, log_position: of the state that was read; the newest of all parts, where several
            workers keep it.
        log_positions: by part, the p that was read; empty where one worker keeps the state.
        person: as resolved, `anon:…` for an unknown person, None without any id.
        stale_rows: rows whose reading record was out of date, so that the state was read; for
            metrics.
        published_at: when the copies that were read were last known to be up to date, in
            microseconds; 0 where it was the state itself.
    """

    numeric: npt.NDArray[np.float32]
    categorical: npt.NDArray[np.uint64]
    sequences: dict[str, Sequence]
    t: int
    commit: int
    log_position: int
    person: str | None = None
    stale_rows: int = 0
    published_at: int = 0
    log_positions: tuple[int, ...] = ()
