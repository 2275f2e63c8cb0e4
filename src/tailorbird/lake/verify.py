"""Check archive, ledger and tables against each other, every byte and every row. It only reads, and
may run while the role does.

    1. every commit file and data file has the size and SHA-256 in the ledger
    2. Delta names the same files and counts the same rows
    3. every file of the archive has the SHA-256 in the manifest, and no row is missing before it or
       between two files
    4. no table is ahead of the log that feeds it, where the logs are available
    5. every archived raw row before the router's position is in exactly one of events, quarantine
       and duplicates
    6. with `deep`: each archived row agrees with the row made of it, see `lake.deep_verify`

Corruption is listed, not raised: one report names all of it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from tailorbird.errors import DamageError, NotReadyError, StorageError, TailorbirdError
from tailorbird.lake.deep_verify import content_differences
from tailorbird.lake.delta.corruption import file_corruption
from tailorbird.lake.delta.orphans import find_orphans
from tailorbird.lake.delta.recovery import commit_corruption
from tailorbird.lake.files import swap
from tailorbird.lake.files.archive import Archive, ArchiveFile
from tailorbird.lake.files.ledger import Ledger
from tailorbird.lake.lake import Lake
from tailorbird.lake.row_accounts import ROW_TABLES, RowAccount, count_raw_rows
from tailorbird.lake.tables import TABLES
from tailorbird.lake.write.positions import (
    Positions,
    load_positions,
    missing_ledger_error,
    positions_beyond_logs,
    positions_lost,
)
from tailorbird.storage import storage_at
from tailorbird.storage_paths import StoragePath
from tailorbird.stream import ReleasedPositions, Stream, log_set, open_reader
from tailorbird.stream.lag import unloaded_rows_by_log

_SHOWN_MAX = 5


@dataclass(frozen=True)
class Fault:
    """Something that is not as it was written: where, and what."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass
