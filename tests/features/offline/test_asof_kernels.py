"""Window sums, decays, peaks and unions of sketches against loops over the events: in flight, tied,
extreme, crowded, absent.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailorbird.features.arithmetic.sketch import registers_and_ranks, summarise_registers
from tailorbird.features.offline.asof import Timeline
from tailorbird.features.offline.asof_peaks import MaximumTree
from tailorbird.features.offline.asof_sketches import SketchTree
from tailorbird.features.offline.kernels.groups import KeyNumbering, group_entries
from tailorbird.features.offline.kernels.windows import tile_of

WEIGHTS = np.array([1.0, 0.8408964152537145, 0.7071067811865476, 0.5946035575013605, 0.5])
HUGE = (1 << 63) - 1

EVENT = st.tuples(
    st.integers(0, 3),
    st.integers(-20, 40),
    st.integers(1, 15),
    st.one_of(st.integers(-5, 5), st.sampled_from([HUGE, -HUGE])),
)
MOMENT = st.tuples(st.integers(0, 5), st.integers(-25, 45), st.integers(0, 16))
WINDOWS = st.lists(
    st.tuples(st.integers(1, 7), st.integers(1, 6), st.integers(0, 1)), min_size=1, max_size=4
)


def columns(rows, width):
    return [np.array([row[index] for row in rows], np.int64) for index in range(width)]


def wrapped(values):
    """A sum that wraps around as int64 does."""
    return (sum(int(value) for value in values) + (1 << 63)) % (1 << 64) - (1 << 63)


def timeline_of(entity_keys, key, ts, p):
    return Timeline(entity_keys.astype(np.uint64), key.astype(np.uint64), ts, p)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(EVENT, max_size=40),
    st.lists(MOMENT, max_size=20),
    WINDOWS,
    st.sampled_from([0, 2, 256]),
)
def test_window_sums_and_decays_are_those_of_a_loop(events, moments, windows, in_flight_max):
    key, ts, p, value = columns(events, 4)
    keys, t, p_limit = columns(moments, 3)
    timeline = timeline_of(keys, key, ts, p)
    at = timeline.queries_at(keys.astype(np.uint64), t, p_limit)
    ones = np.ones(len(key), np.int64)
    spans = [(hop, hop * tiles, which) for hop, tiles, which in windows]
    sums = at.window_sums(timeline.prefixes([value, ones]), spans, in_flight_max=in_flight_max)
    small = np.where(np.abs(value) > 5, 0, value)
    faded = at.decayed_sums(timeline.prefix(small), 3, WEIGHTS, in_flight_max=in_flight_max)
    for row in range(len(keys)):
        counted = [
            i
            for i in range(len(key))
            if key[i] == keys[row] and ts[i] < t[row] and p[i] <= p_limit[row]
        ]
        for place, (hop, length, which) in enumerate(spans):
            inside = [i for i in counted if ts[i] >= t[row] // hop * hop - length]
            assert sums[row, place] == (len(inside) if which else wrapped(value[inside]))
        total = 0.0
        for age in range(len(WEIGHTS) - 1, -1, -1):
            total += (
                float(sum(int(small[i]) for i in counted if t[row] // 3 - ts[i] // 3 == age))
                * WEIGHTS[age]
            )
        assert faded[row].tobytes() == np.float64(total).tobytes()


@settings(max_examples=100, deadline=None)
@given(st.lists(EVENT, max_size=60), st.lists(MOMENT, max_size=20), st.integers(0, 2**32))
def test_peaks_and_unions_are_those_of_a_loop(events, moments, seed):
    key, ts, p, _ = columns(events, 4)
    keys, t, p_limit = columns(moments, 3)
    rng = np.random.default_rng(seed)
    value, chosen = rng.integers(0, HUGE, len(key)), rng.random(len(key)) < 0.7
    hashes = rng.integers(0, 1 << 63, len(key)).astype(np.uint64) * np.uint64(2)
    timeline = timeline_of(keys, key, ts, p)
    at = timeline.queries_at(keys.astype(np.uint64), t, p_limit)
    peaks = MaximumTree(timeline, value).largest_since(at, t - 30)
    empty, weight = SketchTree(timeline, hashes, chosen, 4).summary_since(at, t - 30)
    for row in range(len(keys)):
        inside = (key == keys[row]) & (ts < t[row]) & (p <= p_limit[row]) & (ts >= t[row] - 30)
        assert peaks[row] == value[inside].max(initial=0)
        assert (empty[row], weight[row]) == union_of(hashes[inside & chosen], 4)


def union_of(hashes, precision):
    registers = np.zeros((1, 1 << precision), np.uint8)
    register, rank = registers_and_ranks(hashes, precision)
    np.maximum.at(registers[0], register, rank)
    empty, weight = summarise_registers(registers)
    return empty[0], weight[0]


@pytest.mark.parametrize("late", [0, 500, 100_000])
def test_a_single_crowded_entity(late):
    """Longer stretches than are looked at one by one, in flight and in windows, and keys that
    nobody asks about.
    """
    rng = np.random.default_rng(late)
    n, q = 4_000, 300
    key = np.where(rng.random(n) < 0.9, 1, 2)
    ts = rng.integers(0, 20_000, n)
    p = np.empty(n, np.int64)
    p[np.argsort(ts + rng.integers(0, late + 1, n), kind="stable")] = np.arange(1, n + 1)
    value, hashes = (
        rng.integers(0, 1000, n),
        rng.integers(0, 1 << 63, n).astype(np.uint64) * np.uint64(2),
    )
    keys, t = np.ones(q, np.int64), rng.integers(0, 21_000, q)
    p_limit = np.clip(t * n // 20_000 + rng.integers(-900, 900, q), 0, n)
    timeline = timeline_of(keys, key, ts, p)
    at = timeline.queries_at(keys.astype(np.uint64), t, p_limit)
    prefix = timeline.prefix(value)
    sums = at.window_sums(timeline.prefixes([value]), [(100, 700, 0), (1000, 12_000, 0)])
    faded = at.decayed_sums(prefix, 1000, WEIGHTS)
    peaks = MaximumTree(timeline, value).largest_since(at, t - 5_000)
    summaries = SketchTree(timeline, hashes, np.ones(n, np.bool_), 6).summary_since(at, t - 5_000)
    for row in range(q):
        counted = (key == 1) & (ts < t[row]) & (p <= p_limit[row])
        assert sums[row, 0] == value[counted & (ts >= t[row] // 100 * 100 - 700)].sum()
        assert sums[row, 1] == value[counted & (ts >= t[row] // 1000 * 1000 - 12_000)].sum()
        total = 0.0
        for age in range(len(WEIGHTS) - 1, -1, -1):
            total += (
                float(value[counted & (t[row] // 1000 - ts // 1000 == age)].sum()) * WEIGHTS[age]
            )
        assert faded[row] == total
        recent = counted & (ts >= t[row] - 5_000)
        assert peaks[row] == value[recent].max(initial=0)
        assert (summaries[0][row], summaries[1][row]) == union_of(hashes[recent], 6)


@pytest.mark.parametrize("extreme", [-HUGE - 1, HUGE])
def test_times_and_positions_at_the_ends_of_int64(extreme):
    key, keys = np.array([7, 7, 7], np.uint64), np.array([7, 7, 9], np.uint64)
    timeline = Timeline(keys, key, np.array([extreme, 0, 5]), np.array([1, extreme, 2]))
    at = timeline.queries_at(keys, np.array([HUGE, 1, HUGE]), np.array([HUGE, 2, HUGE]))
    counts = at.to_input_order(
        at.before().sums([timeline.prefix(np.ones(3, np.int64))])[0] - timeline.starts[at.entity]
    )
    assert counts.tolist() == ([3, 2, 0] if extreme < 0 else [2, 0, 0])


@settings(deadline=None)
@given(st.lists(st.integers(0, 40)), st.lists(st.integers(0, 60)))
def test_keys_are_numbered_in_order_of_their_first_place(keys, queried):
    numbers = KeyNumbering(np.array(keys, np.uint64))
    unique = list(dict.fromkeys(keys))
    assert numbers.count == len(unique)
    assert numbers.first.tolist() == [keys.index(key) for key in unique]
    expected = [unique.index(key) if key in unique else len(unique) for key in queried]
    assert numbers.lookup(np.array(queried, np.uint64)).tolist() == expected


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(-3, 3)), max_size=200), st.integers(1, 4))
def test_groups_are_sorted_by_time_and_keep_the_order_of_equals(rows, groups):
    group, times = columns(rows, 2)
    group = np.minimum(group, groups).astype(np.int32)
    starts, order, sorted_times, _ = group_entries(group, groups, times, times)
    expected = sorted(
        (row for row in range(len(rows)) if group[row] < groups),
        key=lambda row: (group[row], times[row]),
    )
    assert order.tolist() == expected
    assert sorted_times.tolist() == times[expected].tolist()
    assert np.diff(starts).tolist() == [int((group == one).sum()) for one in range(groups)]


@pytest.mark.parametrize(("groups", "skew"), [(5_000, False), (5_000, True), (100_000, False)])
def test_many_entries_are_grouped_over_buckets_as_a_stable_sort_does(groups, skew):
    rng = np.random.default_rng(groups)
    n = 150_000
    group = np.minimum(
        rng.integers(0, groups + 1, n),
        np.where(skew & (rng.random(n) < 0.5), rng.integers(0, 3, n), groups),
    ).astype(np.int32)
    times, p = rng.integers(0, 1_000, n) - 500, np.arange(n) * 7
    starts, order, times_of, p_of = group_entries(group, groups, times, p)
    there = np.flatnonzero(group < groups)
    expected = there[np.lexsort((times[there], group[there]))]
    np.testing.assert_array_equal(order, expected)
    np.testing.assert_array_equal(starts, np.searchsorted(group[expected], np.arange(groups + 1)))
    np.testing.assert_array_equal(times_of, times[expected])
    np.testing.assert_array_equal(p_of, p[expected])


def test_keys_are_numbered_by_their_first_place_however_many_there_are():
    rng = np.random.default_rng(5)
    keys = rng.integers(0, 90_000, 200_000).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    numbers = KeyNumbering(keys)
    unique, first, place = np.unique(keys, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    assert numbers.count == len(unique)
    np.testing.assert_array_equal(numbers.first, np.sort(first))
    np.testing.assert_array_equal(numbers.numbers, rank[place])
    np.testing.assert_array_equal(numbers.lookup(keys[::-1].copy()), rank[place][::-1])
    assert numbers.lookup(np.array([1, 2], np.uint64)).tolist() == [numbers.count] * 2
    assert KeyNumbering(np.zeros(0, np.uint64)).lookup(np.array([1], np.uint64)).tolist() == [0]


@settings(max_examples=300, deadline=None)
@given(st.integers(-(1 << 62), 1 << 62), st.integers(1, 1 << 45))
def test_the_tile_of_a_time_is_what_a_division_gives(time, hop):
    for one in (time, time % (1 << 54), time // hop * hop, time // hop * hop - 1):
        assert tile_of(one, hop, 1.0 / hop) == one // hop
