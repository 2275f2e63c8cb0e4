"""Unsafe changes to the data plane, and the scenes that must notice them.

A checker that never failed proves nothing. A mutant is patched into the child that plays a scene
(or into its judge too, if it changes a decision of the router). Nothing in the package knows of
them, but for the two measures that `faults.is_disabled` switches off. Those of the feature engine
are in `tests/features/fuzzing/mutants.py`, each with a scene of its own; they run here too, so that
the list is complete.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apsw
from tests.faults.chaos import injection, trials
from tests.faults.chaos.plan import evenly
from tests.faults.chaos.site import CLOCK
from tests.features.fuzzing import mutants

from tailorbird import faults, storage
from tailorbird.events.contract import columnwise
from tailorbird.events.contract.checked_batch import CheckedBatch
from tailorbird.features.online import worker
from tailorbird.file_lock import FileLock
from tailorbird.lake.delta import table as delta
from tailorbird.lake.delta import vacuum
from tailorbird.lake.files import archive, durable
from tailorbird.router import router
from tailorbird.router.decide import identity, route
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.serving.collector.writer import CollectorWriter
from tailorbird.store.embedded import EmbeddedSnapshot, EmbeddedStore
from tailorbird.stream import embedded, released, sqlite

TRIES = 60  # points at most, evenly spread, until one shows it


@dataclass(frozen=True)
class Mutant:
    """A change that makes the data plane unsafe.

    Attributes:
        patch: makes it, in a process that ends with the scene.
        scenes: those that must notice it.
        kind: the faults that reveal it; "none" if it shows by itself.
        judged: True if the recovering process is changed too.
    """

    patch: Callable[[], None]
    scenes: tuple[str, ...]
    kind: str
    judged: bool = False

    @property
    def name(self) -> str:
        return self.patch.__name__.strip("_").replace("_", " ")


def _cut(site: str) -> None:
    faults.is_disabled = lambda site_: site_ == site


def _acknowledge_before_the_sync() -> None:
    _cut("collector.sync_before_ack")


def _synchronous_normal_instead_of_full() -> None:
    original = sqlite.connect_writer

    def connect(path: Path) -> apsw.Connection:
        connection = original(path)
        connection.execute("PRAGMA synchronous = 1")
        return connection

    sqlite.connect_writer = connect


def _acknowledge_what_was_not_committed() -> None:
    def reject(self: CollectorWriter, entries: list, *, in_flight: bool = False) -> None:
        self._acknowledge(entries)

    CollectorWriter._reject = reject  # pyrefly: ignore


def _a_click_before_its_answer() -> None:
    """Write responses down later."""
    record, submit, waiting = EventCollector.record_response, EventCollector.submit, []

    def late(self: EventCollector, *arguments: Any) -> bool:
        waiting.append(arguments)
        return True

    def first(self: EventCollector, *arguments: Any, **options: Any) -> list:
        decisions = submit(self, *arguments, **options)
        while waiting:
            record(self, *waiting.pop(0))
        return decisions

    EventCollector.record_response, EventCollector.submit = late, first  # pyrefly: ignore


def _no_deduplication() -> None:
    _cut("router.dedup")


def _the_routers_position_outside_its_transaction() -> None:
    save = route.RouterMemory.save

    def apart(
        self: route.RouterMemory, connection: apsw.Connection, newest: dict, past: list
    ) -> None:
        save(self, connection, newest, past)
        connection.execute("COMMIT")
        connection.execute("BEGIN IMMEDIATE")

    route.RouterMemory.save = apart  # pyrefly: ignore


def _identifies_are_remembered_until_it_dies() -> None:
    def save(self: identity.IdentityHistory, connection: apsw.Connection) -> None:
        self._unsaved = []
        self.timeline.mark_saved()

    identity.IdentityHistory.save = save  # pyrefly: ignore


def _the_index_before_the_output() -> None:
    """Commit the dedup index first, and by the time of receipt instead of the position."""
    blocks = router.Router._encode_blocks

    def first(self: router.Router, *arguments: Any) -> list:
        connection = self._log.connection
        self._memory.dedup_index.save(connection)
        connection.execute("COMMIT")
        connection.execute("BEGIN IMMEDIATE")
        return blocks(self, *arguments)

    router.Router._encode_blocks = first  # pyrefly: ignore


def _lateness_by_the_imports_clock() -> None:
    original = columnwise.Contract.check_bodies

    def check(self: columnwise.Contract, bodies: Sequence[tuple[bytes, Any]]) -> CheckedBatch:
        checked = original(self, bodies)
        of_import = [bodies[number][1].source == "import" for number in checked.body_indexes]
        at = [
            CLOCK.now() if late else at
            for late, at in zip(of_import, checked.received_at, strict=True)
        ]
        return replace(checked, received_at=at)

    columnwise.Contract.check_bodies = check  # pyrefly: ignore


def _the_workers_position_outside_its_transaction() -> None:
    original = EmbeddedStore.write
    position = worker.Position().encode()[0]

    class Without(EmbeddedSnapshot):
        position_records: list[tuple[bytes, bytes]]

        def put_many(self, records: Any) -> None:
            records = list(records)
            self.position_records += [record for record in records if record[0] == position]
            super().put_many(record for record in records if record[0] != position)

    def write(self: EmbeddedStore, change: Callable[[Any], Any]) -> Any:
        position_records: list[tuple[bytes, bytes]] = []

        def change_apart(transaction: EmbeddedSnapshot) -> Any:
            without = Without(transaction._transaction)
            without.position_records = position_records
            return change(without)

        result = original(self, change_apart)
        if position_records:
            original(self, lambda transaction: transaction.put_many(position_records))
        return result

    EmbeddedStore.write = write  # pyrefly: ignore


def _no_fence() -> None:
    """Run two workers on one state, without a lock or commit number between them."""
    FileLock.__init__ = lambda self, path, *, shared=False: setattr(self, "_descriptor", -1)  # pyrefly: ignore
    step, second = worker.FeatureWorker.step, []

    class Any_:
        def __ne__(self, other: object) -> bool:
            return False

    def both(self: worker.FeatureWorker, rows_max: int) -> worker.WorkerReport:
        if not second:
            second.append(
                worker.FeatureWorker(
                    self._input.address, self._folder.parent, self.features, clock=CLOCK
                )
            )
            worker.read_position = lambda snapshot: SimpleNamespace(commit=Any_())
        step(second[0], rows_max)
        return step(self, rows_max)

    worker.FeatureWorker.step = both  # pyrefly: ignore


def _a_state_that_is_ready_before_it_is_built() -> None:
    worker.replace = lambda position, **changes: replace(position, **{**changes, "is_ready": 1})
    worker.Position = partial(worker.Position, is_ready=1)  # pyrefly: ignore
    original = worker.FeatureWorker.bootstrap

    def bootstrap(self: worker.FeatureWorker, history: Any, p: int) -> None:
        original(
            self,
            lambda after: (
                table.slice(at, 5) for table in history(after) for at in range(0, len(table), 5)
            ),
            p,
        )

    worker.FeatureWorker.bootstrap = bootstrap  # pyrefly: ignore


def _commits_of_the_lake_without_a_sync() -> None:
    _cut("lake.sync")


def _a_failed_sync_is_tried_again() -> None:
    def sync(handle: int) -> None:
        try:
            os.fsync(handle)
        except OSError:
            os.fsync(handle)

    storage._sync = sync


def _what_a_failed_sync_left_in_a_log_is_taken_for_written() -> None:
    sqlite._rewrite_synced = lambda path: None


def _the_names_of_a_log_are_left_to_sqlite() -> None:
    """Leave the folder sync to SQLite, which ignores its failure."""
    sqlite.sync_folder = lambda folder: None


def _the_manifest_before_its_file() -> None:
    def write_new(path: Path, data: bytes) -> None:
        path.write_bytes(data)

    archive.durable = SimpleNamespace(
        **{**vars(durable), "write_new": write_new, "sync_folder": lambda folder: None}
    )


def _pruned_before_it_is_verified() -> None:
    """Trust the router's word."""
    released.ReleasedPositions.raw_position = lambda self, producer: 1 << 40  # pyrefly: ignore
    released.ReleasedPositions.routed_position = lambda self: 1 << 40  # pyrefly: ignore


