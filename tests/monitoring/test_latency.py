"""The latency of two versions that answer in the same minutes of the same servers."""

import math

import numpy as np
import pyarrow as pa
import pytest
from benchmarks.quality.monitoring.canary_latency import measure_canary_latency

from tailorbird.events import MINUTE
from tailorbird.monitoring.latency import BLOCKS_MIN, compare_latencies, compare_versions

NOW = 1_800_000_000_000_000 // MINUTE * MINUTE


def draw_answers(seed, blocks, *, factor=1.0, slow_from=None):
    """Draw forty answers of the champion and eight of the canary a block, 12 ms at the 95th
    percentile; blocks from `slow_from` on are ten times as slow.
    """
    rng = np.random.default_rng(seed)
    champion_block, canary_block = np.repeat(np.arange(blocks), 40), np.repeat(np.arange(blocks), 8)
    champion_us, canary_us = (
        rng.lognormal(8.9, 0.3, len(block))
        * np.where(block >= (blocks if slow_from is None else slow_from), 10.0, 1.0)
        for block in (champion_block, canary_block)
    )
    return factor * canary_us, canary_block, champion_us, champion_block


def test_a_model_twice_as_slow_is_found_and_the_interval_holds_its_latency():
    latency = compare_latencies(*draw_answers(0, 60, factor=2.0), alpha=0.01)
    assert latency.is_slower(1.5, 5.0)
    assert not latency.is_slower(2.1, 0.0)
    assert latency.low_ms < latency.canary_ms < latency.high_ms
    assert latency.low_ms / latency.champion_ms < 2.0 < latency.high_ms / latency.champion_ms


def test_nothing_is_said_of_a_few_minutes():
    latency = compare_latencies(*draw_answers(0, BLOCKS_MIN - 1, factor=9.0), alpha=0.01)
    assert math.isnan(latency.champion_ms)
    assert not latency.is_slower(1.5, 5.0)


def test_a_burst_slows_both_and_is_no_fault_of_the_canary():
    """The canary has all its answers in the burst, the champion a tenth."""
    canary_us, canary_block, champion_us, champion_block = draw_answers(0, 300, slow_from=270)
    is_late = canary_block >= 270
    latency = compare_latencies(
        canary_us[is_late], canary_block[is_late], champion_us, champion_block, alpha=0.01
    )
    assert np.quantile(canary_us[is_late], 0.95) > 1.5 * np.quantile(champion_us, 0.9)
    assert latency.blocks == 30
    assert not latency.is_slower(1.2, 0.0)


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_answers_that_take_the_same_time_are_compared_exactly(factor):
    canary_us, canary_block, champion_us, champion_block = draw_answers(0, 30)
    latency = compare_latencies(
        np.full_like(canary_us, factor * 5_000.0),
        canary_block,
        np.full_like(champion_us, 5_000.0),
        champion_block,
        alpha=0.01,
    )
    assert (latency.champion_ms, latency.canary_ms) == (5.0, factor * 5.0)
    assert latency.is_slower(1.5, 5.0) == (factor == 3.0)


def test_blocks_are_the_minutes_of_a_server():
    """Canary and champion never answered in the same minute of the same server."""
    minutes = np.repeat(np.arange(60), 2)
    responses = pa.table(
        {
            "assigned_version": ["v0002", "v0001"] * 60,
            "latency_us": [9_000, 5_000] * 60,
            "ts": pa.array(NOW + minutes * MINUTE).cast(pa.timestamp("us")),
            "producer": ["a", "b"] * 60,
        }
    )
    assert compare_versions(responses, "v0002", "v0001", alpha=0.01).blocks == 0
    same_server = responses.set_column(3, "producer", pa.array(["a"] * 120))
    latency = compare_versions(same_server, "v0002", "v0001", alpha=0.01)
    assert (latency.blocks, latency.canary_ms, latency.champion_ms) == (60, 9.0, 5.0)


@pytest.mark.slow
def test_equal_canaries_survive_bursts_and_slow_ones_are_ended():
    figures = measure_canary_latency(5_000, 12)
    assert figures["false_ends"]["value"] == 0.0
    assert figures["twice_as_slow"]["ended"]["value"] >= 0.9
