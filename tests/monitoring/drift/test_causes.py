"""The cause of a fall against a control: weighed by how much of the fall it explains."""

import numpy as np
import pyarrow as pa
import pytest

from tailorbird.events import HOUR, SECOND
from tailorbird.events.contract.schema import ROUTED
from tailorbird.monitoring import RetrainCriteria
from tailorbird.monitoring.drift.causes import name_cause_of_fall, share_shift_p
from tailorbird.monitoring.drift.explained import EVENT_COLUMNS, count_requests
from tailorbird.monitoring.drift.sketches import build_signals, sketch_events
from tailorbird.training.sketches import to_table

MIDNIGHT = 1_790_553_600_000_000
ITEMS = list("abcdefgh")
DAYS, FALL_HOUR = 5, 96
CRITERIA = RetrainCriteria("home", "model", "popular")


class Shop:
    """Five days of two arms, the last of which is the fall; tests set what is other on it."""

    def __init__(self, seed=0):
        self.rng = np.random.default_rng(seed)
        self.columns = {name: [] for name in EVENT_COLUMNS}

    def add(self, **event):
        for name, values in self.columns.items():
            values.append(event.get(name))

    def visit(self, ts, person, arm, rate, device="web", agent="person", session="s"):
        request = f"{ts}-{person}"
        base = {"person": person, "agent": agent, "slot": "home", "arm": arm, "device": device}
        base |= {"request_id": request, "session_id": session, "model": arm}
        self.add(**base, type="answer", ts=ts, items=ITEMS)
        self.add(**base, type="impression", ts=ts + SECOND, items=ITEMS)
        for index in np.flatnonzero(self.rng.random(len(ITEMS)) < rate):
            more = {"item_id": ITEMS[index], "position": int(index) + 1}
            self.add(**base, **more, type="click", ts=ts + 2 * SECOND)

    def crawl(self, hour, count):
        for index in range(count):
            ts = MIDNIGHT + hour * HOUR + index * SECOND
            self.add(type="view", ts=ts, person="crawler", agent="bot", device="web", item_id="a")

    def hours(self, visits=24):
        """Yield hour, whether it is of the fall, time, person and arm of each visit."""
        for hour in range(DAYS * 24):
            for index in range(visits):
                person = int(self.rng.integers(300))
                ts = MIDNIGHT + hour * HOUR + index * 2 * 60 * SECOND
                arm = "model" if person % 2 else "popular"
                yield hour, hour >= FALL_HOUR, ts, f"p{person}", arm

    def name_cause(self):
        types = {name: ROUTED.field(name).type for name in EVENT_COLUMNS}
        events = pa.table({name: pa.array(self.columns[name], types[name]) for name in types})
        ts = np.array(self.columns["ts"])
        hourly = []
        for hour in range(DAYS * 24):
            part = events.filter(pa.array((ts - MIDNIGHT) // HOUR == hour))
            rows = to_table(sketch_events(part))
            hourly.append(rows.append_column("hour", pa.array(np.full(len(rows), hour))))
        requests = count_requests(
            events,
            None,
            CRITERIA,
            reference_from=MIDNIGHT,
            since=MIDNIGHT + FALL_HOUR * HOUR,
            denominator="impression",
            attribution=HOUR,
        )
        signals = build_signals(pa.concat_tables(hourly), DAYS * 24)
        return name_cause_of_fall(signals, FALL_HOUR, MIDNIGHT, requests)


def rate_of(arm, is_fallen):
    return 0.3 if arm == "model" and not is_fallen else 0.18


def test_crawlers_whose_share_rises_do_not_explain_a_change_of_taste():
    shop = Shop()
    for _, is_fall, ts, person, arm in shop.hours():
        shop.visit(ts, person, arm, rate_of(arm, is_fall))
    for hour in range(DAYS * 24):
        shop.crawl(hour, 60 if hour >= FALL_HOUR else 12)
    cause = shop.name_cause()
    assert cause.name == "change of taste"
    assert "crawlers make 51% of the events, 15% before" in cause.evidence, (
        "what moved and explains nothing is said"
    )
    assert "explains 0% of the fall" in cause.evidence


def test_hidden_crawlers_in_one_arm_are_named_with_their_part_of_the_fall():
    shop = Shop()
    for _, is_fall, ts, person, arm in shop.hours():
        shop.visit(ts, person, arm, rate_of(arm, False))
        if is_fall and arm == "model":
            shop.visit(ts + SECOND, "hidden", "model", 0.0)
    cause = shop.name_cause()
    assert cause.name == "bots"
    assert cause.evidence.startswith("people busier than anybody before make 3")
    assert 0.25 < cause.affected / cause.total < 0.4


@pytest.mark.parametrize("is_cause", [True, False])
def test_a_lost_field_is_named_only_if_the_fall_is_where_it_was_lost(is_cause):
    shop = Shop()
    for _, is_fall, ts, person, arm in shop.hours():
        device = "app" if shop.rng.random() < 0.6 else "web"
        is_lost = is_fall and device == "app"
        rate = rate_of(arm, is_lost if is_cause else is_fall)
        shop.visit(ts, person, arm, rate, device, session=None if is_lost else "s")
    cause = shop.name_cause()
    assert cause.name == ("tracker lost a field" if is_cause else "change of taste")
    if is_cause:
        assert "click.session_id is missing in 55%, 0% before" in cause.evidence
        assert 0.5 < cause.affected / cause.total < 0.7


def test_a_new_device_is_named_with_its_part_of_the_fall():
    shop = Shop()
    for _, is_fall, ts, person, arm in shop.hours():
        device = "watch" if shop.rng.random() < (0.5 if is_fall else 0.1) else "web"
        shop.visit(ts, person, arm, 0.05 if device == "watch" and arm == "model" else 0.25, device)
    cause = shop.name_cause()
    assert cause.name == "new app version or device"
    assert "% of the fall" in cause.evidence


def test_a_share_that_comes_in_bursts_is_not_judged_by_its_events():
    rng = np.random.default_rng(0)
    total = np.full(DAYS * 24, 100.0)
    bursts = np.where(rng.random(DAYS * 24) < 0.15, 60.0, 0.0)
    even = rng.binomial(100, bursts.mean() / 100, DAYS * 24).astype(float)
    bursts[FALL_HOUR:] = np.where(np.arange(24) % 4 == 0, 60.0, 0.0)
    even[FALL_HOUR:] = 15.0
    assert share_shift_p(bursts, total, FALL_HOUR, 6) > 0.05
    assert share_shift_p(even, total, FALL_HOUR, 6) < 0.01
