"""Routed rows are deleted from topics behind index snapshots, and later readers miss nothing."""

import os
import signal
import subprocess
import sys
from contextlib import closing
from uuid import uuid4

import pytest
from tests.support.network.brokers import CLIENT_OPTIONS
from tests.support.router.filling import post_mixed_events
from tests.support.router.partitions import (
    PARTITION_COUNT,
    PartitionedTopics,
    make_profile_events,
    post_round,
)
from tests.support.router.stream import NOW, PLAN
from tests.support.router.topics import Topics, events_without_position

from tailorbird.errors import DamageError
from tailorbird.events import SimulatedClock
from tailorbird.router import open_router
from tailorbird.serving.models.catalogue import Catalogue
from tailorbird.stream import open_reader

CHILD = """
import sys
from pathlib import Path
from tests.router.test_retention import site, step_and_delete
folder, servers, prefix, count = Path(sys.argv[1]), *sys.argv[2:4], int(sys.argv[4])
step_and_delete(site(folder, servers, prefix, count), rows=25 * count)
"""


def site(folder, servers, prefix, count=1):
    """A site whose routers make a snapshot after each step; `count` partitions."""
    from tailorbird.stream.kafka import Cluster
    from tailorbird.stream.kafka.logs import KafkaLogSet

    made = (Topics if count == 1 else PartitionedTopics)(folder, servers, prefix)
    made.stream = KafkaLogSet(
        Cluster(servers, prefix, options=CLIENT_OPTIONS, partitions=count), folder, snapshot_rows=1
    )
    return made


def retention(site, **settings):
    from tailorbird.router.routed_log.retention import Retention

    return Retention(
        site.stream, lambda: 1 << 40, **{"retained_rows": 3, "rows_min": 1, **settings}
    )


def step_and_delete(site, times=60, keep_rows=3, rows=50):
    """Route by small steps, on one machine after another, each of which begins with nothing, and
    delete what can go after each.
    """
    for number in range(times):
        site.stream._listed_producers.clear()
        site.stream.folder = site.folder / f"machine-{os.getpid()}-{number}"
        with closing(open_router(site.stream, PLAN, clock=SimulatedClock(NOW))) as router:
            more = router.step(rows).has_more
        retention(site, retained_rows=keep_rows).prune()
        if not more:
            return
    raise AssertionError(f"not done after {times} steps")


def span(site):
    with open_reader(site.stream.routed) as reader:
        return reader.start(), reader.end()


def catalogue(site):
    served = Catalogue(site.stream.routed)
    served.refresh()
    served.stop()
    return {id_: (one.attributes, one.valid_from) for id_, one in served._items.items()}, set(
        served._seen_items.ids
    )


@pytest.fixture
def topics(deleting_servers, tmp_path):
    made = site(tmp_path / "one", deleting_servers, f"test-{uuid4().hex[:12]}")
    yield made
    made.close()


@pytest.mark.slow
def test_routers_that_begin_with_nothing_decide_as_one_that_has_all(
    topics, stream, tmp_path, deleting_servers
):
    for each in (topics, stream):
        post_mixed_events(each)
    step_and_delete(topics)
    stream.route(rows_max=50)
    begin, end = span(topics)
    assert 20 < end - 40 < begin, "most of it is gone"
    assert 0 < len(events_without_position(topics)) < 30
    assert (
        events_without_position(topics)
        == events_without_position(stream)[-len(events_without_position(topics)) :]
    )

    for each in (
        topics,
        stream,
    ):  # nothing of what was deleted is taken again, and what was learned from it is known
        post_mixed_events(each)
        each.post(
            {
                "event_id": "new",
                "type": "click",
                "anonymous_id": "c0",
                "item_id": "i1",
                "request_id": "r11",
            }
        )
    step_and_delete(topics, keep_rows=300, rows=400)
    stream.route(rows_max=50)
    last = events_without_position(topics)[-1]
    assert last == events_without_position(stream)[-1]
    assert (last["event_id"], last["person"]) == (
        "new",
        events_without_position(stream)[-1]["person"],
    )
    assert not (topics.folder / "routed-index.db").exists(), "each machine had an index of its own"


