"""`lake repair`: find what is corrupt in lake, archive and logs, and rebuild it from what is left.

One way for every table: a new one is written in a scratch folder, with the data files that match
the ledger and the rows that the others held (`rebuild.examine`). It is verified there and then
swapped in (`lake.files.swap`). So a corrupt commit file, a checkpoint that nothing vouches for and
an orphan commit are all left behind with the old table. What has no second source is named with
what is lost, and stays as it is.
"""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tailorbird.errors import DamageError, UsageError
from tailorbird.events.clock import Clock
from tailorbird.lake.delta.commits import commit_path
from tailorbird.lake.delta.connection import translate_delta_errors
from tailorbird.lake.delta.recovery import enter_commits, ledger_is_lost
from tailorbird.lake.delta.schema import create_table
from tailorbird.lake.delta.table import DurableTable
from tailorbird.lake.files import durable, swap
from tailorbird.lake.files.lease import acquire_writer_lock
from tailorbird.lake.files.ledger import Ledger
from tailorbird.lake.rebuild.examine import (
    LEDGER_FILE,
    MIRROR_TABLE,
    RESTORE_REMEDY,
    Examination,
    Examiner,
    reached_positions,
)
from tailorbird.lake.rebuild.plan import Plan, Rebuild, Unrecoverable
from tailorbird.lake.rebuild.reroute import RouteAgain
from tailorbird.lake.tables import TABLES
from tailorbird.lake.verify import table_faults
from tailorbird.lake.write.positions import load_positions, missing_ledger_error, store_positions
from tailorbird.lake.write.role import LakeRole
from tailorbird.storage import storage_at
from tailorbird.storage_paths import StoragePath
from tailorbird.stream import Stream
from tailorbird.stream.released import POSITIONS_FILE

_ROUNDS_MAX = 4


