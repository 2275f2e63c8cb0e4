"""Canaries as fast as their champion, and twice as slow, on servers with bursts of slow minutes.

Two servers answer 0.3 to 10 requests a second each, with a 95th percentile of 8 to 40 ms. One
minute in fifty begins a burst of some minutes in which a part of the answers, all in the same
seconds, takes 2 to 20 times as long, whichever version gives them. The canary has one of
`CANARY_SHARES` of the requests. Decisions are taken as by the trainer, from all answers since the
beginning: each minute of the first hour, then every ten minutes of six hours.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.quality.monitoring.diagnosis import share_with_interval
from tailorbird.monitoring.canary import CANARY_SHARES, GUARD_RAILS, LATENCY_ALPHA
from tailorbird.monitoring.latency import LATENCY_QUANTILE, compare_latencies

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
SERVERS = 2
MINUTES = 360
LOOKS = (*range(1, 60), *range(60, MINUTES + 1, 10))  # minutes
BURST_CHANCE = 0.02  # that a minute begins a burst
BURST_MINUTES = 3.0  # on average
SLOW_FACTOR = 2.0


def measure_canary_latency(first_seed: int, pairs: int) -> dict[str, Any]:
    """Return how often a canary is ended for its latency, and after how many minutes.

    `by_percentiles_alone` is the rule that compares the two percentiles without chance. Slow ones
    count that had `answers_min` answers within the hours.
    """
    seeds = range(first_seed, first_seed + pairs)
    equal, slow = (
        np.array([minutes_until_end(seed, factor) for seed in seeds])
        for factor in (1.0, SLOW_FACTOR)
    )
    delays = slow[np.isfinite(slow[:, 0]), 0]
    judged = int(slow[:, 2].sum())
    deciles = np.quantile(delays, (0.1, 0.5, 0.9)).tolist() if len(delays) else [None] * 3
    return {
        "false_ends": share_with_interval(int(np.isfinite(equal[:, 0]).sum()), pairs),
        "false_ends_by_percentiles_alone": share_with_interval(
            int(np.isfinite(equal[:, 1]).sum()), pairs
        ),
        "twice_as_slow": {
            "ended": share_with_interval(len(delays), judged),
            "minutes": dict(zip(("low", "value", "high"), deciles, strict=True))
            | {"n": len(delays)},
        },
    }


def minutes_until_end(seed: int, factor: float) -> tuple[float, float, bool]:
    """Return when a canary is ended, when by percentiles alone, and whether it is judged at all.

    A time is infinite if it is never ended.
    """
    rng = np.random.default_rng(seed)
    minute, block, latency_us, is_canary = draw_answers(rng)
    latency_us = np.where(is_canary, factor * latency_us, latency_us)
    ended = ended_by_percentiles = np.inf
    is_judged = False
    for look in LOOKS:
        canary, champion = (
            np.flatnonzero(of_version & (minute < look)) for of_version in (is_canary, ~is_canary)
        )
        if min(len(canary), len(champion)) < GUARD_RAILS.answers_min:
            continue
        is_judged = True
        canary_p95, champion_p95 = (
            np.quantile(latency_us[rows], LATENCY_QUANTILE) for rows in (canary, champion)
        )
        if canary_p95 > GUARD_RAILS.latency * champion_p95:
            ended_by_percentiles = min(ended_by_percentiles, look)
        latency = compare_latencies(
            latency_us[canary],
            block[canary],
            latency_us[champion],
            block[champion],
            alpha=LATENCY_ALPHA / len(CANARY_SHARES),
        )
        if latency.is_slower(GUARD_RAILS.latency, GUARD_RAILS.latency_excess_ms):
            ended = look
            break
    return ended, ended_by_percentiles, is_judged


def draw_answers(rng: np.random.Generator) -> tuple[Ints, Ints, Floats, npt.NDArray[np.bool_]]:
    """Return minute, block, latency and version of the answers of all servers."""
    requests_a_minute = 60.0 * 10 ** rng.uniform(np.log10(0.3), 1.0)
    share = rng.choice(CANARY_SHARES)
    p95_us = 1_000.0 * 10 ** rng.uniform(np.log10(8.0), np.log10(40.0))
    sd = rng.uniform(0.2, 0.7)
    block_count = SERVERS * MINUTES
    slow_factor, slow_part = draw_bursts(rng)
    counts = rng.poisson(requests_a_minute, block_count)
    block = np.repeat(np.arange(block_count), counts)
    median_us = p95_us / np.exp(1.645 * sd)
    latency_us = median_us * rng.lognormal(0.0, sd, len(block))
    latency_us *= rng.lognormal(0.0, 0.1, block_count)[block]  # minutes differ anyway
    second = rng.random(len(block))  # part of the minute; a burst takes its first part
    latency_us *= np.where(second < slow_part[block], slow_factor[block], 1.0)
    return block % MINUTES, block, latency_us, rng.random(len(block)) < share


def draw_bursts(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return by how much each block is slowed, and which part of it."""
    factor, part = np.ones(SERVERS * MINUTES), np.zeros(SERVERS * MINUTES)
    for start in np.flatnonzero(rng.random(SERVERS * MINUTES) < BURST_CHANCE):
        stop = start + rng.geometric(1.0 / BURST_MINUTES)
        factor[start:stop] = np.exp(rng.uniform(np.log(2.0), np.log(20.0)))
        part[start:stop] = rng.uniform(0.05, 1.0)
    return factor, part
