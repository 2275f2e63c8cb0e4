"""Resend refused rows through the raw log, once the contract, the declarations or an adapter were
fixed.

    quarantine ─► parsed and checked again ─┬─ still refused: stays, reported by its new reason
                                            ├─ in the lake already: noted, not sent
                                            └─ accepted: raw-replay.db ─► router

A resent row keeps its first time of receipt and its origin. The row and the note that it was sent
are one transaction, so a crash leaves neither or both, and the next replay continues there. If an
event reaches the router twice, it is dropped as any repeat. A row that a router with older
declarations refuses again is a new row of the quarantine, and can be replayed in turn.

The notes are in the table `replayed` of `raw-replay.db`: which refused row became which row of the
log.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.dataset as ds

from tailorbird import faults
from tailorbird.errors import LockedError, NotReadyError
from tailorbird.events import Accepted, Clock, Receipt, RoutePlan, check_body
from tailorbird.events.adapters import CONVERTERS
from tailorbird.events.adapters.record import record_to_lines
from tailorbird.events.adapters.webhook import WEBHOOK_CONVERTERS
from tailorbird.events.clock import DAY
from tailorbird.events.contract.contract import parse_unread, split_body
from tailorbird.events.contract.schema import micros
from tailorbird.events.contract.verdict import Origin, UnreadRecord
from tailorbird.events.suppression import SuppressionList
from tailorbird.lake.lake import Lake
from tailorbird.lake.quarantine import QuarantineFilter, RowKey, count_rows, read_slices, row_keys
from tailorbird.lake.write.etl import KEY_COLUMNS
from tailorbird.storage_paths import StoragePath
from tailorbird.stream import (
    REPLAY_PRODUCER,
    Block,
    EmbeddedWriter,
    open_reader,
    open_writer,
    raw_path,
)
from tailorbird.stream.locked import read_expected_ends

BODY_ROWS_MAX = 1_000
BODY_BYTES_MAX = 4 << 20
LOCK_TIMEOUT_S = 3.0  # how long a replay waits for the lock of its log
_EXAMPLES_MAX = 5
_READ_COLUMNS = ["source", "code", "path", "body"]
_SEVERAL_DOCUMENTS = ("malformed_json", "$", "expected one JSON document")

_CREATE_TABLE = """
CREATE TABLE IF NOT EXISTS replayed(
    partition TEXT NOT NULL, offset INTEGER NOT NULL, row INTEGER NOT NULL,  -- where it was refused
    to_offset INTEGER, to_row INTEGER,  -- where it was sent; null if the lake had it already
    at INTEGER NOT NULL,
    PRIMARY KEY (partition, offset, row)
) STRICT, WITHOUT ROWID
"""

Progress = Callable[[str, int, int | None], None]


@dataclass
class ReplayReport:
    """The outcome of a replay, or with `dry_run` of what it would do. All but `sent` count rows.

    Attributes:
        examined: selected rows that were not replayed before.
        replayed_before: selected rows that were replayed before.
        accepted: rows that are accepted now and were sent.
        sent: the number of events that they became.
        repeats: rows whose events the lake already has, because their sender retried.
        left_out: rows that their adapter now skips as irrelevant.
        refused: rows refused again, by their new reason; they stay in the quarantine.
        by_reason: by the original reason, the rows accepted, repeats, left_out and refused.
        examples: a sentence for each of the first rows refused again.
    """

    examined: int = 0
    replayed_before: int = 0
    accepted: int = 0
    sent: int = 0
    repeats: int = 0
    left_out: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    by_reason: dict[str, Counter[str]] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)

    def count(self, reason: str, outcome: str) -> None:
        """Count one row."""
        self.by_reason.setdefault(reason, Counter())[outcome] += 1


@dataclass(frozen=True)
class _ReplayableRow:
    """A row that is accepted now, with its events as JSON and as the contract parses them."""

    reason: str
    row_key: RowKey
    receipt: Receipt
    lines: list[bytes]
    events: list[Accepted]


def replay(
    lake: StoragePath,
    stream: Path,
    selection: QuarantineFilter,
    *,
    plan: RoutePlan,
    clock: Clock,
    suppression_list: SuppressionList | None = None,
    dry_run: bool = False,
    progress: Progress = lambda stage, rows_done, total: None,
) -> ReplayReport:
    """Resend the selected rows of the quarantine that are accepted now.

    Args:
        plan: the project's declarations, by which the router accepts or refuses events.
        suppression_list: people whose old events the router would drop, so they are not sent.

    Raises:
        NotReadyError: there is no lake yet.
        LockedError: another replay is running.
    """
    reader = Lake(lake)
    total = count_rows(reader, selection)
    report = ReplayReport()
    suppression_list = suppression_list or SuppressionList(b"")
    writer = None if dry_run else _open_replay_log(stream, lake)
    try:
        replayed_keys = read_replayed_keys(stream)
        rows_done = 0
        for table in read_slices(reader, selection):
            received_times = micros(table.column("received_at")).tolist()
            rows = zip(
                table.select(_READ_COLUMNS).to_pylist(),
                received_times,
                row_keys(table),
                strict=True,
            )
            replayable = [
                replayable_row
                for row in rows
                if (
                    replayable_row := _examine_row(
                        *row, replayed_keys, plan, suppression_list, report
                    )
                )
            ]
            existing_keys = _existing_keys(reader, replayable)
            new_rows = [row for row in replayable if not _already_exists(row, existing_keys)]
            for row in replayable:
                report.count(
                    row.reason, "repeats" if _already_exists(row, existing_keys) else "accepted"
                )
            report.accepted += len(new_rows)
            report.repeats += len(replayable) - len(new_rows)
            report.sent += sum(len(row.lines) for row in new_rows)
            if writer is not None and replayable:
                _send_rows(
                    writer,
                    new_rows,
                    [row for row in replayable if _already_exists(row, existing_keys)],
                    clock.now(),
                )
            rows_done += table.num_rows
            progress("replay", rows_done, total)
    finally:
        if writer is not None:
            writer.close()
    return report


def read_replayed_keys(stream: Path) -> frozenset[RowKey]:
    """Return the refused rows that were replayed before."""
    path = raw_path(stream, REPLAY_PRODUCER)
    if not path.exists():
        return frozenset()
    try:
        with open_reader(path) as reader:
            if (
                reader.connection.execute(
                    "SELECT 1 FROM sqlite_master WHERE name = 'replayed'"
                ).fetchone()
                is None
            ):
                return frozenset()
            return frozenset(
                reader.connection.execute("SELECT partition, offset, row FROM replayed").fetchall()
            )
    except NotReadyError:
        return frozenset()


def _open_replay_log(stream: Path, lake: StoragePath) -> EmbeddedWriter:
    """Open the log of replays, which the lake role may lock for a second to prune it."""
    stream.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            writer = open_writer(
                raw_path(stream, REPLAY_PRODUCER),
                partition=REPLAY_PRODUCER,
                expected_ends=read_expected_ends(stream, REPLAY_PRODUCER, lake),
            )
            break
        except LockedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    with writer.transaction() as connection:
        connection.execute(_CREATE_TABLE)
        # The content of a corrupt end is unknown. All rows may be resent, as repeats are dropped.
        if writer.damaged_tail_paths:
            connection.execute("DELETE FROM replayed")
    return writer


def _examine_row(
    row: dict[str, Any],
    received_at: int,
    row_key: RowKey,
    replayed_keys: frozenset[RowKey],
    plan: RoutePlan,
    suppression_list: SuppressionList,
    report: ReplayReport,
) -> _ReplayableRow | None:
    """Return the row as events if all of them are accepted now, else count why not.

    Events of erased people are left out.
    """
    if row_key in replayed_keys:
        report.replayed_before += 1
        return None
    report.examined += 1
    body = bytes(row["body"])
    reason = row["code"]
    lines, record_format = _parse_lines(body, row)
    if not lines:
        report.left_out += 1
        report.count(reason, "left_out")
        return None
    receipt = Receipt(received_at, row["source"], "json", record_format)
    accepted_lines: list[bytes] = []
    events: list[Accepted] = []
    for number, line in enumerate(lines, 1):
        accepted, refusals = check_body(
            suppression_list.filter_body(b"[" + line + b"]", receipt), receipt, plan
        )  # the same check as the router's
        if len(accepted) == 1:
            accepted_lines.append(line)
            events += accepted
            continue
        code, path, message = (
            (refusals[0].code, refusals[0].path, refusals[0].message)
            if refusals
            else _SEVERAL_DOCUMENTS
        )
        if code == "erased" and (accepted_lines or number < len(lines)):
            continue
        report.refused[code] += 1
        report.count(reason, "refused")
        if len(report.examples) < _EXAMPLES_MAX:
            partition, offset, row_number = row_key
            report.examples.append(f"{partition} {offset}:{row_number}: {path}: {message}")
        return None
    return _ReplayableRow(reason, row_key, receipt, accepted_lines, events)


def _parse_lines(body: bytes, row: dict[str, Any]) -> tuple[list[bytes], str]:
    """Parse a refused row with the current adapters, and return its events and the adapter.

    A row that came by HTTP is parsed as the collector does, which is stricter than a file import.
    """
    # What an adapter could not read, with its reason; None if the row was an event.
    unread_record = parse_unread(body)
    converters = CONVERTERS if row["source"] == "import" else {**CONVERTERS, **WEBHOOK_CONVERTERS}
    if (
        unread_record is None
        or (unread_record.code, unread_record.path) != (row["code"], row["path"])
        or unread_record.format not in converters
    ):
        return [bytes(line) for line in split_body(body, "json")], ""
    return record_to_lines(
        unread_record.format,
        _encode_record(unread_record),
        unread_record.place,
        converters[unread_record.format],
        {},
        ids_from_content=True,
    ), unread_record.format


def _encode_record(unread: UnreadRecord) -> bytes:
    """Return a record as its adapter expects it; text that is not JSON is passed on unchanged."""
    if unread.code == "malformed_json" and unread.path == "$" and isinstance(unread.record, str):
        return unread.record.encode()
    return msgspec.json.encode(unread.record)


def _existing_keys(lake: Lake, replayable: list[_ReplayableRow]) -> set[tuple]:
    """Return the keys of those events that the lake already has."""
    events = [event for row in replayable for event in row.events]
    if not events or not lake.exists("events"):
        return set()
    days = pa.array(sorted({event.ts // DAY for event in events}), pa.int32()).cast(pa.date32())
    ids = [event.event.event_id for event in events]
    table = lake.table(
        "events", list(KEY_COLUMNS), ds.field("day").isin(days) & ds.field("event_id").isin(ids)
    )
    rows = zip(
        *(
            table.column(name).to_pylist()
            for name in ("event_id", "user_id", "anonymous_id", "item_id")
        ),
        strict=True,
    )
    return {_repeat_key(*row) for row in rows}


def _repeat_key(event_id: str, user: str | None, anonymous: str | None, item: str | None) -> tuple:
    """Return id and subject, by which the router and `etl.split_repeats` recognise repeats."""
    subject = (
        ("u", user)
        if user is not None
        else ("a", anonymous)
        if anonymous is not None
        else ("i", item)
    )
    return event_id, *subject


def _already_exists(replayable: _ReplayableRow, existing_keys: set[tuple]) -> bool:
    return all(
        _repeat_key(
            event.event.event_id, event.event.user_id, event.event.anonymous_id, event.event.item_id
        )
        in existing_keys
        for event in replayable.events
    )


def _send_rows(
    writer: EmbeddedWriter,
    new_rows: list[_ReplayableRow],
    existing_rows: list[_ReplayableRow],
    now: int,
) -> None:
    """Append the new rows and note all rows in one transaction."""
    with writer.transaction() as connection:
        insert = "INSERT OR IGNORE INTO replayed VALUES (?, ?, ?, ?, ?, ?)"
        connection.executemany(insert, [(*row.row_key, None, None, now) for row in existing_rows])
        for body in _group_bodies(new_rows):
            lines = [line for row in body for line in row.lines]
            origins = [Origin(*row.row_key) for row in body for _ in row.lines]
            receipt = msgspec.structs.replace(body[0].receipt, origins=origins)
            offset = writer.append(
                [
                    Block(
                        "body",
                        len(lines),
                        b"[" + b",".join(lines) + b"]",
                        msgspec.json.encode(receipt),
                    )
                ]
            )
            faults.fire_if_armed("replay.before_note")
            line_number = 0
            for row in body:
                connection.execute(insert, (*row.row_key, offset, line_number, now))
                line_number += len(row.lines)
        faults.fire_if_armed("replay.before_commit")
    faults.fire_if_armed("replay.after_commit")


def _group_bodies(new_rows: list[_ReplayableRow]) -> Iterator[list[_ReplayableRow]]:
    """Group rows of one receipt into bodies of limited size."""
    body: list[_ReplayableRow] = []
    row_count = byte_count = 0
    for row in new_rows:
        if body and (
            row.receipt != body[0].receipt
            or row_count >= BODY_ROWS_MAX
            or byte_count >= BODY_BYTES_MAX
        ):
            yield body
            body = []
            row_count = 0
            byte_count = 0
        body.append(row)
        row_count += len(row.lines)
        byte_count += sum(map(len, row.lines))
    if body:
        yield body
