"""A state that cannot be read any more does not stop its worker for ever: it is moved aside and
built anew.
"""

import json
import shutil
import threading

import pytest
from tests.support.roles import make_project

from tailorbird.errors import StorageError
from tailorbird.events import SystemClock
from tailorbird.features import ReadRequest
from tailorbird.features.online.read import Reader
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.router import Router
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.store.scan import is_readable

CLOCK = SystemClock()


@pytest.fixture
def project(tmp_path):
    made = make_project(tmp_path / "shop")
    with EventCollector(made.paths.stream, "serve-1", made.plan, CLOCK) as collector:
        clicks = [
            {"event_id": f"e{n}", "type": "click", "user_id": f"u{n % 40}", "item_id": f"i{n % 7}"}
            for n in range(400)
        ]
        assert all(decision.accepted for decision in collector.submit(json.dumps(clicks).encode()))
    with Router(made.paths.stream, made.plan, clock=CLOCK) as router:
        router.step()
    with worker(made) as first:
        assert first.step().rows == 400
    return made


def worker(project) -> FeatureWorker:
    return FeatureWorker(project.routed, project.paths.state, project.features, clock=CLOCK)


def values(project, now: int) -> bytes:
    reader = Reader(project.paths.state, project.features)
    try:
        return reader.read(ReadRequest("u1", now=now), ["i1", "i2"]).numeric.tobytes()
    finally:
        reader.close()


def test_a_damaged_state_is_rebuilt_by_the_start_after_a_crash(project, caplog):
    folder, now = project.paths.state / project.features.schema_hash, CLOCK.now() + 1
    before = values(project, now)
    data = folder / "data.mdb"
    pages = bytearray(data.read_bytes())
    pages[2 * 4096 :] = bytes(
        len(pages) - 2 * 4096
    )  # all that the two pages at the beginning refer to
    data.write_bytes(pages)
    assert not is_readable(folder)
    (folder / "starting").touch()  # as a worker leaves it that died of this before its first step
    with worker(project) as second:
        assert "the state is damaged" in caplog.text
        assert second.step().rows == 400
    assert (folder / "data.mdb.damaged").read_bytes() == bytes(pages)
    assert values(project, now) == before
    assert not (folder / "starting").exists()


def test_a_file_that_ends_before_its_last_page_is_detected(project):
    """Simulate a disk that lost the write which extended it: every record can be read, and who
    writes dies.
    """
    folder = project.paths.state / project.features.schema_hash
    data = folder / "data.mdb"
    assert is_readable(folder)
    data.write_bytes(data.read_bytes()[:-4096])
    assert not is_readable(folder)


def test_a_damaged_list_of_free_pages_is_detected(project):
    """Readers never use the list of free pages; a writer crashes on it."""
    folder = project.paths.state / project.features.schema_hash
    data = folder / "data.mdb"
    pages = data.read_bytes()
    # At 0x18 of a newest meta page's list of trees: the root of the tree of free pages (page 0 and
    # 1 are the meta pages).
    metas = [pages[at : at + 4096] for at in (0, 4096)]
    newest = max(
        metas, key=lambda meta: int.from_bytes(meta[16 + 24 + 96 + 8 : 16 + 24 + 96 + 16], "little")
    )
    root = int.from_bytes(newest[16 + 24 + 40 : 16 + 24 + 48], "little")
    assert 2 <= root < len(pages) // 4096
    data.write_bytes(pages[: root * 4096] + bytes(4096) + pages[(root + 1) * 4096 :])
    assert not is_readable(folder)


def test_an_intact_state_survives_any_crash_of_the_last_start(project):
    folder = project.paths.state / project.features.schema_hash
    (folder / "starting").touch()
    with worker(project) as second:
        assert second.position.applied_rows == 400
        assert (folder / "starting").exists(), "it has not taken a step"
        assert second.step().rows == 0
        assert not (folder / "starting").exists()
    assert not (folder / "data.mdb.damaged").exists()


def test_a_worker_whose_state_is_removed_ends_and_the_next_rebuilds_it(project):
    """It would write on into a file that nobody else can open, and every answer would go without
    features for ever.
    """
    folder, now = project.paths.state / project.features.schema_hash, CLOCK.now() + 1
    before = values(project, now)
    with worker(project) as second:
        shutil.rmtree(folder)
        with pytest.raises(StorageError, match="the state was removed"):
            second.run(threading.Event())
    with worker(project) as third:
        assert third.step().rows == 400
    assert values(project, now) == before
