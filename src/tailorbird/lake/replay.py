"""Replay: what was refused is sent through the raw log again, once the contract, the project's
declarations or an adapter were mended.

    quarantine ──► read again, checked again ──┬─ still refused ──► stays where it is, reported by its reason of now
                                               ├─ in the lake already ──► noted, not sent
                                               └─ accepted ──► raw-replay.db, with its first time of receipt and its origin ──► router

What is sent and the note that it was are one transaction, so a crash leaves neither or both, and
the next replay goes on behind it. An event that comes to the router twice all the same is dropped
there and in the lake, as any repeat is. A row that the router refuses once more (it runs with older
declarations) is a new row of the quarantine, and can be replayed in turn.

The notes stand in the table `replayed` beside the log, in `raw-replay.db`: which refused row became
which row of the log.
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
from tailorbird.events import Accepted, Clock, Receipt, RoutePlan, check
from tailorbird.events.adapters import CONVERTERS
from tailorbird.events.adapters.record import lines_of
from tailorbird.events.adapters.webhook import WEBHOOKS
from tailorbird.events.clock import DAY
from tailorbird.events.contract import Origin, Unread, split, unread_of
from tailorbird.events.schema import micros
from tailorbird.events.suppression import SuppressionList
from tailorbird.lake.etl import KEY_COLUMNS
from tailorbird.lake.lake import Lake
from tailorbird.lake.refused import Choice, Place, count, places, slices
from tailorbird.places import Place as LakePlace
from tailorbird.stream import REPLAYS, Block, EmbeddedWriter, open_reader, open_writer, raw_path
from tailorbird.stream.held import held

BODY_ROWS = 1_000
BODY_BYTES = 4 << 20
LOCK_S = 3.0  # how long a replay waits for its log
_EXAMPLES = 5
_READ = ["source", "code", "path", "body"]
_SEVERAL = ("malformed_json", "$", "expected one JSON document")

_TABLE = """
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
    """What a replay did, or with `dry_run` would do. All but `sent` count refused rows.

    Attributes:
        examined: rows that were chosen and not replayed before.
        before: rows that were chosen, but replayed before.
        accepted: rows that are accepted now, and were sent.
        sent: events that they became.
        repeats: rows whose events the lake has already, from a later try of their sender.
        left_out: rows that say nothing about people and items, as their adapter has it now.
        refused: reason of now → rows that are refused again; they stay in the quarantine.
        by_reason: reason that they were refused for → accepted, repeats, left_out, refused → rows.
        examples: a sentence for each of the first rows that are refused again.
    """

    examined: int = 0
    before: int = 0
    accepted: int = 0
    sent: int = 0
    repeats: int = 0
    left_out: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    by_reason: dict[str, Counter[str]] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)

    def count(self, reason: str, outcome: str) -> None:
        """One row more."""
        self.by_reason.setdefault(reason, Counter())[outcome] += 1


@dataclass(frozen=True)
class _Again:
    """A row that is accepted now: the events that it became, as JSON and as the contract sees them."""

    reason: str
    place: Place
    receipt: Receipt
    lines: list[bytes]
    events: list[Accepted]


def replay(
    lake: LakePlace,
    stream: Path,
    choice: Choice,
    *,
    plan: RoutePlan,
    clock: Clock,
    stopped: SuppressionList | None = None,
    dry_run: bool = False,
    progress: Progress = lambda stage, done, total: None,
) -> ReplayReport:
    """Send the chosen rows of the quarantine again, as far as they are accepted now.

    Args:
        stopped: of whom nothing old is taken again: the router would leave it out, so it is not
            sent.
    Raises:
        NotReadyError: there is no lake yet.
        LockedError: another replay is running.
    """
    reader = Lake(lake)
    total = count(reader, choice)
    report, stopped = ReplayReport(), stopped or SuppressionList(b"")
    writer = None if dry_run else _open_log(stream, lake)
    try:
        done_before = replayed(stream)
        done = 0
        for table in slices(reader, choice):
            received = micros(table.column("received_at")).tolist()
            rows = zip(table.select(_READ).to_pylist(), received, places(table), strict=True)
            again = [
                one for row in rows if (one := _examine(*row, done_before, plan, stopped, report))
            ]
            known = _known(reader, again)
            new = [one for one in again if not _is_known(one, known)]
            for one in again:
                report.count(one.reason, "repeats" if _is_known(one, known) else "accepted")
            report.accepted += len(new)
            report.repeats += len(again) - len(new)
            report.sent += sum(len(one.lines) for one in new)
            if writer is not None and again:
                _send(writer, new, [one for one in again if _is_known(one, known)], clock.now())
            done += table.num_rows
            progress("replay", done, total)
    finally:
        if writer is not None:
            writer.close()
    return report


def replayed(stream: Path) -> frozenset[Place]:
    """The rows that were replayed before, by where they were refused."""
    path = raw_path(stream, REPLAYS)
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


