"""An attribute that is declared late: bootstrap, backfill, stream and reference say what they would
had it been declared at first.
"""

import json
import threading

import numpy as np
import pyarrow as pa
import pytest

from tailorbird.events import HOUR, SECOND, RoutePlan, SimulatedClock
from tailorbird.features import FeatureSet, ReadRequest, count, distinct, entity, last
from tailorbird.features.explain import explain
from tailorbird.features.migration.bootstrap import build_from_lake, catch_up, is_lake_ahead
from tailorbird.features.offline.backfill import Requests, backfill, event_columns
from tailorbird.features.offline.profile_join import JoinedEvents
from tailorbird.features.online.read import Reader
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.features.parity.recompute import find_unequal
from tailorbird.features.reference.point_in_time import routed_events
from tailorbird.features.state.state import open_state
from tailorbird.lake import Lake, LakeRole
from tailorbird.router import Router
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.stream import routed_path

NOW = 1_764_072_000_000_000
FEATURES = FeatureSet.from_declarations(
    [
        count("of_brand", entity("item.brand"), ["click", "impression"], window="7d"),
        count(
            "nike",
            entity("user"),
            ["click", "impression"],
            window="7d",
            where="item.brand == 'nike'",
        ),
        count("user_brand", entity("user", "item.brand"), "click", window="7d"),
        count("gold", entity("item"), "click", window="7d", where="user.plan == 'gold'"),
        count("of_plan", entity("user.plan"), "click", window="7d"),
        distinct("brands", entity("user"), ["click", "impression"], of="item.brand", window="7d"),
        last("last_price", entity("user"), "click", of="item.price", kind="categorical"),
        count("coats", entity("user"), "click", window="7d", where="item.category == 'coats'"),
    ]
)
AFTER = RoutePlan(
    user_attributes=FEATURES.user_attributes, item_attributes=FEATURES.item_attributes
)
BEFORE = RoutePlan(item_attributes=("category",))
BRANDS = ("nike", "puma", None, 'nïké "x"')


class Site:
    """A log and a lake, routed with one plan up to a row and with all attributes from there on."""

    def __init__(self, folder, plan):
        self.folder, self.plan, self.clock = folder, plan, SimulatedClock(NOW)
        self.stream, self.lake_path, self.state = (
            folder / "stream",
            folder / "lake",
            folder / "state",
        )
        self.stream.mkdir(parents=True)

    def send(self, events):
        with (
            EventCollector(self.stream, "serve-1", self.plan, self.clock) as collector,
            Router(self.stream, self.plan, clock=self.clock) as router,
        ):
            for start in range(0, len(events), 10):
                self.clock.advance_to(self.clock.now() + 10 * SECOND)
                decisions = collector.submit(json.dumps(events[start : start + 10]).encode())
                assert all(decision.accepted for decision in decisions), decisions
                while router.step(100).rows:
                    pass

    def load(self):
        with LakeRole(self.stream, self.lake_path, clock=self.clock) as lake:
            lake.drain()

    def lake(self):
        return Lake(self.lake_path)

    def worker(self):
        return FeatureWorker(routed_path(self.stream), self.state, FEATURES, clock=self.clock)

    def records(self):
        store = open_state(self.state, FEATURES)
        try:
            with store.snapshot() as snapshot:
                return dict(snapshot.scan(b"s"))
        finally:
            store.close()


def profile(n, kind, key, properties, **fields):
    return {
        "event_id": f"{kind}{n}",
        "type": kind,
        f"{kind}_id": key,
        "properties": properties,
        **fields,
    }


def drawn(first, number):
    """Profiles that change in between, some of them timeless, and clicks and impressions of several
    items.
    """
    random = np.random.default_rng(first)
    events = []
    for n in range(first, first + number):
        what = random.integers(0, 10)
        ts = NOW - 5 * SECOND + n * SECOND
        item, user = f"i{random.integers(0, 6)}", f"u{random.integers(0, 4)}"
        if what < 2:
            attributes = {
                "category": "coats",
                "brand": BRANDS[random.integers(0, 4)],
                "price": float(n),
            }
            attributes = {
                name: value for name, value in attributes.items() if value is not None or n % 2
            }
            when = {"timeless": True} if n % 5 == 0 else {"ts": ts}
            events.append(profile(n, "item", item, attributes, **when))
        elif what == 2:
            events.append(profile(n, "user", user, {"plan": ("gold", "basic")[n % 2]}, ts=ts))
        elif what < 5:
            items = [f"i{one}" for one in random.permutation(8)[:4]]  # of some no profile is known
            events.append(
                {
                    "event_id": f"e{n}",
                    "type": "impression",
                    "ts": ts,
                    "user_id": user,
                    "items": items,
                }
            )
        else:
            events.append(
                {"event_id": f"e{n}", "type": "click", "ts": ts, "user_id": user, "item_id": item}
            )
    return events


