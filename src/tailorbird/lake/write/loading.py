"""Load the logs into archive and tables, each from its own position on.

    raw-*.db      ─► archive
    routed.db     ─► events, quarantine, duplicates, users, items
    answers-*.db  ─► answers
    ledger        ─► commits

`lake.write.role` opens what is loaded, and decides when.
"""

from collections.abc import Mapping

import pyarrow as pa

from tailorbird import faults
from tailorbird.errors import DamageError
from tailorbird.lake.delta.commits import read_back
from tailorbird.lake.delta.table import DurableTable
from tailorbird.lake.files.archive import Archive
from tailorbird.lake.files.ledger import Ledger
from tailorbird.lake.lake import Lake
from tailorbird.lake.write import etl
from tailorbird.lake.write.feeds import ROUTED, Feeds, read_blocks
from tailorbird.lake.write.positions import Positions, store_positions
from tailorbird.storage_paths import StoragePath
from tailorbird.stream import HISTORICAL_PRODUCERS, Address, LogReader, Stream, log_set
from tailorbird.stream.released import POSITIONS_FILE


class Loader:
    """Loads what follows the positions of archive and tables in the logs.

    Attributes:
        positions: as stored last, and as they were reached since.
        has_progress: whether positions were reached that are not stored.
    """

    def __init__(
        self,
        path: StoragePath,
        stream: Stream,
        feeds: Feeds,
        ledger: Ledger,
        tables: Mapping[str, DurableTable],
        archive: Archive,
        positions: Positions,
        verified: int,
    ) -> None:
        self._path, self._stream, self._feeds = path, stream, feeds
        self._ledger, self._tables, self._archive = ledger, tables, archive
        self._reader = Lake(path)
        self._verified = verified
        # Tables and logs whose positions were compared with the log's end.
        self._checked_positions: set[tuple[str, str]] = set()
        self.positions, self.has_progress = positions, False

    def archive_raw(self, flush: bool) -> int:
        """Archive new rows of the raw logs, and return how many."""
        archived = 0
        for path in self._feeds.raw_logs.values():
            reader = self._feeds.reader(path)
            archived += self._archive.take(
                reader, flush=flush, archived=self.positions.archive.get(path.stem, 0)
            )
            end = self._archive.positions().get(reader.partition)
            if end is not None and self.positions.archive.get(path.stem) != end:
                self.positions.archive[path.stem] = end
                self.has_progress = (
                    True  # also where a crash came between the file and the positions
                )
        return archived

    def load_routed(self, rows_max: int, row_counts: dict[str, int]) -> None:
        """Load new rows of the routed log, and count them in `row_counts` by table."""
        if not (addresses := self._feeds.routed_log):
            return
        reader = self._feeds.reader(addresses[ROUTED])
        starts = {name: self._start_position(name, reader, ROUTED) for name in etl.ROUTED_TABLES}
        # Start at the stored positions, because a crash may have come between the commits and
        # them. A table does not append again what it has.
        stored_ends = self.positions.tables
        stored_starts = [
            stored_ends[name].get(ROUTED, start)
            if name in stored_ends
            else start
            if stored_ends
            else 0
            for name, start in starts.items()
        ]
        blocks = read_blocks(reader, max(reader.start(), min(stored_starts)), rows_max)
        if not blocks:
            return
        end = blocks[-1].end
        new_blocks = {
            name: [stored for stored in blocks if stored.offset >= start]
            for name, start in starts.items()
        }
        routed_tables = {
            kind: etl.routed_rows(blocks, kind) for kind in ("events", "quarantine", "duplicates")
        }
        events, repeats = etl.split_repeats(routed_tables["events"], self._read_known_events)
        duplicates = [
            etl.routed_rows(new_blocks["duplicates"], "duplicates"),
            etl.as_duplicates(etl.events_from(repeats, starts["duplicates"])),
        ]
        # Profiles come before the events that carry them, so that a reader of an event finds them.
        self._append(
            "users",
            etl.profile_versions(etl.events_from(events, starts["users"]), "user"),
            ROUTED,
            end,
            row_counts,
        )
        self._append(
            "items",
            etl.profile_versions(etl.events_from(events, starts["items"]), "item"),
            ROUTED,
            end,
            row_counts,
        )
        self._append(
            "events",
            etl.with_day(etl.events_from(events, starts["events"])),
            ROUTED,
            end,
            row_counts,
        )
        faults.at("lake.between_tables")
        self._append(
            "quarantine",
            etl.routed_rows(new_blocks["quarantine"], "quarantine"),
            ROUTED,
            end,
            row_counts,
        )
        self._append("duplicates", pa.concat_tables(duplicates), ROUTED, end, row_counts)
        ends = etl.raw_ends(*routed_tables.values())
        if (
            log_set(self._stream).count > 1
        ):  # The rows of a log that several routers share do not show how far all have read.
            ends = {
                name: end for name, end in ends.items() if name not in HISTORICAL_PRODUCERS
            } | etl.offsets_read_by_all(blocks, self.positions.router_offsets)
        for partition, row in ends.items():
            self.positions.routed[partition] = max(row, self.positions.routed.get(partition, 0))

    def load_responses(
        self, producer: str, path: Address, rows_max: int, row_counts: dict[str, int]
    ) -> None:
        """Load new rows of a log of answers, and count them in `row_counts`."""
        reader = self._feeds.reader(path)
        position = self._start_position("answers", reader, path.stem)
        blocks = read_blocks(reader, position, rows_max)
        if blocks:
            self._append(
                "answers",
                etl.response_rows(blocks, producer),
                path.stem,
                blocks[-1].end,
                row_counts,
            )
        elif position > max(
            reader.start(), self.positions.tables.get("answers", {}).get(path.stem, 0)
        ):
            self._advance(
                "answers", path.stem, position
            )  # A crash came between the commit and the positions.

    def mirror_ledger(self, row_counts: dict[str, int], lines_min: int) -> None:
        """Load new lines of the ledger, if there are `lines_min` of them."""
        table = self._tables["commits"]
        end = len(self._ledger.lines)
        lines = self._ledger.commits_between(table.position("ledger") or 0, end)
        if len(lines) >= lines_min:
            table.append(etl.ledger_rows(lines), "ledger", end)
            row_counts["commits"] = len(lines)

    def publish(self) -> None:
        """Read back the commits since the last time, then store what may be pruned."""
        lines = self._ledger.lines
        for line in lines[self._verified :]:
            read_back(self._path, line)
        self._verified = len(lines)
        safe = dict(self.positions.archive)
        for log in {log for logs in self.positions.tables.values() for log in logs}:
            tables = ["answers"] if log != ROUTED else list(etl.ROUTED_TABLES)
            safe[log] = min(self.positions.tables.get(table, {}).get(log, 0) for table in tables)
        self.positions.safe = safe
        self.positions.ledger = len(lines)
        faults.at("lake.before_positions")
        store_positions(self._path, self.positions)
        self.has_progress = False
        faults.at("lake.after_positions")

    def pending(self) -> int:
        """Return the number of rows of routed and answer logs that are not loaded yet."""
        waiting = 0
        for path in self._feeds.routed_log.values():
            end = self._feeds.reader(path).end()
            waiting += max(
                0,
                end
                - min(
                    self._start_position(name, self._feeds.reader(path), ROUTED)
                    for name in etl.ROUTED_TABLES
                ),
            )
        for path in self._feeds.response_logs.values():
            waiting += max(
                0,
                self._feeds.reader(path).end()
                - self._start_position("answers", self._feeds.reader(path), path.stem),
            )
        return waiting

    def _start_position(self, table: str, reader: LogReader, log: str) -> int:
        """Return the position from which a table must be loaded."""
        reached = self.positions.tables.get(table, {}).get(log, 0)
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
                where=str(self._path / POSITIONS_FILE),
                fix="tailorbird lake repair, if the file is wrong; if the log was lost, or is an "
                "older copy, put it back; topics that are lost for good: "
                'docs/how-to/kafka.md, "When topics are lost for good"',
            )
        if (table, log) not in self._checked_positions and position < (start := reader.start()):
            raise DamageError(
                f"table {table} ends at {position:,} of the log {log}, which begins at {start:,}: "
                "the rows between were deleted",
                where=str(self._path / POSITIONS_FILE),
                fix="restore a newer backup; topics that were pruned beyond it: "
                'docs/how-to/kafka.md, "When topics are lost for good"',
            )
        self._checked_positions.add((table, log))
        return position

    def _read_known_events(self, days: list[int], p: int) -> pa.Table:
        return self._reader.rows_of_days(days, p, list(etl.KEY_COLUMNS))

    def _append(
        self, table: str, data: pa.Table, log: str, position: int, row_counts: dict[str, int]
    ) -> None:
        if self._tables[table].append(data, log, position) is not None:
            row_counts[table] = row_counts.get(table, 0) + len(data)
        self._advance(table, log, position)

    def _advance(self, table: str, log: str, position: int) -> None:
        reached = self.positions.tables.setdefault(table, {})
        reached[log] = max(
            position, reached.get(log, 0)
        )  # A table may be ahead of one that lost its last commit.
        self.has_progress = True
