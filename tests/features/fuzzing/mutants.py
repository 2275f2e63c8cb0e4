"""Engines with one bug each, and a scene that shows it, to check that `fuzz_world` would notice.

    mutant     patches the engine
    scene      plays events and reads by hand; `World.differences` lists the differences

A scene is of a sound engine without a difference. `test_fuzz.py` plays them; `python -m
tests.features.fuzzing.run --mutants` looks for each of them at random, as for a fault that nobody
knows of.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from tests.features.fuzzing.world import BASE, World
from tests.support import features as kit

from tailorbird import faults
from tailorbird.events.clock import DAY, HOUR, MINUTE, SECOND, SESSION_GAP
from tailorbird.events.contract.schema import micros
from tailorbird.features import ReadRequest, Rows
from tailorbird.features.arithmetic import finish, runs
from tailorbird.features.declare.limits import LOOK_BACK_MAX
from tailorbird.features.event_columns.extracts import Extract
from tailorbird.features.offline import asof, asof_runs, timelines
from tailorbird.features.offline.events.frames import FrameCache
from tailorbird.features.online import commit, read
from tailorbird.features.online.active_read import ActiveRead, Keys
from tailorbird.features.online.read import Reader
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.features.state import eviction, rings, tiles

Patch = Callable[[pytest.MonkeyPatch], None]
Scene = Callable[[World], None]

# Of the kinds that a mutant or its scene is about.
AIMED = (
    'count("f0", entity(), ("click", "view", "rating", "search"), window="1h", hop="10m")',
    'time_since("f1", entity(), ("click", "view", "rating"))',
    'sequence("f2", entity("user"), ("click", "view", "rating"), length=5)',
    'session_length("f3")',
    'count("f4", entity("user"), ("click", "view", "rating"))',
    'last("f5", entity("user"), ("click", "view"), of="item")',
    'time_since_first("f6", entity("user"), ("click", "view", "rating"))',
    'first("f7", entity("user"), ("click", "view"), of="item")',
)


def _click(ts: int, **more: object) -> dict:
    return kit.event(
        "click",
        ts,
        user_id="u1",
        person="u1",
        item_id="i1",
        session_id="s1",
        event_id=f"{ts}-{len(more)}",
        **more,
    )


def _read(world: World, now: int) -> None:
    world.read(ReadRequest("u1", now=now))


def _come(world: World, *events: dict) -> None:
    world.append(list(events))
    world.settle()


def around(far: int) -> Scene:
    """Events that lie so far behind the requests, or a microsecond more or less."""

    def scene(world: World) -> None:
        for off in (-1, 0, 1):
            _come(world, _click(BASE + off))
            for late in (-1, 0, 1):
                _read(world, BASE + off + far + late)
                world.past.append(
                    (
                        world.features,
                        ReadRequest("u1", now=BASE + far + late),
                        world.worker.position.log_position,
                    )
                )

    return scene


def late(world: World) -> None:
    """Deliver the earliest event last, with reads before and after."""
    _come(world, _click(BASE + MINUTE))
    _read(world, BASE + 2 * MINUTE)
    _come(world, _click(BASE + SECOND))
    _read(world, BASE + 2 * MINUTE)


def at_its_time(world: World) -> None:
    _come(world, _click(BASE))
    world.past += [(world.features, ReadRequest("u1", now=BASE + off), 1) for off in (0, 1)]


def two_identifies(world: World) -> None:
    for ts, user in ((BASE + SECOND, "u1"), (BASE, "u2")):
        _come(world, kit.event("identify", ts, user_id=user, anonymous_id="a1", person=user))
    world.read(ReadRequest(anonymous_id="a1", now=BASE + MINUTE))


def long_after(world: World) -> None:
    _come(world, _click(BASE))
    for later in (MINUTE, HOUR, 2 * HOUR, 500 * DAY):
        _read(world, BASE + later)


def some_do_not_count(world: World) -> None:
    _come(world, _click(BASE), _click(BASE + SECOND, device="phone") | {"counts": False})
    _read(world, BASE + MINUTE)


def round_the_ring(world: World) -> None:
    """Play events a ring's length apart: the slot was reused, and late events are too old."""
    for ring in (70 * MINUTE, 17 * 25 * DAY):
        for ts in (BASE, BASE + ring, BASE + ring + HOUR, BASE + HOUR - ring):
            _come(world, _click(ts + 1))
            _read(world, ts + MINUTE)


