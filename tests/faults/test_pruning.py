"""Logs stay bounded: each is pruned after its slowest reader, and later readers miss nothing."""

import json
import threading
from contextlib import contextmanager
from functools import partial

import pytest
from tests.support.roles import make_project, until
from tests.support.shops.pruned_shop import (
    BODY_COUNT,
    CLOCK,
    ROWS_PER_BODY,
    collect_bodies,
    make_bodies,
)

from tailorbird.config.schemas import releasable_offset as _released
from tailorbird.features import ReadRequest
from tailorbird.features.online.read import Reader
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.lake import Lake, LakeRole, verify
from tailorbird.lake.write.log_pruning import prune_idle
from tailorbird.router import Router
from tailorbird.router import run_router as run_router
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.serving.collector.pruning import Pruner
from tailorbird.serving.models.catalogue import Catalogue
from tailorbird.stream import open_reader, open_writer, raw_path, response_log_path
from tailorbird.stream.importer import import_files


@pytest.fixture
def project(tmp_path):
    return make_project(tmp_path / "shop")


@contextmanager
def roles(project, *, keep_rows: int = 0):
    """Run router and worker; the lake is drained by hand, so that its archive need not wait."""
    stop, paths = threading.Event(), project.paths
    released = partial(_released, project)
    route = partial(
        run_router,
        paths.stream,
        project.plan,
        CLOCK,
        stop,
        read_released_position=released,
        retained_rows=keep_rows,
        prune_interval_s=0.01,
    )

    def work() -> None:
        with FeatureWorker(paths.routed, paths.state, project.features, clock=CLOCK) as worker:
            worker.run(stop)

    threads = [threading.Thread(target=role) for role in (route, work)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)


def routed_range(project) -> tuple[int, int]:
    """Return where the routed log starts and ends."""
    try:
        with open_reader(project.paths.routed) as reader:
            return reader.start(), reader.end()
    except Exception:  # not made yet
        return 0, 0


def applied_offset(project) -> int:
    try:
        reader = Reader(project.paths.state, project.features)
    except Exception:  # not made yet
        return 0
    try:
        return reader.position().offset
    finally:
        reader.close()


def settle(project, rows: int) -> None:
    """Wait until `rows` were routed and applied, and bring them into the lake."""
    until(lambda: routed_range(project)[1] == rows + 1, 30, "not routed")
    until(lambda: applied_offset(project) == rows + 1, 30, "not applied")
    with LakeRole(project.paths.stream, project.paths.lake, clock=CLOCK) as role:
        role.drain()


def values(project) -> bytes:
    reader = Reader(project.paths.state, project.features)
    try:
        rows = reader.read(
            ReadRequest("u1", None, None, None, None, 12, 4_000_000_000_000_000),
            [f"i{n}" for n in range(BODY_COUNT)],
        )
        return rows.numeric.tobytes() + rows.categorical.tobytes()
    finally:
        reader.close()


def read_catalogue(project) -> tuple:
    follower = Catalogue(project.paths.routed)
    follower.refresh()
    index = follower.overlay_for(None)
    follower.stop()
    assert index is not None
    return sorted(index.ids), follower._items


def test_all_logs_are_pruned_and_everything_goes_on(project):
    paths = project.paths
    total = BODY_COUNT * ROWS_PER_BODY
    with EventCollector(paths.stream, "serve-1", project.plan, CLOCK) as collector:
        collect_bodies(collector, 0)
        with Router(paths.stream, project.plan, clock=CLOCK) as router:
            router.step()
        expected = read_catalogue(project)
        with roles(project):
            settle(project, total)
            until(
                lambda: routed_range(project)[0] == total + 1, 10, "the routed log was not pruned"
            )
        Pruner(collector, paths.lake).tick()
        raw = open_reader(raw_path(paths.stream, "serve-1"))
        until(lambda: raw.start() == total, 10, "the raw log was not pruned")
        raw.close()
        assert read_catalogue(project) == expected, "what deleted blocks said of items is kept"
        collect_bodies(collector, BODY_COUNT)
        with roles(project):  # new processes on the pruned logs
            settle(project, 2 * total)
    assert verify(paths.lake).is_clean
    assert Lake(paths.lake).count("events") == 2 * total
    ids, _ = read_catalogue(project)
    assert len(ids) == 2 * BODY_COUNT


def test_the_newest_rows_stay(project):
    with (
        EventCollector(project.paths.stream, "serve-1", project.plan, CLOCK) as collector,
        roles(project, keep_rows=2 * ROWS_PER_BODY),
    ):
        for first in range(3):
            collect_bodies(collector, first * BODY_COUNT)
            settle(project, (first + 1) * BODY_COUNT * ROWS_PER_BODY)
        until(lambda: routed_range(project)[0] > 1, 10, "nothing was pruned")
        start, end = routed_range(project)
        assert end - start >= 2 * ROWS_PER_BODY