def _a_dry_run_for_a_vacuum() -> None:
    original = vacuum.vacuum

    def dry(*arguments: Any, **options: Any) -> Any:
        return original(*arguments, **{**options, "dry_run": True})

    delta.vacuum = SimpleNamespace(**{**vars(vacuum), "vacuum": dry})


def _small_files_deleted_before_the_large_one_counts() -> None:
    original = delta.DurableTable._commit

    def commit(self: delta.DurableTable, *arguments: Any, **options: Any) -> Any:
        for path in options.get("removed_paths") or []:
            (self.path / path).unlink()
        return original(self, *arguments, **options)

    delta.DurableTable._commit = commit  # pyrefly: ignore


def _putting_files_together_drops_a_row() -> None:
    original = delta.DurableTable._write_rows

    def write(self: delta.DurableTable, rows: Any, now: int, **options: Any) -> Any:
        return original(
            self, rows if options.get("data_change", True) else rows.slice(1), now, **options
        )

    delta.DurableTable._write_rows = write  # pyrefly: ignore


def _a_batch_loses_its_last_body() -> None:
    original = embedded.EmbeddedWriter._insert

    def insert(self: embedded.EmbeddedWriter, blocks: Any) -> int:
        blocks = list(blocks)
        return original(self, blocks[:-1] if len(blocks) > 1 else blocks)

    embedded.EmbeddedWriter._insert = insert  # pyrefly: ignore


