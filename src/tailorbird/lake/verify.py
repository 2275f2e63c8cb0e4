"""The lake against itself: archive ↔ ledger ↔ tables, every byte and every row. It reads only, and
may run beside the role.

    1. every commit file and data file has the size and the SHA-256 that the ledger says
    2. Delta, asked for itself, names the same files and counts the same rows
    3. every file of the archive has the SHA-256 that the manifest says, and no rows are missing
       before it or between two
    4. no table is said to be further than the log that feeds it; asked where the logs are at hand
    5. every archived raw row is in exactly one of events, quarantine, duplicates, as far as the
       router has come
    6. by `deep`: each archived row says what the row made of it says, see `lake.contents`

What is wrong is listed, not raised: one report tells of all of it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.errors import DamageError, NotReadyError, StorageError, TailorbirdError
from tailorbird.lake import swap
from tailorbird.lake.archive import Archive, Archived
from tailorbird.lake.check import commit_fault
from tailorbird.lake.contents import differing
from tailorbird.lake.damage import file_fault
from tailorbird.lake.foreign import strangers
from tailorbird.lake.lake import Lake
from tailorbird.lake.ledger import Ledger
from tailorbird.lake.positions import (
    Positions,
    beyond_logs,
    load_positions,
    no_ledger,
    positions_lost,
)
from tailorbird.lake.tables import TABLES
from tailorbird.places import Place
from tailorbird.stream import Stream, answers_addresses, open_reader, routed_address

_RAW = ["raw_partition", "raw_offset", "raw_row"]
_HOLDING = ("events", "quarantine", "duplicates")
_SHOWN_MAX = 5


@dataclass(frozen=True)
class Fault:
    """Something that is not as it was written: where, and what."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass
class Accounted:
    """Where the raw rows of one partition are. `missing` and `repeated` are 0 in a lake that is
    whole.

    Attributes:
        archived: rows in the archive.
        events, quarantine, duplicates: of the archived rows, how many each table holds.
        pending: archived, but the lake has not yet seen what the router made of them.
        missing: routed, but in no table.
        repeated: rows that more than one table, or one table more than once, holds.
    """

    archived: int = 0
    events: int = 0
    quarantine: int = 0
    duplicates: int = 0
    pending: int = 0
    missing: int = 0
    repeated: int = 0


