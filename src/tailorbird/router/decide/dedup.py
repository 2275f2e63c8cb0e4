"""An index of the fingerprints of accepted events, with no random writes and little memory.

    fingerprint   128 bits of BLAKE2b over kind of subject, subject and event_id, split into `key`
                  and `fingerprint_rest` of 64 bits each
    open run      the newest entries: in memory by key, and one blob per step in `dedup_run`
    segment       2**18 sealed entries, sorted by key, in pages of 256 in `dedup_page`; in memory a
                  Bloom filter (16 bits per entry, six probes, about 0.1 % false positives) and
                  the first key of each page

An event is a duplicate if an accepted one has the same fingerprint and was received within the
dedup window before or after it. Segments that are wholly behind the window are dropped, except the
newest few and those with imported events: overlapping histories may be imported a year apart, and
their duplicates have the same time of receipt. Only events of about its time search a segment, so
old segments cost live traffic nothing. They take 40 bytes per event on disk and two in memory.
"""

from collections.abc import Sequence
from hashlib import blake2b
from itertools import starmap
from typing import NamedTuple

import apsw
import numpy as np
import numpy.typing as npt

from tailorbird.events import Event

SCHEMA_SQL = """
CREATE TABLE IF NOT EXISTS dedup_run(id INTEGER PRIMARY KEY, entries BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS dedup_segment(
    id INTEGER PRIMARY KEY, oldest INTEGER NOT NULL, newest INTEGER NOT NULL,
    bloom BLOB NOT NULL, first_keys BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS dedup_page(
    segment INTEGER NOT NULL, page INTEGER NOT NULL, entries BLOB NOT NULL,
    PRIMARY KEY (segment, page)
) STRICT;
CREATE TABLE IF NOT EXISTS dedup_permanent(segment INTEGER PRIMARY KEY) STRICT; -- never dropped
"""

ENTRY_DTYPE = np.dtype(
    [
        ("key", "<u8"),
        ("fingerprint_rest", "<u8"),
        ("received_at", "<i8"),
        ("offset", "<i8"),
        ("producer", "<i4"),
        ("row", "<i4"),
    ]
)
Entries = npt.NDArray[np.void]  # shape (n,), dtype ENTRY_DTYPE
Keys = npt.NDArray[np.uint64]


class DedupEntry(NamedTuple):
    """One entry of the index, with the fields of `ENTRY_DTYPE`."""

    key: int
    fingerprint_rest: int
    received_at: int
    offset: int
    producer: int
    row: int

    @property
    def location(self) -> tuple[int, int, int]:
        """The raw log's number, the offset of the body and the row in it."""
        return self.producer, self.offset, self.row


_PAGE_ROWS = 256
_PROBES = 6
_BITS_PER_ENTRY = 16
_SEGMENTS_MIN = 16


def compute_fingerprints(events: Sequence[Event]) -> npt.NDArray[np.uint64]:
    """Return key and rest of each event, shape (n, 2).

    The subject is the user, else the anonymous id, else the item.
    """
    ids = ([event.user_id, event.anonymous_id, event.item_id, event.event_id] for event in events)
    return fingerprint_columns(*(zip(*ids, strict=True) if events else [()] * 4))


def fingerprint_columns(
    user_ids: Sequence[str | None],
    anonymous_ids: Sequence[str | None],
    item_ids: Sequence[str | None],
    event_ids: Sequence[str],
) -> npt.NDArray[np.uint64]:
    """Return the fingerprints of events given as columns, shape (n, 2)."""
    if None in user_ids:
        subjects = zip(user_ids, anonymous_ids, item_ids, event_ids, strict=True)
        texts = [
            f"u{user_id}\0{event_id}"
            if user_id is not None
            else f"a{anonymous_id}\0{event_id}"
            if anonymous_id is not None
            else f"i{item_id}\0{event_id}"
            for user_id, anonymous_id, item_id, event_id in subjects
        ]
    else:
        texts = [
            f"u{user_id}\0{event_id}" for user_id, event_id in zip(user_ids, event_ids, strict=True)
        ]
    digests = [blake2b(text.encode(), digest_size=16).digest() for text in texts]
    return np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)


