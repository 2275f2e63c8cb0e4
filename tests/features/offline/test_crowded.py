"""Crowded entities: hundreds of events of a few entities, many of them late, so that tiles fill,
weights matter, limbs carry.

What Hypothesis draws in `test_equality.py` is small and odd; here each window holds dozens of
events, and many requests fall between an event and its arrival. Reference, reading and backfill are
compared in float32 bits as there.
"""

import numpy as np
import pytest
from tests.support.offline.crowd import ITEMS, SEEN_TYPES, category, item, make_crowd, user

from tailorbird.events import SECOND, SimulatedClock
from tailorbird.features import (
    FeatureSet,
    ReadRequest,
    count,
    decayed,
    distinct,
    entity,
    favourite,
    gap_deviation,
    gap_max,
    gap_mean,
    maximum,
    mean,
    minimum,
    seen,
    sequence,
    session_depth,
    session_duration,
    session_length,
    share,
    time_since_first,
    trend,
    variance,
)
from tailorbird.features.offline.backfill import Requests, backfill
from tailorbird.features.online.read import Reader
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.features.reference import reference


def windows() -> FeatureSet:
    money = {"of": "price", "unit": 0.01, "max": 1e6}
    return FeatureSet.from_declarations(
        [
            mean("price_mean", item, "purchase", **money, window="2m"),
            variance("price_variance", item, "purchase", **money, window="2m", hop="30s"),
            variance(
                "change_variance",
                entity(),
                "purchase",
                of="price - 200",
                unit=0.5,
                max=1e9,
                window="4m",
            ),
            maximum("dearest", item, "purchase", **money, window="1m", hop="30s"),
            maximum("dearest_long", item, "purchase", **money, window="4m", hop="30s"),
            minimum(
                "cheapest", item, "purchase", of="price - 200", unit=0.01, max=1e6, window="1m"
            ),
            distinct("reach", item, SEEN_TYPES, of="user", precision=4, window="4m"),
            distinct("reach_now", item, SEEN_TYPES, of="user", precision=6, window="1m", hop="30s"),
            distinct("reach_all", entity(), SEEN_TYPES, of="user", precision=8, window="4m"),
            trend("trend", item, SEEN_TYPES, short="1m", long="4m"),
            share("of_category", item, SEEN_TYPES, within=category, window="2m"),
            share(
                "spent_on",
                entity("user", "item.category"),
                "purchase",
                within=user,
                **money,
                window="4m",
            ),
            decayed("fading", item, SEEN_TYPES, half_life="15s"),
            decayed("money_fading", item, "purchase", half_life="1m", **money),
            time_since_first("known_for", item, SEEN_TYPES),
            gap_mean("gap", user, SEEN_TYPES, length=8),
            gap_deviation("gap_spread", entity(), SEEN_TYPES, length=128),
            gap_max("gap_most", user, SEEN_TYPES, length=64),
            seen("seen_by_all", entity(), SEEN_TYPES, of="item.category", length=128),
            favourite("liked_by_all", entity(), SEEN_TYPES, of="item.category", length=64),
            sequence(
                "last_of_all", entity(), SEEN_TYPES, length=128, of=["price", "item.category"]
            ),
            count("in_a_month", item, SEEN_TYPES, window="28d", hop="1d"),
            maximum("dearest_ever", item, "purchase", **money, window="400d", hop="10d"),
            session_length("events"),
            session_depth("items"),
            session_duration("seconds"),
        ]
    )


@pytest.mark.parametrize("seed", range(5))
def test_what_is_read_of_crowded_entities_is_the_reference(kit, seed, tmp_path):
    features, events, log = windows(), make_crowd(kit, seed), kit.Log(tmp_path)
    different: list[str] = []
    with FeatureWorker(
        log.path, tmp_path / "state", features, clock=SimulatedClock(kit.T0)
    ) as worker:
        reader = Reader(tmp_path / "state", features)
        for start in range(0, len(events), 45):
            log.append([events[start : start + 45]])
            worker.step()
            request = ReadRequest(
                person=f"u{1 + start % 2}",
                session_id=["s1", None][start % 2],
                now=kit.T0 + start * SECOND,
            )
            different += kit.differences(
                features, reader.read(request, ITEMS), request, ITEMS, events
            )
        late = ReadRequest(person="u1", now=kit.T0 + 700 * SECOND)
        different += kit.differences(features, reader.read(late, ITEMS), late, ITEMS, events)
        reader.close()
    log.close()
    assert different == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_what_is_computed_of_a_past_with_many_events_in_flight_is_the_reference(kit, seed):
    features, events, rng = windows(), make_crowd(kit, seed), np.random.default_rng(seed)
    t = kit.T0 + rng.integers(0, 700, 14) * SECOND
    # What has come by then, and what had come a little before.
    p = np.array([sum(event["ts"] < moment for event in events) for moment in t]) - rng.integers(
        0, 40, 14
    )
    requests = Requests(
        t,
        p,
        [f"u{1 + row % 2}" for row in range(14)],
        np.repeat(np.arange(14), 2),
        ITEMS * 14,
        session_id=[None, "s1"] * 7,
    )
    rows = backfill(features, kit.table(events), requests)
    for row in range(28):
        request = row // 2
        who = ReadRequest(person=f"u{1 + request % 2}", session_id=[None, "s1"][request % 2])
        for column, name in enumerate(features.numeric):
            expected = reference.compute_value(
                features, name, who, ITEMS[row % 2], int(t[request]), int(p[request]), events
            )
            assert kit.same(rows.numeric[row, column], expected), (name, row)
    filled = (rows.numeric != 0) & ~np.isnan(rows.numeric)
    assert (filled.mean(axis=0) > 0.2).all(), "the events are to make values"