@pytest.mark.slow
def test_a_server_that_starts_later_knows_all_items(topics):
    post_mixed_events(topics)
    with topics.router() as router:
        while router.step(50).rows:
            pass
    expected = catalogue(topics)
    assert expected[0]
    follower = Catalogue(topics.stream.routed)
    follower.refresh()
    assert retention(topics).prune() > 0
    assert span(topics)[0] > 30
    assert catalogue(topics) == expected
    topics.post(
        {
            "event_id": "p-new",
            "type": "item",
            "item_id": "i-new",
            "ts": NOW,
            "properties": {"price": 1},
        }
    )
    topics.route()
    assert retention(topics).prune() > 0
    assert catalogue(topics)[0].keys() == expected[0].keys() | {"i-new"}
    follower.refresh()  # one that was left behind begins anew
    follower.stop()
    assert follower._items.keys() == expected[0].keys() | {"i-new"}


def test_nothing_is_deleted_that_is_not_released_or_has_no_snapshot(topics, deleting_servers):
    post_mixed_events(topics)
    bare = Topics(
        topics.folder, deleting_servers, topics.stream.cluster.prefix
    )  # far from its first snapshot
    with bare.router() as router:
        while router.step(50).rows:
            pass
    assert retention(topics).prune() == 0
    assert span(topics)[0] == 1
    topics.post({"event_id": "x", "type": "click", "user_id": "u1", "item_id": "i1"})
    topics.route()
    end = span(topics)[1]
    assert retention(topics, retained_rows=end).prune() == 0
    assert retention(topics, rows_min=end).prune() == 0
    from tailorbird.router.routed_log.retention import Retention

    assert Retention(topics.stream, lambda: 20, retained_rows=0, rows_min=1).prune() > 0
    assert 1 < span(topics)[0] <= 20
    bare.close()


@pytest.mark.slow
def test_an_index_that_ends_before_the_topic_begins_is_replaced_and_without_a_snapshot_is_refused(
    topics, tmp_path, deleting_servers, monkeypatch
):
    from tailorbird.stream.kafka import snapshots

    elsewhere = site(tmp_path / "two", deleting_servers, topics.stream.cluster.prefix)
    post_mixed_events(topics)
    with elsewhere.router() as router:
        router.step(20)
    topics.route(rows_max=20)
    retention(topics).prune()
    begin, end = span(topics)
    with monkeypatch.context() as patched:
        patched.setattr(snapshots.LatestSnapshot, "refresh", lambda self: None)
        with pytest.raises(DamageError, match=f"the topic begins at {begin}"):
            elsewhere.router()
    with elsewhere.router() as router:
        assert router.end() == end
        assert router.step().rows == 0


PLACES = {
    1: (
        "snapshot.before_pieces",
        "snapshot.before_whole",
        "snapshot.before_delete",
        "retention.before_order",
    ),
    PARTITION_COUNT: ("retention.before_routed",),
}


@pytest.mark.slow
@pytest.mark.parametrize("count", PLACES)
def test_a_kill_anywhere_loses_nothing(deleting_servers, tmp_path, count):
    prefix = f"test-{uuid4().hex[:12]}"
    made = site(tmp_path / "one", deleting_servers, prefix, count)
    undisturbed = site(tmp_path / "two", deleting_servers, f"{prefix}-whole", count)
    try:
        child = [
            sys.executable,
            "-c",
            CHILD,
            str(made.folder),
            deleting_servers,
            prefix,
            str(count),
        ]
        for number, place in enumerate(PLACES[count]):
            for each in (made, undisturbed):
                fill_some(each, count, number)
            environment = {**os.environ, "TAILORBIRD_FAULTS": f"{place}=kill@1"}
            done = subprocess.run(
                child, env=environment, capture_output=True, text=True, timeout=120, check=False
            )
            assert done.returncode == -signal.SIGKILL, (place, done.stderr)
        step_and_delete(made, rows=400)
        with open_router(undisturbed.stream, PLAN, clock=SimulatedClock(NOW)) as router:
            while router.step(100).has_more:
                pass
        assert catalogue(made) == catalogue(undisturbed)
        assert span(made)[0] > 1
        ids = [row["event_id"] for row in made.events()]
        assert len(ids) == len(set(ids))
        assert facts(made).items() <= facts(undisturbed).items()
    finally:
        made.close()
        undisturbed.close()


def fill_some(site, count, number):
    if number == 0:
        post_mixed_events(site) if count == 1 else site.post(*make_profile_events())
    elif count > 1:
        post_round(site, number)


def facts(site):
    """Return the decisions on the remaining events, independent of the order of partitions."""
    return {
        row["event_id"]: (row["person"], row["slot"], row["position"], row["counts"], row["ts"])
        for row in events_without_position(site)
    }