@pytest.fixture
def sites(tmp_path):
    """Two sites, declared from the start and late: the lake has a part, the log
    lacks in a second, has all in a third.
    """
    always, late = Site(tmp_path / "always", AFTER), Site(tmp_path / "late", BEFORE)
    for site in (always, late):
        site.send(drawn(0, 200))
        site.load()
        site.send(drawn(200, 60))
        site.plan = AFTER
        site.send(drawn(260, 60))
    return always, late


def in_order(events):
    return events.sort_by("p")


def requests(p):
    people, items = [f"u{n}" for n in range(4)], [f"i{n}" for n in range(6)]
    pairs = [(person, item) for person in range(4) for item in items]
    t = np.full(4, NOW + HOUR)
    return Requests(
        t, np.full(4, p), people, np.array([one for one, _ in pairs]), [item for _, item in pairs]
    )


def test_events_of_the_lake_get_what_would_have_been_routed(sites):
    always, late = sites
    for site in sites:
        site.load()
    expected = in_order(always.lake().events())
    stored, filled = (
        in_order(late.lake().events()),
        in_order(JoinedEvents(late.lake(), FEATURES).table()),
    )
    names = ["item_version", "item_profile", "user_version", "user_profile"]
    assert stored["item_profile"] != expected["item_profile"]
    assert filled.select(names).equals(expected.select(names))
    assert filled.drop_columns(names[1::2]).equals(stored.drop_columns(names[1::2]))
    some = [one for one in expected["item_profile"].to_pylist() if one]
    assert any(one.startswith("[") and "null" in one and "nike" in one for one in some), (
        "several items, some unknown"
    )


def test_a_backfill_and_its_explanation_are_those_of_the_attribute_declared_at_first(sites):
    values_by_site = []
    for site in sites:
        site.load()
        events = JoinedEvents(site.lake(), FEATURES).table(event_columns(FEATURES))
        pieces = pa.concat_tables(
            list(JoinedEvents(site.lake(), FEATURES).batches(event_columns(FEATURES)))
        )
        rows, again = (backfill(FEATURES, one, requests(320)) for one in (events, pieces))
        assert not find_unequal(rows.numeric, again.numeric).any()
        values_by_site.append(rows)
    assert not find_unequal(values_by_site[0].numeric, values_by_site[1].numeric).any()
    values = dict(zip(values_by_site[1].numeric_names, values_by_site[1].numeric.T, strict=True))
    assert [name for name, column in values.items() if not (column > 0).any()] == []
    routed = routed_events(JoinedEvents(sites[1].lake(), FEATURES).table())
    explanation = explain(FEATURES, "nike", ReadRequest(person="u1"), None, NOW + HOUR, 320, routed)
    assert explanation.value == values["nike"][6]


def test_a_late_state_waits_for_the_lake_and_equals_one_declared_from_the_start(sites):
    always, late = sites
    with always.worker() as worker:
        assert not worker.needs_history()
        catch_up(worker, always.lake())
        assert (worker.position.log_position, worker.waits_for_lake) == (320, False)
    with late.worker() as worker:
        assert worker.needs_history(), "the log begins with events that lack brand and plan"
        catch_up(worker, late.lake())
        assert (worker.position.log_position, worker.waits_for_lake) == (200, True), (
            "what the lake has, and not what the log lacks"
        )
        assert not is_lake_ahead(worker, late.lake())
        worker.run(threading.Event())  # returns, to wait
        late.load()
        catch_up(worker, late.lake())
        assert (worker.position.log_position, worker.waits_for_lake) == (320, False)
    assert late.records() == always.records()
    reads = []
    for site in sites:
        reader = Reader(site.state, FEATURES)
        request = ReadRequest("u1", None, None, None, None, None, NOW + HOUR)
        reads.append(reader.read(request, [f"i{n}" for n in range(6)]).numeric)
        reader.close()
    assert not find_unequal(*reads).any()
    rows = backfill(FEATURES, JoinedEvents(late.lake(), FEATURES).table(), requests(320)).numeric[
        6:12
    ]
    assert not find_unequal(reads[1], rows).any()


def test_after_the_change_the_log_is_enough(sites):
    _, late = sites
    with LakeRole(late.stream, late.lake_path, clock=late.clock) as lake:
        while late_end(late) < 261:
            lake.step(20)
    with late.worker() as worker:
        assert build_from_lake(worker, late.lake(), threading.Event())
        assert not worker.needs_history()
        while worker.step().rows:
            pass
        assert (worker.position.log_position, worker.waits_for_lake) == (320, False)


def late_end(site):
    from tailorbird.stream import read_released_positions

    return read_released_positions(site.lake_path).routed_position()


def test_a_version_that_the_lake_does_not_have_stays_as_stored(sites):
    _, late = sites

    class Without(Lake):
        def exists(self, name):
            return name != "items" and super().exists(name)

    stored = in_order(late.lake().events())
    filled = in_order(JoinedEvents(Without(late.lake_path), FEATURES).table())
    assert filled["item_profile"].combine_chunks() == stored["item_profile"].combine_chunks()
    assert filled["user_profile"].combine_chunks() != stored["user_profile"].combine_chunks()
