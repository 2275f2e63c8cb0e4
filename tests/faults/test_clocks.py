"""Clocks that are wrong, and wrong differently in each role: nothing is lost or doubled, and the state is what the lake says."""

import json

import pytest
from tests.faults.oracle import unequal_state
from tests.faults.roles import make_project

from tailorbird.events import DAY, HOUR, SystemClock
from tailorbird.features.worker import FeatureWorker
from tailorbird.lake import Lake, LakeRole, verify
from tailorbird.router import Router
from tailorbird.serving.door import Door

NOW = SystemClock().now()
YEAR = 365 * DAY


class Wrong:
    """A clock that jumps by the next of these at every look, and stays behind the last of them."""

    def __init__(self, *offsets: int) -> None:
        self._offsets, self._looks = offsets, 0

    def now(self) -> int:
        offset = self._offsets[min(self._looks, len(self._offsets) - 1)]
        self._looks += 1
        return NOW + offset + self._looks


CLOCKS = {
    "all by an hour": ((HOUR,), (HOUR,), (HOUR,), (HOUR,)),
    "the door a year ahead": ((YEAR,), (0,), (0,), (0,)),
    "the door a year behind": ((-YEAR,), (0,), (0,), (0,)),
    "router and worker a year ahead": ((0,), (YEAR,), (YEAR,), (0,)),
    "the lake a year behind": ((0,), (0,), (0,), (-YEAR,)),
    "the door back and forth": ((0, HOUR, -HOUR, YEAR, -YEAR, 0), (0,), (-HOUR, HOUR), (0,)),
    "each otherwise": ((HOUR, 0, -HOUR), (-DAY,), (DAY,), (-HOUR,)),
}


@pytest.mark.parametrize("clocks", CLOCKS.values(), ids=CLOCKS)
def test_wrong_clocks_lose_nothing_and_leave_nothing_unequal(tmp_path, clocks):
    project = make_project(tmp_path / "shop")
    door_clock, router_clock, worker_clock, lake_clock = (Wrong(*offsets) for offsets in clocks)
    sent = []
    for run in range(3):  # each role starts again between two runs
        with Door(project.paths.stream, "serve-1", project.plan, door_clock) as door:
            for number in range(10):
                event = {"event_id": f"t{run}-{number}", "type": "click", "user_id": f"u{number % 4}", "item_id": f"i{number % 3}"}
                assert [decision.accepted for decision in door.submit(json.dumps(event).encode())] == [True]
                sent.append(event["event_id"])
        with Router(project.stream, project.plan, clock=router_clock) as router:
            while router.step(7).rows:
                pass
        with FeatureWorker(project.routed, project.paths.state, project.features, clock=worker_clock) as worker:
            while worker.step().rows:
                pass
            worker.refresh()
            worker.sweep()
        with LakeRole(project.stream, project.paths.lake, clock=lake_clock) as role:
            role.drain()
    lake = Lake(project.paths.lake)
    events = lake.events(["event_id", "raw_offset", "received_at", "counts"]).sort_by("raw_offset").to_pylist()
    assert [each["event_id"] for each in events] == sent
    assert all(each["counts"] for each in events)
    assert verify(project.paths.lake).clean
    assert unequal_state(project) == []
    for run in range(3):  # within a run of the door, which is what its clock is asked for
        stamps = [each["received_at"] for each in events[10 * run : 10 * run + 10]]
        assert stamps == sorted(stamps)
