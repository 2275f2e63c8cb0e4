"""Wrong clocks, different in each role: nothing is lost or doubled, and state and lake agree."""

import json
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import apsw
import pytest
from tests.support.oracle import find_unequal_state
from tests.support.roles import make_project, until

from tailorbird.events import (
    BACKWARD_TOLERANCE,
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    SystemClock,
    format_duration,
    to_iso,
)
from tailorbird.events.answer_record import ResponseRecord
from tailorbird.features import ReadRequest
from tailorbird.features.online.read import Reader
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.features.request import Rows
from tailorbird.lake import Lake, LakeRole, run, verify
from tailorbird.platform.diagnostics.clock import check_future_events
from tailorbird.router import Router
from tailorbird.serving.collector.collector import EventCollector

NOW = SystemClock().now()
YEAR = 365 * DAY


class JumpingClock:
    """A clock that jumps to the next offset at every read, and stays at the last one."""

    def __init__(self, *offsets: int) -> None:
        self._offsets, self._reads = offsets, 0

    def now(self) -> int:
        offset = self._offsets[min(self._reads, len(self._offsets) - 1)]
        self._reads += 1
        return NOW + offset + self._reads


CLOCKS = {
    "all by an hour": ((HOUR,), (HOUR,), (HOUR,), (HOUR,)),
    "the collector a year ahead": ((YEAR,), (0,), (0,), (0,)),
    "the collector a year behind": ((-YEAR,), (0,), (0,), (0,)),
    "router and worker a year ahead": ((0,), (YEAR,), (YEAR,), (0,)),
    "the lake a year behind": ((0,), (0,), (0,), (-YEAR,)),
    "the collector back and forth": ((0, HOUR, -HOUR, YEAR, -YEAR, 0), (0,), (-HOUR, HOUR), (0,)),
    "each otherwise": ((HOUR, 0, -HOUR), (-DAY,), (DAY,), (-HOUR,)),
}


@pytest.mark.slow
@pytest.mark.parametrize("clocks", CLOCKS.values(), ids=CLOCKS)
def test_wrong_clocks_lose_nothing_and_leave_nothing_unequal(tmp_path, clocks):
    project = make_project(tmp_path / "shop")
    collector_clock, router_clock, worker_clock, lake_clock = (
        JumpingClock(*offsets) for offsets in clocks
    )
    sent, set_back = [], []
    for run_ in range(3):  # each role starts again between two runs
        with EventCollector(
            project.paths.stream, "serve-1", project.plan, collector_clock
        ) as collector:
            for number in range(10):
                event = {
                    "event_id": f"t{run_}-{number}",
                    "type": "click",
                    "user_id": f"u{number % 4}",
                    "item_id": f"i{number % 3}",
                }
                assert [
                    decision.accepted for decision in collector.submit(json.dumps(event).encode())
                ] == [True]
                sent.append(event["event_id"])
            set_back.append(collector.figures().clock_set_back)
        with Router(project.stream, project.plan, clock=router_clock) as router:
            while router.step(7).rows:
                pass
        with FeatureWorker(
            project.routed, project.paths.state, project.features, clock=worker_clock
        ) as worker:
            while worker.step().rows:
                pass
            worker.refresh()
            worker.sweep()
        with LakeRole(project.stream, project.paths.lake, clock=lake_clock) as role:
            role.drain()
    lake = Lake(project.paths.lake)
    events = (
        lake.events(["event_id", "raw_offset", "received_at", "counts"])
        .sort_by("raw_offset")
        .to_pylist()
    )
    assert [each["event_id"] for each in events] == sent
    assert all(each["counts"] for each in events)
    assert verify(project.paths.lake).is_clean
    assert find_unequal_state(project) == []
    for run_ in range(
        3
    ):  # within a run they step back only with the clock, and by more than SET_BACK
        stamps = [each["received_at"] for each in events[10 * run_ : 10 * run_ + 10]]
        steps_back = [before - after for before, after in pairwise(stamps) if after < before]
        assert len(steps_back) <= set_back[run_]
        assert all(span > timedelta(microseconds=BACKWARD_TOLERANCE) for span in steps_back)


class SettableClock:
    """A clock with a settable offset that advances a microsecond at every read."""

    def __init__(self) -> None:
        self.offset = self._reads = 0

    def now(self) -> int:
        self._reads += 1
        return NOW + self.offset + self._reads