class _Segment:
    """The in-memory part of a sealed segment."""

    def __init__(
        self,
        id_: int,
        oldest_received_at: int,
        newest_received_at: int,
        bloom: bytes,
        first_keys: bytes,
    ) -> None:
        self.id = id_
        self.oldest_received_at = oldest_received_at
        self.newest_received_at = newest_received_at
        self.bloom = np.frombuffer(bloom, np.uint8)
        self.first_keys = np.frombuffer(first_keys, "<u8")


class DedupIndex:
    """The dedup index; each step calls `find_duplicates`, `add`, then `save` in its transaction."""

    def __init__(
        self, connection: apsw.Connection, dedup_us: int, *, segment_rows: int = 1 << 18
    ) -> None:
        self._connection = connection
        self._dedup_us = dedup_us
        self._segment_rows = segment_rows
        self._segments = [
            _Segment(*row)
            for row in connection.execute(
                "SELECT id, oldest, newest, bloom, first_keys FROM dedup_segment ORDER BY id"
            ).fetchall()
        ]
        self._permanent_segments = {
            segment
            for (segment,) in connection.execute("SELECT segment FROM dedup_permanent").fetchall()
        }
        self._newest_received_at = max(
            (segment.newest_received_at for segment in self._segments), default=0
        )
        self._reset_open_run()
        for (entries,) in connection.execute(
            "SELECT entries FROM dedup_run ORDER BY id"
        ).fetchall():
            self.add(np.frombuffer(entries, ENTRY_DTYPE))
        self._unsaved = []

    def _reset_open_run(self) -> None:
        self._open_entries = np.empty(0, ENTRY_DTYPE)
        self._open_rows = 0
        self._unsaved: list[Entries] = []
        self._row_by_key: dict[int, int] = {}  # row of the first entry of a key in `_open_entries`
        self._other_rows_by_key: dict[int, list[int]] = {}  # rows of its other entries

    def find_duplicates(self, entries: Entries) -> dict[int, DedupEntry]:
        """Return row → the earlier entry that it duplicates, for the rows that are duplicates.

        The earlier entry is an accepted event or an earlier row of `entries`.
        """
        keys = entries["key"]
        is_candidate = _find_repeated(keys)
        key_list = keys.tolist()
        if not self._row_by_key.keys().isdisjoint(key_list):
            is_candidate |= np.fromiter(
                map(self._row_by_key.__contains__, key_list), bool, len(entries)
            )
        sealed_matches = self._search_segments(entries, is_candidate)
        original_by_row: dict[int, DedupEntry] = {}
        earlier_entries: dict[int, list[DedupEntry]] = {}  # by key
        for row in np.flatnonzero(is_candidate).tolist():
            entry = DedupEntry(*entries[row].item())
            key = entry.key
            original = self._find_original(
                entry,
                [
                    *sealed_matches.get(row, ()),
                    *self._open_entries_of(key),
                    *earlier_entries.get(key, ()),
                ],
            )
            if original is None:
                earlier_entries.setdefault(key, []).append(entry)
            else:
                original_by_row[row] = original
        return original_by_row

    def _find_original(
        self, entry: DedupEntry, candidates: Sequence[DedupEntry]
    ) -> DedupEntry | None:
        """Return the candidate that the entry duplicates, or None."""
        for candidate in candidates:
            if (
                candidate.key == entry.key
                and candidate.fingerprint_rest == entry.fingerprint_rest
                and abs(candidate.received_at - entry.received_at) <= self._dedup_us
            ):
                return candidate
        return None

    def _open_entries_of(self, key: int) -> list[DedupEntry]:
        first_row = self._row_by_key.get(key)
        return (
            []
            if first_row is None
            else [
                DedupEntry(*self._open_entries[row].item())
                for row in (first_row, *self._other_rows_by_key.get(key, ()))
            ]
        )

    def _search_segments(
        self, entries: Entries, is_candidate: npt.NDArray[np.bool_]
    ) -> dict[int, list[DedupEntry]]:
        """Return segment entries with the same keys, by row, and mark these rows as candidates."""
        matches: dict[int, list[DedupEntry]] = {}
        if not self._segments or not len(entries):
            return matches
        oldest_received_at = int(entries["received_at"].min()) - self._dedup_us
        newest_received_at = int(entries["received_at"].max()) + self._dedup_us
        for segment in self._segments:
            if (
                segment.newest_received_at < oldest_received_at
                or segment.oldest_received_at > newest_received_at
            ):
                continue
            for row in np.flatnonzero(
                _query_bloom(segment.bloom, entries["key"], entries["fingerprint_rest"])
            ).tolist():
                entries_of_key = self._read_entries_of_key(segment, entries["key"][row])
                if entries_of_key:
                    is_candidate[row] = True
                    matches.setdefault(row, []).extend(entries_of_key)
        return matches

    def _read_entries_of_key(self, segment: _Segment, key: np.uint64) -> list[DedupEntry]:
        first_page = max(
            int(np.searchsorted(segment.first_keys, key, "left")) - 1, 0
        )  # equal keys may begin on the page before
        last_page = int(np.searchsorted(segment.first_keys, key, "right")) - 1
        select_sql = "SELECT entries FROM dedup_page WHERE segment = ? AND page BETWEEN ? AND ?"
        matches: list[DedupEntry] = []
        for (data,) in self._connection.execute(select_sql, (segment.id, first_page, last_page)):
            entries = np.frombuffer(data, ENTRY_DTYPE)
            matches.extend(starmap(DedupEntry, entries[entries["key"] == key].tolist()))
        return matches

    def add(self, entries: Entries) -> None:
        """Add accepted events to the index."""
        if not len(entries):
            return
        start = self._open_rows
        end = self._open_rows + len(entries)
        if end > len(self._open_entries):
            self._open_entries = np.concatenate(
                [
                    self._open_entries[:start],
                    np.empty(max(end, self._segment_rows // 4), ENTRY_DTYPE),
                ]
            )
        self._open_entries[start:end] = entries
        self._open_rows = end
        self._unsaved.append(entries)
        self._newest_received_at = max(self._newest_received_at, int(entries["received_at"].max()))
        keys = entries["key"].tolist()
        row_by_key = dict(zip(keys, range(start, end), strict=True))
        if len(row_by_key) == len(keys) and self._row_by_key.keys().isdisjoint(keys):
            self._row_by_key |= row_by_key
            return
        for row, key in enumerate(keys, start):
            if self._row_by_key.setdefault(key, row) != row:
                self._other_rows_by_key.setdefault(key, []).append(row)

    def save(self, connection: apsw.Connection, permanent_producers: Sequence[int] = ()) -> None:
        """Write added entries, seal a full open run, and drop segments behind the window.

        Args:
            permanent_producers: producers whose entries are never dropped.
        """
        for entries in self._unsaved:
            connection.execute("INSERT INTO dedup_run(entries) VALUES (?)", (entries.tobytes(),))
        self._unsaved = []
        if self._open_rows >= self._segment_rows:
            self._seal(connection, permanent_producers)
            self._drop_old_segments(connection)

    def _seal(self, connection: apsw.Connection, permanent_producers: Sequence[int]) -> None:
        entries = self._open_entries[: self._open_rows]
        entries = entries[np.argsort(entries["key"], kind="stable")]
        received_at = entries["received_at"]
        id_ = self._segments[-1].id + 1 if self._segments else 1
        row = (
            id_,
            int(received_at.min()),
            int(received_at.max()),
            *_write_segment(connection, id_, entries),
        )
        connection.execute("INSERT INTO dedup_segment VALUES (?, ?, ?, ?, ?)", row)
        connection.execute("DELETE FROM dedup_run")
        if np.isin(entries["producer"], permanent_producers).any():
            connection.execute("INSERT INTO dedup_permanent VALUES (?)", (id_,))
            self._permanent_segments.add(id_)
        self._segments.append(_Segment(*row))
        self._reset_open_run()

    def _drop_old_segments(self, connection: apsw.Connection) -> None:
        horizon = self._newest_received_at - self._dedup_us
        for segment in self._segments[:-_SEGMENTS_MIN]:
            if segment.newest_received_at < horizon and segment.id not in self._permanent_segments:
                connection.execute("DELETE FROM dedup_page WHERE segment = ?", (segment.id,))
                connection.execute("DELETE FROM dedup_segment WHERE id = ?", (segment.id,))
                self._segments.remove(segment)


def _write_segment(connection: apsw.Connection, id_: int, entries: Entries) -> tuple[bytes, bytes]:
    """Write the pages of sorted entries and return the segment's Bloom filter and first keys."""
    pages = (
        (id_, page, entries[start : start + _PAGE_ROWS].tobytes())
        for page, start in enumerate(range(0, len(entries), _PAGE_ROWS))
    )
    connection.executemany("INSERT INTO dedup_page VALUES (?, ?, ?)", pages)
    return _build_bloom(entries["key"], entries["fingerprint_rest"]).tobytes(), entries["key"][
        ::_PAGE_ROWS
    ].tobytes()


def rewrite_segment(connection: apsw.Connection, id_: int, entries: Entries) -> None:
    """Replace the entries of a segment, and delete the segment if none are left."""
    connection.execute("DELETE FROM dedup_page WHERE segment = ?", (id_,))
    if len(entries):
        update = "UPDATE dedup_segment SET bloom = ?, first_keys = ? WHERE id = ?"
        connection.execute(update, (*_write_segment(connection, id_, entries), id_))
    else:
        connection.execute("DELETE FROM dedup_segment WHERE id = ?", (id_,))
        connection.execute("DELETE FROM dedup_permanent WHERE segment = ?", (id_,))


def _find_repeated(keys: Keys) -> npt.NDArray[np.bool_]:
    """Return a mask of the keys that occur more than once."""
    order = np.argsort(keys, kind="stable")
    sorted_keys = keys[order]
    equals_previous = sorted_keys[1:] == sorted_keys[:-1]
    is_repeated = np.zeros(len(keys), bool)
    is_repeated[order[1:][equals_previous]] = True
    is_repeated[order[:-1][equals_previous]] = True
    return is_repeated


def _bit_positions(keys: Keys, rests: Keys, probe: int, bit_count: int) -> npt.NDArray[np.intp]:
    """Return the `probe`-th bit of each entry by double hashing; `bit_count` is a power of two."""
    return ((keys + np.uint64(probe) * (rests | np.uint64(1))) & np.uint64(bit_count - 1)).astype(
        np.intp
    )


def _build_bloom(keys: Keys, rests: Keys) -> npt.NDArray[np.uint8]:
    bit_count = 1 << max((len(keys) * _BITS_PER_ENTRY - 1).bit_length(), 6)
    flags = np.zeros(bit_count, bool)
    for probe in range(_PROBES):
        flags[_bit_positions(keys, rests, probe, bit_count)] = True
    return np.packbits(flags, bitorder="little")


def _query_bloom(bloom: npt.NDArray[np.uint8], keys: Keys, rests: Keys) -> npt.NDArray[np.bool_]:
    """Return a mask of the entries that the filter may contain.

    Each probe looks only at the entries that the previous probes did not rule out.
    """
    rows = np.arange(len(keys))
    for probe in range(_PROBES):
        bit_positions = _bit_positions(keys[rows], rests[rows], probe, len(bloom) * 8)
        rows = rows[(bloom[bit_positions >> 3] >> (bit_positions & 7).astype(np.uint8)) & 1 == 1]
    is_member = np.zeros(len(keys), bool)
    is_member[rows] = True
    return is_member