class Rebuilder:
    """Finds what is corrupt in a lake and its logs, and rebuilds it.

    Args:
        route_again: a router on a folder of raw logs, which the lake itself cannot make.

    Raises:
        UsageError: the lake is in a bucket, whose objects have versions of their own.
        NotReadyError: there is no lake, or neither a ledger nor a table any more.
    """

    def __init__(
        self, stream: Stream, lake: StoragePath, *, clock: Clock, route_again: RouteAgain
    ) -> None:
        folder = storage_at(lake).local_path
        if folder is None:
            raise UsageError(
                "repairs lakes on a disk",
                where=str(lake),
                fix="objects are complete or absent: restore the bucket's earlier version",
            )
        if not (folder / LEDGER_FILE).exists() and not ledger_is_lost(folder):
            raise missing_ledger_error(folder)
        self._stream = stream
        self._lake = folder
        self._clock = clock
        self._route_again = route_again

    def plan(self) -> Plan:
        """Return what is corrupt and from what it can be rebuilt; changes nothing."""
        if swap.is_unfinished(self._lake):
            return Plan([self._describe_unfinished()])
        if (ledger_plan := self._plan_for_short_ledger()) is not None:
            return ledger_plan
        with (
            tempfile.TemporaryDirectory(prefix="tailorbird-repair-") as folder,
            translate_delta_errors(self._lake),
        ):
            return self._examine(Path(folder) / "routed").plan

    def run(self, progress: Callable[[Rebuild], None] = lambda rebuild: None) -> Plan:
        """Rebuild what has a second source, and return what was done and what is left.

        It can be killed at any point and run again. The lake role must not run, nor, for logs,
        their writers.

        Raises:
            LockedError: one of them runs.
            DamageError: what was rebuilt does not verify; the lake is as it was.
        """
        completed_rebuilds: list[Rebuild] = []
        unrecoverable: list[Unrecoverable] = []
        for _ in range(_ROUNDS_MAX):
            # Corruption may hide other corruption, so look again after something was rebuilt.
            plan = self._run_once()
            unrecoverable = plan.unrecoverable
            for rebuild in plan.rebuilds:
                progress(rebuild)
            completed_rebuilds += plan.rebuilds
            if not plan.rebuilds:
                break
        if completed_rebuilds and not unrecoverable:
            with LakeRole(self._stream, self._lake, clock=self._clock) as role:
                role.publish_positions()
        return Plan(completed_rebuilds, unrecoverable)

    def _run_once(self) -> Plan:
        scratch = swap.scratch_folder(self._lake)
        with ExitStack() as stack:
            lock = acquire_writer_lock(self._lake / LEDGER_FILE, self._clock)
            stack.callback(lock.release)
            stack.enter_context(translate_delta_errors(self._lake))
            unfinished_rebuilds = [self._describe_unfinished()] if swap.finish(self._lake) else []
            ledger_plan = self._plan_for_short_ledger() or Plan()
            if ledger_plan.unrecoverable:
                return Plan(unfinished_rebuilds, ledger_plan.unrecoverable)
            if ledger_plan.rebuilds and (unrecoverable_file := self._complete_ledger()) is not None:
                return Plan(unfinished_rebuilds, [unrecoverable_file])
            result = self._examine(scratch / "routed")
            self._build(result, scratch)
            for action in result.rebuild_log_actions:
                action()
            swap.finish(self._lake)
        rebuilds = [*unfinished_rebuilds, *ledger_plan.rebuilds, *result.plan.rebuilds]
        return Plan(rebuilds, result.plan.unrecoverable)

    def _examine(self, scratch: Path) -> Examination:
        return Examiner(self._stream, self._lake, scratch, self._route_again).examine()

    def _describe_unfinished(self) -> Rebuild:
        folder = str(swap.scratch_folder(self._lake))
        return Rebuild(folder, "a rebuild was cut short", "what it had rebuilt")

    def _plan_for_short_ledger(self) -> Plan | None:
        """Return the plan for a ledger without its last lines, which its chain does not show."""
        try:
            ledger = Ledger(self._lake / LEDGER_FILE)
            written_lines = load_positions(self._lake).ledger
        except DamageError:
            return None
        if not 0 < len(ledger.lines) < written_lines:
            return None
        where = str(self._lake / LEDGER_FILE)
        fault = f"has {len(ledger.lines):,} lines, {written_lines:,} were written"
        if any(
            commit_path(self._lake / name, max(ledger.commits(name), default=-1) + 1).exists()
            for name in TABLES
        ):
            return Plan([Rebuild(where, fault, "the commits of the tables themselves")])
        return Plan([], [Unrecoverable(where, fault, f"the ledger {RESTORE_REMEDY}")])

    def _complete_ledger(self) -> Unrecoverable | None:
        """Enter the commits that the ledger lacks, or return which file makes that impossible."""
        ledger = Ledger(self._lake / LEDGER_FILE, for_writing=True)
        try:
            for name, spec in TABLES.items():
                enter_commits(self._lake / name, spec, ledger, self._clock)
        except DamageError as error:
            consequence = (
                "the ledger lacks its checksum, so restore it, or a newer ledger, from the backup"
            )
            return Unrecoverable(error.where, error.message, consequence)
        positions = load_positions(self._lake)
        positions.ledger = len(ledger.lines)
        store_positions(self._lake, positions)
        return None

    def _build(self, result: Examination, scratch: Path) -> None:
        """Write what is planned into the scratch folder, verify it, and swap it in."""
        if not result.tables and not result.new_contents and result.positions is None:
            return
        durable.make_folder(scratch)
        replaced_paths = sorted(result.new_contents)
        for path in replaced_paths:
            durable.make_folder((scratch / path).parent)
            durable.write_new(scratch / path, result.new_contents[path])
            durable.sync_folder((scratch / path).parent)
        positions = result.positions
        if result.tables:
            positions = positions or load_positions(self._lake)
            positions.ledger = self._build_tables(result, scratch)
            replaced_paths += [*dict.fromkeys([*result.tables, MIRROR_TABLE]), LEDGER_FILE]
        if positions is not None:
            store_positions(scratch, positions)
            replaced_paths.append(POSITIONS_FILE)
        swap.begin(self._lake, swap.SwapPlan(replaced_paths, result.evidence))

    def _build_tables(self, result: Examination, scratch: Path) -> int:
        """Write tables and a ledger; return how many lines it has.

        The ledger keeps the lines of the other tables. The table that mirrors it starts empty,
        because the numbers of its lines have changed.
        """
        assert result.intact is not None
        old_ledger = Ledger(self._lake / LEDGER_FILE)
        names = list(dict.fromkeys([*result.tables, MIRROR_TABLE]))
        ledger = Ledger.write(
            scratch / LEDGER_FILE, [line for line in old_ledger.lines if line.table not in names]
        )
        for name in names:
            spec = TABLES[name]
            folder = scratch / name
            create_table(folder, spec, ledger, self._clock)
            if name == MIRROR_TABLE:
                continue
            files = result.intact.intact_files(name)
            for file in files:
                durable.make_folder((folder / file.path).parent)
                durable.link(self._lake / name / file.path, folder / file.path)
            table = DurableTable(folder, spec, ledger, self._clock)
            table.commit_existing_files(
                files, result.intact.recovered.get(name), reached_positions(old_ledger, name)
            )
            if faults := table_faults(scratch, name, ledger):
                raise DamageError(
                    f"the rebuilt table {name} does not verify: {faults[0]}",
                    where=str(folder),
                    fix="look at the disk; the lake is as it was",
                )
        return len(ledger.lines)
