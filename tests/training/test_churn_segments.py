"""Segments and reasons: what is planted is found, and what brings nothing is not named."""

import numpy as np

from tailorbird.ranking import Contact
from tailorbird.training.churn.segments import LEAST_PEOPLE, segments

RNG = np.random.default_rng(0)
N = 2_000


def test_the_planted_segment_comes_first_and_those_that_cost_more_than_they_bring_are_left_away():
    since, plan = RNG.uniform(0, 100, N), RNG.integers(0, 3, N).astype(float)
    gone = np.where(since > 75, 0.8, 0.1)
    found = segments(
        ("since", "plan"),
        np.column_stack([since, plan]),
        gone,
        Contact(cost=1, value=20, success=0.1),
    )
    assert (found[0].column, found[0].lift > 2) == ("since", True)
    assert found[0].range.startswith("7")
    assert abs(found[0].people - N / 4) < 60
    assert np.isclose(found[0].expected, sum(gone[since >= np.quantile(since, 0.75)] * 2 - 1))
    assert [each.column for each in found] == ["since"]
    assert segments(("since",), since[:, None], gone, Contact(cost=5, value=20, success=0.1)) == []


def test_people_without_a_value_are_a_group_and_few_people_are_none():
    column = np.where(np.arange(N) < 200, np.nan, 1.0)
    gone = np.where(np.arange(N) < 200, 0.9, 0.5)
    [found] = segments(("bought",), column[:, None], gone, Contact())
    assert (found.range, found.people) == ("missing", 200)
    assert np.isclose(found.gone, 0.9)
    few = np.where(np.arange(N) < LEAST_PEOPLE - 1, np.nan, 1.0)
    assert [each.range for each in segments(("bought",), few[:, None], gone, Contact())] == []


def test_spans_of_time_are_told_as_people_say_them_and_different_ones_differ():
    since = np.linspace(0, 100, N) * 86_400
    gone = np.where(since > 75 * 86_400, 0.8, 0.1)
    [found] = segments(
        ("since",), since[:, None], gone, Contact(cost=1, value=20, success=0.1), seconds={"since"}
    )
    assert found.range == "75 days to 100 days"
    close = np.linspace(50, 50.8, N) * 86_400
    told = segments(
        ("since",),
        close[:, None],
        np.where(close > 50.6 * 86_400, 0.8, 0.1),
        Contact(),
        seconds={"since"},
    )
    assert told[0].range == "50.6 days to 50.8 days"
