"""`lake repair`: find what is corrupt in lake, archive and logs, and rebuild it from what is left.

One way for every table: a new one is written in a scratch folder, with the data files that match
the ledger and the rows that the others held (`rebuild.missing`). It is verified there and then
swapped in (`lake.swap`). So a corrupt commit file, a checkpoint that nothing vouches for and an
orphan commit are all left behind with the old table.

    tables          the intact data files, the routed log, the archive routed again, answer logs
    rows in no table   the same; they belong to events, quarantine or duplicates
    positions.json  ledger, manifest and tables
    archive, logs   see `rebuild.received`
    ledger, manifest of the archive   no second source: from the backup

What has no second source is named with what is lost, and stays as it is.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tailorbird.errors import DamageError, TailorbirdError, UsageError
from tailorbird.events.clock import Clock
from tailorbird.lake import durable, etl, foreign, swap
from tailorbird.lake.archive import Archive, Archived
from tailorbird.lake.check import ledger_is_lost
from tailorbird.lake.corruption import file_corruption
from tailorbird.lake.delta import DurableTable, commit_path, create_table
from tailorbird.lake.lease import acquire_writer_lock
from tailorbird.lake.ledger import Ledger
from tailorbird.lake.opening import delta_errors
from tailorbird.lake.positions import (
    Positions,
    beyond_logs,
    load_positions,
    no_ledger,
    positions_lost,
    store_positions,
)
from tailorbird.lake.rebuild import missing
from tailorbird.lake.rebuild.intact import IntactRows
from tailorbird.lake.rebuild.plan import Plan, Rebuilt, Unrecoverable
from tailorbird.lake.rebuild.received import Action, archived_content, examine_logs
from tailorbird.lake.rebuild.routing import RouteAgain, route_archive
from tailorbird.lake.role import LakeRole
from tailorbird.lake.tables import TABLES
from tailorbird.lake.verify import Fault, count_raw_rows, describe_gap, ends_of, table_faults
from tailorbird.stream import Stream
from tailorbird.stream.released import FILE

LEDGER, MANIFEST, MIRROR = "ledger.jsonl", "archive/manifest.jsonl", "commits"
_ROUNDS_MAX = 4
_BACKUP = (
    "has no second source, so restore it from the backup: one of any age within lake.history "
    "will do, because the tables' own commits complete it"
)


@dataclass
class _Work:
    """The tables, files and logs that a rebuild writes."""

    plan: Plan = field(default_factory=Plan)
    intact: IntactRows | None = None
    tables: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    positions: Positions | None = None
    evidence: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    actions: list[Action] = field(default_factory=list)


class Rebuilder:
    """Finds what is corrupt in a lake and its logs, and rebuilds it.

    Args:
        route_again: a router on a folder of raw logs, which the lake itself cannot make.

    Raises:
        UsageError: the lake is in a bucket, whose objects have versions of their own.
        NotReadyError: there is no lake, or neither a ledger nor a table any more.
    """

    def __init__(
        self, stream: Stream, lake: object, *, clock: Clock, route_again: RouteAgain
    ) -> None:
        if not isinstance(lake, Path):
            raise UsageError(
                "repairs lakes on a disk",
                where=str(lake),
                fix="objects are complete or absent: restore the bucket's earlier version",
            )
        if not (lake / LEDGER).exists() and not ledger_is_lost(lake):
            raise no_ledger(lake)
        self._stream, self._lake, self._clock, self._route_again = stream, lake, clock, route_again
        # Whether the archive could be routed again, by how it was cut into steps.
        self._routings: dict[str, bool] = {}

    def plan(self) -> Plan:
        """Return what is corrupt and from what it can be rebuilt; changes nothing."""
        if swap.is_unfinished(self._lake):
            return Plan([self._unfinished()])
        if (short := self._short_ledger()) is not None:
            return Plan([short])
        with (
            tempfile.TemporaryDirectory(prefix="tailorbird-repair-") as folder,
            delta_errors(self._lake),
        ):
            return self._examine(Path(folder)).plan

    def run(self, progress: Callable[[Rebuilt], None] = lambda rebuilt: None) -> Plan:
        """Rebuild what has a second source, and return what was done and what is left.

        It can be killed at any point and run again. The lake role must not run, nor, for logs,
        their writers.

        Raises:
            LockedError: one of them runs.
            DamageError: what was rebuilt does not verify; the lake is as it was.
        """
        done: list[Rebuilt] = []
        unrecoverable: list[Unrecoverable] = []
        if (short := self._short_ledger()) is not None:
            with suppress(DamageError), LakeRole(self._stream, self._lake, clock=self._clock):
                done.append(short)
        for _ in range(_ROUNDS_MAX):
            work = self._run_once(done)
            unrecoverable = work.plan.unrecoverable
            for rebuilt in work.plan.rebuilt:
                progress(rebuilt)
            done += work.plan.rebuilt
            if not work.plan.rebuilt:
                break
            if not unrecoverable:
                with LakeRole(self._stream, self._lake, clock=self._clock) as role:
                    role.publish()
        return Plan(done, unrecoverable)

    def _run_once(self, done: list[Rebuilt]) -> _Work:
        scratch, unfinished = swap.scratch_folder(self._lake), self._unfinished()
        with ExitStack() as stack:
            lock = acquire_writer_lock(self._lake / LEDGER, self._clock)
            stack.callback(lock.release)
            stack.enter_context(delta_errors(self._lake))
            if swap.finish(self._lake):
                done.append(unfinished)
            work = self._examine(scratch / "routed")
            self._build(work, scratch)
            for action in work.actions:
                action()
            swap.finish(self._lake)
        return work

    def _unfinished(self) -> Rebuilt:
        folder = str(swap.scratch_folder(self._lake))
        return Rebuilt(folder, "a rebuild was cut short", "what it had rebuilt")

    def _short_ledger(self) -> Rebuilt | None:
        """Return that last lines of the ledger are gone, where the tables have their commits.

        Its chain does not show that. The role enters such commits when it starts.
        """
        try:
            ledger, written = Ledger(self._lake / LEDGER), load_positions(self._lake).ledger
        except DamageError:
            return None
        if not 0 < len(ledger.lines) < written or not any(
            commit_path(self._lake / name, max(ledger.commits(name), default=-1) + 1).exists()
            for name in TABLES
        ):
            return None
        source = "the commits of the tables themselves, when the role starts"
        return Rebuilt(str(self._lake / LEDGER), _describe_short_ledger(ledger, written), source)

    def _examine(self, scratch: Path) -> _Work:
        work, self._routings = _Work(), {}
        opened = self._open(work.plan)
        if opened is None:
            return work
        ledger, archive = opened
        positions = self._positions(ledger, archive, work)
        if len(ledger.lines) < positions.ledger and self._short_ledger() is None:
            what = _describe_short_ledger(ledger, positions.ledger)
            work.plan.unrecoverable.append(
                Unrecoverable(str(self._lake / LEDGER), what, f"the ledger {_BACKUP}")
            )
            return work
        self._check_manifest(archive, positions, work.plan)
        faults = {name: self._table_faults(ledger, name) for name in TABLES}
        corrupt = {
            name: {fault.where.removeprefix(f"{name}/") for fault in faults[name]}
            for name in TABLES
        }
        work.intact = IntactRows(self._lake, ledger, corrupt)
        self._recover(work, ledger, archive, positions, faults, scratch)
        if work.positions is not None:
            raw_columns = [
                work.intact.table(name, missing.RAW_COLUMNS) for name in missing.RAW_TABLES
            ]
            work.positions.routed = etl.raw_ends(*raw_columns)
        for partition, first, end in archive.gaps():
            lost = "their bodies are in no raw log and no archive, so they cannot be routed again"
            work.plan.unrecoverable.append(
                Unrecoverable(str(archive.path / partition), describe_gap(first, end), lost)
            )
        for file in archive.files:
            self._archived_file(file, work)
        if isinstance(self._stream, Path):
            work.actions = examine_logs(self._lake, self._stream, archive, positions, work.plan)
        return work

    def _open(self, plan: Plan) -> tuple[Ledger, Archive] | None:
        """Open ledger and archive; None where one of them is corrupt."""
        ledger = archive = None
        if not (self._lake / LEDGER).exists():
            plan.unrecoverable.append(
                Unrecoverable(str(self._lake / LEDGER), "is missing", f"the ledger {_BACKUP}")
            )
        else:
            try:
                ledger = Ledger(self._lake / LEDGER)
            except DamageError as error:
                plan.unrecoverable.append(
                    Unrecoverable(error.where, error.message, f"the ledger {_BACKUP}")
                )
        try:
            archive = Archive(self._lake / "archive")
        except DamageError as error:
            lost = "the manifest has no second source, so restore it from the backup"
            plan.unrecoverable.append(Unrecoverable(error.where, error.message, lost))
        return (ledger, archive) if ledger is not None and archive is not None else None

    def _positions(self, ledger: Ledger, archive: Archive, work: _Work) -> Positions:
        """Return the positions, derived where the file is missing or corrupt."""
        try:
            if positions_lost(self._lake, ledger, archive.positions()):
                what = "is missing"
            else:
                positions = load_positions(self._lake)
                beyond = next(beyond_logs(positions, ends_of(self._stream)), None)
                if beyond is None or not _is_below(ledger, beyond[0], beyond[1], beyond[3]):
                    return positions
                table, log, position, end = beyond
                what = (
                    f"says that table {table} has {log} up to {position:,}, which ends at {end:,}"
                )
        except DamageError as error:
            what = error.message
        work.plan.rebuilt.append(
            Rebuilt(str(self._lake / FILE), what, "ledger, manifest and tables")
        )
        work.evidence[FILE] = [(FILE, "")]
        reached = {name: dict(_reached(ledger, name)) for name in TABLES if name != MIRROR}
        archived = {f"raw-{partition}": end for partition, end in archive.positions().items()}
        # Nothing is safe to delete until the role says so again.
        work.positions = Positions(
            {name: ends for name, ends in reached.items() if ends},
            archived,
            {},
            {},
            len(ledger.lines),
            {},
        )
        return work.positions

    def _check_manifest(self, archive: Archive, positions: Positions, plan: Plan) -> None:
        """Name the files of the archive that a manifest without its last lines does not have."""
        for log, end in positions.archive.items():
            archived = archive.positions().get(log.removeprefix("raw-"), 0)
            if archived < end:
                what = f"ends at row {archived:,} of {log}, {end:,} were archived"
                lost = (
                    f"nothing else vouches for the files of {log} from row {archived:,} on, so "
                    "restore the manifest from the backup"
                )
                plan.unrecoverable.append(Unrecoverable(str(self._lake / MANIFEST), what, lost))

    def _table_faults(self, ledger: Ledger, name: str) -> list[Fault]:
        """Return what is corrupt in a table, checkpoints that nothing vouches for included."""
        faults = table_faults(self._lake, name, ledger)
        log = self._lake / name / "_delta_log"
        if any(fault.where == name for fault in faults) and log.is_dir():
            vouched = {line.files[0].path for line in ledger.checkpoints(name).values()}
            unknown = [
                path.name
                for path in sorted(log.iterdir())
                if foreign.CHECKPOINT.match(path.name) and path.name not in vouched
            ]
            if unknown and (log / foreign.HINT).exists():
                unknown.append(foreign.HINT)
            what = "the ledger does not know it, and the table is not what the ledger says"
            causes = [Fault(f"{name}/_delta_log/{each}", what) for each in unknown]
            faults = [fault for fault in faults if fault.where != name or not causes] + causes
        return faults

    def _recover(
        self,
        work: _Work,
        ledger: Ledger,
        archive: Archive,
        positions: Positions,
        faults: dict[str, list[Fault]],
        scratch: Path,
    ) -> None:
        """Find the rows of corrupt data files and the raw rows in no table; plan what to write."""
        assert work.intact is not None
        intact = work.intact
        files: dict[str, list[Archived]] = {}
        for file in archive.files:
            files.setdefault(file.partition, []).append(file)

        def rows_in_no_table() -> dict[str, int]:
            row_accounts = count_raw_rows(intact, files, positions.routed)
            return {name: len(rows) for name, _, rows, _ in row_accounts if len(rows)}

        def shortage(name: str) -> int:
            return intact.expected_rows(name) - intact.rows(name)

        sources: dict[str, list[str]] = {}
        before = rows_in_no_table()
        if before or any(intact.corrupt_files(name) for name in missing.RAW_TABLES):
            end = max(
                positions.tables.get("events", {}).get("routed", 0),
                *(_reached(ledger, name).get("routed", 0) for name in missing.RAW_TABLES),
            )
            recovered = missing.recover_routed(
                self._stream,
                intact,
                end,
                partial(self._routed_again, archive, ledger, scratch),
                lambda: (
                    not rows_in_no_table()
                    and all(shortage(name) <= 0 for name in missing.RAW_TABLES)
                ),
            )
            for rows in recovered:
                for name in rows.tables:
                    sources.setdefault(name, []).append(rows.source)
        for name in missing.PROFILE_TABLES:
            rows = missing.recover_profiles(
                intact, name, intact.recovered.get("events", TABLES["events"].schema.empty_table())
            )
            if len(rows):
                intact.add(name, rows)
                sources[name] = [missing.EVENTS]
        if intact.corrupt_files("answers"):
            ends = _reached(ledger, "answers")
            intact.add("answers", missing.recover_answers(self._stream, intact, ends))
            sources["answers"] = [missing.ANSWER_LOGS]
        for name in TABLES:
            if faults[name] or (name in intact.recovered and len(intact.recovered[name])):
                self._plan_table(work, ledger, name, faults[name], sources.get(name, []))
        after = rows_in_no_table()
        for partition, count in before.items():
            left = after.get(partition, 0)
            if left < count and not any(faults[name] for name in missing.RAW_TABLES):
                used = {source for name in missing.RAW_TABLES for source in sources.get(name, ())}
                what, where = f"{count - left:,} in no table", f"raw rows of {partition}"
                work.plan.rebuilt.append(Rebuilt(where, what, " and ".join(sorted(used))))
        if all(name in work.tables or not faults[name] for name in missing.RAW_TABLES):
            for partition, left in after.items():
                lost = (
                    "neither the routed log nor the archive, routed again, gives them back; their "
                    "bodies as received are in the archive"
                )
                work.plan.unrecoverable.append(
                    Unrecoverable(f"raw rows of {partition}", f"{left:,} in no table", lost)
                )

    def _plan_table(
        self, work: _Work, ledger: Ledger, name: str, faults: list[Fault], sources: list[str]
    ) -> None:
        """Plan to rebuild a table, or name the files whose rows are nowhere else."""
        assert work.intact is not None
        intact = work.intact
        lacking = intact.expected_rows(name) - intact.rows(name) if name != MIRROR else 0
        corrupt_files = {f"{name}/{file.path}": file for file in intact.corrupt_files(name)}
        only_lost_rows = name == "answers" or (
            name in missing.PROFILE_TABLES and "events" not in intact.recovered
        )
        if lacking > 0 or (lacking and only_lost_rows):
            for fault in faults:
                if fault.where in corrupt_files:
                    lost = _lost_rows(name, corrupt_files[fault.where].rows)
                else:
                    lost = f"table {name} cannot be rebuilt while rows of it are lost"
                work.plan.unrecoverable.append(
                    Unrecoverable(str(self._lake / fault.where), fault.what, lost)
                )
            intact.discard(name)
            return
        work.tables.append(name)
        source = " and ".join(sources) or (
            "the ledger" if name == MIRROR else "the ledger and the data files, which are intact"
        )
        work.plan.rebuilt += [
            Rebuilt(str(self._lake / fault.where), fault.what, source) for fault in faults
        ]
        own_files = {file.path for line in ledger.commits(name).values() for file in line.files}
        orphans = foreign.find_orphans(self._lake / name, ledger.commits(name))
        evidence = [
            (path, name)
            for orphan in reversed(orphans)
            for path in (
                *(f"{name}/{each}" for each in foreign.data_files(orphan.file, own_files)),
                f"{name}/_delta_log/{orphan.file.name}",
            )
        ]
        evidence += [
            (fault.where, name) for fault in faults if (self._lake / fault.where).is_file()
        ]
        work.evidence[name] = list(dict.fromkeys(evidence))

    def _archived_file(self, file: Archived, work: _Work) -> None:
        item = f"archive/{file.file}"
        corruption = file_corruption(self._lake / item, file)
        if corruption is None:
            return
        data = archived_content(self._stream, file)
        if data is None:
            lost = (
                f"the raw log no longer has the bodies of rows {file.first:,} to {file.end - 1:,} "
                f"of {file.partition}; what was made of them is in the tables"
            )
            work.plan.unrecoverable.append(Unrecoverable(str(self._lake / item), corruption, lost))
            return
        work.plan.rebuilt.append(Rebuilt(str(self._lake / item), corruption, "the raw log"))
        work.files[item] = data
        work.evidence[item] = [(item, file.partition)]

    def _build(self, work: _Work, scratch: Path) -> None:
        """Write what is planned into the scratch folder, verify it, and swap it in."""
        if not work.tables and not work.files and work.positions is None:
            return
        durable.make_folder(scratch)
        items = sorted(work.files)
        for item in items:
            durable.make_folder((scratch / item).parent)
            durable.write_new(scratch / item, work.files[item])
            durable.sync_folder((scratch / item).parent)
        positions = work.positions
        if work.tables:
            positions = positions or load_positions(self._lake)
            positions.ledger = self._build_tables(work, scratch)
            items += [*dict.fromkeys([*work.tables, MIRROR]), LEDGER]
        if positions is not None:
            store_positions(scratch, positions)
            items.append(FILE)
        swap.begin(self._lake, swap.Swap(items, work.evidence))

    def _build_tables(self, work: _Work, scratch: Path) -> int:
        """Write tables and a ledger; return how many lines it has.

        The ledger keeps the lines of the other tables. The table that mirrors it starts empty,
        because the numbers of its lines have changed.
        """
        assert work.intact is not None
        old = Ledger(self._lake / LEDGER)
        names = list(dict.fromkeys([*work.tables, MIRROR]))
        ledger = Ledger.write(
            scratch / LEDGER, [line for line in old.lines if line.table not in names]
        )
        for name in names:
            spec, folder = TABLES[name], scratch / name
            create_table(folder, spec, ledger, self._clock)
            if name == MIRROR:
                continue
            files = work.intact.files(name)
            for file in files:
                durable.make_folder((folder / file.path).parent)
                durable.link(self._lake / name / file.path, folder / file.path)
            table = DurableTable(folder, spec, ledger, self._clock)
            table.adopt(files, work.intact.recovered.get(name), _reached(old, name))
            if faults := table_faults(scratch, name, ledger):
                raise DamageError(
                    f"the rebuilt table {name} does not verify: {faults[0]}",
                    where=str(folder),
                    fix="look at the disk; the lake is as it was",
                )
        return len(ledger.lines)

    def _routed_again(self, archive: Archive, ledger: Ledger, scratch: Path) -> Iterator[Path]:
        """Give folders with the archive routed again, each cut into steps in another way."""
        positions = {
            position
            for line in ledger.lines
            for log, position in line.positions.items()
            if log == "routed"
        }
        for name, cuts in (("by-commits", positions), ("by-bodies", None)):
            folder = scratch / name
            if name not in self._routings:
                self._routings[name] = False
                with suppress(TailorbirdError):
                    route_archive(archive, self._stream, folder, self._route_again, cuts)
                    self._routings[name] = True
            if self._routings[name]:
                yield folder


def _reached(ledger: Ledger, name: str) -> dict[str, int]:
    """Return for each log of a table the position up to which its commits have it."""
    ends: dict[str, int] = {}
    for line in ledger.commits(name).values():
        for log, position in line.positions.items():
            ends[log] = max(position, ends.get(log, 0))
    return ends


def _is_below(ledger: Ledger, table: str, log: str, end: int) -> bool:
    """Return whether all commits of a table stop before the end of a log.

    Else it is the log that has lost rows, not the file of positions that is wrong.
    """
    return _reached(ledger, table).get(log, 0) <= end


def _describe_short_ledger(ledger: Ledger, written: int) -> str:
    return f"has {len(ledger.lines):,} lines, {written:,} were written"


def _lost_rows(table: str, rows: int) -> str:
    if table == "answers":
        return (
            f"the answer logs no longer have the features of {rows:,} answers; that they were "
            "given, and what they showed, is in events"
        )
    return (
        f"neither the routed log nor the archive, routed again, gives back {rows:,} rows of "
        f"{table}; their bodies as received are in the archive"
    )
