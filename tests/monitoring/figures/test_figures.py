"""Live figures: what they count, by what, and what of them is estimated."""

import math

import numpy as np
import pytest
from tests.support.monitored import make_visit, write_visits

from tailorbird.errors import UsageError
from tailorbird.events import DAY, HOUR, MINUTE, SECOND
from tailorbird.experiments.statistics import proportion_interval
from tailorbird.lake import Lake
from tailorbird.monitoring.figures import FigureStore, summarize
from tailorbird.monitoring.figures.cells import SlotRule
from tailorbird.monitoring.figures.delays import (
    BUCKETS,
    correct_conversions,
    delay_buckets,
    estimate_delays,
)

NOON = 1_790_553_600_000_000 + 12 * HOUR


@pytest.fixture
def store(tmp_path):
    lake = tmp_path / "lake"
    write_visits(
        lake,
        [
            make_visit("yesterday", NOON - DAY, person="known"),
            make_visit("a", NOON, person="known", clicks=(0, 1), bought_after=MINUTE),
            make_visit("b", NOON + MINUTE, person="fresh", assigned_version="v0002"),
            make_visit("c", NOON + 2 * MINUTE, person="other", failure="error"),
            make_visit("d", NOON + HOUR, person="other", items=[]),
        ],
    )
    return FigureStore(tmp_path / "figures", Lake(lake), {"home": SlotRule()})


def figures(store, **options):
    store.refresh(NOON - HOUR, NOON + 2 * HOUR)
    cells = store.read(NOON - HOUR, NOON + 2 * HOUR)
    return summarize(cells, NOON - HOUR, NOON + 2 * HOUR, catalogue_size=16, **options)


def test_figures_count_responses_and_what_followed(store):
    (row,) = figures(store)
    assert (row.requests, row.seen, row.clicks, row.conversions) == (4, 24, 2, 1)
    assert (row.error_rate, row.empty_rate, row.degraded_rate) == (0.25, 0.25, 0.25)
    assert (row.ctr, row.revenue, row.items, row.coverage) == (2 / 24, 20.0, 8, 0.5)
    assert row.calibration == pytest.approx(0.125 * 16 / 2), "the model failed in one"
    assert row.latency_ms_p95 == pytest.approx(5.0, rel=0.2)


def test_rates_have_intervals_and_the_scores_promise_clicks(store):
    (row,) = figures(store)
    assert (row.ctr_low, row.ctr_high) == pytest.approx(proportion_interval(2, 24))
    low, high = proportion_interval(1, 4)
    assert row.conversion_low == pytest.approx(low, abs=1e-6)
    assert row.conversion_high >= high - 1e-6
    assert row.ctr_expected == pytest.approx(0.125)
    assert row.ctr_expected_low < 0.125 < row.ctr_expected_high
    assert row.auc_expected == row.auc == 0.5, "all scores are equal"


def test_figures_stand_by_version_visitor_and_hour(store):
    by_version = {row.group: row.requests for row in figures(store, by="version")}
    assert by_version == {"v0001": 3, "v0002": 1}
    by_visitor = {row.group: row.requests for row in figures(store, by="visitor")}
    assert by_visitor == {"returning": 1, "new": 3}
    hours = figures(store, window_us=HOUR)
    assert [(row.start, row.requests) for row in hours] == [(NOON, 3), (NOON + HOUR, 1)]
    assert math.isnan(hours[1].ctr)
    with pytest.raises(UsageError, match="version"):
        figures(store, by="verson")


def test_hours_are_counted_again_when_the_lake_gets_older_responses(store, tmp_path):
    later = NOON + 9 * DAY
    assert store.refresh(NOON - HOUR, later) == 2
    events, record = make_visit("late", NOON + MINUTE)
    write_visits(tmp_path / "lake", [([event | {"p": 1} for event in events], record)])
    assert store.refresh(NOON - HOUR, later, include_late=False) == 0
    assert store.refresh(NOON - HOUR, later) == 1
    assert store.refresh(NOON - HOUR, later) == 0
    (row,) = summarize(store.read(NOON, later), NOON, later)
    assert row.requests == 5


def test_an_hour_is_computed_again_until_nothing_can_follow_it(store):
    assert store.refresh(NOON - HOUR, NOON + 101 * MINUTE) == 2
    assert store.refresh(NOON - HOUR, NOON + 2 * HOUR) == 1, "the first is final, the second not"
    assert store.refresh(NOON - HOUR, NOON + 2 * DAY) == 1
    assert store.refresh(NOON - HOUR, NOON + 3 * DAY) == 0


def test_a_damaged_hour_is_computed_again(store, tmp_path):
    before = figures(store)
    path = next((tmp_path / "figures").glob("*/12.parquet"))
    path.write_bytes(b"cut short")
    assert figures(store) == before


def test_recent_conversions_are_corrected_by_the_delays_of_earlier_ones():
    rng = np.random.default_rng(3)
    ages = np.arange(1, 29) * float(DAY)
    counts, observed = np.zeros((28, BUCKETS)), np.zeros(28)
    for day, age in enumerate(ages):
        delays = rng.exponential(3 * DAY, 2_000).astype(np.int64)
        seen = delays[delays < age]
        np.add.at(counts[day], delay_buckets(seen), 1.0)
        observed[day] = len(seen)
    delays = estimate_delays(counts, ages)
    newest = correct_conversions(observed[:1], np.array([40_000.0]), ages[:1], delays)
    assert newest.low < 2_000 < newest.high
    assert newest.value == pytest.approx(2_000, rel=0.1)
    assert newest.estimated_share == pytest.approx(math.exp(-1 / 3), abs=0.05)
    oldest = correct_conversions(observed[-1:], np.array([40_000.0]), ages[-1:], delays)
    assert oldest.value == pytest.approx(observed[-1], rel=0.01)


def test_without_a_conversion_nothing_is_estimated():
    delays = estimate_delays(np.zeros((2, BUCKETS)), np.array([float(SECOND), float(DAY)]))
    none = correct_conversions(np.zeros(2), np.ones(2), np.array([1.0, 2.0]), delays)
    assert (none.value, none.estimated_share) == (0.0, 0.0)