@dataclass
class VerifyReport:
    """What `verify` looked at and what it found."""

    rows: dict[str, int] = field(default_factory=dict)
    commits: int = 0
    files: int = 0
    bytes: int = 0
    archive_files: int = 0
    partitions: dict[str, Accounted] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether everything is as it was written, and every row is accounted for."""
        return not self.faults

    def __str__(self) -> str:
        lines = [
            f"{self.commits:,} commits, {self.files:,} data files and {self.archive_files:,} "
            f"archived files read, {self.bytes:,} bytes"
        ]
        lines += [f"  {name:<12}{rows:>14,} rows" for name, rows in self.rows.items()]
        for name, a in sorted(self.partitions.items()):
            parts = (
                f"{a.events:,} events + {a.quarantine:,} refused + {a.duplicates:,} repeats + "
                f"{a.pending:,} not yet routed"
            )
            lines.append(
                f"  raw {name}: {a.archived:,} archived = {parts}"
                + (f" + {a.missing:,} MISSING" if a.missing else "")
            )
        lines += [f"  damaged: {fault}" for fault in self.faults]
        lines.append(
            "all is as it was written, and every row is accounted for"
            if self.clean
            else f"{len(self.faults)} faults"
        )
        return "\n".join(lines)


def verify(
    lake: Place,
    *,
    stream: "Stream | None" = None,
    deep: bool = False,
    progress: Callable[[int], None] | None = None,
) -> VerifyReport:
    """Check a lake whole. Costs the reading of every byte of it.

    Args:
        stream: the logs, against whose ends the positions are held.
        deep: hold the archive against the tables by content too, see `lake.contents`; nothing is
            read so where something is damaged.
        progress: is told the bytes that were read since it was last told.
    Raises:
        NotReadyError: there is no lake yet, or no ledger any more.
    """
    if not (lake / "ledger.jsonl").exists():
        raise no_ledger(lake)
    report = VerifyReport()
    if isinstance(lake, Path) and swap.is_unfinished(lake):
        report.faults.append(
            Fault("rebuild", "a rebuild was cut short; tailorbird lake repair --yes completes it")
        )
    tell = progress or (lambda _: None)
    try:
        positions = load_positions(lake)  # before all else, which may grow meanwhile
        ledger = Ledger(lake / "ledger.jsonl")
    except DamageError as error:
        report.faults.append(Fault(error.where, error.message))
        return report
    if len(ledger.lines) < positions.ledger:
        report.faults.append(
            Fault("ledger.jsonl", f"has {len(ledger.lines)} lines, {positions.ledger} were written")
        )
    for table, log, position, end in beyond_logs(positions, ends_of(stream)):
        report.faults.append(
            Fault(
                "positions.json",
                f"table {table} is said to be at {position} of {log}, which ends at {end}; "
                "tailorbird lake repair",
            )
        )
    reader = Lake(lake)
    readable = [name for name in TABLES if _table_whole(lake, name, ledger, reader, report, tell)]
    archived = _archive_whole(lake, ledger, positions, report, tell)
    if set(_HOLDING) <= set(readable):
        try:
            _account(reader, archived, positions.routed, report)
        except (DamageError, StorageError) as error:  # a file of a commit that is not in the ledger
            report.faults.append(Fault("tables", f"cannot be read: {error.where}: {error.message}"))
        except Exception as error:  # deltalake raises what it likes
            report.faults.append(
                Fault(
                    "tables",
                    f"cannot be opened: {str(error).splitlines()[0]}; the lake role mends it "
                    "at its start",
                )
            )
    if deep and report.clean:
        report.faults += [
            Fault(where, what) for where, what in differing(reader, Archive(lake / "archive"), tell)
        ]
    return report


def table_faults(lake: Place, name: str, ledger: Ledger) -> list[Fault]:
    """Return what is corrupt in one table: its commits, checkpoints and data files, and what Delta
    reads of it.
    """
    report = VerifyReport()
    _table_whole(lake, name, ledger, Lake(lake), report, lambda _: None)
    return report.faults


def _table_whole(
    lake: Place,
    name: str,
    ledger: Ledger,
    reader: Lake,
    report: VerifyReport,
    tell: Callable[[int], None],
) -> bool:
    known = ledger.commits(name)
    before = len(report.faults)
    begin = ledger.log_begin(name)
    for version, line in sorted(known.items()):
        if version < begin:
            # deleted; the checkpoint that stands for them is read below, by Delta, and held against
            # the ledger
            continue
        report.commits += 1
        fault = commit_fault(lake / name, version, line)
        if fault is not None:
            report.faults.append(
                Fault(f"{name}/_delta_log/{version:020d}.json", f"version {version} {fault}")
            )
    for stranger in strangers(lake / name, known):
        report.faults.append(
            Fault(f"{name}/_delta_log/{stranger.file.name}", f"{stranger.what}; {stranger.remedy}")
        )
    for version, line in sorted(ledger.checkpoints(name).items()):
        path = lake / name / "_delta_log" / line.files[0].path
        if path.exists() and (fault := file_fault(path, line.files[0])):
            report.faults.append(
                Fault(f"{name}/_delta_log/{line.files[0].path}", f"checkpoint {version} {fault}")
            )
    for file in ledger.files(name).values():
        report.files += 1
        report.bytes += file.size
        fault = file_fault(lake / name / file.path, file)
        if fault is not None:
            report.faults.append(Fault(f"{name}/{file.path}", f"{fault} ({file.rows} rows)"))
        tell(file.size)
    if len(report.faults) > before:
        return False
    return _delta_agrees(name, ledger, reader, report)


def _delta_agrees(name: str, ledger: Ledger, reader: Lake, report: VerifyReport) -> bool:
    """Whether Delta's own reading of the table has the ledger's files, as of the newest version
    that the ledger knows.
    """
    known = ledger.commits(name)
    try:
        files = reader.files(name, max(known, default=0))
    except (
        Exception
    ) as error:  # deltalake raises what it likes; whatever it is, the table cannot be read
        told = error.message if isinstance(error, TailorbirdError) else str(error).splitlines()[0]
        report.faults.append(Fault(name, f"cannot be read: {told}"))
        return False
    expected = {file.path: file.rows for file in ledger.files(name).values()}
    if files != expected:
        odd = sorted(set(files.items()) ^ set(expected.items()))[0][0]
        report.faults.append(Fault(name, f"table and ledger do not agree about {odd}"))
        return False
    report.rows[name] = sum(expected.values())
    return True


def _archive_whole(
    lake: Place,
    ledger: Ledger,
    positions: Positions,
    report: VerifyReport,
    tell: Callable[[int], None],
) -> dict[str, list[Archived]]:
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
    partitions: dict[str, list[Archived]] = {}
    for file in archive.files:
        report.archive_files += 1
        report.bytes += file.size
        fault = file_fault(archive.path / file.file, file)
        if fault is not None:
            report.faults.append(
                Fault(f"archive/{file.file}", f"{fault} ({file.rows} rows of {file.partition})")
            )
        earlier = partitions.setdefault(file.partition, [])
        if earlier and file.first < earlier[-1].end:
            report.faults.append(
                Fault(
                    f"archive/{file.file}",
                    f"begins at row {file.first}, the file before ends at {earlier[-1].end}",
                )
            )
        earlier.append(file)
        tell(file.size)
    for partition, first, end in archive.gaps():
        report.faults.append(Fault(f"archive/{partition}", lost_before(first, end)))
    ends = {f"raw-{partition}": files[-1].end for partition, files in partitions.items()}
    for log, end in positions.archive.items():
        if ends.get(log, 0) < end:
            report.faults.append(
                Fault(
                    "archive/manifest.jsonl",
                    f"ends at row {ends.get(log, 0)} of {log}, {end} were archived",
                )
            )
    return partitions


def lost_before(first: int, end: int) -> str:
    """What is said of a gap of the archive."""
    return (
        f"rows {first:,} to {end - 1:,} were lost before they were archived; what was routed "
        "of them is in the tables"
    )


def ends_of(stream: "Stream | None") -> Callable[[str], int | None]:
    """Where the logs end that feed the tables, by name, each looked up when it is asked for; None
    for one that is not at hand.
    """

    def end(log: str) -> int | None:
        if stream is None:
            return None
        try:
            addresses = (
                {log: routed_address(stream)}
                if log == "routed"
                else {one.stem: one for one in answers_addresses(stream).values()}
            )
            if log not in addresses:
                return None
            with open_reader(addresses[log]) as reader:
                return reader.end()
        except (NotReadyError, StorageError):
            return None

    return end


class TableReader(Protocol):
    """Gives columns of a table's rows."""

    def table(self, name: str, columns: Sequence[str]) -> pa.Table: ...


