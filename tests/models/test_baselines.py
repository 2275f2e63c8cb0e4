"""Baselines count exactly what came before the moment, as a plain loop does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailorbird.models.baselines import DAY, History, Interactions, Questions, own_history, popular, simple_baselines


def history_of(rows):
    person, item, ts = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    return History(Interactions(person, item, ts, people=10, items=10))


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-1, 4), st.integers(-1, 4), st.integers(0, 40)), min_size=1, max_size=60),
    st.lists(st.tuples(st.integers(0, 45), st.integers(-1, 5), st.integers(-1, 5)), min_size=1, max_size=20),
    st.integers(1, 20),
)
def test_counts_equal_a_plain_loop(rows, asked, window):
    history = history_of(rows)
    t, person, item = (np.array(column, np.int64) for column in zip(*asked, strict=True))
    questions = Questions(t, person, np.arange(len(t)), item)
    windowed = [sum(i == b and b >= 0 and x - window <= s < x for _, i, s in rows) for x, _, b in asked]
    assert popular(history, questions, window).tolist() == windowed
    mine = [sum(q == a and i == b and a >= 0 and b >= 0 and s < x for q, i, s in rows) for x, a, b in asked]
    assert np.floor(own_history(history, questions)).tolist() == mine
    recent, offsets = history.recent(person, t, 3)
    for r, (x, a, _) in enumerate(asked):
        past = sorted(((s, n, i) for n, (q, i, s) in enumerate(rows) if q == a and a >= 0 and s < x))
        assert recent[offsets[r] : offsets[r + 1]].tolist() == [i for _, _, i in past[-3:]]


def test_years_of_microseconds_and_many_keys_fit():
    rng = np.random.default_rng(0)
    ts = rng.integers(0, 20 * 365 * DAY, 5_000)
    history = History(Interactions(rng.integers(0, 1_000_000, 5_000), rng.integers(0, 100_000, 5_000), ts, 1_000_000, 100_000))
    questions = Questions(ts[:100] + 1, history.interactions.person[:100], np.arange(100), history.interactions.item[:100])
    assert own_history(history, questions).min() >= 1


def test_the_names_say_the_windows():
    history = history_of([(0, 1, 5), (1, 1, 8), (1, 2, 9)])
    questions = Questions(np.array([10]), np.array([0]), np.zeros(2, np.int64), np.array([1, 2]))
    scores = simple_baselines(history, questions, {"7d": 7 * DAY, "ever": None}, repeats=False)
    assert set(scores) == {"random", "popular_7d", "popular_ever"}
    assert scores["popular_ever"].tolist() == [2.0, 1.0]


def test_habits_break_ties_by_popularity():
    history = history_of([(0, 1, 1), (0, 2, 2), (5, 2, 3), (5, 3, 4), (6, 3, 5)])
    questions = Questions(np.array([10]), np.array([0]), np.zeros(4, np.int64), np.array([1, 2, 3, 4]))
    assert np.argsort(-own_history(history, questions)).tolist() == [1, 0, 2, 3]
    assert own_history(history, questions)[1] == pytest.approx(1, abs=1e-3)
