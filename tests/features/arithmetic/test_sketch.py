"""Sketches: how many different values they say there are, against how many there are; and unions at
(t, p) against loops.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailorbird.events.keys import hash64s
from tailorbird.features.arithmetic.sketch import (
    estimate_distinct,
    registers_and_ranks,
    summarise_registers,
)
from tailorbird.features.offline.asof import Timeline
from tailorbird.features.offline.asof_sketches import SketchTree


def sketched(hashes: np.ndarray, precision: int) -> np.ndarray:
    registers = np.zeros((1, 1 << precision), np.uint8)
    register, rank = registers_and_ranks(hashes, precision)
    np.maximum.at(registers[0], register, rank)
    return registers


def distinct(texts: list[str], precision: int) -> float:
    return estimate_distinct(*summarise_registers(sketched(hash64s(texts), precision)), precision)[
        0
    ]


def test_a_register_is_the_first_bits_and_the_rank_the_index_of_the_next_set_bit():
    hashes = np.array([0b101101 << 58 | 1 << 54, 0, 2**64 - 1, 1], np.uint64)
    register, rank = registers_and_ranks(hashes, 6)
    assert register.tolist() == [45, 0, 63, 0]
    assert rank.tolist() == [4, 40, 1, 40]


@pytest.mark.parametrize(("precision", "error"), [(4, 0.26), (6, 0.13), (8, 0.065)])
@pytest.mark.parametrize("count", [0, 1, 3, 100, 20_000])
def test_the_estimate_is_within_four_times_the_usual_error(precision, error, count):
    estimate_distinct = distinct([f"value {number}" for number in range(count)] * 2, precision)
    assert abs(estimate_distinct - count) <= max(4 * error * count, 0.5 if count <= 3 else 0)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0, 30, 1000]), st.sampled_from([4, 6]))
def test_a_union_contains_the_routed_events_of_its_window(seed, delay, precision):
    rng = np.random.default_rng(seed)
    n, q = 700, 40
    keys, ts = rng.integers(0, 2, n).astype(np.uint64), np.sort(rng.integers(0, 1000, n))
    p = np.empty(n, np.int64)
    p[np.argsort(ts + rng.integers(0, delay + 1, n), kind="stable")] = np.arange(n)
    hashes, chosen = rng.integers(0, 2**64, n, dtype=np.uint64), rng.random(n) < 0.8
    entity_keys, t, p_limit = (
        rng.integers(0, 3, q).astype(np.uint64),
        rng.integers(0, 1100, q),
        rng.integers(0, n, q),
    )
    since = t - rng.integers(0, 600, q)
    timeline = Timeline(entity_keys, keys, ts, p)
    empty, weight = SketchTree(timeline, hashes, chosen, precision).summary_since(
        timeline.queries_at(entity_keys, t, p_limit), since
    )
    for row in range(q):
        counted = (
            chosen
            & (keys == entity_keys[row])
            & (ts >= since[row])
            & (ts < t[row])
            & (p <= p_limit[row])
        )
        expected = summarise_registers(sketched(hashes[counted], precision))
        assert (empty[row], weight[row]) == (expected[0][0], expected[1][0])