def between_two_commits(world: World) -> None:
    """Commit from another process between two reads of a reader."""
    _come(world, _click(BASE))
    _read(world, BASE + MINUTE)
    world.append([_click(BASE + SECOND, device="phone")])
    sound, threads = read.read_position, [threading.Thread(target=world.work)]

    def position(snapshot: object) -> object:
        stored_position = sound(snapshot)  # type: ignore[arg-type]
        if threads:
            thread = threads.pop()
            thread.start()
            thread.join()
        return stored_position

    with mock.patch.object(read, "read_position", position):
        _read(world, BASE + MINUTE)
    _read(world, BASE + MINUTE)


def swept(world: World) -> None:
    """Idle for longer than anything but first times looks back; then there again."""
    _come(world, _click(BASE))
    _come(world, _click(BASE + 1) | {"user_id": "u2", "person": "u2"})
    for later in (LOOK_BACK_MAX, LOOK_BACK_MAX + 2 * DAY, LOOK_BACK_MAX + 30 * DAY):
        _come(
            world,
            kit.event(
                "view", BASE + later, user_id="u2", person="u2", session_id="s2", item_id="i2"
            ),
        )
        world.sweep()
        _read(world, BASE + later + 1)
        _read(world, BASE + later + DAY)
    _come(world, _click(BASE + LOOK_BACK_MAX + 30 * DAY + 2))
    _read(world, BASE + LOOK_BACK_MAX + 31 * DAY)


def _a_tile_too_few(patch: pytest.MonkeyPatch) -> None:
    """The stream's windows reach one tile less far."""
    patch.setattr(faults, "is_disabled", lambda site: site == "features.tile")


def _a_window_of_the_backfill_ends_a_microsecond_early(patch: pytest.MonkeyPatch) -> None:
    sound = asof.AsOfQueries.window_sums
    patch.setattr(
        asof.AsOfQueries,
        "window_sums",
        lambda self, prefixes, windows, **more: sound(
            self, prefixes, [(hop, length - 1, of) for hop, length, of in windows], **more
        ),
    )


def _late_events_are_lost(patch: pytest.MonkeyPatch) -> None:
    """A worker drops what is older than the newest event that it has seen."""
    sound, newest = FeatureWorker._commit, {}

    def commit(self: FeatureWorker, table: pa.Table, position: object) -> object:
        ts, before = micros(table["ts"]), newest.get(id(self), 0)
        newest[id(self)] = max(before, int(ts.max(initial=0)))
        in_order = table.filter(pa.array((ts >= before) | (ts == 0)))
        return sound(self, in_order, position)  # type: ignore[arg-type]

    patch.setattr(FeatureWorker, "_commit", commit)


