"""Each answer of a timeline against a loop over the events, for events that arrive in any order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailorbird.features.offline.asof import Timeline
from tailorbird.features.offline.asof_peaks import MaximumTree
from tailorbird.features.offline.events.ragged import concatenate_ranges
from tailorbird.features.offline.events.series import Series

EVENT = st.tuples(
    st.integers(0, 3), st.integers(0, 12), st.integers(1, 15), st.integers(-5, 5), st.booleans()
)
MOMENT = st.tuples(st.integers(0, 4), st.integers(-1, 14), st.integers(0, 16), st.integers(-2, 14))
WIDE = 1 << 61  # stretches the axes so that segment and value do not fit into 63 bits together


def columns(rows, width):
    return [np.array([row[index] for row in rows], np.int64) for index in range(width)]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(EVENT, max_size=40), st.lists(MOMENT, max_size=20), st.integers(1, 5), st.booleans()
)
def test_a_timeline_answers_as_a_loop_over_its_events_does(events, moments, length, wide):
    key, ts, p, value, chosen = columns(events, 5)
    keys, t, p_limit, since = columns(moments, 4)
    if wide:
        ts, t, since = ((times - 6) * (WIDE // 10) for times in (ts, t, since))
    index = np.arange(len(key))
    timeline = Timeline(
        keys.astype(np.uint64), key.astype(np.uint64), ts, p, tie_break=lambda rows: (rows,)
    )
    at = timeline.queries_at(keys.astype(np.uint64), t, p_limit)
    since = np.minimum(since, t)
    prefixes = [timeline.prefix(value), timeline.prefix(chosen)]
    upper, lower = at.before().sums(prefixes), at.before(since).sums(prefixes)
    sums, counts = (at.to_input_order(high - low) for high, low in zip(upper, lower, strict=True))
    peaks = MaximumTree(timeline, np.maximum(value, 0)).largest_since(at, since)
    series = Series(timeline, np.flatnonzero(chosen.astype(bool)[timeline.order]))
    newest, recent = series.newest(at), series.newest(at, since)
    last, last_recent = series.last(at, length), series.last(at, length, since)
    for row in range(len(keys)):
        counted = [
            i for i in index if key[i] == keys[row] and ts[i] < t[row] and p[i] <= p_limit[row]
        ]
        inside = [i for i in counted if ts[i] >= since[row]]
        assert sums[row] == sum(value[i] for i in inside)
        assert counts[row] == sum(chosen[i] for i in inside)
        assert peaks[row] == max((max(value[i], 0) for i in inside), default=0)
        ordered = sorted((i for i in counted if chosen[i]), key=lambda i: (ts[i], i))
        ordered_inside = [i for i in ordered if ts[i] >= since[row]]
        assert newest[row] == (ordered[-1] if ordered else -1)
        assert recent[row] == (ordered_inside[-1] if ordered_inside else -1)
        assert last.events[last.offsets[row] : last.offsets[row + 1]].tolist() == ordered[-length:]
        assert (
            last_recent.events[last_recent.offsets[row] : last_recent.offsets[row + 1]].tolist()
            == ordered_inside[-length:]
        )


@pytest.mark.parametrize("arrival", ["in order", "jitter", "reversed", "shuffled"])
def test_one_crowded_entity_is_exact_however_late_its_events_are(arrival):
    rng = np.random.default_rng(7)
    n, q = 3_000, 400
    ts = np.sort(rng.integers(0, 10_000, n))
    delay = {
        "in order": 0,
        "jitter": rng.integers(0, 200, n),
        "reversed": -2 * ts,
        "shuffled": rng.integers(0, 99_999, n),
    }[arrival]
    p = np.empty(n, np.int64)
    p[np.argsort(ts + delay, kind="stable")] = np.arange(1, n + 1)
    value = rng.integers(-1000, 1000, n)
    t, p_limit, keys = rng.integers(0, 10_500, q), rng.integers(0, n + 1, q), np.ones(q, np.uint64)
    timeline = Timeline(keys, np.ones(n, np.uint64), ts, p, tie_break=lambda rows: (rows,))
    at = timeline.queries_at(keys, t, p_limit)
    prefixes = [timeline.prefix(value)]
    sums = at.to_input_order(at.before().sums(prefixes)[0] - at.before(t - 500).sums(prefixes)[0])
    peaks = MaximumTree(timeline, value + 1000).largest_since(at, t - 500)
    chosen = value > 0
    series = Series(timeline, np.flatnonzero(chosen[timeline.order]))
    newest, last = series.newest(at), series.last(at, 20)
    for row in range(q):
        counted = (ts < t[row]) & (p <= p_limit[row])
        assert sums[row] == value[counted & (ts >= t[row] - 500)].sum()
        assert peaks[row] == (value[counted & (ts >= t[row] - 500)] + 1000).max(initial=0)
        expected = np.flatnonzero(counted & chosen)
        assert newest[row] == (expected[-1] if len(expected) else -1)
        assert (
            last.events[last.offsets[row] : last.offsets[row + 1]].tolist()
            == expected[-20:].tolist()
        )


def test_equal_times_are_ordered_by_the_tie_break_alone():
    identity = np.array([5, 3, 9, 4])
    ones = np.ones(4, np.uint64)
    timeline = Timeline(
        ones,
        ones,
        np.array([10, 10, 10, 20]),
        np.arange(4),
        tie_break=lambda rows: (identity[rows],),
    )
    assert identity[timeline.order].tolist() == [3, 5, 9, 4]


def test_ragged_lists_every_position_of_every_range():
    picks, offsets = concatenate_ranges(np.array([2, 7, 5]), np.array([4, 7, 8]))
    assert picks.tolist() == [2, 3, 5, 6, 7]
    assert offsets.tolist() == [0, 2, 2, 5]
