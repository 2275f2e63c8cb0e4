"""A small site that a test moves by hand: collectors or a routed log, router, worker, readers, lake,
crashes, changed declarations.

Whatever is read of it is kept with the declarations that it was read by, and at the end held
against the plain reference and the backfill, both told of all events that ever came. `differences`
says what is not equal to the bit.
"""

import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tests.features.fuzzing import words
from tests.support import features as kit
from tests.support.drawn.events import ITEMS
from tests.support.drawn.three_readings import SampledRead, find_differences

from tailorbird import faults
from tailorbird.errors import StorageError
from tailorbird.events import ROUTED, Receipt, RoutePlan, SimulatedClock
from tailorbird.events.clock import DAY, HOUR, MINUTE, SECOND
from tailorbird.events.contract.schema import micros
from tailorbird.features import FeatureSet, ReadRequest
from tailorbird.features.migration.bootstrap import build_from_lake
from tailorbird.features.offline.backfill import Requests, backfill
from tailorbird.features.offline.profile_join import JoinedEvents
from tailorbird.features.online.read import Reader
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.features.reference import reference
from tailorbird.features.reference.point_in_time import routed_events
from tailorbird.lake import Lake, LakeRole
from tailorbird.router import Router
from tailorbird.stream import (
    Block,
    open_reader,
    open_writer,
    raw_path,
    read_released_positions,
    routed_path,
)

BASE = 50 * 400 * DAY  # on the edge of tiles of a second to 400 days
UNITS = (SECOND, 5 * SECOND, 50 * SECOND, 30 * MINUTE, HOUR, 14 * HOUR, DAY, 25 * DAY, 100 * DAY)
WORKER_SITES = ("worker.before_step", "worker.before_commit", "worker.after_commit")
ROUTER_SITES = tuple(
    f"router.{site}"
    for site in ("after_read", "before_append", "after_append", "before_commit", "after_commit")
)


@contextmanager
def crashing(site: str, hit: int) -> Iterator[None]:
    """Within the block the process would die at the `hit`-th arrival at `site`."""
    armed = {site: faults._Fault("raise", "", hit, hit)}
    with mock.patch.object(faults, "_load_faults", return_value=armed):
        yield


class CutShort(Exception):
    """The process that builds a state dies."""


