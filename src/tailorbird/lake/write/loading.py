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
from tailorbird.lake.delta.commits import verify_commit
from tailorbird.lake.delta.table import DurableTable
from tailorbird.lake.files.archive import Archive
from tailorbird.lake.files.ledger import Ledger
from tailorbird.lake.lake import Lake
from tailorbird.lake.write import etl
from tailorbird.lake.write.feeds import ROUTED_LOG, Feeds, read_blocks
from tailorbird.lake.write.positions import Positions, store_positions
from tailorbird.storage_paths import StoragePath
from tailorbird.stream import HISTORICAL_PRODUCERS, Address, LogReader, Stream, log_set
from tailorbird.stream.released import POSITIONS_FILE


class Loader:
    """Loads what follows the positions of archive and tables in the logs.

    Args:
        verified_lines: number of lines of the ledger whose commits were checked.

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
        verified_lines: int,
    ) -> None:
        self._path = path
        self._stream = stream
        self._feeds = feeds
        self._ledger = ledger
        self._tables = tables
        self._archive = archive
        self._reader = Lake(path)
        self._verified_lines = verified_lines
        # Tables and logs whose positions were compared with the log's end.
        self._checked_positions: set[tuple[str, str]] = set()
        self.positions = positions
        self.has_progress = False

    def archive_raw(self, flush: bool) -> int:
        """Archive new rows of the raw logs, and return how many."""
        archived_rows = 0
        for address in self._feeds.raw_logs.values():
            reader = self._feeds.reader(address)
            archived_rows += self._archive.archive_next(
                reader, flush=flush, archived_end=self.positions.archive.get(address.stem, 0)
            )
            end = self._archive.positions().get(reader.partition)
            if end is not None and self.positions.archive.get(address.stem) != end:
                self.positions.archive[address.stem] = end
                self.has_progress = (
                    True  # also where a crash came between the file and the positions
                )
        return archived_rows

    def load_routed(self, rows_max: int, row_counts: dict[str, int]) -> None:
        """Load new rows of the routed log, and count them in `row_counts` by table."""
        if not (addresses := self._feeds.routed_log):
            return
        reader = self._feeds.reader(addresses[ROUTED_LOG])
        start_by_table = {
            name: self._start_position(name, reader, ROUTED_LOG) for name in etl.ROUTED_TABLES
        }
        # Start at the stored positions, because a crash may have come between the commits and
        # them. A table does not append again what it has.
        stored_positions = self.positions.tables
        stored_starts = [
            stored_positions[name].get(ROUTED_LOG, start)
            if name in stored_positions
            else start
            if stored_positions
            else 0
            for name, start in start_by_table.items()
        ]
        blocks = read_blocks(reader, max(reader.start(), min(stored_starts)), rows_max)
        if not blocks:
            return
        end = blocks[-1].end
        new_blocks = {
            name: [stored_block for stored_block in blocks if stored_block.offset >= start]
            for name, start in start_by_table.items()
        }
        routed_tables = {
            kind: etl.routed_rows(blocks, kind) for kind in ("events", "quarantine", "duplicates")
        }
        events, repeats = etl.split_repeats(routed_tables["events"], self._read_known_events)
        duplicates = [
            etl.routed_rows(new_blocks["duplicates"], "duplicates"),
            etl.as_duplicates(etl.events_from(repeats, start_by_table["duplicates"])),
        ]
        # Profiles come before the events that carry them, so that a reader of an event finds them.
        self._append(
            "users",
            etl.profile_versions(etl.events_from(events, start_by_table["users"]), "user"),
            ROUTED_LOG,
            end,
            row_counts,
        )
        self._append(
            "items",
            etl.profile_versions(etl.events_from(events, start_by_table["items"]), "item"),
            ROUTED_LOG,
            end,
            row_counts,
        )
        self._append(
            "events",
            etl.with_day(etl.events_from(events, start_by_table["events"])),
            ROUTED_LOG,
            end,
            row_counts,
        )
        faults.fire_if_armed("lake.between_tables")
        self._append(
            "quarantine",
            etl.routed_rows(new_blocks["quarantine"], "quarantine"),
            ROUTED_LOG,
            end,
            row_counts,
        )
        self._append("duplicates", pa.concat_tables(duplicates), ROUTED_LOG, end, row_counts)
        end_by_partition = etl.raw_end_by_partition(*routed_tables.values())
        if (
            log_set(self._stream).partition_count > 1
        ):  # The rows of a log that several routers share do not show how far all have read.
            end_by_partition = {
                name: end
                for name, end in end_by_partition.items()
                if name not in HISTORICAL_PRODUCERS
            } | etl.offsets_read_by_all(blocks, self.positions.router_offsets)
        for partition, end_row in end_by_partition.items():
            self.positions.routed[partition] = max(end_row, self.positions.routed.get(partition, 0))

    def load_responses(
        self, producer: str, address: Address, rows_max: int, row_counts: dict[str, int]
    ) -> None:
        """Load new rows of a log of answers, and count them in `row_counts`."""
        reader = self._feeds.reader(address)
        position = self._start_position("answers", reader, address.stem)
        blocks = read_blocks(reader, position, rows_max)
        if blocks:
            self._append(
                "answers",
                etl.response_rows(blocks, producer),
                address.stem,
                blocks[-1].end,
                row_counts,
            )
        elif position > max(
            reader.start(), self.positions.tables.get("answers", {}).get(address.stem, 0)
        ):
            self._advance(
                "answers", address.stem, position
            )  # A crash came between the commit and the positions.

    def mirror_ledger(self, row_counts: dict[str, int], lines_min: int) -> None:
        """Load new lines of the ledger, if there are `lines_min` of them."""
        table = self._tables["commits"]
        end = len(self._ledger.lines)
        lines = self._ledger.commits_between(table.position("ledger") or 0, end)
        if len(lines) >= lines_min:
            table.append(etl.ledger_rows(lines), "ledger", end)
            row_counts["commits"] = len(lines)

    def publish_positions(self) -> None:
        """Read back the commits since the last time, then store what may be pruned."""
        lines = self._ledger.lines
        for line in lines[self._verified_lines :]:
            verify_commit(self._path, line)
        self._verified_lines = len(lines)
        safe_positions = dict(self.positions.archive)
        for log in {log for logs in self.positions.tables.values() for log in logs}:
            tables = ["answers"] if log != ROUTED_LOG else list(etl.ROUTED_TABLES)
            safe_positions[log] = min(
                self.positions.tables.get(table, {}).get(log, 0) for table in tables
            )
        self.positions.safe = safe_positions
        self.positions.ledger = len(lines)
        faults.fire_if_armed("lake.before_positions")
        store_positions(self._path, self.positions)
        self.has_progress = False
        faults.fire_if_armed("lake.after_positions")

    def count_pending_rows(self) -> int:
        """Return the number of rows of routed and answer logs that are not loaded yet."""
        waiting_rows = 0
        for address in self._feeds.routed_log.values():
            end = self._feeds.reader(address).end()
            waiting_rows += max(
                0,
                end
                - min(
                    self._start_position(name, self._feeds.reader(address), ROUTED_LOG)
                    for name in etl.ROUTED_TABLES
                ),
            )
        for address in self._feeds.response_logs.values():
            waiting_rows += max(
                0,
                self._feeds.reader(address).end()
                - self._start_position("answers", self._feeds.reader(address), address.stem),
            )
        return waiting_rows

    def _start_position(self, table: str, reader: LogReader, log: str) -> int:
        """Return the position from which a table must be loaded."""
        last_position = self.positions.tables.get(table, {}).get(log, 0)
        position = max(self._tables[table].position(log) or 0, last_position)
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

    def _read_known_events(self, days: list[int], end_position: int) -> pa.Table:
        return self._reader.events_of_days(days, end_position, list(etl.KEY_COLUMNS))

    def _append(
        self, table: str, rows: pa.Table, log: str, position: int, row_counts: dict[str, int]
    ) -> None:
        if self._tables[table].append(rows, log, position) is not None:
            row_counts[table] = row_counts.get(table, 0) + len(rows)
        self._advance(table, log, position)

    def _advance(self, table: str, log: str, position: int) -> None:
        last_positions = self.positions.tables.setdefault(table, {})
        last_positions[log] = max(
            position, last_positions.get(log, 0)
        )  # A table may be ahead of one that lost its last commit.
        self.has_progress = True
