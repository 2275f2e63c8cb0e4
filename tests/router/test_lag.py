"""Lag of router, lake and worker in each log, on files and on topics."""

from uuid import uuid4

import pytest
from tests.support.roles import until
from tests.support.router.stream import NOW, Stream
from tests.support.router.topics import Topics

from tailorbird.events import SimulatedClock
from tailorbird.lake import LakeRole
from tailorbird.serving.metrics import Metrics
from tailorbird.stream.lag import LagMeter, LagWatch

S = 1_000_000


@pytest.fixture(params=["files", "topics"])
def site(request, tmp_path):
    if request.param == "files":
        site = Stream(tmp_path / "stream")
        site.stream = site.folder
        yield site
        return
    site = Topics(
        tmp_path / "stream", request.getfixturevalue("servers"), f"test-{uuid4().hex[:12]}"
    )
    yield site
    site.close()


def click(event_id):
    return {"event_id": event_id, "type": "click", "user_id": "u1", "item_id": "i1"}


def lags(meter):
    return {
        (lag.reader, lag.log): (lag.rows, lag.blocks, lag.waiting_since) for lag in meter.measure()
    }


def test_each_reader_is_behind_by_what_it_has_not_taken(site, tmp_path):
    """Two bodies of three events; then the router takes them, then the lake, and more comes in."""
    site.router().close()
    site.post(click("a"), click("b"), received_at=NOW)
    site.post(click("c"), received_at=NOW + S)
    with (
        LagMeter(site.stream, tmp_path / "lake", lambda: {"worker 01234567": 1}) as meter,
        LakeRole(site.stream, tmp_path / "lake", clock=SimulatedClock(NOW)) as lake,
    ):
        assert lags(meter)["router", "raw-collector"] == (3, 2, NOW)
        site.route(rows_max=2)
        routed = lags(meter)
        assert routed["router", "raw-collector"] == (0, 0, 0)
        rows, blocks, since = routed["worker 01234567", "routed"]
        assert (rows >= 3, blocks >= 2, since) == (True, True, NOW)
        lake.drain()
        drained = lags(meter)
        assert {name: lag for name, lag in drained.items() if name[0] != "worker 01234567"} == {
            ("router", "raw-collector"): (0, 0, 0),
            ("lake", "raw-collector"): (0, 0, 0),
            ("lake", "routed"): (0, 0, 0),
        }
        site.post(click("d"), received_at=NOW + 2 * S)
        assert (
            lags(meter)["router", "raw-collector"]
            == lags(meter)["lake", "raw-collector"]
            == (1, 1, NOW + 2 * S)
        )


def test_what_was_measured_stands_in_the_metrics_and_a_log_that_cannot_be_read_is_told_by_its_time(
    tmp_path,
):
    site = Stream(tmp_path / "stream")
    site.router().close()
    site.post(click("a"), received_at=NOW)
    watch = LagWatch(LagMeter(site.folder, tmp_path / "lake", dict), interval_s=0.01)
    metrics = Metrics()
    metrics.watch_lag(watch)
    assert "tailorbird_lag_measured_at_seconds 0.0" in metrics.text().decode()
    watch.start()
    until(lambda: watch.measured_at > 0, 20, "nothing was measured")
    watch.stop()
    text = metrics.text().decode()
    assert 'tailorbird_lag_rows{log="raw-collector",reader="router"} 1.0' in text
    assert 'tailorbird_lag_blocks{log="raw-collector",reader="router"} 1.0' in text
    waited = next(
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith("tailorbird_lag_seconds{")
    )
    assert waited == pytest.approx(watch.measured_at - NOW / 1e6, abs=60)


def test_one_client_measures_many_topics_and_a_server_its_own(servers, tmp_path, monkeypatch):
    from tailorbird.stream.kafka import tail

    site = Topics(tmp_path / "stream", servers, f"test-{uuid4().hex[:12]}")
    collectors = [f"collector-{number}" for number in range(5)]
    site.router().close()
    for collector in collectors:
        site.post(click("a"), click("b"), producer=collector, received_at=NOW)
    site.route()
    site.post(click("c"), producer="collector-3", received_at=NOW + S)
    made, make = [], tail.create_consumer
    monkeypatch.setattr(
        tail,
        "create_consumer",
        lambda address, **settings: [made.append(address), make(address, **settings)][1],
    )
    with LagMeter(site.stream, tmp_path / "lake", lambda: {"worker": 1}) as meter:
        measured = lags(meter)
    assert {log for reader, log in measured if reader == "router"} == {
        f"raw-{collector}" for collector in collectors
    }
    assert measured["router", "raw-collector-3"] == (1, 1, NOW + S)
    assert measured["worker", "routed"][0] > 0
    assert len(made) == 1
    with LagMeter(site.stream, tmp_path / "lake", dict, producer="collector-3") as meter:
        assert lags(meter) == {("router", "raw-collector-3"): (1, 1, NOW + S)}
    site.close()