def _open_log(stream: Path, lake: LakePlace) -> EmbeddedWriter:
    """The log of replays; the lake role may hold it for a second, to prune what earlier ones left."""
    stream.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + LOCK_S
    while True:
        try:
            writer = open_writer(
                raw_path(stream, REPLAYS), partition=REPLAYS, held=held(stream, REPLAYS, lake)
            )
            break
        except LockedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
    with writer.transaction() as connection:
        connection.execute(_TABLE)
        if (
            writer.set_aside
        ):  # what stood at the damaged end is not known: all may be sent again, repeats are dropped
            connection.execute("DELETE FROM replayed")
    return writer


def _examine(
    row: dict[str, Any],
    received_at: int,
    place: Place,
    before: frozenset[Place],
    plan: RoutePlan,
    stopped: SuppressionList,
    report: ReplayReport,
) -> _Again | None:
    """The row as events, if all that it becomes is accepted now, but what is of erased people; else
    it is counted.
    """
    if place in before:
        report.before += 1
        return None
    report.examined += 1
    body, reason = bytes(row["body"]), row["code"]
    lines, format_ = _lines(body, row)
    if not lines:
        report.left_out += 1
        report.count(reason, "left_out")
        return None
    receipt = Receipt(received_at, row["source"], "json", format_)
    kept: list[bytes] = []
    events: list[Accepted] = []
    for number, line in enumerate(lines, 1):
        accepted, refusals = check(
            stopped.without(b"[" + line + b"]", receipt), receipt, plan
        )  # as the router will find it
        if len(accepted) == 1:
            kept.append(line)
            events += accepted
            continue
        code, path, message = (
            (refusals[0].code, refusals[0].path, refusals[0].message) if refusals else _SEVERAL
        )
        if code == "erased" and (kept or number < len(lines)):
            continue
        report.refused[code] += 1
        report.count(reason, "refused")
        if len(report.examples) < _EXAMPLES:
            report.examples.append(f"{place[0]} {place[1]}:{place[2]}: {path}: {message}")
        return None
    return _Again(reason, place, receipt, kept, events)


def _lines(body: bytes, row: dict[str, Any]) -> tuple[list[bytes], str]:
    """What a refused row is read as now, and by which adapter: what came by HTTP as the door reads
    it, which believes less than a file.
    """
    unread = unread_of(body)
    converters = CONVERTERS if row["source"] == "import" else {**CONVERTERS, **WEBHOOKS}
    if (
        unread is None
        or (unread.code, unread.path) != (row["code"], row["path"])
        or unread.format not in converters
    ):
        return [bytes(line) for line in split(body, "json")], ""
    return lines_of(
        unread.format, _record(unread), unread.place, converters[unread.format], {}, by_content=True
    ), unread.format


def _record(unread: Unread) -> bytes:
    """A record as its adapter gets it: what was no JSON is given as it stood."""
    if unread.code == "malformed_json" and unread.path == "$" and isinstance(unread.record, str):
        return unread.record.encode()
    return msgspec.json.encode(unread.record)


def _known(lake: Lake, again: list[_Again]) -> set[tuple]:
    """Which of the events the lake has: their id and subject, by the days on which they happened."""
    events = [event for one in again for event in one.events]
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
    return {_key(*row) for row in rows}


def _key(event_id: str, user: str | None, anonymous: str | None, item: str | None) -> tuple:
    """Id and subject, as the router and `etl.split_repeats` tell repeats."""
    subject = (
        ("u", user)
        if user is not None
        else ("a", anonymous)
        if anonymous is not None
        else ("i", item)
    )
    return event_id, *subject


def _is_known(one: _Again, known: set[tuple]) -> bool:
    return all(
        _key(each.event.event_id, each.event.user_id, each.event.anonymous_id, each.event.item_id)
        in known
        for each in one.events
    )


def _send(writer: EmbeddedWriter, new: list[_Again], known: list[_Again], now: int) -> None:
    """Append what is new and note all, in one transaction."""
    with writer.transaction() as connection:
        insert = "INSERT OR IGNORE INTO replayed VALUES (?, ?, ?, ?, ?, ?)"
        connection.executemany(insert, [(*one.place, None, None, now) for one in known])
        for body in _bodies(new):
            lines = [line for one in body for line in one.lines]
            origins = [Origin(*one.place) for one in body for _ in one.lines]
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
            faults.at("replay.before_note")
            row = 0
            for one in body:
                connection.execute(insert, (*one.place, offset, row, now))
                row += len(one.lines)
        faults.at("replay.before_commit")
    faults.at("replay.after_commit")


def _bodies(new: list[_Again]) -> Iterator[list[_Again]]:
    """Rows of one receipt together, up to a measure."""
    body: list[_Again] = []
    rows = size = 0
    for one in new:
        if body and (one.receipt != body[0].receipt or rows >= BODY_ROWS or size >= BODY_BYTES):
            yield body
            body, rows, size = [], 0, 0
        body.append(one)
        rows += len(one.lines)
        size += sum(map(len, one.lines))
    if body:
        yield body
