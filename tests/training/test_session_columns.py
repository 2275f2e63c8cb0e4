"""Columns by sessions are one value however they are read: in training, of many rows, and by a server, of one request; and no row sees
sessions that came later."""

import math

import numpy as np
import pyarrow as pa
import pytest
from tests.features.three_readings import stream
from tests.training.test_similarities_read import ITEMS, START, as_dataset, bits, script

from tailorbird.events import DAY, HOUR, MINUTE
from tailorbird.features import FeatureSet, entity, sequence
from tailorbird.features.backfill import backfill
from tailorbird.features.sampled import requests_of
from tailorbird.models.baselines import History, Interactions
from tailorbird.ranking.encoders import OF_INDEX, Ragged, fit_encoder
from tailorbird.ranking.session_columns import SESSION_COLUMNS, session_columns
from tailorbird.retrieval.sessions import SOURCES, Plan
from tailorbird.training.coding import Codes
from tailorbird.training.indexes import IndexSettings, build_series, no_items
from tailorbird.training.matrix import Featured, columns_of, encoded

FEATURES = FeatureSet.from_declarations([sequence("recent", entity("user"), ["click", "purchase"], length=12)])
EVERYTHING = 15  # items
SETTINGS = IndexSettings(sessions=Plan(gap_us=20 * MINUTE))


def series_of(events):
    return build_series(events, no_items(), [START - HOUR, START + HOUR, START + 2 * HOUR, START + 3 * HOUR], SETTINGS)


@pytest.fixture(scope="module", params=range(2))
def read(request, tmp_path_factory):
    steps, rng = script(request.param), np.random.default_rng(request.param)
    for step in steps:
        step.events[:] = [row | {"item_id": f"i{rng.integers(1, EVERYTHING + 1)}"} for row in step.events]
    return stream(tmp_path_factory.mktemp("stream"), FEATURES, steps)


def test_training_and_serving_read_the_same_bits_and_find_the_same_candidates(read):
    events, asked = read
    series = series_of(events)
    encoder = fit_encoder(columns_of(FEATURES), np.zeros((0, 0), np.uint64), computed=tuple(SESSION_COLUMNS))
    assert encoder.names == tuple(SESSION_COLUMNS)
    rows, data = backfill(FEATURES, events, requests_of(asked)), as_dataset(asked)
    offline = encoded(Featured(data, rows), encoder, series)
    found = []
    for number, one in enumerate(asked):
        index = series.indexes[int(series.place_of(np.array([one.rows.t]))[0])]
        recent = one.rows.sequences["recent"]
        for source in SOURCES:
            listed = index.like_sessions(source, recent.item, recent.ts, 100)
            told = dict(zip((index.ids[row] for row in listed.rows), listed.scores, strict=True))
            place = encoder.names.index(f"{source}_score")
            here = offline[number * len(ITEMS) : (number + 1) * len(ITEMS), place]
            expected = [told.get(item, 0.0) if told else math.nan for item in ITEMS]
            assert bits(here) == bits(expected)
            best = offline[number * len(ITEMS) : (number + 1) * len(ITEMS), place + 2]
            assert bits(best) == bits([max(told.values(), default=math.nan)] * len(ITEMS))
            found += expected
        online = encoder.encode_request(one.rows, data.items.keys, index)
        for place in range(len(encoder.names)):
            assert bits(online[:, place]) == bits(offline[number * len(ITEMS) : (number + 1) * len(ITEMS), place])
    assert sum(value > 0 for value in found) > 10
    assert any(math.isnan(value) for value in found)


def test_training_draws_the_candidates_that_a_server_would_find(read):
    events, asked = read
    series = series_of(events)
    codes, people = (
        Codes(pa.array([f"i{number}" for number in range(1, EVERYTHING + 1)])),
        Codes(pa.array(sorted({one.rows.person or "u9" for one in asked}))),
    )
    kept = [at for at, kind in enumerate(events["type"].to_pylist()) if kind in ("click", "purchase")]
    some = events.take(kept)
    seen = Interactions(
        people.encode(some["person"]), codes.encode(some["item_id"]), some["ts"].cast(pa.int64()).to_numpy(), len(people), len(codes)
    )
    rolling = series.rolling(codes)
    t = np.array([one.rows.t for one in asked])
    person = people.encode(pa.array([one.rows.person for one in asked], pa.string()))
    total = 0
    for source in SOURCES:
        request, item = rolling.sessions.best(source, History(seen), t, person, 2)
        for number in range(len(asked)):
            index = series.indexes[int(series.place_of(t[number : number + 1])[0])]
            mine = np.flatnonzero((seen.person == person[number]) & (seen.ts < t[number]) & (person[number] >= 0))
            mine = mine[np.argsort(seen.ts[mine], kind="stable")]
            listed = index.like_sessions(source, codes.keys[seen.item[mine]], seen.ts[mine], 2)
            assert [index.ids[row] for row in listed.rows] == codes.decode(item[request == number])
            total += listed.rows.size
    assert total > 5


def test_missing_without_sessions_without_a_past_and_before_the_index(read):
    events, _ = read
    index = series_of(events).indexes[-1]
    key = index.keys[index.sessions.item[:1]]
    past = Ragged(np.array([0, 1]), key, np.array([index.as_of]))
    request, wanted = np.zeros(len(index), np.intp), tuple(SESSION_COLUMNS)
    known = session_columns(wanted, index.keys, request, past, np.array([index.as_of]), index)
    assert all((known[name] > 0).any() for name in wanted)
    assert known["stan_share"].max() == 1.0
    early = session_columns(wanted, index.keys, request, past, np.array([index.as_of - 1]), index)
    nobody = session_columns(wanted, index.keys, request, None, np.array([index.as_of]), index)
    without = build_series(events, no_items(), [START + 3 * HOUR]).indexes[0]
    bare = session_columns(wanted, index.keys, request, past, np.array([index.as_of + DAY]), without)
    for columns in (early, nobody, bare):
        assert all(np.isnan(columns[name]).all() for name in wanted)


def test_no_feature_may_be_called_as_they_are_and_each_is_told():
    from tailorbird.features.declare import RESERVED

    assert set(SESSION_COLUMNS) < set(OF_INDEX) < set(RESERVED)
    assert all(SESSION_COLUMNS.values())
