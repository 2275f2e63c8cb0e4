"""Examine a lake: find what is corrupt, and from what it can be rebuilt.

tables           the intact data files, the routed log, the archive routed again, answer logs
raw rows in no table              the same
positions.json                    ledger, manifest and tables
files of the archive, raw logs    see `rebuild.received`
ledger, manifest, routed log      no second source: from the backup
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tailorbird.errors import DamageError, TailorbirdError
from tailorbird.lake.delta import orphans
from tailorbird.lake.delta.corruption import file_corruption
from tailorbird.lake.files.archive import Archive, ArchiveFile
from tailorbird.lake.files.ledger import Ledger
from tailorbird.lake.rebuild import missing
from tailorbird.lake.rebuild.intact import IntactRows
from tailorbird.lake.rebuild.plan import Plan, Rebuild, Unrecoverable
from tailorbird.lake.rebuild.received import RebuildAction, archived_content, examine_logs
from tailorbird.lake.rebuild.reroute import RouteAgain, route_archive
from tailorbird.lake.row_accounts import count_raw_rows
from tailorbird.lake.tables import TABLES
from tailorbird.lake.verify import Fault, describe_gap, log_end_finder, table_faults
from tailorbird.lake.write import etl
from tailorbird.lake.write.positions import (
    Positions,
    load_positions,
    positions_beyond_logs,
    positions_lost,
)
from tailorbird.stream import Stream, log_set
from tailorbird.stream.released import POSITIONS_FILE

LEDGER_FILE = "ledger.jsonl"
MANIFEST_FILE = "archive/manifest.jsonl"
MIRROR_TABLE = "commits"  # the table that mirrors the ledger
RESTORE_REMEDY = (
    "has no second source, so restore it from the backup: one of any age within lake.history "
    "will do, because the tables' own commits complete it"
)


@dataclass
class Examination:
    """The plan of a rebuild, and everything that it needs to write.

    Attributes:
        tables: the tables to rebuild, of rows of `intact`.
        new_contents: new content of files of the lake, by path.
        positions: the new positions, if their file is missing or corrupt.
        evidence: what to set aside, as `lake.files.swap` takes it.
        rebuild_log_actions: what rebuilds logs.
    """

    plan: Plan = field(default_factory=Plan)
    intact: IntactRows | None = None
    tables: list[str] = field(default_factory=list)
    new_contents: dict[str, bytes] = field(default_factory=dict)
    positions: Positions | None = None
    evidence: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    rebuild_log_actions: list[RebuildAction] = field(default_factory=list)


class Examiner:
    """Examines a lake and its logs once; changes nothing but its scratch folder.

    Args:
        scratch: a folder that does not exist, in which the archive is routed again if needed.
    """

    def __init__(self, stream: Stream, lake: Path, scratch: Path, route_again: RouteAgain) -> None:
        self._stream = stream
        self._lake = lake
        self._scratch = scratch
        self._route_again = route_again
        self._result = Examination()
        self._plan = self._result.plan

    def examine(self) -> Examination:
        """Return what is corrupt and what a rebuild writes."""
        opened_files = self._open_ledger_and_archive()
        if opened_files is None:
            return self._result
        self._ledger, self._archive = opened_files
        self._positions = self._load_positions()
        self._check_manifest()
        self._faults = {name: self._table_faults(name) for name in TABLES}
        corrupt_paths = {
            name: {fault.where.removeprefix(f"{name}/") for fault in self._faults[name]}
            for name in TABLES
        }
        self._intact = self._result.intact = IntactRows(self._lake, self._ledger, corrupt_paths)
        self._examine_rows()
        if self._result.positions is not None:
            raw_columns = [
                self._intact.table(name, missing.RAW_COLUMNS) for name in missing.RAW_TABLES
            ]
            self._result.positions.routed = etl.raw_end_by_partition(*raw_columns)
        for partition, start, end in self._archive.gaps():
            consequence = (
                "their bodies are in no raw log and no archive, so they cannot be routed again"
            )
            self._add_unrecoverable(
                self._lake / "archive" / partition, describe_gap(start, end), consequence
            )
        for file in self._archive.files:
            self._examine_archived(file)
        if not (logs := log_set(self._stream)).is_remote:
            self._result.rebuild_log_actions = examine_logs(
                self._lake, logs.folder, self._archive, self._positions, self._plan
            )
        return self._result

    def _add_unrecoverable(self, where: Path | str, what: str, lost: str) -> None:
        self._plan.unrecoverable.append(Unrecoverable(str(where), what, lost))

    def _open_ledger_and_archive(self) -> tuple[Ledger, Archive] | None:
        """Open ledger and archive; None where one of them is corrupt."""
        ledger = archive = None
        if not (self._lake / LEDGER_FILE).exists():
            self._add_unrecoverable(
                self._lake / LEDGER_FILE, "is missing", f"the ledger {RESTORE_REMEDY}"
            )
        else:
            try:
                ledger = Ledger(self._lake / LEDGER_FILE)
            except DamageError as error:
                self._add_unrecoverable(error.where, error.message, f"the ledger {RESTORE_REMEDY}")
        try:
            archive = Archive(self._lake / "archive")
        except DamageError as error:
            consequence = "the manifest has no second source, so restore it from the backup"
            self._add_unrecoverable(error.where, error.message, consequence)
        return (ledger, archive) if ledger is not None and archive is not None else None

    def _load_positions(self) -> Positions:
        """Return the positions, derived where the file is missing or corrupt."""
        try:
            if positions_lost(self._lake, self._ledger, self._archive.positions()):
                fault = "is missing"
            else:
                positions = load_positions(self._lake)
                log_beyond = next(
                    positions_beyond_logs(positions, log_end_finder(self._stream)), None
                )
                if log_beyond is None:
                    return positions
                table, log, position, end = log_beyond
                # If a commit says so too, it is the log that has lost rows.
                if reached_positions(self._ledger, table).get(log, 0) > end:
                    return positions
                fault = (
                    f"says that table {table} has {log} up to {position:,}, which ends at {end:,}"
                )
        except DamageError as error:
            fault = error.message
        source = "ledger, manifest and tables"
        self._plan.rebuilds.append(Rebuild(str(self._lake / POSITIONS_FILE), fault, source))
        self._result.evidence[POSITIONS_FILE] = [(POSITIONS_FILE, "")]
        positions_by_table = {
            name: reached_positions(self._ledger, name) for name in TABLES if name != MIRROR_TABLE
        }
        # Nothing is safe to delete until the role says so again.
        self._result.positions = Positions(
            tables={
                name: table_positions
                for name, table_positions in positions_by_table.items()
                if table_positions
            },
            archive={f"raw-{name}": end for name, end in self._archive.positions().items()},
            ledger=len(self._ledger.lines),
        )
        return self._result.positions

    def _check_manifest(self) -> None:
        """Name the files of the archive that a manifest without its last lines does not have."""
        for log, end in self._positions.archive.items():
            archived_end = self._archive.positions().get(log.removeprefix("raw-"), 0)
            if archived_end < end:
                fault = f"ends at row {archived_end:,} of {log}, {end:,} were archived"
                consequence = (
                    f"nothing else vouches for the files of {log} from row {archived_end:,} on, so "
                    "restore the manifest from the backup"
                )
                self._add_unrecoverable(self._lake / MANIFEST_FILE, fault, consequence)

    def _table_faults(self, name: str) -> list[Fault]:
        """Return what is corrupt in a table, checkpoints that nothing vouches for included."""
        faults = table_faults(self._lake, name, self._ledger)
        log_folder = self._lake / name / "_delta_log"
        if all(fault.where != name for fault in faults) or not log_folder.is_dir():
            return faults
        vouched_checkpoints = {
            line.files[0].path for line in self._ledger.checkpoints(name).values()
        }
        unknown_files = [
            path.name
            for path in sorted(log_folder.iterdir())
            if orphans.CHECKPOINT_FILE.match(path.name) and path.name not in vouched_checkpoints
        ]
        if unknown_files and (log_folder / orphans.HINT_FILE).exists():
            unknown_files.append(orphans.HINT_FILE)
        fault_text = "the ledger does not know it, and the table is not what the ledger says"
        causes = [
            Fault(f"{name}/_delta_log/{file_name}", fault_text) for file_name in unknown_files
        ]
        return [fault for fault in faults if fault.where != name or not causes] + causes

    def _examine_rows(self) -> None:
        """Recover the rows of corrupt data files and the raw rows in no table, and plan tables."""
        intact = self._intact
        missing_before = self._rows_in_no_table()
        sources: dict[str, list[str]] = {}
        if missing_before or any(intact.corrupt_files(name) for name in missing.RAW_TABLES):
            end_positions = {name: self._loaded_end(name, "routed") for name in missing.RAW_TABLES}
            recovered_batches = missing.recover_routed(
                self._stream, intact, end_positions, self._reroute_archive, self._is_complete
            )
            for rows in recovered_batches:
                for name in rows.tables:
                    sources.setdefault(name, []).append(rows.source)
        for name in missing.RAW_TABLES:
            self._plan_table(name, sources.get(name, []))
        for name in missing.PROFILE_TABLES:
            new_events = intact.recovered.get("events", TABLES["events"].schema.empty_table())
            rows = missing.recover_profiles(
                intact, name, new_events, self._loaded_end(name, "routed")
            )
            if len(rows):
                intact.add_rows(name, rows)
            self._plan_table(name, [missing.EVENTS_SOURCE] if len(rows) else [])
        if intact.corrupt_files("answers"):
            logs = reached_positions(self._ledger, "answers") | self._positions.tables.get(
                "answers", {}
            )
            end_positions = {log: self._loaded_end("answers", log) for log in logs}
            intact.add_rows(
                "answers", missing.recover_responses(self._stream, intact, end_positions)
            )
        self._plan_table(
            "answers", [missing.RESPONSE_LOGS_SOURCE] if "answers" in intact.recovered else []
        )
        self._plan_table(MIRROR_TABLE, ["the ledger"])
        self._report_rows_in_no_table(missing_before, sources)

    def _loaded_end(self, name: str, log: str) -> int:
        """Return the position of a log up to which a table has it; the role loads the rest."""
        stored_end = self._positions.tables.get(name, {}).get(log, 0)
        return max(stored_end, reached_positions(self._ledger, name).get(log, 0))

    def _rows_in_no_table(self) -> dict[str, int]:
        files_by_partition: dict[str, list[ArchiveFile]] = {}
        for file in self._archive.files:
            files_by_partition.setdefault(file.partition, []).append(file)
        accounts = count_raw_rows(self._intact, files_by_partition, self._positions.routed)
        return {name: len(rows) for name, _, rows, _ in accounts if len(rows)}

    def _count_missing_rows(self, name: str) -> int:
        return self._intact.count_expected_rows(name) - self._intact.count_rows(name)

    def _is_complete(self) -> bool:
        return not self._rows_in_no_table() and all(
            self._count_missing_rows(name) <= 0 for name in missing.RAW_TABLES
        )

    def _report_rows_in_no_table(
        self, missing_before: dict[str, int], sources: dict[str, list[str]]
    ) -> None:
        tables = missing.RAW_TABLES
        missing_after = self._rows_in_no_table()
        if not any(self._faults[name] for name in tables):
            used_sources = sorted({source for name in tables for source in sources.get(name, ())})
            for partition, count in missing_before.items():
                if (recovered_count := count - missing_after.get(partition, 0)) > 0:
                    fault = f"{recovered_count:,} in no table"
                    where = f"raw rows of {partition}"
                    self._plan.rebuilds.append(Rebuild(where, fault, " and ".join(used_sources)))
        if all(name in self._result.tables or not self._faults[name] for name in tables):
            consequence = (
                "neither the routed log nor the archive, routed again, gives them back; their "
                "bodies as received are in the archive"
            )
            for partition, count in missing_after.items():
                self._add_unrecoverable(
                    f"raw rows of {partition}", f"{count:,} in no table", consequence
                )

    def _plan_table(self, name: str, sources: list[str]) -> None:
        """Plan to rebuild a table, or name the files whose rows are nowhere else."""
        faults = self._faults[name]
        intact = self._intact
        if not faults and not len(intact.recovered.get(name, ())):
            return
        missing_count = self._count_missing_rows(name) if name != MIRROR_TABLE else 0
        # Rows that were never counted can only be raw rows in no table, and their profiles.
        is_exact = name == "answers" or (
            name in missing.PROFILE_TABLES and "events" not in intact.recovered
        )
        if missing_count > 0 or (missing_count and is_exact):
            corrupt_files = {f"{name}/{file.path}": file for file in intact.corrupt_files(name)}
            for fault in faults:
                file = corrupt_files.get(fault.where)
                consequence = f"table {name} cannot be rebuilt while rows of it are lost"
                if file is not None:
                    consequence = _describe_lost_rows(name, file.rows)
                self._add_unrecoverable(self._lake / fault.where, fault.what, consequence)
            intact.discard(name)
            return
        self._result.tables.append(name)
        source = " and ".join(sources) or "the ledger and the data files, which are intact"
        self._plan.rebuilds += [
            Rebuild(str(self._lake / fault.where), fault.what, source) for fault in faults
        ]
        self._result.evidence[name] = self._files_to_set_aside(name)

    def _files_to_set_aside(self, name: str) -> list[tuple[str, str]]:
        """Return the files of a table to set aside: corrupt ones, and what orphans brought."""
        commits = self._ledger.commits(name)
        own_files = {file.path for line in commits.values() for file in line.files}
        paths: list[str] = []
        for orphan in reversed(orphans.find_orphans(self._lake / name, commits)):
            paths += [
                f"{name}/{path}" for path in orphans.data_files_of_orphan(orphan.file, own_files)
            ]
            paths.append(f"{name}/_delta_log/{orphan.file.name}")
        paths += [
            fault.where for fault in self._faults[name] if (self._lake / fault.where).is_file()
        ]
        return [(path, name) for path in dict.fromkeys(paths)]

    def _examine_archived(self, file: ArchiveFile) -> None:
        item = f"archive/{file.file}"
        corruption = file_corruption(self._lake / item, file)
        if corruption is None:
            return
        data = archived_content(self._stream, file)
        if data is None:
            consequence = (
                f"the raw log no longer has the bodies of rows {file.first:,} to {file.end - 1:,} "
                f"of {file.partition}; what was made of them is in the tables"
            )
            self._add_unrecoverable(self._lake / item, corruption, consequence)
            return
        self._plan.rebuilds.append(Rebuild(str(self._lake / item), corruption, "the raw log"))
        self._result.new_contents[item] = data
        self._result.evidence[item] = [(item, file.partition)]

    def _reroute_archive(self) -> Iterator[Path]:
        """Yield folders with the archive routed again, each split into steps in another way."""
        positions = {
            line.positions["routed"] for line in self._ledger.lines if "routed" in line.positions
        }
        for name, step_ends in (("by-commits", positions), ("by-bodies", None)):
            with suppress(TailorbirdError):
                folder = self._scratch / name
                route_archive(self._archive, self._stream, folder, self._route_again, step_ends)
                yield folder


def reached_positions(ledger: Ledger, name: str) -> dict[str, int]:
    """Return for each log of a table the position up to which its commits have it."""
    end_by_log: dict[str, int] = {}
    for line in ledger.commits(name).values():
        for log, position in line.positions.items():
            end_by_log[log] = max(position, end_by_log.get(log, 0))
    return end_by_log


def _describe_lost_rows(table: str, rows: int) -> str:
    if table == "answers":
        return (
            f"the answer logs no longer have the features of {rows:,} answers; that they were "
            "given, and what they showed, is in events"
        )
    return (
        f"neither the routed log nor the archive, routed again, gives back {rows:,} rows of "
        f"{table}; their bodies as received are in the archive"
    )
