"""The router dies: by `kill -9` at each fault point, and between and within steps in any order.
Nothing is lost, nothing comes twice.
"""

import os
import signal
import subprocess
import sys
from collections import Counter

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.router.filling import NOW, post_mixed_events

from tailorbird import faults
from tailorbird.events import DAY, HOUR
from tailorbird.stream import open_reader, open_writer, raw_logs

CHILD = """
import sys
from pathlib import Path
import msgspec
from tailorbird.events import RoutePlan, SimulatedClock
from tailorbird.router import Router
plan = msgspec.json.decode(sys.argv[2], type=RoutePlan)
router = Router(Path(sys.argv[1]), plan, clock=SimulatedClock(1_764_072_000_000_000))
while router.step(7).rows:
    pass
"""
SITES = [
    "router.after_read",
    "router.before_append",
    "stream.before_append",
    "stream.after_append",
    "router.after_append",
    "router.before_positions",
    "router.before_commit",
    "stream.before_commit",
    "stream.after_commit",
    "router.after_commit",
]


def stored_rows(stream):
    """Return what a router wrote, for comparison."""
    with stream.router() as router:
        while router.step(7).rows:
            pass
    return stream.blocks()


@pytest.mark.slow
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("hit", [1, 4])
def test_a_kill_at_any_point_changes_nothing(new_stream, site, hit):
    stream, undisturbed = new_stream(), new_stream()
    post_mixed_events(stream)
    post_mixed_events(undisturbed)
    command = [
        sys.executable,
        "-c",
        CHILD,
        str(stream.folder),
        msgspec.json.encode(stream.plan).decode(),
    ]
    env = os.environ | {"TAILORBIRD_FAULTS": f"{site}=kill@{hit}"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert stored_rows(stream) == stored_rows(undisturbed)


BODIES = st.lists(
    st.tuples(
        st.sampled_from(["one", "two"]),
        st.lists(
            st.tuples(st.integers(0, 12), st.sampled_from([0, HOUR, DAY])), min_size=1, max_size=5
        ),
    ),
    max_size=8,
)
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("step"), st.integers(1, 9)),
        st.tuples(st.just("fail"), st.integers(1, 14)),
        st.just(("reopen", 0)),
    )
)


class _Kill(Exception):
    """Stands for the end of the process: nothing in Tailorbird catches it."""


def failing_at(count):
    """A fault point that raises at its `count`-th hit, wherever that is."""
    hits = Counter()

    def at(site):
        hits["all"] += 1
        if hits["all"] == count:
            raise _Kill(site)

    return at


@pytest.mark.slow
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(bodies=BODIES, actions=ACTIONS, together=st.booleans())
def test_the_accepted_set_is_what_was_sent_each_once_whatever_happens(
    new_stream, bodies, actions, together
):
    stream = new_stream()
    sent = iter(bodies)
    if together:
        post_all(stream, sent)
    router = stream.router()
    for action, argument in actions:
        for producer, events in sent:
            post(stream, producer, events)
            break
        if action == "step":
            router.step(argument)
        elif action == "fail":
            fail_in_a_step(router, argument)
        if action != "step":
            router.close()
            router = stream.router()
    post_all(stream, sent)
    while router.step(5).rows:
        pass
    positions = router.positions
    router.close()

    numbers = {number for _, events in bodies for number, _ in events}
    if numbers:
        assert Counter(stream.events("event_id")) == Counter(f"e{number}" for number in numbers)
        assert stream.events("p") == sorted(stream.events("p"))
        rows = [
            (row["raw_partition"], row["raw_offset"], row["raw_row"])
            for row in stream.events() + stream.rows("duplicates")
        ]
        assert sorted(rows) == sorted(raw_rows(stream))
    assert positions == {producer: end(path) for producer, path in raw_logs(stream.folder).items()}


def post(stream, producer, events):
    made = [
        {"event_id": f"e{number}", "type": "view", "user_id": "u1", "ts": NOW - late}
        for number, late in events
    ]
    stream.post(*made, producer=producer)


def post_all(stream, bodies):
    for producer, events in bodies:
        post(stream, producer, events)


def fail_in_a_step(router, count):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faults, "fire_if_armed", failing_at(count))
        try:
            router.step(6)
        except _Kill:
            return


def raw_rows(stream):
    for producer, path in raw_logs(stream.folder).items():
        with open_reader(path) as reader:
            for stored in reader.read(0):
                yield from ((producer, stored.offset, row) for row in range(stored.block.rows))


def end(path):
    with open_reader(path) as reader:
        return reader.end()


def test_a_step_that_failed_can_be_repeated_by_the_same_router(stream):
    post_mixed_events(stream)
    with stream.router() as router, pytest.MonkeyPatch.context() as patch:
        router.step(7)
        patch.setattr(faults, "fire_if_armed", failing_at(6))
        with pytest.raises(_Kill):
            router.step(7)
        patch.undo()
        while router.step(7).rows:
            pass
    failed = stream.blocks()
    for path in stream.folder.glob("routed.db*"):
        path.unlink()
    assert failed == stored_rows(stream)


def test_a_damaged_tail_of_the_routed_log_stops_the_router(stream):
    post_mixed_events(stream)
    stream.route()
    with (
        open_writer(stream.folder / "routed.db", partition="routed") as log,
        log.transaction() as connection,
    ):
        connection.execute(
            "UPDATE block SET payload = x'00' WHERE offset = (SELECT max(offset) FROM block)"
        )
    with pytest.raises(Exception, match="does not match its checksum"):
        stream.router()
