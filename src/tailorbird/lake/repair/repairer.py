"""`lake repair`: what is damaged in lake, archive and logs, what each can be made anew from, and
doing it.

A plan first, which changes nothing: for each damaged file where its content comes from, or what is
lost with it. A file comes back with the checksum that it had, or by a commit that says so; nothing
is guessed. What is damaged is kept in `set-aside`. Damage hides other damage: the ledger is mended
before what it tells of is looked at, so there may be several rounds.

    ledger, where it is gone    see `repair.ledger_lost`
    ledger, manifest       a flipped bit in a line, turned back; last commits by the tables themselves, at the role's start
    logs of the tables     what is none of the lake's own (`lake.foreign`) is set aside, before any table is read
    positions.json         ledger, manifest and tables
    rows in no table       see `repair.unaccounted`
    tables                 see `repair.tables`
    archive and logs       see `repair.received`
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pyarrow as pa

from tailorbird.errors import DamageError, TailorbirdError, UsageError
from tailorbird.events.clock import Clock
from tailorbird.lake import durable, etl
from tailorbird.lake.archive import ORIGIN as ARCHIVE_ORIGIN
from tailorbird.lake.archive import Archive, Archived
from tailorbird.lake.chained import ChainedFile
from tailorbird.lake.check import ledger_is_lost, log_faults
from tailorbird.lake.damage import file_fault
from tailorbird.lake.delta import DurableTable, checkpoint_path, commit_path
from tailorbird.lake.foreign import HINT, set_aside, strangers
from tailorbird.lake.lake import Lake
from tailorbird.lake.lease import hold
from tailorbird.lake.ledger import ORIGIN as LEDGER_ORIGIN
from tailorbird.lake.ledger import File, Ledger, Line
from tailorbird.lake.opening import delta_errors
from tailorbird.lake.positions import (
    Positions,
    beyond_logs,
    load_positions,
    no_ledger,
    positions_lost,
    store_positions,
)
from tailorbird.lake.repair import ledger_lost, received, tables, unaccounted
from tailorbird.lake.repair.bits import chain_turned_back
from tailorbird.lake.repair.plan import Beyond, Mend, Plan, put_aside, put_back
from tailorbird.lake.repair.rows import RouteAgain, route_archive
from tailorbird.lake.role import LakeRole
from tailorbird.lake.tables import TABLES
from tailorbird.lake.verify import accounts, ends_of, lost_before
from tailorbird.stream import Stream

_ROUNDS_MAX = 8


class Repairer:
    """Looks for damage, and mends it.

    Args:
        route_again: a router on a folder of raw logs; the lake knows none.
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
                fix="objects are whole or not there: restore the bucket's earlier version",
            )
        if not (lake / "ledger.jsonl").exists() and not ledger_is_lost(lake):
            raise no_ledger(lake)
        self._stream, self._lake, self._clock, self._route_again = stream, lake, clock, route_again
        self._scratch: Path | None = None
        self._routed: dict[
            str, bool
        ] = {}  # by how it was cut into steps, whether the archive could be routed again

    def plan(self) -> Plan:
        """What is damaged now, as far as it can be seen; changes nothing."""
        with tempfile.TemporaryDirectory(prefix="tailorbird-repair-") as scratch:
            self._scratch, self._routed = Path(scratch), {}
            with delta_errors(self._lake):
                return self._plan()

    def run(self, told: Callable[[Mend], None] = lambda mend: None) -> Plan:
        """Mend what can be mended, and say what was done and what is beyond it. The lake role and,
        for logs, their writers must not run.

        Raises:
            LockedError: one of them runs.
            DamageError: what was mended does not stand, or deltalake cannot read or write what is
                whole by the ledger.
        """
        done: list[Mend] = []
        left: list[Beyond] = []
        for _ in range(_ROUNDS_MAX):
            with (
                tempfile.TemporaryDirectory(prefix="tailorbird-repair-") as scratch,
                ExitStack() as held,
            ):
                self._scratch, self._routed = Path(scratch), {}
                lock = hold(self._lake / "ledger.jsonl", self._clock)
                held.callback(lock.release)
                held.enter_context(delta_errors(self._lake))
                plan = self._plan()
                for mend in plan.mends:
                    mend.apply()
                    done.append(mend)
                    told(mend)
            left = plan.beyond
            if not plan.mends:
                break
        if done and not left:
            with LakeRole(self._stream, self._lake, clock=self._clock) as role:
                role.publish()
        return Plan(done, left)

    def _plan(self) -> Plan:
        plan = Plan()
        if not (self._lake / "ledger.jsonl").exists():
            self._ledger_anew(plan)
        self._chained("ledger.jsonl", LEDGER_ORIGIN, plan)
        self._chained("archive/manifest.jsonl", ARCHIVE_ORIGIN, plan)
        if plan.mends or plan.beyond:
            return plan
        ledger, archive = Ledger(self._lake / "ledger.jsonl"), Archive(self._lake / "archive")
        for table in TABLES:
            self._log(ledger, table, plan)
        if plan.mends:
            return plan
        positions = self._positions(ledger, archive, plan)
        if positions is None:
            return plan
        self._ends(ledger, archive, positions, plan)
        for table in TABLES:
            self._table(ledger, archive, table, plan)
        if not plan.mends and not plan.beyond:
            self._unaccounted(ledger, archive, positions, plan)
        for partition, first, end in archive.gaps():
            lost = "their bodies as they were received, and what nobody had routed of them"
            plan.beyond.append(Beyond(str(archive.path / partition), lost_before(first, end), lost))
        for file in archive.files:
            received.archived_file(self._lake, self._stream, file, plan)
        if isinstance(self._stream, Path):
            received.logs_of(self._lake, self._stream, archive, positions, plan)
        return plan

    def _ledger_anew(self, plan: Plan) -> None:
        where = str(self._lake / "ledger.jsonl")
        try:
            lines = ledger_lost.lines_anew(self._lake)
        except (ValueError, KeyError, TailorbirdError) as error:
            plan.beyond.append(
                Beyond(
                    where,
                    "is missing",
                    f"{error}, so that nothing tells what the lines said: restore a copy",
                )
            )
            return
        source = (
            "the tables' own logs; lake verify --deep then compares what the files hold with "
            "the archive"
        )
        plan.mends.append(
            Mend(
                where,
                "is missing",
                source,
                partial(ledger_lost.write_anew, self._lake, lines, self._clock),
            )
        )

    def _chained(self, name: str, origin: str, plan: Plan) -> None:
        path = self._lake / name
        try:
            ChainedFile(path, origin)
        except DamageError as error:
            found = chain_turned_back(path.read_bytes(), origin)
            if found is None:
                lost = (
                    "what is in the lake from that line on is no longer vouched for: restore "
                    "the file from a copy"
                )
                plan.beyond.append(Beyond(str(path), error.message, lost))
                return
            data, lines = found
            where = f"{path}:{', '.join(str(line + 1) for line in lines)}"
            plan.mends.append(
                Mend(
                    where,
                    "does not match its checksum",
                    "a flipped bit, turned back",
                    partial(put_back, self._lake, path, data),
                )
            )

    def _positions(self, ledger: Ledger, archive: Archive, plan: Plan) -> Positions | None:
        try:
            if not positions_lost(self._lake, ledger, archive.positions()):
                positions = load_positions(self._lake)
                beyond = next(beyond_logs(positions, ends_of(self._stream)), None)
                if beyond is None or not self._can_be_less(ledger, *beyond):
                    return positions
                table, log, position, end = beyond
                fault = (
                    f"says that table {table} has {log} up to {position:,}, which ends at {end:,}"
                )
            else:
                fault = "is missing"
        except DamageError as error:
            fault = error.message
        where, source = str(self._lake / "positions.json"), "ledger, manifest and tables"
        plan.mends.append(Mend(where, fault, source, lambda: self._put_positions(ledger, archive)))
        return None

    def _can_be_less(self, ledger: Ledger, table: str, log: str, position: int, end: int) -> bool:
        """Whether the commits do not say so too: then it is the log that is not whole, see
        `doctor`.
        """
        return all(line.positions.get(log, 0) <= end for line in ledger.commits(table).values())

    def _put_positions(self, ledger: Ledger, archive: Archive) -> None:
        """What the tables hold; nothing of it says that something may be deleted, which the role
        says anew.
        """
        reached: dict[str, dict[str, int]] = {}
        for table in TABLES:
            for line in ledger.commits(table).values():
                for log, position in line.positions.items():
                    each = reached.setdefault(table, {})
                    each[log] = max(position, each.get(log, 0))
        reached.pop("commits", None)
        reader = Lake(self._lake)
        held = [
            reader.table(name, ["raw_partition", "raw_offset", "raw_row"])
            for name in ("events", "quarantine", "duplicates")
        ]
        ends = {f"raw-{partition}": end for partition, end in archive.positions().items()}
        if (self._lake / "positions.json").exists():
            durable.move_aside(self._lake / "positions.json", self._lake / "set-aside")
        store_positions(
            self._lake, Positions(reached, ends, etl.raw_ends(*held), {}, len(ledger.lines), {})
        )

    def _ends(self, ledger: Ledger, archive: Archive, positions: Positions, plan: Plan) -> None:
        """Chained files whose last lines are gone, which their chain does not tell."""
        if len(ledger.lines) < positions.ledger:
            gone = f"has {len(ledger.lines):,} lines, {positions.ledger:,} were written"
            known = {table: ledger.commits(table) for table in TABLES}
            more = [
                table
                for table in TABLES
                if commit_path(self._lake / table, max(known[table], default=-1) + 1).exists()
            ]
            where = str(self._lake / "ledger.jsonl")
            if more:
                plan.mends.append(
                    Mend(
                        where,
                        gone,
                        "the commits of the tables themselves, at the start of the role",
                        self._start_role,
                    )
                )
            else:
                plan.beyond.append(
                    Beyond(
                        where,
                        gone,
                        "nothing tells what the lines said: restore the file from a copy",
                    )
                )
        for log, end in positions.archive.items():
            found = archive.positions().get(log.removeprefix("raw-"), 0)
            if found < end:
                lost = (
                    f"nothing vouches for the files of {log} that hold rows {found:,} to "
                    f"{end - 1:,}: restore the manifest from a copy"
                )
                plan.beyond.append(
                    Beyond(
                        str(self._lake / "archive/manifest.jsonl"),
                        f"ends at row {found:,} of {log}, {end:,} were archived",
                        lost,
                    )
                )

    def _start_role(self) -> None:
        """Nothing now: the role enters what it finds when it is started at the end, and is looked
        at again in the next round.
        """

    def _log(self, ledger: Ledger, table: str, plan: Plan) -> None:
        """What hides what a table holds: in its log, but none of the lake's own."""
        path, known = self._lake / table, ledger.commits(table)
        found = [(one.file, one.what) for one in reversed(strangers(path, known))]
        if (
            not found
            and known
            and next(log_faults(path, table, ledger), None) is None
            and not tables.reads_as_told(self._lake, ledger, table)
        ):
            what = "the ledger does not know it, and by it the table is not what the ledger says"
            found = [(file, what) for file in tables.unvouched(path, ledger, table)]
        named = {file.path for line in known.values() for file in line.files}
        source = f"nothing needs it: it is kept in set-aside/{table}"
        for file, what in found:
            plan.mends.append(
                Mend(
                    str(file),
                    what,
                    source,
                    partial(set_aside, file, named, self._lake / "set-aside" / table),
                )
            )

    def _table(self, ledger: Ledger, archive: Archive, table: str, plan: Plan) -> None:
        folder = self._lake / table
        before = len(plan.mends)
        sources = tables.Sources(
            self._lake, self._stream, ledger, partial(self._routed_again, archive, ledger)
        )
        for line, fault in tables.commits_at_fault(self._lake, ledger, table):
            path, found = (
                commit_path(folder, line.version),
                tables.commit_file(self._lake, ledger, table, line),
            )
            if found is None:
                plan.beyond.append(
                    Beyond(
                        str(path),
                        fault,
                        f"what version {line.version} of table {table} did cannot be told",
                    )
                )
            else:
                plan.mends.append(
                    Mend(
                        str(path),
                        fault,
                        found.source,
                        partial(self._put_commit, table, line, found),
                    )
                )
        log_whole = len(plan.mends) == before
        for file in ledger.files(table).values():
            fault = file_fault(folder / file.path, file)
            if fault is None:
                continue
            found = tables.data_file(sources, table, file)
            if found is None or (found.rows is not None and not log_whole):
                plan.beyond.append(Beyond(str(folder / file.path), fault, *_lost_rows(table, file)))
            else:
                plan.mends.append(
                    Mend(
                        str(folder / file.path),
                        fault,
                        found.source,
                        partial(self._put_file, table, file, found),
                    )
                )
        self._checkpoints(ledger, table, plan)

    def _put_commit(self, table: str, line: Line, found: tables.Found) -> None:
        put_back(self._lake, commit_path(self._lake / table, line.version), found.data)
        sha256 = hashlib.sha256(found.data).hexdigest()
        if sha256 != line.commit_sha256:
            ledger = Ledger(self._lake / "ledger.jsonl", writer=True)
            ledger.append(
                "mended", table, line.version, commit_sha256=sha256, written_at=self._clock.now()
            )

    def _put_file(self, table: str, file: File, found: tables.Found) -> None:
        path = self._lake / table / file.path
        if found.rows is None:
            put_back(self._lake, path, found.data)
            return
        ledger = Ledger(self._lake / "ledger.jsonl", writer=True)
        DurableTable(self._lake / table, TABLES[table], ledger, self._clock).replace(
            file, found.rows
        )
        if path.exists():
            durable.move_aside(path, self._lake / "set-aside" / table)

    def _checkpoints(self, ledger: Ledger, table: str, plan: Plan) -> None:
        folder, begin = self._lake / table, ledger.log_begin(table)
        whole: list[int] = []
        for version, line in sorted(ledger.checkpoints(table).items()):
            path = checkpoint_path(folder, version)
            fault = file_fault(path, line.files[0])
            if fault is None:
                whole.append(version)
            elif path.exists():
                source = "nothing needs it: the commit files hold everything"
                plan.mends.append(
                    Mend(str(path), fault, source, partial(put_aside, self._lake, path))
                )
        if begin and max(whole, default=-1) < begin:
            data, where = (
                tables.checkpoint(self._lake, ledger, table),
                checkpoint_path(folder, begin),
            )
            plan.mends[:] = [mend for mend in plan.mends if mend.where != str(where)]
            if data is None:
                plan.beyond.append(
                    Beyond(
                        str(where),
                        "is not whole",
                        f"which files table {table} has from before version {begin}",
                    )
                )
                return
            source = "the ledger, which knows what the commits did"
            plan.mends.append(
                Mend(
                    str(where),
                    "is not whole",
                    source,
                    partial(self._put_checkpoint, table, begin, data),
                )
            )

    def _put_checkpoint(self, table: str, version: int, data: bytes) -> None:
        path = checkpoint_path(self._lake / table, version)
        put_back(self._lake, path, data)
        ledger = Ledger(self._lake / "ledger.jsonl", writer=True)
        file = File(path.name, len(data), hashlib.sha256(data).hexdigest())
        ledger.append("checkpoint", table, version, files=[file], written_at=self._clock.now())
        if (hint := path.with_name(HINT)).exists():
            durable.move_aside(hint, self._lake / "set-aside" / table)

    def _unaccounted(
        self, ledger: Ledger, archive: Archive, positions: Positions, plan: Plan
    ) -> None:
        """Raw rows that are in no table, where all tables are whole."""
        partitions: dict[str, list[Archived]] = {}
        for file in archive.files:
            partitions.setdefault(file.partition, []).append(file)
        reader = Lake(self._lake)
        found = {
            name: frozenset(rows.tolist())
            for name, _, rows, _ in accounts(reader, partitions, positions.routed)
        }
        wanted = {name: rows for name, rows in found.items() if rows}
        if not wanted:
            return
        left = dict(wanted)
        for back in unaccounted.find(
            self._stream, reader, wanted, self._routed_again(archive, ledger)
        ):
            apply: Callable[[], None] = partial(self._put_rows, back.rows)
            for name in wanted:
                if rows := {row for partition, row in back.places if partition == name}:
                    left[name] -= rows
                    plan.mends.append(
                        Mend(
                            f"raw rows of {name}", f"{len(rows):,} in no table", back.source, apply
                        )
                    )
                    apply = _done
        for name, rows in left.items():
            if rows:
                lost = "what was made of them; their bodies as received are in the archive"
                plan.beyond.append(
                    Beyond(
                        f"raw rows of {name}",
                        f"{len(rows):,} in no table, such as {min(rows):,}",
                        lost,
                    )
                )

    def _put_rows(self, rows: dict[str, pa.Table]) -> None:
        ledger = Ledger(self._lake / "ledger.jsonl", writer=True)
        for table in etl.ROUTED_TABLES:
            if table in rows:
                DurableTable(self._lake / table, TABLES[table], ledger, self._clock).restore(
                    rows[table], "routed"
                )

    def _routed_again(self, archive: Archive, ledger: Ledger) -> Iterator[Path]:
        """Folders with the archive routed anew, which are thrown away; none where that cannot be."""
        assert self._scratch is not None
        known = {
            position
            for line in ledger.lines
            for log, position in line.positions.items()
            if log == "routed"
        }
        for name, cuts in (("by-commits", known), ("by-bodies", None)):
            folder = self._scratch / name
            if name not in self._routed:
                try:
                    route_archive(archive, self._stream, folder, self._route_again, cuts)
                    self._routed[name] = True
                except TailorbirdError:
                    self._routed[name] = False
            if self._routed[name]:
                yield folder


def _done() -> None:
    """The rows of another raw log came with those before."""


def _lost_rows(table: str, file: File) -> tuple[str, str]:
    """What of a table is lost with a file, and what of these rows is elsewhere."""
    day = file.path.rpartition("/")[0].partition("=")[2]
    of = f" of {day}" if day else ""
    if table == "answers":
        return (
            f"the features of {file.rows:,} answers",
            "That they were given, and what they showed, is in events.",
        )
    return (
        f"{file.rows:,} rows of {table}{of}",
        "Their bodies as received are in the archive." if table in ("events", "quarantine") else "",
    )