class VerifyReport:
    """The outcome of `verify`: counts, rows that wait in the logs, and the faults it found."""

    rows: dict[str, int] = field(default_factory=dict)
    commits: int = 0
    files: int = 0
    bytes: int = 0
    archive_files: int = 0
    partitions: dict[str, RowAccount] = field(default_factory=dict)
    waiting: dict[str, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """True if nothing is corrupt and every row is accounted for."""
        return not self.faults

    def __str__(self) -> str:
        conclusion = (
            "the lake is as it was written, and every row of it is accounted for"
            if self.is_clean
            else f"{len(self.faults)} faults"
        )
        return f"{self.describe()}\n{conclusion}"

    def describe(self) -> str:
        """Return what was read and found, without a conclusion."""
        lines = [
            f"{self.commits:,} commits, {self.files:,} data files and {self.archive_files:,} "
            f"archived files read, {self.bytes:,} bytes"
        ]
        lines += [f"  {name:<12}{rows:>14,} rows" for name, rows in self.rows.items()]
        for name, account in sorted(self.partitions.items()):
            counts_text = (
                f"{account.events:,} events + {account.quarantine:,} refused + "
                f"{account.duplicates:,} repeats + "
                f"{account.pending:,} not yet routed"
            )
            lines.append(
                f"  raw {name}: {account.archived:,} archived = {counts_text}"
                + (f" + {account.missing:,} MISSING" if account.missing else "")
            )
        if self.waiting:
            logs = ", ".join(f"{log} {rows:,}" for log, rows in self.waiting.items())
            total = sum(self.waiting.values())
            lines.append(f"  {total:,} rows of the logs are not in the tables yet: {logs}")
        lines += [f"  corrupt: {fault}" for fault in self.faults]
        return "\n".join(lines)


def verify(
    lake: StoragePath,
    *,
    stream: "Stream | None" = None,
    deep: bool = False,
    progress: Callable[[int], None] | None = None,
) -> VerifyReport:
    """Check an entire lake. Reads every byte of it.

    Args:
        stream: the logs, against whose ends the positions are checked.
        deep: compare the content of archive and tables too, if nothing else is corrupt.
        progress: called with the number of bytes read since the last call.

    Raises:
        NotReadyError: there is no lake yet, or no ledger any more.
    """
    if not (lake / "ledger.jsonl").exists():
        raise missing_ledger_error(lake)
    report = VerifyReport()
    local_path = storage_at(lake).local_path
    if local_path is not None and swap.is_unfinished(local_path):
        report.faults.append(
            Fault("rebuild", "a rebuild was cut short; tailorbird lake repair --yes completes it")
        )
    report_bytes = progress or (lambda _: None)
    try:
        positions = load_positions(lake)  # first, because the rest may grow meanwhile
        ledger = Ledger(lake / "ledger.jsonl")
    except DamageError as error:
        report.faults.append(Fault(error.where, error.message))
        return report
    if stream is not None:
        released_positions = ReleasedPositions(routed=positions.routed, tables=positions.tables)
        report.waiting = unloaded_rows_by_log(released_positions, stream)
    if len(ledger.lines) < positions.ledger:
        report.faults.append(
            Fault("ledger.jsonl", f"has {len(ledger.lines)} lines, {positions.ledger} were written")
        )
    for table, log, position, end in positions_beyond_logs(positions, log_end_finder(stream)):
        report.faults.append(
            Fault(
                "positions.json",
                f"table {table} is said to be at {position} of {log}, which ends at {end}; "
                "tailorbird lake repair",
            )
        )
    reader = Lake(lake)
    readable_tables = [
        name for name in TABLES if _check_table(lake, name, ledger, reader, report, report_bytes)
    ]
    archived_files = _check_archive(lake, ledger, positions, report, report_bytes)
    if set(ROW_TABLES) <= set(readable_tables):
        try:
            _check_accounts(reader, archived_files, positions.routed, report)
        except (DamageError, StorageError) as error:  # a file of a commit without a ledger line
            report.faults.append(Fault("tables", f"cannot be read: {error.where}: {error.message}"))
        except Exception as error:  # deltalake raises what it likes
            report.faults.append(
                Fault(
                    "tables",
                    f"cannot be opened: {str(error).splitlines()[0]}; the lake role undoes "
                    "what a crash left when it starts",
                )
            )
    if deep and report.is_clean:
        report.faults += [
            Fault(where, fault)
            for where, fault in content_differences(reader, Archive(lake / "archive"), report_bytes)
        ]
    return report


def table_faults(lake: StoragePath, name: str, ledger: Ledger) -> list[Fault]:
    """Return what is corrupt in one table: its commits, checkpoints and data files, and what Delta
    reads of it.
    """
    report = VerifyReport()
    _check_table(lake, name, ledger, Lake(lake), report, lambda _: None)
    return report.faults


def _check_table(
    lake: StoragePath,
    name: str,
    ledger: Ledger,
    reader: Lake,
    report: VerifyReport,
    report_bytes: Callable[[int], None],
) -> bool:
    commits = ledger.commits(name)
    fault_count_before = len(report.faults)
    first_version = ledger.first_log_version(name)
    for version, line in sorted(commits.items()):
        if version < first_version:
            # These files are deleted. Delta reads the checkpoint that replaces them below.
            continue
        report.commits += 1
        fault = commit_corruption(lake / name, version, line)
        if fault is not None:
            report.faults.append(
                Fault(f"{name}/_delta_log/{version:020d}.json", f"version {version} {fault}")
            )
    for orphan in find_orphans(lake / name, commits):
        report.faults.append(
            Fault(f"{name}/_delta_log/{orphan.file.name}", f"{orphan.problem}; {orphan.remedy}")
        )
    for version, line in sorted(ledger.checkpoints(name).items()):
        path = lake / name / "_delta_log" / line.files[0].path
        if path.exists() and (fault := file_corruption(path, line.files[0])):
            report.faults.append(
                Fault(f"{name}/_delta_log/{line.files[0].path}", f"checkpoint {version} {fault}")
            )
    for file in ledger.files(name).values():
        report.files += 1
        report.bytes += file.size
        fault = file_corruption(lake / name / file.path, file)
        if fault is not None:
            report.faults.append(Fault(f"{name}/{file.path}", f"{fault} ({file.rows} rows)"))
        report_bytes(file.size)
    if len(report.faults) > fault_count_before:
        return False
    return _delta_agrees(name, ledger, reader, report)


def _delta_agrees(name: str, ledger: Ledger, reader: Lake, report: VerifyReport) -> bool:
    """Return whether Delta reads the ledger's files at the newest version in the ledger."""
    commits = ledger.commits(name)
    try:
        actual = reader.row_counts_by_file(name, max(commits, default=0))
    except (
        Exception
    ) as error:  # deltalake raises what it likes; whatever it is, the table cannot be read
        message = (
            error.message if isinstance(error, TailorbirdError) else str(error).splitlines()[0]
        )
        report.faults.append(Fault(name, f"cannot be read: {message}"))
        return False
    expected = {file.path: file.rows for file in ledger.files(name).values()}
    if actual != expected:
        differing_file = sorted(set(actual.items()) ^ set(expected.items()))[0][0]
        report.faults.append(Fault(name, f"table and ledger do not agree about {differing_file}"))
        return False
    report.rows[name] = sum(expected.values())
    return True


def _check_archive(
    lake: StoragePath,
    ledger: Ledger,
    positions: Positions,
    report: VerifyReport,
    report_bytes: Callable[[int], None],
) -> dict[str, list[ArchiveFile]]:
    try:
        archive = Archive(lake / "archive")
    except DamageError as error:
        report.faults.append(Fault(error.where, error.message))
        return {}
    if positions_lost(lake, ledger, archive.positions()):
        report.faults.append(
            Fault(
                "positions.json",
                "is missing: how far rows were routed is not known; tailorbird lake repair",
            )
        )
    files_by_partition: dict[str, list[ArchiveFile]] = {}
    for file in archive.files:
        report.archive_files += 1
        report.bytes += file.size
        fault = file_corruption(archive.path / file.file, file)
        if fault is not None:
            report.faults.append(
                Fault(f"archive/{file.file}", f"{fault} ({file.rows} rows of {file.partition})")
            )
        earlier_files = files_by_partition.setdefault(file.partition, [])
        if earlier_files and file.first < earlier_files[-1].end:
            report.faults.append(
                Fault(
                    f"archive/{file.file}",
                    f"begins at row {file.first}, the file before ends at {earlier_files[-1].end}",
                )
            )
        earlier_files.append(file)
        report_bytes(file.size)
    for partition, start, end in archive.gaps():
        report.faults.append(Fault(f"archive/{partition}", describe_gap(start, end)))
    end_by_log = {
        f"raw-{partition}": files[-1].end for partition, files in files_by_partition.items()
    }
    for log, end in positions.archive.items():
        if end_by_log.get(log, 0) < end:
            report.faults.append(
                Fault(
                    "archive/manifest.jsonl",
                    f"ends at row {end_by_log.get(log, 0)} of {log}, {end} were archived",
                )
            )
    return files_by_partition


def describe_gap(start: int, end: int) -> str:
    """Describe a gap in the archive."""
    return (
        f"rows {start:,} to {end - 1:,} were lost before they were archived; what was routed "
        "of them is in the tables"
    )


def log_end_finder(stream: "Stream | None") -> Callable[[str], int | None]:
    """Return a function that gives the end of a log that feeds the tables, by name, or None if it
    is not available.
    """

    def find_end(log: str) -> int | None:
        if stream is None:
            return None
        try:
            addresses = (
                {log: log_set(stream).routed}
                if log == "routed"
                else {address.stem: address for address in log_set(stream).response_logs().values()}
            )
            if log not in addresses:
                return None
            with open_reader(addresses[log]) as reader:
                return reader.end()
        except (NotReadyError, StorageError):
            return None

    return find_end


def _check_accounts(
    reader: Lake,
    archived_files: dict[str, list[ArchiveFile]],
    routed_positions: dict[str, int],
    report: VerifyReport,
) -> None:
    for partition, account, missing_rows, repeated_rows in count_raw_rows(
        reader, archived_files, routed_positions
    ):
        report.partitions[partition] = account
        for rows, location in (
            (missing_rows, "in no table"),
            (repeated_rows, "more than once in the tables"),
        ):
            if len(rows):
                shown = ", ".join(map(str, rows[:_SHOWN_MAX].tolist()))
                report.faults.append(
                    Fault(f"raw rows of {partition}", f"{len(rows)} {location}, such as {shown}")
                )