class Site:
    """All roles on one clock. The client's own is an hour behind, and it says when it sends."""

    def __init__(self, folder) -> None:
        self.project, self.clock = make_project(folder), SettableClock()
        self.collectors: dict[str, EventCollector] = {}
        self._sent = 0
        self.start()

    def start(self) -> None:
        project, clock = self.project, self.clock
        self.router = Router(project.stream, project.plan, clock=clock)
        self.worker = FeatureWorker(
            project.routed, project.paths.state, project.features, clock=clock
        )
        self.lake = LakeRole(project.stream, project.paths.lake, clock=clock)

    def stop(self) -> None:
        for role in (*self.collectors.values(), self.router, self.worker, self.lake):
            role.close()
        self.collectors = {}

    def collector(
        self, producer: str = "serve-1", clock: SettableClock | None = None
    ) -> EventCollector:
        if producer not in self.collectors:
            self.collectors[producer] = EventCollector(
                self.project.paths.stream, producer, self.project.plan, clock or self.clock
            )
        return self.collectors[producer]

    def send(self, producer: str = "serve-1", **more: object) -> str:
        """Send an event that happens now by the right time, whatever the server's clock says."""
        self._sent += 1
        moment = NOW + self._sent - HOUR
        event = {
            "event_id": f"e{self._sent}",
            "type": "click",
            "user_id": "u1",
            "item_id": "i1",
            "ts": moment,
            "sent_at": moment,
            **more,
        }
        assert [
            decision.code
            for decision in self.collector(producer).submit(json.dumps(event).encode())
        ] == [""]
        self.step()
        return event["event_id"]

    def answer(self, request_id: str, ahead: int = 0, producer: str = "serve-1") -> None:
        """Log a response dated `ahead` microseconds from now."""
        response = {"slot": "home", "arm": "model", "model": "v0001", "propensities": [0.5]}
        event = {
            "event_id": request_id,
            "type": "answer",
            "user_id": "u1",
            "request_id": request_id,
            "items": ["i1"],
            "answer": response,
        }
        record = ResponseRecord(
            request_id=request_id, ts=NOW + ahead, p=1, commit=1, schema_hash="abc", items=["i1"]
        )
        assert self.collector(producer).record_response(
            json.dumps(event | {"ts": NOW + ahead}).encode(), record
        )

    def step(self) -> None:
        while self.router.step().rows:
            pass
        while self.worker.step().rows:
            pass
        self.lake.step(flush=True)

    def stepped(self) -> dict[str, dict]:
        self.step()
        return self.events()

    def read(self, person: str, item: str = "i9") -> Rows:
        """Return a server's reading of this person and item an hour from now."""
        with closing(Reader(self.project.paths.state, self.project.features)) as reader:
            return reader.read(ReadRequest(person, now=NOW + HOUR), [item])

    def clicks(self, person: str) -> float:
        return self.read(person).numeric[0, self.project.features.numeric.index("user_clicks_7d")]

    def events(self) -> dict[str, dict]:
        columns = ["event_id", "ts", "received_at", "counts", "slot", "raw_offset"]
        rows = Lake(self.project.paths.lake).events(columns).to_pylist()
        times = {"ts", "received_at"}
        return {
            row["event_id"]: {
                name: (value - MOMENT) // timedelta(seconds=1) if name in times else value
                for name, value in row.items()
            }
            for row in rows
        }


MOMENT = datetime.fromtimestamp(NOW / SECOND, UTC)


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path / "shop")
    yield site
    site.stop()


