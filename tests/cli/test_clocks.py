"""`--as-of latest`: the end of what the lake holds, with the labels that no late event may change
any more; and of an answer, the end.
"""

import time
from types import SimpleNamespace

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from tailorbird.config.log_end import settle_clock
from tailorbird.config.paths import Paths
from tailorbird.errors import DamageError
from tailorbird.events import DAY, HOUR, MINUTE, SystemClock
from tailorbird.events.contract.schema import ROUTED
from tailorbird.events.log_clock import LogClock
from tailorbird.lake.tables import TABLES
from tailorbird.platform.clocks import clock_as_of, response_clock

LATENESS = DAY


@pytest.fixture
def project(tmp_path):
    """A project whose newest event happened so many microseconds ago."""

    def written(ago, type_="click", partition="import"):
        newest = time.time_ns() // 1_000 - ago
        row = {
            "event_id": "e1",
            "type": type_,
            "ts": newest,
            "p": 1,
            "timeless": False,
            "raw_partition": partition,
        }
        columns = {field.name: pa.array([row.get(field.name)], field.type) for field in ROUTED}
        day = pa.array([newest // DAY], pa.int32()).cast(pa.date32())
        paths = Paths(tmp_path)
        write_deltalake(
            paths.lake / "events",
            pa.table(columns).append_column("day", day),
            partition_by=[TABLES["events"].partition_column],
        )
        plan = SimpleNamespace(lateness_us=LATENESS)
        return SimpleNamespace(paths=paths, plan=plan, clock=lambda: LogClock(paths.data)), newest

    return written


def test_while_events_come_the_latest_is_now(project):
    """A click of a minute ago may still come in: nothing of the last day is settled."""
    shop, newest = project(2 * HOUR)
    clock = clock_as_of("latest", shop)
    assert isinstance(clock, SystemClock), "a net that was killed goes on by the same command"
    assert newest + 2 * HOUR <= clock.now() < newest + 2 * HOUR + 5 * MINUTE


def test_events_beyond_the_allowed_lateness_do_not_count(project):
    """So a history that ended long ago is settled to its end."""
    shop, newest = project(30 * DAY)
    assert clock_as_of("latest", shop).now() == newest + 1 + LATENESS


def test_a_machine_with_a_late_clock_does_not_see_the_future(project):
    shop, newest = project(-3 * DAY)
    assert clock_as_of("latest", shop).now() == newest + 1


def test_scores_are_as_of_just_after_the_newest_event(project):
    shop, newest = project(2 * HOUR)
    assert clock_as_of("latest", shop, allow_lateness=False).now() == newest + 1


def test_a_log_that_ended_long_ago_is_answered_as_of_its_end_with_a_note(project):
    shop, newest = project(425 * DAY + HOUR)
    clock, note = response_clock("", shop, SystemClock())
    assert clock.now() == newest + 1
    assert "425 days ago" in note
    machine = SystemClock()
    assert response_clock("now", shop, machine) == (machine, "")
    clock, note = response_clock("2026-11-25", shop, machine)
    assert note.startswith("Answered as of 2026-11-25T00:00:00")


def test_a_live_log_is_answered_as_of_now(project):
    shop, newest = project(DAY)
    machine = SystemClock()
    assert response_clock("", shop, machine) == (machine, "")
    clock, note = response_clock("latest", shop, machine)
    assert clock.now() == newest + 1
    assert note


def test_an_answer_alone_is_no_life(project):
    """An answer to a visit of an old project's page does not revive its log."""
    shop, _ = project(HOUR, "answer")
    assert clock_as_of("latest", shop, allow_lateness=False).now() == 1


def test_an_imported_log_that_ended_long_ago_is_trained_on_as_of_its_end_without_a_word(project):
    shop, newest = project(30 * DAY)
    assert clock_as_of("", shop).now() == clock_as_of("latest", shop).now() == newest + 1 + LATENESS
    assert clock_as_of("now", shop).now() > newest + 29 * DAY


def test_a_live_site_that_was_quiet_follows_the_machines_clock(project):
    shop, newest = project(30 * DAY, partition="serve-1")
    assert clock_as_of("", shop).now() > newest + 29 * DAY
    assert settle_clock(shop, SystemClock()) == ""
    assert shop.clock().lag_us == 0


def test_roles_go_on_from_the_end_of_an_imported_log_until_the_site_is_live(project):
    shop, newest = project(30 * DAY)
    assert "30 days ago" in settle_clock(shop, SystemClock())
    clock = shop.clock()
    assert newest < clock.now() < newest + MINUTE
    assert clock_as_of("", shop).now() < newest + MINUTE, "commands go by the clock of the roles"
    again, _ = response_clock("", shop, SystemClock())
    assert again.now() < newest + MINUTE
    assert (
        settle_clock(shop, SystemClock(), force_live=True)
        == "all roles go by today's time from now on"
    )
    assert clock.lag_us == 0, "a role that runs sees it"
    assert settle_clock(shop, SystemClock()) == ""
    assert shop.clock().lag_us == 0, "an old log is a pause by then"


def test_a_clock_that_is_damaged_names_its_file(project):
    shop, _ = project(DAY)
    (shop.paths.data / "clock.json").write_text("{")
    with pytest.raises(DamageError, match=r"clock\.json"):
        shop.clock().now()
