"""Purchases counted by day: what came after a moment changes nothing at it, wherever in a day it
lies, and days are counted as they are.
"""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.churn_columns import declare_habits
from tests.support.shops.churn_log import CHURN, day_start, make_purchase_log, make_purchases

from tailorbird.events import DAY
from tailorbird.features import FeatureSet, count, entity
from tailorbird.features.declare.checks import collect_features
from tailorbird.ranking import Churn
from tailorbird.ranking.churn.columns import user_only_columns
from tailorbird.training.tasks.churn.labels import Activity, build_activity
from tailorbird.training.tasks.churn.report import describe_day_mismatch
from tailorbird.training.tasks.churn.rolling_origin import (
    backtest_windows,
    build_grid,
    predict_baselines,
)
from tailorbird.training.tasks.churn.rows import PeopleFeatures

KNOWN_UNTIL = day_start(22)
PEOPLE = ("a", "b", "c")
EIGHTHS = st.integers(0, 10 * 8).map(
    lambda number: number / 8
)  # of a day: many fall on one day, and on one moment
BOUGHT = st.lists(
    st.tuples(
        st.sampled_from(PEOPLE), EIGHTHS, st.sampled_from((0.0, 0.0, 1.5)), st.integers(1, 9)
    ),
    min_size=1,
    max_size=20,
)


def bought(rows):
    """Purchases: (person, day, days until it came in, price)."""
    made = [
        make_purchases(
            at, person=person, price=float(price), quantity=1.0, received_at=day_start(at + late)
        )
        for person, at, late, price in rows
    ]
    return pa.concat_tables(made)


def summaries(activity: Activity, origin):
    """All that is said of people at an origin, by name."""
    who = activity.active_people(origin)
    rfm, repeats = activity.rfm(who, origin), activity.purchase_history(who, origin)
    columns = (
        rfm.recency,
        rfm.frequency,
        rfm.age,
        rfm.amount,
        repeats.repeats,
        repeats.recency,
        repeats.age,
    )
    return dict(zip(activity.people.decode(who), np.column_stack(columns).tolist(), strict=True))


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(BOUGHT, EIGHTHS, st.sampled_from(("day", "event")))
def test_later_events_do_not_change_a_moment(rows, at, per):
    earlier_rows = [row for row in rows if row[1] < at and row[1] + row[2] <= at]
    actual = summaries(
        build_activity(bought(rows), Churn(per=per), KNOWN_UNTIL).as_of(day_start(at)),
        day_start(at),
    )
    assert actual == (
        summaries(build_activity(bought(earlier_rows), Churn(per=per), KNOWN_UNTIL), day_start(at))
        if earlier_rows
        else {}
    )
    for person, (_, frequency, _, amount, *_) in actual.items():
        mine = [row for row in earlier_rows if row[0] == person]
        assert frequency == (len({int(row[1]) for row in mine}) if per == "day" else len(mine))
        assert amount == sum(row[3] for row in mine)


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(BOUGHT, EIGHTHS, EIGHTHS)
def test_a_window_counts_the_days_that_have_a_purchase_in_it(rows, start, length):
    stop = start + length + 1 / 8
    activity = build_activity(bought(rows), Churn(), KNOWN_UNTIL)
    counts = activity.count_activity(
        np.arange(len(activity.people)), day_start(start), day_start(stop)
    )
    days = {
        person: {int(at) for who, at, *_ in rows if who == person and start <= at < stop}
        for person in PEOPLE
    }
    assert dict(
        zip(activity.people.decode(np.arange(len(counts))), counts.tolist(), strict=True)
    ) == {
        person: len(days_active)
        for person, days_active in days.items()
        if person in {row[0] for row in rows}
    }


def test_a_purchase_before_and_after_a_moment_of_a_day_is_a_return():
    activity = build_activity(make_purchases(3, 10.3, 10.8), Churn(), day_start(30))
    who = activity.as_of(day_start(10.5)).active_people(day_start(10.5))
    assert activity.count_activity(who, day_start(10.5), day_start(17.5)).tolist() == [1.0]
    assert activity.as_of(day_start(10.5)).rfm(who, day_start(10.5)).frequency.tolist() == [2.0]
    assert activity.as_of(day_start(30)).rfm(who, day_start(30)).frequency.tolist() == [2.0]


@pytest.mark.slow
def test_the_baselines_at_noon_do_not_know_what_is_spent_in_the_evening():
    events = make_purchase_log(people=300)
    activity = build_activity(events, CHURN, day_start(200.5))
    window = backtest_windows(activity, CHURN, 1)[0]
    noon = (window.origin - day_start(0)) / DAY
    assert noon % 1 == 0.5
    names = activity.people.decode(activity.as_of(window.origin).active_people(window.origin))
    buys = [
        make_purchases(noon - 0.1, noon + 0.1, person=person, price=1e6, quantity=1.0)
        for person in names[::2]
    ]
    actual = []
    for parts in (buys, [each.slice(0, 1) for each in buys]):
        then = build_activity(pa.concat_tables([events, *parts]), CHURN, day_start(200.5)).as_of(
            window.origin
        )
        actual.append(
            predict_baselines(then, then.people.encode(pa.array(names)), window, CHURN)[0]
        )
    for name in actual[0]:
        np.testing.assert_array_equal(actual[0][name], actual[1][name], err_msg=name)


@pytest.mark.parametrize("at", [0.25, 0.5])
def test_a_part_of_a_day_has_what_was_spent_in_it(at):
    activity = build_activity(
        make_purchases(10.1, 10.3, 10.9, price=5.0, quantity=1.0), Churn(), day_start(30)
    )
    then = activity.as_of(day_start(10 + at))
    assert then.rfm(then.active_people(day_start(10 + at)), day_start(10 + at)).amount.tolist() == [
        {0.25: 5.0, 0.5: 10.0}[at]
    ]


@pytest.mark.parametrize("lines", [1, 3])
def test_a_column_of_frequency_that_counts_the_lines_of_a_purchase_is_reported(lines):
    """BG/NBD is fitted on days, and would read three a purchase."""
    with collect_features() as days_active:
        user = entity("user")
        declare_habits(user)
        count("every", user, "purchase")
    features, churn = FeatureSet.from_declarations(days_active), replace(CHURN, frequency="every")
    once = make_purchase_log(people=150)
    events = pa.concat_tables(
        [
            once.set_column(
                1, "event_id", pc.binary_join_element_wise(once["event_id"], str(n), "-")
            )
            for n in range(lines)
        ]
    )
    events = events.set_column(0, "p", pa.array(np.arange(1, len(events) + 1)))
    activity = build_activity(events, churn, day_start(200))
    people = PeopleFeatures(features, events, activity, user_only_columns(features))
    grid = build_grid(
        people, activity, churn, rows_max=5_000, seed=0, progress=lambda *summaries: None
    )
    actual = describe_day_mismatch(churn, grid, activity)
    assert actual.startswith("every counts 3.0 events for each day") if lines == 3 else actual == ""
    assert describe_day_mismatch(replace(churn, per="event"), grid, activity) == ""