def test_nothing_is_pruned_before_the_worker_commits(project):
    paths = project.paths
    with EventCollector(paths.stream, "serve-1", project.plan, CLOCK) as collector:
        collect_bodies(collector, 0)
    with Router(paths.stream, project.plan, clock=CLOCK) as router:
        router.step()
    with LakeRole(paths.stream, paths.lake, clock=CLOCK) as role:
        role.drain()
    assert _released(project) == 0
    with FeatureWorker(paths.routed, paths.state, project.features, clock=CLOCK) as worker:
        assert _released(project) == 0, "a state without a commit"
        worker.step()
        assert _released(project) == BODY_COUNT * ROWS_PER_BODY + 1


def test_a_follower_that_was_overtaken_begins_again(project):
    paths = project.paths
    follower = Catalogue(paths.routed)
    with (
        EventCollector(paths.stream, "serve-1", project.plan, CLOCK) as collector,
        Router(paths.stream, project.plan, clock=CLOCK) as router,
    ):
        collect_bodies(collector, 0)
        router.step()
        follower.refresh()
        collect_bodies(collector, BODY_COUNT)
        router.step()
        router.prune(router.end())
        follower.refresh()
        index = follower.overlay_for(None)
        follower.stop()
        assert index is not None
        assert len(index.ids) == 2 * BODY_COUNT


def history(folder, name: str, first: int):
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.jsonl"
    lines = [line for body in make_bodies(first) for line in json.loads(body)]
    path.write_text(
        "".join(json.dumps({**line, "ts": "2025-01-01T00:00:00Z"}) + "\n" for line in lines)
    )
    return path


def drain(project) -> None:
    with Router(project.paths.stream, project.plan, clock=CLOCK) as router:
        while router.step().rows:
            pass
    with LakeRole(project.paths.stream, project.paths.lake, clock=CLOCK) as role:
        role.drain()


def test_the_logs_of_imports_and_of_dead_servers_are_pruned_by_the_lake(project, tmp_path):
    paths, total = project.paths, BODY_COUNT * ROWS_PER_BODY
    first = history(tmp_path / "files", "first", 0)
    assert (
        import_files(paths.stream, "tailorbird", first, plan=project.plan, clock=CLOCK).accepted
        == total
    )
    with EventCollector(paths.stream, "serve-1", project.plan, CLOCK) as collector:
        collect_bodies(collector, BODY_COUNT)
    drain(project)
    assert prune_idle(paths.stream, paths.lake, CLOCK) == {}, "somebody wrote just now"
    with open_writer(raw_path(paths.stream, "serve-1"), partition="serve-1"):
        assert prune_idle(paths.stream, paths.lake, CLOCK, idle_us=0) == {"raw-import": 1}, (
            "the other has a writer"
        )
    assert prune_idle(paths.stream, paths.lake, CLOCK, idle_us=0) == {"raw-serve-1": BODY_COUNT}
    assert prune_idle(paths.stream, paths.lake, CLOCK, idle_us=0) == {}
    assert not open_reader(response_log_path(paths.stream, "serve-1")).start()

    assert import_files(
        paths.stream, "tailorbird", first, plan=project.plan, clock=CLOCK
    ).is_repeated
    second = history(tmp_path / "files", "second", 2 * BODY_COUNT)
    assert (
        import_files(paths.stream, "tailorbird", second, plan=project.plan, clock=CLOCK).accepted
        == total
    )
    drain(project)
    assert Lake(paths.lake).count("events") == 3 * total
    assert verify(paths.lake).is_clean


def test_the_room_of_an_import_is_given_back(project, tmp_path):
    path = tmp_path / "big.jsonl"
    events = (
        {
            "event_id": f"e{n}",
            "type": "view",
            "user_id": "u1",
            "ts": "2025-01-01T00:00:00Z",
            "page": f"{n}" * 40,
        }
        for n in range(20_000)
    )
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    import_files(project.paths.stream, "tailorbird", path, plan=project.plan, clock=CLOCK)
    drain(project)
    log = raw_path(project.paths.stream, "import")
    before = log.stat().st_size
    assert prune_idle(project.paths.stream, project.paths.lake, CLOCK, idle_us=0)
    assert log.stat().st_size < before / 10
    with open_reader(log) as reader:
        assert (reader.start(), reader.end()) == (20_000, 20_000)
