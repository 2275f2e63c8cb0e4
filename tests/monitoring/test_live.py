"""Live figures by time and arm, and calibration from logged scores."""

import math

import pyarrow as pa
import pytest

from tailorbird.events import DAY, HOUR
from tailorbird.events.contract.schema import ROUTED
from tailorbird.experiments.counts import COLUMNS
from tailorbird.monitoring import figures_by_period
from tailorbird.monitoring.live import measure_calibration

START = 1_790_553_600_000_000


def table(rows):
    return pa.table(
        {
            name: pa.array([row.get(name) for row in rows], ROUTED.field(name).type)
            for name in COLUMNS
        }
    )


def event(kind, person, arm, ts, **more):
    row = {
        "type": kind,
        "ts": ts,
        "person": person,
        "agent": "person",
        "slot": "home",
        "arm": arm,
        "request_id": f"r-{person}-{ts // DAY}",
    }
    return (
        row
        | ({"items": ["a", "b"]} if kind == "impression" else {"item_id": "a", "position": 1})
        | more
    )


def test_figures_stand_by_day_and_arm():
    rows = [event("impression", f"u{n}", "popular", START + HOUR) for n in range(5)]
    rows += [event("impression", f"v{n}", "model", START + DAY + HOUR) for n in range(3)]
    rows += [
        event("click", "u1", "popular", START + 2 * HOUR),
        event("purchase", "v1", "model", START + DAY + 2 * HOUR),
    ]
    first, second = figures_by_period(table(rows), "home", baseline="popular")
    assert (first.start, first.arm, first.users, first.impressions, first.clicks, first.ctr) == (
        START,
        "popular",
        5,
        10,
        1,
        0.1,
    )
    assert (second.start, second.arm, second.impressions, second.purchases) == (
        START + DAY,
        "model",
        6,
        1,
    )
    assert math.isnan(second.lift)


def test_lift_is_relative_to_the_baseline_of_the_same_period():
    rows = []
    for arm, clicks in (("popular", 1), ("model", 2)):
        for n in range(20):
            rows.append(event("impression", f"{arm}{n}", arm, START))
            if n % 2:
                rows += [
                    event("click", f"{arm}{n}", arm, START + 1, item_id=item)
                    for item in "ab"[:clicks]
                ]
    popular, model = sorted(
        figures_by_period(table(rows), "home", baseline="popular"),
        key=lambda figure: figure.arm != "popular",
    )
    assert model.lift == pytest.approx(1.0)
    assert model.lift_low < 1.0 < model.lift_high
    assert math.isnan(popular.lift)


def test_hours_where_nothing_was_shown_are_left_out():
    rows = [
        event("impression", "u", "popular", START + hour * HOUR, request_id=f"r{hour}")
        for hour in (0, 5)
    ]
    figures = figures_by_period(table(rows), "home", baseline="popular", period_us=HOUR)
    assert [figure.start for figure in figures] == [START, START + 5 * HOUR]


def test_an_empty_table_has_no_figures():
    assert figures_by_period(table([]), "home", baseline="popular") == []


def test_calibration_compares_scores_with_clicks_on_what_was_seen():
    rows = [
        event("impression", "u", "model", START, request_id="r1", items=["a"])
    ]  # b was scored, but not seen
    rows += [
        event("click", "u", "model", START + 1, request_id="r1"),
        event("click", "x", "model", START, request_id="unknown"),
    ]
    answers = pa.table(
        {"request_id": ["r1"], "arm": ["model"], "items": [["a", "b"]], "scores": [[0.5, 0.25]]}
    )
    (figures,) = measure_calibration(table(rows), answers, "home")
    assert (figures.arm, figures.items, figures.predicted, figures.clicks, figures.ratio) == (
        "model",
        1,
        0.5,
        1,
        0.5,
    )


def test_calibration_counts_an_item_once_for_each_answer_and_single_impressions_too():
    rows = [event("impression", "u", "model", START, request_id="r1", items=None, item_id="a")] * 2
    rows += [event("click", "u", "model", START + n, request_id="r1") for n in (1, 2, 3)]
    rows += [
        event("click", "u", "model", START + 4, request_id="r1", item_id="elsewhere", position=None)
    ]
    answers = pa.table(
        {"request_id": ["r1"], "arm": ["model"], "items": [["a", "b"]], "scores": [[0.5, 0.25]]}
    )
    (figures,) = measure_calibration(table(rows), answers, "home")
    assert (figures.items, figures.predicted, figures.clicks) == (1, 0.5, 1)
