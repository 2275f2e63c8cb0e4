"""Clocks go back only from far ahead; reports show times in UTC."""

import re
import time
from importlib.resources import files

import pytest

from tailorbird.events import DAY, MINUTE, SimulatedClock, SystemClock, to_iso
from tailorbird.events.clock import SESSION_GAP


def test_the_system_clock_stands_still_during_a_small_step_back(monkeypatch):
    moments = iter([2_000_000, 1_000_000, 3_000_000])
    monkeypatch.setattr(time, "time_ns", lambda: next(moments))
    clock = SystemClock()
    assert [clock.now(), clock.now(), clock.now()] == [2_000, 2_000, 3_000]


def test_the_systems_clock_is_set_back_with_the_machines_that_was_far_ahead(monkeypatch):
    moments = iter([5_000_000_000, 86_400_000_000_000, 5_001_000_000, 5_000_500_000])
    monkeypatch.setattr(time, "time_ns", lambda: next(moments))
    clock = SystemClock()
    assert [clock.now() for _ in range(4)] == [5_000_000, 86_400_000_000, 5_001_000, 5_001_000]


def test_a_simulated_clock_moves_only_on_demand_and_never_back():
    clock = SimulatedClock(10 * DAY)
    assert clock.now() == clock.now() == 10 * DAY
    clock.advance_to(11 * DAY)
    assert clock.now() == 11 * DAY
    with pytest.raises(ValueError, match="cannot go back"):
        clock.advance_to(10 * DAY)


def test_a_time_is_shown_in_utc():
    assert to_iso(1_764_072_000_000_000) == "2025-11-25T12:00:00.000000Z"


def test_the_tracker_ends_sessions_after_the_same_gap():
    script = (files("tailorbird.serving") / "static" / "tailorbird.js").read_text()
    match = re.search(r"SESSION_MS = (\d+) \* 60e3", script)
    assert match is not None
    assert int(match[1]) * MINUTE == SESSION_GAP
