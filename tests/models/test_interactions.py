"""Counts say exactly what came before the moment, as a plain loop does."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tailorbird.events import DAY
from tailorbird.models.interactions import History, Interactions


def history_of(rows):
    person, item, ts = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    return History(Interactions(person, item, ts, person_count=10, item_count=10))


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-1, 4), st.integers(-1, 4), st.integers(0, 40)),
        min_size=1,
        max_size=60,
    ),
    st.lists(
        st.tuples(st.integers(0, 45), st.integers(-1, 5), st.integers(-1, 5)),
        min_size=1,
        max_size=20,
    ),
    st.integers(1, 20),
)
def test_counts_equal_a_simple_loop(rows, queries, window):
    history = history_of(rows)
    t, person, item = (np.array(column, np.int64) for column in zip(*queries, strict=True))
    windowed = [
        sum(i == b and b >= 0 and x - window <= s < x for _, i, s in rows) for x, _, b in queries
    ]
    assert history.item_counter.count(item, t, np.arange(len(t)), window).tolist() == windowed
    mine = [sum(q == a and a >= 0 and s < x for q, _, s in rows) for x, a, _ in queries]
    assert history.person_counter.count(person, t, np.arange(len(t))).tolist() == mine
    recent, offsets = history.recent(person, t, 3)
    for r, (x, a, _) in enumerate(queries):
        past = sorted(
            ((s, n, i) for n, (q, i, s) in enumerate(rows) if q == a and a >= 0 and s < x)
        )
        assert recent[offsets[r] : offsets[r + 1]].tolist() == [i for _, _, i in past[-3:]]


def test_years_of_microseconds_and_many_keys_fit():
    rng = np.random.default_rng(0)
    ts = rng.integers(0, 20 * 365 * DAY, 5_000)
    history = History(
        Interactions(
            rng.integers(0, 1_000_000, 5_000),
            rng.integers(0, 100_000, 5_000),
            ts,
            1_000_000,
            100_000,
        )
    )
    each = np.arange(100)
    assert (
        history.item_counter.count(history.interactions.item[:100], ts[:100] + 1, each).min() >= 1
    )
    assert (
        history.person_counter.count(history.interactions.person[:100], ts[:100] + 1, each).min()
        >= 1
    )