MUTANTS = (
    Mutant(_acknowledge_before_the_sync, ("collector",), "kill"),
    Mutant(_synchronous_normal_instead_of_full, ("acknowledge",), "power"),
    Mutant(_acknowledge_what_was_not_committed, ("acknowledge",), "sync"),
    Mutant(_a_batch_loses_its_last_body, ("acknowledge",), "none"),
    Mutant(_a_click_before_its_answer, ("collector",), "none"),
    Mutant(_no_deduplication, ("router",), "none"),
    Mutant(_the_routers_position_outside_its_transaction, ("router",), "kill"),
    Mutant(_the_index_before_the_output, ("router",), "kill"),
    Mutant(_identifies_are_remembered_until_it_dies, ("router",), "kill"),
    Mutant(_lateness_by_the_imports_clock, ("import",), "none", judged=True),
    Mutant(_the_workers_position_outside_its_transaction, ("worker",), "kill"),
    Mutant(_no_fence, ("worker",), "none"),
    Mutant(_a_state_that_is_ready_before_it_is_built, ("bootstrap",), "kill"),
    Mutant(_commits_of_the_lake_without_a_sync, ("load",), "power"),
    Mutant(_a_failed_sync_is_tried_again, ("lake",), "sync"),
    Mutant(_what_a_failed_sync_left_in_a_log_is_taken_for_written, ("load",), "sync"),
    Mutant(_the_names_of_a_log_are_left_to_sqlite, ("import",), "sync"),
    Mutant(_the_manifest_before_its_file, ("load",), "power"),
    Mutant(_pruned_before_it_is_verified, ("load",), "none"),
    Mutant(_a_dry_run_for_a_vacuum, ("compaction",), "none"),
    Mutant(_small_files_deleted_before_the_large_one_counts, ("compaction",), "kill"),
    Mutant(_putting_files_together_drops_a_row, ("compaction",), "none"),
)
ENGINE = tuple(mutant.name for mutant in mutants.MUTANTS)


def names(*, engine: bool = True) -> list[str]:
    """Return the names of all mutants, by default with those of the feature engine."""
    return [
        *(mutant.name for mutant in MUTANTS),
        *(f"engine: {name.replace('_', ' ')}" for name in ENGINE if engine),
    ]


def attempt(root: Path, name: str, room: Path) -> dict[str, Any]:
    """Try a mutant and return whether, and by what, it is noticed."""
    if name.startswith("engine: "):
        return _attempt_engine(name, room)
    mutant = next(mutant for mutant in MUTANTS if mutant.name == name)
    attempts = 0
    for scene in mutant.scenes:
        points = trials.load_points(root, scene, 1)
        for trial in evenly(trials.trials_of(mutant.kind, scene, points, 1), TRIES):
            result = trials.attempt(root, trial, room, mutant.patch, mutant.judged)
            attempts += 1
            if result.hit and not result.verdict.is_clean:
                description = (
                    result.verdict.notes[0] if result.verdict.notes else f"{result.verdict}"
                )
                return {
                    "name": name,
                    "caught": True,
                    "how": f"{mutant.kind} in {scene}, {result.point}: {description}",
                    "tried": attempts,
                }
    return {
        "name": name,
        "caught": False,
        "how": f"{attempts} faults of the kind {mutant.kind} in {', '.join(mutant.scenes)}",
        "tried": attempts,
    }


def _attempt_engine(name: str, room: Path) -> dict[str, Any]:
    mutant = next(
        mutant for mutant in mutants.MUTANTS if f"engine: {mutant.name.replace('_', ' ')}" == name
    )

    def play(report: injection.Tell) -> None:
        with mutants.mutated(mutant):
            differences = mutants.differences(mutant.scene, room / f"engine-{mutant.name}")
        report(found=[one[:200] for one in differences[:1]])

    room.mkdir(parents=True, exist_ok=True)
    outcome = injection.run(play, room / "log")
    notes = outcome.reports[0]["found"] if outcome.reports else []
    description = notes[0].splitlines()[0] if notes else outcome.error or "no difference"
    return {"name": name, "caught": bool(notes), "how": f"its scene: {description}", "tried": 1}
