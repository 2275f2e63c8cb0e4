"""The collector on a broker that fails as it is told: it acknowledges after the delivery report, refuses
in time, and comes back by itself.
"""

import json
import threading
import time

import pytest
from tests.support.network.brokers import needs_kafka
from tests.support.roles import until
from tests.support.serving.collector_topics import make_collector, make_topic_stream, read_event_ids

from tailorbird.errors import DamageError
from tailorbird.serving.collector.decisions import BusyError, ClosedError
from tailorbird.stream.lag import LagMeter
from tailorbird.stream.released import POSITIONS_FILE

pytestmark = [pytest.mark.slow, needs_kafka]


@pytest.fixture
def mock():
    from tests.support.network.mock_cluster import mock_cluster

    with mock_cluster() as cluster:
        yield cluster


def click(event_id, anonymous_id="a1"):
    return json.dumps(
        {"event_id": event_id, "type": "click", "anonymous_id": anonymous_id, "item_id": "i1"}
    ).encode()


def submit_until_taken(collector, body):
    """As a client does: again, until it is acknowledged."""
    give_up = time.monotonic() + 30
    while True:
        try:
            return collector.submit(body)
        except (ClosedError, BusyError):
            assert time.monotonic() < give_up, "the collector does not come back"
            time.sleep(0.05)


@pytest.mark.parametrize("partitions", [2])
def test_nothing_is_acknowledged_while_the_broker_is_away_and_the_door_comes_back_by_itself(
    mock, tmp_path, partitions
):
    stream = make_topic_stream(mock, tmp_path, partitions=partitions)
    with make_collector(stream) as collector:
        assert collector.submit(click("e1"))[0].accepted
        mock.set_down(True)
        started_at = time.monotonic()
        with pytest.raises(ClosedError, match="the log cannot be written"):
            collector.submit(click("e2"))
        assert time.monotonic() - started_at < 6, "sending and looking share one deadline"
        with pytest.raises(ClosedError):  # at once, not after another time-out
            collector.submit(click("e3"))
        assert not collector.figures().open
        mock.set_down(False)
        assert submit_until_taken(collector, click("e4"))[0].accepted
    assert {"e1", "e4"} <= set(read_event_ids(stream)) <= {"e1", "e2", "e4"}
    assert collector.figures().accepted == 2


@pytest.mark.nightly
def test_a_slow_broker_fills_the_queue_and_whoever_comes_then_is_told_at_once(mock, tmp_path):
    """The broker takes 1.5 s for an answer; meanwhile bodies wait up to the bound, and no more."""
    body = click("e" * 200)
    stream = make_topic_stream(
        mock, tmp_path, timeout_s=20
    )  # several answers long: they come one after the other
    with make_collector(stream, queue_bytes_max=3 * len(body)) as collector:
        collector.submit(click("e0"))
        mock.answer_after(1.5)
        outcomes = []

        def client(number):
            started_at = time.monotonic()
            try:
                collector.submit(body)
                outcomes.append("taken")
            except BusyError:
                outcomes.append("busy")
                assert time.monotonic() - started_at < 1

        threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
        before = time.process_time()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert time.process_time() - before < 1.5  # it waits, it does not spin
        mock.answer_after(0)
    assert outcomes.count("busy") >= 4
    assert outcomes.count("taken") == len(read_event_ids(stream)) - 1


def test_of_two_doors_with_one_name_the_older_stays_closed_and_says_so(mock, tmp_path, caplog):
    one = make_topic_stream(mock, tmp_path / "one")
    two = type(one)(one.cluster, tmp_path / "two")  # a machine that has the same name
    with make_collector(one) as older, make_collector(two) as newer:
        newer.submit(click("n0"))
        with pytest.raises(ClosedError, match="writes this log now"):
            older.submit(click("o0"))
        until, number = time.monotonic() + 1, 0  # five times as long as it takes to open a log anew
        while time.monotonic() < until:
            newer.submit(click(f"n{(number := number + 1)}"))
            with pytest.raises(ClosedError, match="writes this log now"):
                older.submit(click("o1"))
        assert (older.figures().open, newer.figures().open) == (False, True)
        assert newer.figures().failures == 0
    assert "Do two machines have the same name?" in caplog.text
    assert read_event_ids(two) == sorted(f"n{each}" for each in range(number + 1))


def test_a_topic_that_lost_what_the_lake_has_is_not_written_to(mock, tmp_path):
    """The broker came back without its disk, or is another: nothing may be acknowledged at places
    that were read already.
    """
    stream, lake = make_topic_stream(mock, tmp_path / "stream", partitions=2), tmp_path / "lake"
    lake.mkdir()
    (lake / POSITIONS_FILE).write_text(json.dumps({"archive": {"raw-s.0": 3}}))
    with pytest.raises(DamageError, match="ends at 0, but was read up to 3 before"):
        make_collector(stream, lake=lake)
    with LagMeter(stream, lake, dict) as meter:
        assert {(lag.reader, lag.log): lag.lost_rows for lag in meter.measure()}[
            "lake", "raw-s.0"
        ] == 3


def test_a_door_whose_topic_is_gone_stays_closed(mock, tmp_path):
    stream, lake = make_topic_stream(mock, tmp_path / "stream"), tmp_path / "lake"
    lake.mkdir()
    with make_collector(stream, lake=lake) as collector:
        collector.submit(click("e1"))
        (lake / POSITIONS_FILE).write_text(
            json.dumps({"archive": {"raw-s": 9}})
        )  # which the topic does not have: as if it had been lost
        mock.set_down(True)
        with pytest.raises(ClosedError):
            collector.submit(click("e2"))
        mock.set_down(False)
        until(
            lambda: "read up to 9" in refusal(collector),
            20,
            "the collector does not say why it stays closed",
        )
        assert not collector.figures().open


def refusal(collector):
    try:
        collector.submit(click("e3"))
    except ClosedError as error:
        return str(error)
    return ""
