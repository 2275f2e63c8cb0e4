"""Topics of servers that are gone are deleted once they are drained, and their names are never used
again.
"""

import json
from uuid import uuid4

import pytest
from tests.stream.brokers import OPTIONS, needs_kafka

from tailorbird import faults
from tailorbird.errors import LockedError, UsageError
from tailorbird.events import DAY, RoutePlan, SystemClock
from tailorbird.serving.door import Door
from tailorbird.serving.naming import first_free
from tailorbird.stream import Released

pytestmark = needs_kafka
CLOCK = SystemClock()


@pytest.fixture
def stream(kafka_servers, tmp_path):
    from tailorbird.stream.kafka import Cluster
    from tailorbird.stream.kafka.logs import KafkaStream

    return KafkaStream(
        Cluster(kafka_servers, f"test-{uuid4().hex[:12]}", options=OPTIONS, timeout_s=5), tmp_path
    )


def fill(stream, producer, rows=3):
    with Door(stream, producer, RoutePlan(), CLOCK) as door:
        for number in range(rows):
            door.submit(
                json.dumps(
                    {
                        "event_id": f"{producer}-{number}",
                        "type": "click",
                        "user_id": "u1",
                        "item_id": "i1",
                    }
                ).encode()
            )


def retire(stream, released, days=2, **settings):
    from tailorbird.stream.kafka.retire import retire

    return {
        one.producer: one.why or "gone"
        for one in retire(stream, released, CLOCK.now() + days * DAY, idle_us=DAY, **settings)
    }


def drained(*producers, rows=3):
    return Released(
        safe={f"raw-{name}": rows for name in producers}, routed=dict.fromkeys(producers, rows)
    )


def test_only_who_is_drained_and_silent_goes_and_only_its_topics(stream):
    fill(stream, "a"), fill(stream, "b")
    assert retire(stream, Released()) == {
        name: f"3 rows of raw.{name} are not routed, archived and loaded yet" for name in "ab"
    }
    half = Released(safe={"raw-a": 3}, routed={"a": 2})
    assert retire(stream, half, producers=["a"]) == {
        "a": "1 rows of raw.a are not routed, archived and loaded yet"
    }
    assert set(retire(stream, drained("a", "b"), days=0).values()) == {"it was written to lately"}
    assert retire(stream, drained("a"), dry_run=True)["a"] == "gone"
    assert stream.producers() == ["a", "b"]
    assert retire(stream, drained("a"))["a"] == "gone"
    assert stream.producers() == ["b"]
    with pytest.raises(UsageError, match="no topic is of 'nobody'"):
        retire(stream, drained("a"), producers=["nobody"])


def test_a_retired_name_is_not_used_again(stream):
    with first_free(stream, RoutePlan(), CLOCK) as door:
        name = door.producer
    assert name.endswith("-serve-1")
    assert retire(stream, Released()) == {name: "gone"}
    with pytest.raises(LockedError, match="this name was retired"):
        Door(stream, name, RoutePlan(), CLOCK)
    with first_free(stream, RoutePlan(), CLOCK) as door:
        assert door.producer == name.replace("-serve-1", "-serve-2")


def test_what_was_begun_is_finished(stream, monkeypatch):
    fill(stream, "a")

    def die(place):
        if place == "retire.before_delete":
            raise OSError("died")

    with monkeypatch.context() as patched:
        patched.setattr(faults, "at", die)
        with pytest.raises(OSError, match="died"):
            retire(stream, drained("a"))
    assert stream.producers() == ["a"]
    with pytest.raises(LockedError, match="this name was retired"):
        fill(stream, "a")
    assert retire(stream, Released(), days=0) == {"a": "gone"}
    assert stream.producers() == []


def test_what_no_worker_reads_goes(stream):
    from tailorbird.stream import Block, open_writer
    from tailorbird.stream.kafka.retire import retire_shuffled

    for schema, count in (("aaaaaaaaaaaa", 2), ("aaaaaaaaaaaa", 3), ("bbbbbbbbbbbb", 2)):
        for log in stream.shuffled(schema, count):
            with open_writer(log, partition=log.partition, first=1) as writer:
                writer.append([Block("events", 5, b"")])
    wanted, later = {("aaaaaaaaaaaa", 2)}, CLOCK.now() + 2 * DAY

    def told(now, **settings):
        return {
            one.producer: one.why or "gone"
            for one in retire_shuffled(stream, wanted, now, idle_us=DAY, **settings)
        }

    assert set(told(CLOCK.now()).values()) == {"it was written to lately"}
    unread = dict.fromkeys(("shuffled.aaaaaaaaaaaa-3", "shuffled.bbbbbbbbbbbb-2"), "gone")
    assert told(later, dry_run=True) == unread
    assert told(later) == unread
    assert {log.topic for log in stream.shuffled_logs()} == {"shuffled.aaaaaaaaaaaa-2"}
    assert told(later) == {}
    for log in stream.shuffled("aaaaaaaaaaaa", 3):  # it is asked for again
        with open_writer(log, partition=log.partition, first=7) as writer:
            assert writer.end() == 7