@pytest.mark.parametrize("jump", [10 * MINUTE, DAY, YEAR], ids=["minutes", "a day", "a year"])
def test_once_a_clock_that_was_ahead_is_right_again_so_are_times(site, jump, caplog):
    before = site.send()
    site.clock.offset = jump
    wrong = [site.send(user_id="u2", item_id="i2") for _ in range(3)]
    site.clock.offset = 0
    after = [site.send(user_id="u3", item_id="i3") for _ in range(3)]

    events = site.events()
    assert [(events[id_]["ts"], events[id_]["received_at"]) for id_ in (before, *after)] == [
        (0, 0)
    ] * 4
    assert [(events[id_]["ts"], events[id_]["received_at"]) for id_ in wrong] == [
        (jump // SECOND, jump // SECOND)
    ] * 3
    assert all(event["counts"] for event in events.values())
    assert site.collector().figures().clock_set_back == 1
    [message] = [
        record.getMessage() for record in caplog.records if "set back" in record.getMessage()
    ]
    assert f"set back by {format_duration(jump)}" in message
    # Readers of a record with such an event read as of its time, as F13 says; no other event is
    # left out.
    assert site.read("u3", "i3").t // SECOND == NOW // SECOND + max(HOUR, jump) // SECOND
    assert site.clicks("u3") == (3 if jump <= DAY else 0)
    site.lake.drain()
    assert verify(site.project.paths.lake).is_clean
    assert find_unequal_state(site.project) == []


def test_a_server_that_is_started_while_its_clock_is_ahead_follows_it_back(site):
    site.clock.offset = DAY
    wrong = site.send()
    site.stop()
    site.start()
    stale = site.send()
    site.clock.offset = 0
    right = site.send()
    site.stop()
    site.start()
    restarted = site.send()
    events = site.events()
    assert [events[id_]["ts"] for id_ in (wrong, stale, right, restarted)] == [
        DAY // SECOND,
        DAY // SECOND,
        0,
        0,
    ]


def test_a_clock_that_steps_back_a_little_stands_still(site):
    site.send()
    site.clock.offset = -SECOND
    site.send()
    stamps = [
        event["received_at"]
        for event in sorted(site.events().values(), key=lambda event: event["raw_offset"])
    ]
    assert stamps == [0, 0]
    assert site.collector().figures().clock_set_back == 0


def test_of_two_servers_one_whose_clock_was_ahead_holds_the_other_up_in_nothing(site):
    right = SettableClock()
    site.collector("serve-2", right)
    site.clock.offset = DAY
    site.send("serve-1", user_id="u2", item_id="i2")
    site.send("serve-2")
    site.clock.offset = 0
    site.send("serve-1")
    site.answer("r1")
    site.step()
    until(lambda: "r1" in site.stepped(), 30, "the answer is not in the lake")
    click = site.send("serve-2", request_id="r1")
    events = site.events()
    assert events[click]["slot"] == "home"
    assert [event["ts"] for id_, event in events.items() if id_ not in ("e1", "r1")] == [0, 0, 0]


def test_an_answer_that_read_of_something_ahead_is_kept_counted_and_told(site, caplog):
    for number in range(2):
        site.answer(f"r{number}", ahead=DAY)
    site.answer("r2", ahead=MINUTE)  # as of a client's clock
    until(lambda: "r2" in site.stepped(), 30, "the answers are not in the lake")
    click = site.send(request_id="r1")
    events = site.events()
    assert Lake(site.project.paths.lake).count("quarantine") == 0
    assert (events["r1"]["ts"], events["r1"]["received_at"]) == (DAY // SECOND, 0)
    assert (events[click]["ts"], events[click]["slot"]) == (DAY // SECOND, "home"), (
        "nothing follows from an answer before it is given"
    )
    assert site.collector().figures().responses_ahead == 2
    assert [
        record.getMessage() for record in caplog.records if "is dated" in record.getMessage()
    ] == [
        "an answer is dated 1d ahead of the clock, since events that it read of are; so will "
        "be others until then"
    ]


def test_answers_of_a_clock_that_was_ahead_are_forgotten_in_their_time(site):
    for number, offset in enumerate((0, YEAR, 0, 3 * HOUR)):
        site.clock.offset = offset
        site.answer(f"r{number}")
        until(
            lambda number=number: f"r{number}" in site.stepped(),
            30,
            "the answer is not in the lake",
        )
    path = site.project.paths.stream / "routed.db"
    with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
        assert connection.execute("SELECT count(*) FROM answer_run").get == 1


def test_the_lake_goes_on_when_its_clock_was_ahead(site):
    site.send()
    site.lake.close()
    stop, read_event = threading.Event(), threading.Event()

    class ObservedClock(SettableClock):
        def now(self) -> int:
            read_event.set()
            return super().now()

    clock = ObservedClock()
    clock.offset = DAY
    args = (site.project.stream, site.project.paths.lake, clock, stop)
    thread = threading.Thread(target=run, args=args, kwargs={"commit_every_us": MINUTE})
    thread.start()
    try:
        until(lambda: read_event.wait(0), 30, "the lake does not run")
        for _ in range(3):  # several reads mean that it is in its loop
            read_event.clear()
            until(read_event.is_set, 30, "the lake does not run")
        clock.offset = 0
        event = json.dumps(
            {"event_id": "later", "type": "click", "user_id": "u1", "item_id": "i1"}
        ).encode()
        site.collector().submit(event)
        while site.router.step().rows:
            pass
        until(lambda: "later" in site.events(), 30, "the lake waits for a day")
    finally:
        stop.set()
        thread.join()
        site.lake = LakeRole(site.project.stream, site.project.paths.lake, clock=site.clock)


def test_the_archive_goes_on_when_its_clock_was_ahead(site):
    site.clock.offset = DAY
    site.collector().submit(
        json.dumps({"event_id": "e", "type": "click", "user_id": "u1", "item_id": "i1"}).encode()
    )
    while site.router.step().rows:
        pass
    assert site.lake.step().archived == 0, "it waits for more"
    site.clock.offset = 0
    assert site.lake.step().archived == 0
    site.clock.offset = HOUR
    assert site.lake.step().archived == 1


def test_doctor_reports_events_that_are_dated_ahead(site):
    site.send()
    assert list(check_future_events(site.project)) == []
    site.clock.offset = DAY
    site.send()
    [(what, status, text, fix)] = check_future_events(site.project)
    assert (what, status) == ("events ahead", "warning")
    assert f"up to {to_iso(NOW + DAY)[:10]}" in text
    assert "F13" in fix