def accounts(
    reader: TableReader, archived: dict[str, list[Archived]], routed: dict[str, int]
) -> Iterator[tuple[str, Accounted, npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """For each raw partition where its rows are, and the numbers of those in no table, and of those
    that are there more than once.
    """
    places = {name: _raw_rows(reader, name) for name in _HOLDING}
    for partition, files in archived.items():
        end = files[-1].end
        account = Accounted(archived=sum(file.rows for file in files))
        held = np.zeros(
            end, np.int64
        )  # from 0 on: what was lost before it was archived may be in the tables
        for name in _HOLDING:
            rows = places[name].get(partition, np.empty(0, np.int64))
            rows = rows[rows < end]
            setattr(account, name, len(rows))
            held += np.bincount(rows, minlength=end)
        frontier = min(routed.get(partition, 0), end)
        account.pending = int(np.sum(held[frontier:] == 0))
        missing, repeated = np.flatnonzero(held[:frontier] == 0), np.flatnonzero(held > 1)
        account.missing, account.repeated = len(missing), len(repeated)
        yield partition, account, missing, repeated


def _account(
    reader: Lake, archived: dict[str, list[Archived]], routed: dict[str, int], report: VerifyReport
) -> None:
    for partition, account, missing, repeated in accounts(reader, archived, routed):
        report.partitions[partition] = account
        for rows, what in ((missing, "in no table"), (repeated, "more than once in the tables")):
            if len(rows):
                shown = ", ".join(map(str, rows[:_SHOWN_MAX].tolist()))
                report.faults.append(
                    Fault(f"raw rows of {partition}", f"{len(rows)} {what}, such as {shown}")
                )


def _raw_rows(reader: TableReader, name: str) -> dict[str, npt.NDArray[np.int64]]:
    """For each partition, the raw rows that a table holds, by their number in the partition."""
    table = reader.table(name, _RAW)
    if len(table) == 0:
        return {}
    rows = table.column("raw_offset").to_numpy() + table.column("raw_row").to_numpy()
    names = table.column("raw_partition").combine_chunks().dictionary_encode()
    codes = names.indices.to_numpy()
    return {
        str(partition): rows[codes == code]
        for code, partition in enumerate(names.dictionary.to_pylist())
    }
