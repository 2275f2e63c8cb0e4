"""Segments and reasons: what is planted is found, and what brings nothing is not named."""

import numpy as np

from tailorbird.ranking import Contact
from tailorbird.training.tasks.churn.segments import SEGMENT_PEOPLE_MIN, find_segments

RNG = np.random.default_rng(0)
N = 2_000


def test_the_planted_segment_is_first_and_unprofitable_ones_are_left_out():
    since, plan = RNG.uniform(0, 100, N), RNG.integers(0, 3, N).astype(float)
    probabilities = np.where(since > 75, 0.8, 0.1)
    matching_segments = find_segments(
        ("since", "plan"),
        np.column_stack([since, plan]),
        probabilities,
        Contact(cost=1, value=20, success=0.1),
    )
    assert (matching_segments[0].column, matching_segments[0].lift > 2) == ("since", True)
    assert matching_segments[0].range.startswith("7")
    assert abs(matching_segments[0].people - N / 4) < 60
    assert np.isclose(
        matching_segments[0].expected, sum(probabilities[since >= np.quantile(since, 0.75)] * 2 - 1)
    )
    assert [each.column for each in matching_segments] == ["since"]
    assert (
        find_segments(
            ("since",), since[:, None], probabilities, Contact(cost=5, value=20, success=0.1)
        )
        == []
    )


def test_people_without_a_value_are_a_group_and_few_people_are_none():
    column = np.where(np.arange(N) < 200, np.nan, 1.0)
    probabilities = np.where(np.arange(N) < 200, 0.9, 0.5)
    [matching_segments] = find_segments(("bought",), column[:, None], probabilities, Contact())
    assert (matching_segments.range, matching_segments.people) == ("missing", 200)
    assert np.isclose(matching_segments.gone, 0.9)
    few = np.where(np.arange(N) < SEGMENT_PEOPLE_MIN - 1, np.nan, 1.0)
    assert [
        each.range for each in find_segments(("bought",), few[:, None], probabilities, Contact())
    ] == []


def test_durations_are_readable_and_distinct():
    since = np.linspace(0, 100, N) * 86_400
    probabilities = np.where(since > 75 * 86_400, 0.8, 0.1)
    [matching_segments] = find_segments(
        ("since",),
        since[:, None],
        probabilities,
        Contact(cost=1, value=20, success=0.1),
        durations={"since"},
    )
    assert matching_segments.range == "75 days to 100 days"
    close = np.linspace(50, 50.8, N) * 86_400
    second_segments = find_segments(
        ("since",),
        close[:, None],
        np.where(close > 50.6 * 86_400, 0.8, 0.1),
        Contact(),
        durations={"since"},
    )
    assert second_segments[0].range == "50.6 days to 50.8 days"
