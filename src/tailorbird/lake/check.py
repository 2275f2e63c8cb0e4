"""The check of a table before the lake role writes to it: what the last run left, held against the
ledger.

    last commit not in the ledger, whole        → entered into the ledger: the crash came between the two
    last commit not in the ledger, torn         → set aside; its position was never given, so its rows are appended again
    last commits another writer's               → set aside, with the files that they brought (`lake.foreign`)
    last commit in the ledger, damaged          → set aside and withdrawn, if the log still has its rows
    any other commit missing or damaged         → DamageError that names file and version: nothing is guessed
    a checkpoint that the ledger does not know  → set aside: the commit files hold everything
    a data file that no commit names            → removed: the crash came before the commit

A log that was trimmed (`lake.vacuum`) begins with a checkpoint, which then has to be whole. Every
commit file is read and hashed; of data files only name and size are checked here, their content by
`lake.verify`.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from deltalake.exceptions import DeltaError

from tailorbird.errors import DamageError, TailorbirdError
from tailorbird.events.clock import Clock
from tailorbird.lake import durable, foreign
from tailorbird.lake.damage import damaged, file_fault
from tailorbird.lake.delta import commit_path
from tailorbird.lake.foreign import torn, versions
from tailorbird.lake.ledger import File, Ledger, Line
from tailorbird.lake.opening import unreadable
from tailorbird.lake.tables import TABLES, TableSpec
from tailorbird.lake.vacuum import KEEP_US, needless_files
from tailorbird.places import Place

_REPAIR = (
    "tailorbird lake repair makes it anew, if the ledger knows it; else restore the file, "
    "or ledger.jsonl, from a copy"
)


@dataclass(frozen=True)
class Finding:
    """What the check mended: where, and what it did."""

    table: str
    version: int
    what: str  # "recovered", "set aside", "withdrawn" or "removed"
    detail: str


def check_table(
    path: Place,
    spec: TableSpec,
    ledger: Ledger,
    aside: Place,
    clock: Clock,
    *,
    may_replay: Callable[[dict[str, int]], bool],
    keep_us: int = KEEP_US,
) -> list[Finding]:
    """Check one table and mend what a crash may have left; the table may be absent.

    Args:
        aside: the folder into which damaged files are moved.
        may_replay: whether the logs still hold the rows from these positions on.
        keep_us: for how long files stay whose rows are in others now.
    Raises:
        DamageError: something is damaged that no crash explains, or that the logs no longer hold.
    """
    known = ledger.commits(spec.name)
    findings = _set_others_aside(path, spec, ledger, aside)
    newest = max([*known, *versions(path)], default=-1)
    for version in range(ledger.log_begin(spec.name), newest + 1):
        if _fault(path, version, known.get(version)) is None and version in known:
            continue
        findings.append(
            _mend_last(path, spec, version, newest, known, ledger, aside, clock, may_replay)
        )
    _check_files(path, spec, ledger)
    findings += _set_checkpoints_aside(path, spec, ledger, aside)
    for file in (
        needless_files(path, spec.name, ledger, clock.now(), keep_us) if path.is_dir() else []
    ):
        file.unlink()
        findings.append(
            Finding(spec.name, -1, "removed", f"{file}: not, or no longer, part of the table")
        )
    return findings


def ledger_is_lost(lake: Place) -> bool:
    """Whether there is no ledger beside tables that have rows: begun anew, it would know the newest
    commit of each and no other.
    """
    return not (lake / "ledger.jsonl").exists() and any(
        max(versions(lake / table), default=0) > 0 for table in TABLES
    )


def commit_fault(path: Place, version: int, line: Line) -> str | None:
    """What is wrong with a commit file that the ledger knows; None if nothing is."""
    return _fault(path, version, line)


@contextmanager
def opened_whole(lake: Place, table: str) -> Iterator[None]:
    """Around the opening of a table: where it fails by a file of its log that is damaged or gone,
    or none of the lake's own, that is told.

    Raises:
        DamageError, StorageError: which file it is, or what deltalake says where no file is known
        to be to blame.
    """
    try:
        yield
    except Exception as error:  # deltalake raises what it likes
        ledger = Ledger(lake / "ledger.jsonl")
        for file, fault in log_faults(lake / table, table, ledger):
            raise damaged(f"a file of the log of table {table} {fault}", file) from error
        if not isinstance(error, TailorbirdError | DeltaError):
            raise
        for one in foreign.strangers(lake / table, ledger.commits(table)):
            raise DamageError(
                f"a file of the log of table {table} {one.what}",
                where=str(one.file),
                fix=one.remedy,
            ) from error
        if isinstance(error, DeltaError):
            raise unreadable(lake / table, error) from error
        raise


def log_faults(path: Place, table: str, ledger: Ledger) -> Iterator[tuple[Place, str]]:
    """The files of a table's log that the ledger knows and that are not as they were written, with
    what is wrong with each.
    """
    begin = ledger.log_begin(table)
    for version, line in sorted(ledger.commits(table).items()):
        if version >= begin and (fault := commit_fault(path, version, line)) is not None:
            yield commit_path(path, version), fault
    for version, line in sorted(ledger.checkpoints(table).items()):
        file = path / "_delta_log" / line.files[0].path
        if (
            version >= begin
            and (file.exists() or version == begin)
            and (fault := file_fault(file, line.files[0])) is not None
        ):
            yield file, fault


def _set_others_aside(path: Place, spec: TableSpec, ledger: Ledger, aside: Place) -> list[Finding]:
    """What another writer put at the end of the log: readers take it for true, and nobody needs it."""
    known = ledger.commits(spec.name)
    if not foreign.of_others(foreign.strange_commits(path, known)):
        return []
    named = {file.path for line in known.values() for file in line.files}
    moved = [
        (one, foreign.set_aside(one.file, named, aside / spec.name))
        for one in reversed(foreign.strangers(path, known))
    ]
    return [
        Finding(spec.name, one.version, "set aside", f"{one.file}: {one.what}; kept as {place}")
        for one, place in moved
    ]


def _fault(path: Place, version: int, line: Line | None) -> str | None:
    file = commit_path(path, version)
    if not file.exists():
        return "is missing"
    data = file.read_bytes()
    if line is None:
        return torn(data, version)
    if hashlib.sha256(data).hexdigest() == line.commit_sha256:
        return None
    return "is empty" if not data else "does not match the ledger's checksum"


def _mend_last(
    path: Place,
    spec: TableSpec,
    version: int,
    newest: int,
    known: dict[int, Line],
    ledger: Ledger,
    aside: Place,
    clock: Clock,
    may_replay: Callable[[dict[str, int]], bool],
) -> Finding:
    file = commit_path(path, version)
    fault = _fault(path, version, known.get(version))
    if fault is None:
        return _recover(path, spec, version, ledger, clock)
    if version != newest:
        fix = _REPAIR if version <= max(known, default=-1) else foreign.remedy(path, at_start=False)
        raise DamageError(
            f"version {version} of table {spec.name} {fault}, and later versions stand on it",
            where=str(file),
            fix=fix,
        )
    line = known.get(version)
    if line is not None and not (version > 0 and may_replay(_before(line, known))):
        raise DamageError(
            f"version {version} of table {spec.name} {fault}, and the log no longer holds its rows",
            where=str(file),
            fix=_REPAIR,
        )
    moved = durable.move_aside(file, aside / spec.name) if file.exists() else None
    if line is None:
        return Finding(
            spec.name,
            version,
            "set aside",
            f"{file} {fault}; its rows are appended again"
            + (f"; kept as {moved}" if moved else ""),
        )
    ledger.append("withdrawn", spec.name, version, written_at=clock.now())
    if line.removed:
        return Finding(
            spec.name,
            version,
            "set aside",
            f"{file} {fault}; it only put files together, and they are still there",
        )
    return Finding(
        spec.name, version, "withdrawn", f"{file} {fault}; its {line.rows} rows are appended again"
    )


def _before(line: Line, known: dict[int, Line]) -> dict[str, int]:
    """For each log of a commit, the position from which its rows have to be read again."""
    earlier: dict[str, int] = {}
    for version in sorted(known):
        if version < line.version:
            earlier.update(known[version].positions)
    return {log: earlier.get(log, 0) for log in line.positions}


def _recover(path: Place, spec: TableSpec, version: int, ledger: Ledger, clock: Clock) -> Finding:
    """Enter a whole commit that the ledger does not know; its data was synced before it was made."""
    file = commit_path(path, version)
    durable.sync_file(file)
    durable.sync_folder(file.parent)
    files: list[File] = []
    positions: dict[str, int] = {}
    removed: list[str] = []
    rows = 0
    data = file.read_bytes()
    for action in map(json.loads, data.splitlines()):
        if "add" in action:
            name, count = action["add"]["path"], json.loads(action["add"]["stats"])["numRecords"]
            target = path / name
            if not target.exists() or target.stat().st_size != action["add"]["size"]:
                raise DamageError(
                    f"version {version} of table {spec.name} names a file that is not whole",
                    where=str(target),
                    fix=_REPAIR,
                )
            files.append(File(name, action["add"]["size"], durable.sha256_of(target), count))
            rows += count
        elif "remove" in action:
            removed.append(action["remove"]["path"])
        elif "txn" in action:
            positions[action["txn"]["appId"]] = action["txn"]["version"]
    ledger.append(
        "commit",
        spec.name,
        version,
        rows=0 if removed else rows,
        positions=positions,
        files=files,
        removed=removed,
        commit_sha256=hashlib.sha256(data).hexdigest(),
        written_at=clock.now(),
    )
    return Finding(
        spec.name, version, "recovered", f"{rows} rows were committed just before the crash"
    )


def _check_files(path: Place, spec: TableSpec, ledger: Ledger) -> None:
    for file in ledger.files(spec.name).values():
        target = path / file.path
        try:
            size = target.stat().st_size
        except OSError:
            size = -1
        if size != file.size:
            what = "is missing" if size < 0 else f"has {size} bytes, the ledger says {file.size}"
            raise DamageError(f"a file of table {spec.name} {what}", where=str(target), fix=_REPAIR)


def _set_checkpoints_aside(
    path: Place, spec: TableSpec, ledger: Ledger, aside: Place
) -> list[Finding]:
    """A checkpoint is used only if the ledger vouches for it: a hint to a missing one makes a table
    unreadable.
    """
    log = path / "_delta_log"
    if not log.is_dir():
        return []
    known = ledger.checkpoints(spec.name)
    newest = max(ledger.commits(spec.name), default=-1)
    good: set[int] = set()
    bad: list[tuple[int, Place]] = []
    findings: list[Finding] = []
    for file in sorted(log.iterdir()):
        match = foreign.CHECKPOINT.match(file.name)
        if not match:
            continue
        version = int(match[1])
        line = known.get(version)
        if (
            version <= newest
            and line is not None
            and durable.sha256_of(file) == line.files[0].sha256
        ):
            good.add(version)
        else:
            bad.append((version, file))
    begin = ledger.log_begin(spec.name)
    if begin and max(good, default=-1) < begin:
        raise DamageError(
            f"the log of table {spec.name} begins at version {begin}, and no checkpoint of "
            "it or later is whole",
            where=str(log),
            fix=_REPAIR,
        )
    for version, file in bad:
        moved = durable.move_aside(file, aside / spec.name)
        findings.append(
            Finding(
                spec.name,
                version,
                "set aside",
                f"a checkpoint that was not whole, as {moved}; nothing needs it",
            )
        )
    hint = log / foreign.HINT
    if hint.exists() and foreign.hinted_version(hint) != max(good, default=None):
        durable.move_aside(hint, aside / spec.name)
        findings.append(
            Finding(spec.name, -1, "set aside", "the hint to a checkpoint that is not there")
        )
    return findings