def _the_horizon_is_a_microsecond_longer(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(finish, "LOOK_BACK_MAX", LOOK_BACK_MAX + 1)


def _the_horizon_is_a_microsecond_shorter(patch: pytest.MonkeyPatch) -> None:
    """ts > where ts >= is meant."""
    patch.setattr(finish, "LOOK_BACK_MAX", LOOK_BACK_MAX - 1)


def _the_backfills_horizon_is_a_microsecond_shorter(patch: pytest.MonkeyPatch) -> None:
    for module in (timelines, asof_runs):
        patch.setattr(module, "LOOK_BACK_MAX", LOOK_BACK_MAX - 1)


def _a_session_breaks_at_exactly_its_gap(patch: pytest.MonkeyPatch) -> None:
    """>= where > is meant, in whole microseconds."""
    patch.setattr(runs, "SESSION_GAP", SESSION_GAP - 1)


def _the_backfill_counts_what_happens_at_t(patch: pytest.MonkeyPatch) -> None:
    """ts <= t where ts < t is meant."""
    sound = asof.Timeline.queries_at
    patch.setattr(
        asof.Timeline,
        "queries_at",
        lambda self, keys, t, log_position: sound(self, keys, t + 1, log_position),
    )


def _the_backfill_does_not_know_the_newest(patch: pytest.MonkeyPatch) -> None:
    """p < where p <= is meant."""
    sound = asof.Timeline.queries_at
    patch.setattr(asof.Timeline, "queries_at", lambda self, keys, t, p: sound(self, keys, t, p - 1))


def _the_backfill_knows_what_was_in_flight(patch: pytest.MonkeyPatch) -> None:
    sound = asof.Timeline.queries_at
    patch.setattr(
        asof.Timeline, "queries_at", lambda self, keys, t, p: sound(self, keys, t, p + 1_000_000)
    )


def _the_backfill_counts_what_does_not_count(patch: pytest.MonkeyPatch) -> None:
    sound = FrameCache.__init__

    def init(self: FrameCache, events: pa.Table) -> None:
        place = events.column_names.index("counts")
        sound(self, events.set_column(place, "counts", pa.array([True] * len(events), pa.bool_())))

    patch.setattr(FrameCache, "__init__", init)


def _the_last_identify_to_arrive_wins(patch: pytest.MonkeyPatch) -> None:
    """Not the newest in time, but the last to arrive, says who an anonymous id is."""
    patch.setattr(
        commit,
        "newer_alias_records",
        lambda transaction, aliases: [(key, one.encode()) for key, one in aliases.items()],
    )


def _a_reading_record_never_runs_out(patch: pytest.MonkeyPatch) -> None:
    """Events that have left a window since the record was written still count."""
    patch.setattr(ActiveRead, "_refresh_stale", lambda self: 0)


def _a_ring_wraps(patch: pytest.MonkeyPatch) -> None:
    """A tile's slot keeps what was in it a ring's length ago."""
    patch.setattr(
        tiles.Tiles,
        "clear_expired",
        lambda self, states, filled_lanes, previous_ts, newest_ts: None,
    )


def _what_is_too_old_for_a_ring_wraps(patch: pytest.MonkeyPatch) -> None:
    """A late event counts for the tile that stands in its slot by now."""

    def update(
        self: rings.RingSums,
        states: rings.States,
        newest_ts: rings.Int64s,
        rows: rings.Rows,
        batch: Extract,
    ) -> None:
        ring = self._ring
        slot = batch.ts // ring.hop % ring.lanes
        self._combine.at(
            states, (rows, ring.lane + slot), rings.tile_values(ring.measure, batch.value)
        )

    patch.setattr(rings.RingSums, "update", update)


def _a_reader_mixes_two_snapshots(patch: pytest.MonkeyPatch) -> None:
    def mixed(self: Reader, request: ReadRequest, keys: Keys | None) -> Rows:
        [store] = self._stores
        with store.snapshot() as snapshot:
            position = read.read_position(snapshot)
        with store.snapshot() as snapshot:
            resolved = read.resolve_request([snapshot], request)
            moment = ActiveRead(
                self._plan,
                snapshot,
                replace(request, person=resolved.person),
                keys,
                resolved.swept_until,
            )
            return moment.read_rows([position], resolved.alias_ts)

    patch.setattr(Reader, "_read", mixed)


def _a_sweep_deletes_first_times(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        eviction, "permanent_lanes", lambda layout: np.zeros(layout.state_lanes, np.bool_)
    )


def _a_sweep_runs_too_early(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(eviction, "retention_us", lambda layout: LOOK_BACK_MAX - 3 * DAY)


@dataclass(frozen=True)
class Mutant:
    """An engine that is wrong in one thing, and where that shows."""

    apply: Patch
    scene: Scene

    @property
    def name(self) -> str:
        return self.apply.__name__.strip("_")


MUTANTS = (
    Mutant(_a_tile_too_few, around(70 * MINUTE - 1)),
    Mutant(_a_window_of_the_backfill_ends_a_microsecond_early, around(LOOK_BACK_MAX)),
    Mutant(_late_events_are_lost, late),
    Mutant(_the_horizon_is_a_microsecond_longer, around(LOOK_BACK_MAX)),
    Mutant(_the_horizon_is_a_microsecond_shorter, around(LOOK_BACK_MAX)),
    Mutant(_the_backfills_horizon_is_a_microsecond_shorter, around(LOOK_BACK_MAX)),
    Mutant(_a_session_breaks_at_exactly_its_gap, around(SESSION_GAP)),
    Mutant(_the_backfill_counts_what_happens_at_t, at_its_time),
    Mutant(_the_backfill_does_not_know_the_newest, late),
    Mutant(_the_backfill_knows_what_was_in_flight, late),
    Mutant(_the_backfill_counts_what_does_not_count, some_do_not_count),
    Mutant(_the_last_identify_to_arrive_wins, two_identifies),
    Mutant(_a_reading_record_never_runs_out, long_after),
    Mutant(_a_ring_wraps, round_the_ring),
    Mutant(_what_is_too_old_for_a_ring_wraps, round_the_ring),
    Mutant(_a_reader_mixes_two_snapshots, between_two_commits),
    Mutant(_a_sweep_deletes_first_times, swept),
    Mutant(_a_sweep_runs_too_early, swept),
)


@contextmanager
def mutated(mutant: Mutant) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        mutant.apply(patch)
        yield


def differences(scene: Scene, folder: Path) -> list[str]:
    """Return the differences in a scene."""
    world = World(folder, AIMED, collectors=False)
    try:
        scene(world)
        return world.differences([ReadRequest("u1", now=BASE)])
    finally:
        world.close()
