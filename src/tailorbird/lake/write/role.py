"""The lake role: loads the logs into archive and tables exactly once, as their only writer.

    raw-*.db      ─► archive
    routed.db     ─► events, quarantine, duplicates, users, items
    answers-*.db  ─► answers
    ledger        ─► commits

Each table's commit carries its own position, so each can be repeated alone: after a crash a table
continues from its own last commit. `lake.write.feeds` reads the logs, `lake.write.process` runs the
role as a process, `lake.lake` reads the lake, `lake.verify` checks it, and `lake.write.rewrite`
serves erasures.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pyarrow as pa

from tailorbird import faults
from tailorbird.errors import DamageError, StorageError
from tailorbird.events.clock import Clock
from tailorbird.lake.delta.recovery import Recovery, check_table, ledger_is_lost
from tailorbird.lake.delta.table import DurableTable, create_table, read_back
from tailorbird.lake.delta.vacuum import KEEP_US, VacuumReport
from tailorbird.lake.files import durable, swap
from tailorbird.lake.files.archive import AGE_US, BYTES_MAX, Archive
from tailorbird.lake.files.lease import acquire_writer_lock
from tailorbird.lake.files.ledger import Ledger
from tailorbird.lake.lake import Lake
from tailorbird.lake.tables import TABLES
from tailorbird.lake.write import etl
from tailorbird.lake.write.feeds import ROUTED, Feeds, read_some
from tailorbird.lake.write.positions import ledger_lost, load_positions, store_positions
from tailorbird.lake.write.rewrite import Rewriting
from tailorbird.storage import storage_at
from tailorbird.storage_paths import Storage
from tailorbird.stream import HISTORICAL_PRODUCERS, Address, LogReader, Stream, log_set
from tailorbird.stream.released import FILE

ROWS_MAX = 250_000  # per commit, about 200 MB in memory

# Lines of the ledger per commit of `commits`. A commit for each would double the small files.
_MIRROR_LINES = 50


@dataclass(frozen=True)
class LakeReport:
    """The outcome of one step.

    Attributes:
        rows: rows appended, by table.
        archived: rows of raw logs that were archived.
        positions: for each log, the position below which the lake no longer needs it.
    """

    rows: dict[str, int] = field(default_factory=dict)
    archived: int = 0
    positions: dict[str, int] = field(default_factory=dict)

    @property
    def idle(self) -> bool:
        """True if there was nothing to do."""
        return not self.rows and not self.archived


class LakeRole:
    """The writer of the lake at `lake`, fed from the logs in `stream`.

    Opening it checks every table against the ledger and undoes what a crash left, see `findings`.

    Args:
        archive_bytes, archive_age_us: size and age at which a file of the archive is closed.
        keep_us: how long files stay that only old versions need.
        sort: "position", or "person" to sort settled days by person.

    Raises:
        LockedError: another process writes to this lake.
        DamageError: something is corrupt that the logs cannot restore.
    """

    def __init__(
        self,
        stream: Stream,
        lake: Storage,
        *,
        clock: Clock,
        archive_bytes: int = BYTES_MAX,
        archive_age_us: int = AGE_US,
        keep_us: int = KEEP_US,
        sort: str = "position",
    ) -> None:
        self._stream = stream
        self._path = lake
        self._clock = clock
        self._keep_us, self._sort = keep_us, sort
        self._failed = ""
        self._feeds = Feeds(stream)
        durable.make_folder(self._path)
        self._lock = acquire_writer_lock(self._path / "ledger.jsonl", clock)
        try:
            if (local := storage_at(self._path).local) is not None:
                swap.finish(local)
            if ledger_is_lost(self._path):
                where, fix = str(self._path / "ledger.jsonl"), ledger_lost(self._path)
                raise DamageError(
                    "the ledger is missing, and tables have rows", where=where, fix=fix
                )
            self._ledger = Ledger(self._path / "ledger.jsonl", writer=True)
            self._positions = load_positions(self._path)
            self._checked_positions: set[tuple[str, str]] = (
                set()
            )  # tables and logs whose positions were held against the log's end
            self._verified = len(self._ledger.lines)
            self._positions_changed = False
            self.findings = self._check()
            self._tables = {name: self._open_table(name) for name in TABLES}
            self._archive = Archive(
                self._path / "archive",
                clock=clock,
                writer=True,
                bytes_max=archive_bytes,
                age_us=archive_age_us,
            )
            if (
                not self._archive.files
                and not any(line.positions for line in self._ledger.lines)
                and not (self._path / FILE).exists()
            ):
                store_positions(
                    self._path, self._positions
                )  # so that one that is not there later was lost
            self._reader = Lake(self._path)
        except BaseException:
            self.close()
            raise

    def _check(self) -> list[Recovery]:
        findings: list[Recovery] = []
        for name, spec in TABLES.items():
            recoveries = check_table(
                self._path / name,
                spec,
                self._ledger,
                self._path / "set-aside",
                self._clock,
                may_replay=self._feeds.has_rows_from,
                keep_us=self._keep_us,
            )
            if any(finding.what == "withdrawn" for finding in recoveries):
                self._forget_positions(name)
            findings += recoveries
        return findings

    def _forget_positions(self, table: str) -> None:
        """Withdraw the positions of a table that lost its last commit, before a log is pruned."""
        for log in self._positions.tables.pop(table, {}):
            self._positions.safe.pop(log, None)
        store_positions(self._path, self._positions)

    def _open_table(self, name: str) -> DurableTable:
        path, spec = self._path / name, TABLES[name]
        if 0 not in self._ledger.commits(name):
            create_table(path, spec, self._ledger, self._clock)
        return DurableTable(path, spec, self._ledger, self._clock)

    def step(self, rows_max: int = ROWS_MAX, *, flush: bool = False) -> LakeReport:
        """Load new rows, about `rows_max` of each log at most.

        Args:
            flush: close files of the archive early.

        Raises:
            DamageError, StorageError: the role is stopped; opening it again undoes the step.
        """
        with self._stop_on_error():
            self._lock.renew()
            rows: dict[str, int] = {}
            archived = self._archive_raw(flush)
            self._load_routed(rows_max, rows)
            for producer, path in self._feeds.answers.items():
                self._load_answers(producer, path, rows_max, rows)
            self._mirror_ledger(rows, _MIRROR_LINES if not flush else 1)
            if rows or archived or self._positions_changed:
                self._publish()
            return LakeReport(rows, archived, dict(self._positions.safe))

    @contextmanager
    def _stop_on_error(self) -> Iterator[None]:
        """Stop the role after an error within: the disk must be checked before more is written."""
        if self._failed:
            raise StorageError(
                f"the lake role stopped: {self._failed}",
                where=str(self._path),
                fix="start the role again",
            )
        try:
            yield
        except BaseException as error:
            self._failed = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise

    def due(self, *, everything: bool = False) -> dict[str, int]:
        """Return the number of small files to compact, by table.

        Args:
            everything: include days that are still written to.
        """
        settled = 0 if everything else None
        counts = {
            name: sum(len(group.files) for group in table.due_groups(settled))
            for name, table in self._tables.items()
        }
        return {name: count for name, count in counts.items() if count}

    def upkeep(self, *, everything: bool = False) -> int:
        """Compact the files of one folder, and return the number of files saved, 0 if none was due.

        No row changes. Earlier readers find their files until `vacuum` deletes them.
        """
        with self._stop_on_error():
            self._lock.renew()
            settled = 0 if everything else None
            waiting = [
                (table, group)
                for table in self._tables.values()
                for group in table.due_groups(settled)[:1]
            ]
            if not waiting:
                return 0
            table, group = max(waiting, key=lambda each: len(each[1].files))
            removed_count = table.compact(
                group, table.spec.person if group.is_settled and self._sort == "person" else ()
            )
            self._publish()
            return removed_count

    def vacuum(
        self,
        *,
        keep_us: int | None = None,
        dry_run: bool = False,
        progress: Callable[[int], None] = lambda done: None,
    ) -> dict[str, VacuumReport]:
        """Delete the files that only earlier readers need.

        Returns:
            The deleted files by table, or with `dry_run` those that would be deleted.
        """
        keep_us = self._keep_us if keep_us is None else keep_us
        with self._stop_on_error():
            self._lock.renew()
            reports = {
                name: table.vacuum(keep_us, dry_run=dry_run, progress=progress)
                for name, table in self._tables.items()
            }
            if storage_at(self._path).is_remote and not dry_run:
                for file in self._archive.unreferenced_files():
                    file.unlink(missing_ok=True)
            if not dry_run and any(report.log_files for report in reports.values()):
                self._publish()
            return {name: report for name, report in reports.items() if report != VacuumReport()}

    def rewriting(self) -> Rewriting:
        """Return the rewriting operations of this lake's writer, for an erasure."""
        return Rewriting(
            self._tables, self._archive, self._stop_on_error, self._lock.renew, self._publish
        )

    def drain(self) -> LakeReport:
        """Step until all logs are loaded and no folder has too many small files."""
        rows: dict[str, int] = {}
        archived = 0
        while not (report := self.step(flush=True)).idle:
            archived += report.archived
            for name, count in report.rows.items():
                rows[name] = rows.get(name, 0) + count
        while self.upkeep():
            pass
        return LakeReport(rows, archived, report.positions)

    def pending(self) -> int:
        """Return the number of rows of routed and answer logs that are not loaded yet."""
        waiting = 0
        for path in self._feeds.routed.values():
            end = self._feeds.reader(path).end()
            waiting += max(
                0,
                end
                - min(
                    self._position(name, self._feeds.reader(path), ROUTED)
                    for name in etl.ROUTED_TABLES
                ),
            )
        for path in self._feeds.answers.values():
            waiting += max(
                0,
                self._feeds.reader(path).end()
                - self._position("answers", self._feeds.reader(path), path.stem),
            )
        return waiting

    def changed(self) -> bool:
        """Return whether any log may have grown since the last call; cheap enough to poll."""
        return self._feeds.changed()

    def close(self) -> None:
        """Release logs and lock; harmless when already closed."""
        self._feeds.close()
        self._lock.release()

    def __enter__(self) -> "LakeRole":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _position(self, table: str, reader: LogReader, log: str) -> int:
        """Return the position from which a table must be loaded."""
        reached = self._positions.tables.get(table, {}).get(log, 0)
        position = max(self._tables[table].position(log) or 0, reached)
        if position == 0:
            if reader.start() > 1:
                raise DamageError(
                    f"the log begins at {reader.start()}, but table {table} has none of its rows",
                    where=f"{self._path / table}",
                    fix="restore the lake from the backup",
                )
            return reader.start()
        if (table, log) not in self._checked_positions and position > (end := reader.end()):
            raise DamageError(
                f"table {table} is said to be at {position:,} of the log {log}, which ends "
                f"at {end:,}: what comes would be passed over",
                where=str(self._path / FILE),
                fix="tailorbird lake repair, if the file is wrong; if the log was lost, or is an "
                "older copy, put it back; topics that are lost for good: "
                'docs/how-to/kafka.md, "When topics are lost for good"',
            )
        if (table, log) not in self._checked_positions and position < (start := reader.start()):
            raise DamageError(
                f"table {table} ends at {position:,} of the log {log}, which begins at {start:,}: "
                "the rows between were deleted",
                where=str(self._path / FILE),
                fix="restore a newer backup; topics that were pruned beyond it: "
                'docs/how-to/kafka.md, "When topics are lost for good"',
            )
        self._checked_positions.add((table, log))
        return position

    def _archive_raw(self, flush: bool) -> int:
        archived = 0
        for path in self._feeds.raw.values():
            reader = self._feeds.reader(path)
            archived += self._archive.take(
                reader, flush=flush, archived=self._positions.archive.get(path.stem, 0)
            )
            end = self._archive.positions().get(reader.partition)
            if end is not None and self._positions.archive.get(path.stem) != end:
                self._positions.archive[path.stem] = end
                self._positions_changed = (
                    True  # also where a crash came between the file and the positions
                )
        return archived

    def _load_routed(self, rows_max: int, rows: dict[str, int]) -> None:
        if not (addresses := self._feeds.routed):
            return
        reader = self._feeds.reader(addresses[ROUTED])
        starts = {name: self._position(name, reader, ROUTED) for name in etl.ROUTED_TABLES}
        # Start at the stored positions, because a crash may have come between the commits and
        # them. A table does not append again what it has.
        stored_ends = self._positions.tables
        stored_starts = [
            stored_ends[name].get(ROUTED, start)
            if name in stored_ends
            else start
            if stored_ends
            else 0
            for name, start in starts.items()
        ]
        blocks = read_some(reader, max(reader.start(), min(stored_starts)), rows_max)
        if not blocks:
            return
        end = blocks[-1].end
        new = {
            name: [stored for stored in blocks if stored.offset >= start]
            for name, start in starts.items()
        }
        arrived = {
            kind: etl.routed_rows(blocks, kind) for kind in ("events", "quarantine", "duplicates")
        }
        events, repeats = etl.split_repeats(arrived["events"], self._read_known_events)
        duplicates = [
            etl.routed_rows(new["duplicates"], "duplicates"),
            etl.as_duplicates(etl.events_from(repeats, starts["duplicates"])),
        ]
        # Profiles come before the events that carry them, so that a reader of an event finds them.
        self._append(
            "users",
            etl.profiles(etl.events_from(events, starts["users"]), "user"),
            ROUTED,
            end,
            rows,
        )
        self._append(
            "items",
            etl.profiles(etl.events_from(events, starts["items"]), "item"),
            ROUTED,
            end,
            rows,
        )
        self._append(
            "events", etl.with_day(etl.events_from(events, starts["events"])), ROUTED, end, rows
        )
        faults.at("lake.between_tables")
        self._append(
            "quarantine", etl.routed_rows(new["quarantine"], "quarantine"), ROUTED, end, rows
        )
        self._append("duplicates", pa.concat_tables(duplicates), ROUTED, end, rows)
        ends = etl.raw_ends(*arrived.values())
        if (
            log_set(self._stream).count > 1
        ):  # The rows of a log that several routers share do not show how far all have read.
            ends = {
                name: end for name, end in ends.items() if name not in HISTORICAL_PRODUCERS
            } | etl.taken_by_all(blocks, self._positions.taken)
        for partition, row in ends.items():
            self._positions.routed[partition] = max(row, self._positions.routed.get(partition, 0))

    def _read_known_events(self, days: list[int], p: int) -> pa.Table:
        return self._reader.rows_of_days(days, p, list(etl.KEY_COLUMNS))

    def _load_answers(
        self, producer: str, path: Address, rows_max: int, rows: dict[str, int]
    ) -> None:
        reader = self._feeds.reader(path)
        position = self._position("answers", reader, path.stem)
        blocks = read_some(reader, position, rows_max)
        if blocks:
            self._append(
                "answers", etl.answer_rows(blocks, producer), path.stem, blocks[-1].end, rows
            )
        elif position > max(
            reader.start(), self._positions.tables.get("answers", {}).get(path.stem, 0)
        ):
            self._advance(
                "answers", path.stem, position
            )  # A crash came between the commit and the positions.

    def _append(
        self, table: str, data: pa.Table, log: str, position: int, rows: dict[str, int]
    ) -> None:
        if self._tables[table].append(data, log, position) is not None:
            rows[table] = rows.get(table, 0) + len(data)
        self._advance(table, log, position)

    def _advance(self, table: str, log: str, position: int) -> None:
        reached = self._positions.tables.setdefault(table, {})
        reached[log] = max(
            position, reached.get(log, 0)
        )  # A table may be ahead of one that lost its last commit.
        self._positions_changed = True

    def _mirror_ledger(self, rows: dict[str, int], lines_min: int) -> None:
        table = self._tables["commits"]
        end = len(self._ledger.lines)
        lines = self._ledger.commits_between(table.position("ledger") or 0, end)
        if len(lines) >= lines_min:
            table.append(etl.ledger_rows(lines), "ledger", end)
            rows["commits"] = len(lines)

    def publish(self) -> None:
        """Mirror the ledger and store how far the tables are, after a rebuild."""
        with self._stop_on_error():
            self._mirror_ledger({}, 1)
            self._publish()

    def _publish(self) -> None:
        """Read back the commits since the last time, then store what may be pruned."""
        lines = self._ledger.lines
        for line in lines[self._verified :]:
            read_back(self._path, line)
        self._verified = len(lines)
        safe = dict(self._positions.archive)
        for log in {log for logs in self._positions.tables.values() for log in logs}:
            tables = ["answers"] if log != ROUTED else list(etl.ROUTED_TABLES)
            safe[log] = min(self._positions.tables.get(table, {}).get(log, 0) for table in tables)
        self._positions.safe = safe
        self._positions.ledger = len(lines)
        faults.at("lake.before_positions")
        store_positions(self._path, self._positions)
        self._positions_changed = False
        faults.at("lake.after_positions")
