"""One home for times that the tracker, features, candidates, slots and the router share."""

import re
from importlib.resources import files

from tailorbird.candidates.contract import SessionKnn
from tailorbird.events import SlotPlan, parse_duration
from tailorbird.events.shared_times import ATTRIBUTION, SESSION_GAP
from tailorbird.ranking import Slot


def test_the_tracker_and_the_platform_begin_a_session_after_the_same_pause() -> None:
    script = (files("tailorbird.serving") / "static" / "tailorbird.js").read_text()
    match = re.search(r"SESSION_MS = (\d+) \* 60e3", script)
    assert match is not None
    assert int(match[1]) * 60_000_000 == SESSION_GAP
    assert SessionKnn().gap_us == SESSION_GAP


def test_slots_and_the_router_attribute_for_the_same_time() -> None:
    assert parse_duration(Slot("home").attribution) == ATTRIBUTION == SlotPlan().attribution_us