class World:
    """The site. With `collectors` events come as bodies through the router, else as routed events
    straight into its log.

    `read` may be asked between any two of its steps; the folder is the caller's.
    """

    def __init__(self, folder: Path, lines: Sequence[str], *, collectors: bool) -> None:
        self.folder = folder
        self.stream = folder / "stream"
        self.stream.mkdir(parents=True)
        self.collectors = collectors
        self.now = BASE
        self.clock = SimulatedClock(BASE)
        self.sets: list[FeatureSet] = [words.feature_set(lines)]
        self.features = self.sets[0]
        self.reads: list[tuple[FeatureSet, SampledRead]] = []
        self.past: list[
            tuple[FeatureSet, ReadRequest, int]
        ] = []  # asked of the lake alone: at `now`, known up to a p
        self.routed_blocks: list[pa.Table] = []  # of the routed log, block by block
        self._end = 0  # of what of it is known
        self._seen: set[tuple[str, str]] = set()
        self.log = None if collectors else kit.Log(self.stream)
        self.router = self._router() if collectors else None
        self.worker = self._worker()
        self.reader: Reader | None = None

    # What comes in

    def post(self, collector: str, received_at: int, body: Sequence[dict], source: str) -> None:
        """A body at a collector."""
        receipt = msgspec.json.encode(Receipt(received_at, source))
        with open_writer(raw_path(self.stream, collector), partition=collector) as log:
            log.append([Block("body", len(body), msgspec.json.encode(body), receipt)])

    def append(self, events: Sequence[dict]) -> None:
        """A block of routed events; an id of one owner comes once, as the router sees to it."""
        fresh = []
        for row in events:
            key = row["event_id"], row["user_id"] or row["anonymous_id"] or row["item_id"]
            fresh += [] if key in self._seen else [row]
            self._seen.add(key)
        assert self.log is not None
        if fresh:
            self.routed_blocks.append(kit.table(self.log.append([fresh])))

    def route(self) -> None:
        if self.router is not None:
            self.router.step()

    # What is made of it

    def work(self, rows_max: int = 20_000) -> int:
        return self.worker.step(rows_max).rows

    def settle(self) -> None:
        """Route and take in all that is there."""
        self.route()
        while self.work() or self._catch_up_from_lake():
            pass

    def sweep(self) -> int:
        """Look once at every entity, when the clock says what the newest event does; how many
        expired.
        """
        newest = max(
            (
                int(micros(routed_block["ts"]).max())
                for routed_block in self.routed_blocks
                if routed_block.num_rows
            ),
            default=BASE,
        )
        self.clock.advance_to(max(self.clock.now(), newest))
        return sum(self.worker.sweep().expired for _ in self.features.layout.entities)

    def read(self, request: ReadRequest, reader: Reader | None = None) -> None:
        if reader is None:
            self.reader = reader = self.reader or Reader(self.folder / "state", self.features)
        self.reads.append(
            (self.features, SampledRead(request, ITEMS, reader.read(request, list(ITEMS))))
        )

    def read_within_a_commit(self, request: ReadRequest) -> None:
        """Step, and read from another thread at the moment before the step's transaction ends."""
        there: list[str] = []

        def at(site: str) -> None:
            if site == "worker.before_commit" and not there:
                there.append(site)
                thread = threading.Thread(target=self._read_apart, args=(request,))
                thread.start()
                thread.join()

        with mock.patch.object(faults, "fire_if_armed", at):
            self.worker.step(1)

    def _read_apart(self, request: ReadRequest) -> None:
        reader = Reader(self.folder / "state", self.features)
        try:
            self.read(request, reader)
        finally:
            reader.close()

    # What goes wrong

    def crash(self, site: str, hit: int) -> bool:
        """Die at a fault point, if it is come by, and start again."""
        try:
            with crashing(site, hit):
                self.settle()
        except (OSError, StorageError) as error:
            if "fault injected" not in f"{error} {error.__cause__}":
                raise
            self.restart()
            return True
        return False

    def restart(self) -> None:
        self.worker.close()
        if self.router is not None:
            self.router.close()
            self.router = self._router()
        self.worker = self._worker()

    def rebuild(self, cut: int, seed: int, *, stop_after: int | None) -> None:
        """Lose the state, and build it anew from what was routed, in parts of `cut` rows, each in
        any order, then go on in the log.

        With `stop_after` the building dies after so many parts and is begun again; meanwhile nobody
        can read.
        """
        events, p, rng = (
            self.attached(self.features).sort_by("p"),
            self.worker.position.log_position,
            np.random.default_rng(seed),
        )

        def history(after: int, dies: bool) -> Iterator[pa.Table]:
            left = events.filter(
                pc.and_(pc.greater(events["p"], after), pc.less_equal(events["p"], p))
            )
            for number, start in enumerate(range(0, left.num_rows, cut)):
                if dies and number == stop_after:
                    raise CutShort
                part = left.slice(start, cut)
                yield part.take(rng.permutation(part.num_rows))

        self._close_reader()
        self.worker.close()
        shutil.rmtree(self.folder / "state")
        self.worker = self._worker()
        try:
            self.worker.bootstrap(lambda after: history(after, True), p)
        except CutShort:
            self.restart()
            assert self.worker.needs_history()
            self.worker.bootstrap(lambda after: history(after, False), p)

    def rebuild_from_the_lake(self, *, prune: bool) -> None:
        """Bring everything into a lake, let the router delete what it may, and build the state from
        there.
        """
        lake = self.lake()
        if not lake.count("events"):
            return
        if prune and self.router is not None:
            self.router.prune(read_released_positions(lake.path).routed_position())
        build_from_lake(self.worker, lake, threading.Event())

    def change(self, lines: Sequence[str]) -> None:
        """Other declarations: a state beside the old one, from the log, or from the lake where the
        log was pruned.
        """
        features = words.feature_set(lines)
        self.sets.append(features)
        self.turn_to(features)

    def turn_to(self, features: FeatureSet) -> None:
        """Go on with a set of declarations; its state, if there is one, catches up."""
        self.worker.close()
        self._close_reader()
        self.features = features
        if self.router is not None:
            self.router.close()
            self.router = self._router()
        self.worker = self._worker()
        if self.worker.needs_history():
            build_from_lake(self.worker, self.lake(), threading.Event())

    def lake(self) -> Lake:
        """The lake, with everything that was routed."""
        self._learn()
        with LakeRole(self.stream, self.folder / "lake", clock=self.clock) as role:
            role.drain()
        return Lake(self.folder / "lake")

    def _catch_up_from_lake(self) -> bool:
        """Take in what the log has without an attribute that was declared later."""
        return self.worker.waits_for_lake and build_from_lake(
            self.worker, self.lake(), threading.Event()
        )

    # What came of it

    def events(self) -> pa.Table:
        self._learn()
        return pa.concat_tables(self.routed_blocks) if self.routed_blocks else ROUTED.empty_table()

    def attached(self, features: FeatureSet) -> pa.Table:
        """The events with the attributes that the features name, those that were routed before
        these were declared too.
        """
        return (
            self.events()
            if self.router is None
            else JoinedEvents(self.lake(), features).join(self.events())
        )

    def differences(self, requests: Sequence[ReadRequest]) -> list[str]:
        """Return the differences, after the given requests were read from the state, and from one
        built from nothing.
        """
        self.settle()
        for request in requests:
            self.read(request)
        self._read_rebuilt_state(requests)
        events = self.events()
        different = [one for _, read in self.reads for one in mistaken(read, events)]
        for features in dict.fromkeys(one.schema_hash for one, _ in self.reads):
            own = [(one, read) for one, read in self.reads if one.schema_hash == features]
            attached = self.attached(own[0][0])
            different += find_differences(own[0][0], attached, [read for _, read in own])
            past = [(request, p) for one, request, p in self.past if one.schema_hash == features]
            different += past_differences(own[0][0], attached, past)
        return different

    def _read_rebuilt_state(self, requests: Sequence[ReadRequest]) -> None:
        state = self.folder / "anew"
        with FeatureWorker(
            routed_path(self.stream), state, self.features, clock=self.clock
        ) as worker:
            worker.bootstrap(
                lambda after: [self.attached(self.features).sort_by("p")],
                self.worker.position.log_position,
            )
        reader = Reader(state, self.features)
        for request in requests:
            self.read(request, reader)
        reader.close()

    def close(self) -> None:
        self._close_reader()
        self.worker.close()
        for one in (self.router, self.log):
            if one is not None:
                one.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _close_reader(self) -> None:
        if self.reader is not None:
            self.reader.close()
            self.reader = None

    def _learn(self) -> None:
        """Read what the router wrote since the last time, before it is pruned."""
        if self.router is None or self.router.end() <= max(self._end, 1):
            return
        with open_reader(routed_path(self.stream)) as log:
            while blocks := log.read(self._end):
                for stored in blocks:
                    if stored.block.kind == "events":
                        self.routed_blocks.append(
                            pa.ipc.open_stream(stored.block.payload).read_all()
                        )
                self._end = blocks[-1].end

    def _router(self) -> Router:
        attributes: dict[str, set[str]] = {"user": set(), "item": set()}
        for features in self.sets:
            attributes["user"] |= set(features.user_attributes)
            attributes["item"] |= set(features.item_attributes)
        plan = RoutePlan(
            user_attributes=tuple(sorted(attributes["user"])),
            item_attributes=tuple(sorted(attributes["item"])),
        )
        return Router(self.stream, plan, clock=self.clock)

    def _worker(self) -> FeatureWorker:
        return FeatureWorker(
            routed_path(self.stream), self.folder / "state", self.features, clock=self.clock
        )


