"""The router goes on while nobody says what may be deleted."""

import json
import threading
import time

from tailorbird.events import RoutePlan, SystemClock
from tailorbird.router.role import run_router
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.stream import open_reader, routed_path


def test_routing_does_not_wait_for_a_lake_that_does_not_answer(tmp_path):
    clock, stop, answer = SystemClock(), threading.Event(), threading.Event()
    requested = threading.Event()

    def released() -> int:
        requested.set()
        answer.wait(60)
        return 0

    with EventCollector(tmp_path, "collector", RoutePlan(), clock) as collector:
        router = threading.Thread(
            target=run_router,
            args=(tmp_path, RoutePlan(), clock, stop),
            kwargs={"read_released_position": released, "prune_interval_s": 0.0},
        )
        router.start()
        try:
            assert requested.wait(30)
            event = {
                "event_id": "e1",
                "type": "click",
                "ts": clock.now(),
                "user_id": "u",
                "item_id": "i",
            }
            assert [one.accepted for one in collector.submit(json.dumps([event]).encode())] == [
                True
            ]
            until = time.monotonic() + 30
            with open_reader(routed_path(tmp_path)) as reader:
                while reader.end() < 2:
                    assert time.monotonic() < until, "the event was not routed"
                    time.sleep(0.01)
        finally:
            answer.set()
            stop.set()
            router.join(30)
    assert not router.is_alive()
