"""Candidates by country and device in training: those that a server would have found then, from an index that knows nothing later."""

import numpy as np
import pyarrow as pa
import pytest

from tailorbird.events import HOUR
from tailorbird.models.baselines import History
from tailorbird.retrieval import candidates
from tailorbird.training.clicks import Scheme, choices, guess_scheme, sources_told, with_candidates
from tailorbird.training.coding import Codes, interactions
from tailorbird.training.indexes import build_series, no_items

COUNTRIES, DEVICES = ("NO", "ES", "IS", None), ("phone", "desktop", None)
MOMENTS = (10 * HOUR, 20 * HOUR)


@pytest.fixture
def events(routed):
    """Every country likes other items, and others again in the second half; Iceland has too few people to tell."""
    rng, rows = np.random.default_rng(3), []
    for place, hour in enumerate(np.sort(rng.uniform(0, 30, 3_000))):
        country = COUNTRIES[rng.choice(4, p=(0.5, 0.4, 0.001, 0.099))]
        item = 10 * COUNTRIES.index(country) + int(rng.geometric(0.3)) + (5 if hour > 12 else 0)
        context = {"country": country, "device": DEVICES[rng.integers(3)]}
        rows.append(routed.event("click", int(hour * HOUR) + place, f"u{rng.integers(40)}", f"i{item}", **context))
    return routed.table(*rows)


@pytest.mark.parametrize("source", ["popular_by:country", "popular_by:device", "trending_by:country", "trending_by:device"])
def test_training_draws_the_candidates_that_a_server_would_find(events, source):
    codes = Codes.of(events["item_id"])
    series = build_series(events, no_items(), MOMENTS)
    t = np.array([hour * HOUR for hour in (5, 10, 11, 19, 20, 29) for _ in range(12)])
    context = pa.table({"country": [*COUNTRIES] * 18, "device": [*DEVICES] * 24})
    request, item = series.rolling(codes).segments.best(source, t, context, 4)
    lists = set()
    for number in range(len(t)):
        place = int(series.place_of(t[number : number + 1])[0])
        mine = codes.decode(item[request == number])
        if place < 0:
            assert mine == []
            continue
        index = series.indexes[place]
        found = candidates(index, {source: 4}, context={name: context[name][number].as_py() for name in ("country", "device")})
        assert mine == [index.ids[row] for row in found.rows]
        lists.add((place, *mine))
    assert len(lists) > 4


def test_rows_hold_them_where_the_slot_asks_for_them(events):
    people, codes = Codes.of(events["person"]), Codes.of(events["item_id"])
    rolling = build_series(events, no_items(), MOMENTS).rolling(codes)
    asked = guess_scheme(events, "click", {"popular": 5, "popular_by:country": 3})
    assert asked.segments == {"popular_by:country": 3}
    scheme = Scheme(popular=0, item_to_item=0, repeats=True, segments=asked.segments)
    data = choices(events, people, codes, scheme, ts_from=20 * HOUR, ts_to=30 * HOUR)
    drawn = with_candidates(data, History(interactions(events, people, codes, ("click",))), scheme, rolling=rolling)
    index = rolling.segments.indexes[1]
    for number in range(drawn.requests):
        mine = set(codes.decode(drawn.item[drawn.offsets[number] : drawn.offsets[number + 1]]))
        found = candidates(index, {"popular_by:country": 3}, context={"country": drawn.context["country"][number].as_py()})
        assert mine >= {index.ids[row] for row in found.rows}
        assert len(mine) <= 4
    assert "3 of popular_by:country" in sources_told(drawn.scheme)