def mistaken(read: SampledRead, events: pa.Table) -> list[str]:
    """List requests whose person is not the user of the newest identify known then."""
    request, rows = read.request, read.rows
    expected = request.person
    if expected is None and request.anonymous_id is not None:
        identifies = [
            (one["ts"], one["p"], one["user_id"])
            for one in routed_events(events.filter(pc.equal(events["type"], "identify")))
            if one["anonymous_id"] == request.anonymous_id and one["p"] <= rows.log_position
        ]
        expected = max(identifies)[2] if identifies else f"anon:{request.anonymous_id}"
    return (
        []
        if rows.person == expected
        else [f"{request.anonymous_id} is taken for {rows.person}, expected {expected}"]
    )


def past_differences(
    features: FeatureSet, events: pa.Table, requests_at: Sequence[tuple[ReadRequest, int]]
) -> list[str]:
    """Return differences of reference and backfill at any (t, p): a reader's t is always behind
    what it read, these need not be.
    """
    if not requests_at:
        return []
    count, own = len(requests_at), [request for request, _ in requests_at]
    texts = {
        name: [getattr(one, name) for one in own]
        for name in ("person", "session_id", "device", "country", "local_hour", "query")
    }
    t, p = np.array([one.now for one in own]), np.array([p for _, p in requests_at])
    rows = np.repeat(np.arange(count), len(ITEMS))
    position = [one.position for one in own]
    made = backfill(
        features,
        events,
        Requests(
            t=t,
            log_position=p,
            row_request=rows,
            row_item=list(ITEMS) * count,
            position=position,
            **texts,
        ),
    )
    different, routed = [], routed_events(events)
    for row, index in enumerate(rows.tolist()):
        item = ITEMS[row % len(ITEMS)]
        for names, values in (
            (features.numeric, made.numeric),
            (features.categorical, made.categorical),
        ):
            for column, name in enumerate(names):
                expected = reference.compute_value(
                    features, name, own[index], item, int(t[index]), int(p[index]), routed
                )
                if not kit.same(values[row, column], expected):
                    different.append(
                        f"{name} of {item} at {t[index]}, {p[index]}: reference, backfill = "
                        f"{expected}, {values[row, column]}"
                    )
    return different
