"""Compare the latency of two versions that answer at the same time, at any time one looks.

A slow minute of a server slows the answers of both versions, and many at once. So the unit is a
block, the answers of one server in one minute, and both versions are compared within blocks:

    q      the champion's 95th percentile, each block weighted by the canary's answers in it
    G(t)   the canary's share of answers slower than t, minus the champion's share above q
           (one in twenty), averaged over blocks; its variance is that of the blocks' differences

The canary's own percentile is above t if G(t) > 0. The interval holds every t at which the
confidence sequence of G(t) includes 0: an inversion as in Woodruff (1952), with the bound of
`experiments.analysis.anytime` in place of a single look's. Howard and Ramdas (Bernoulli 2022) give
sequences for quantiles of independent values, which answers of one burst are not.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events import MINUTE
from tailorbird.experiments.analysis.anytime import confidence_sequence
from tailorbird.experiments.statistics import Moments

LATENCY_QUANTILE = 0.95
BLOCKS_MIN = 20  # the sequence is asymptotic: the variance of fewer blocks is hardly known
TUNED_FOR_BLOCKS = 100  # where the interval is narrowest: an hour of two servers
BLOCK_COLUMNS = ("assigned_version", "latency_us", "ts", "producer")

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LatencyComparison:
    """The 95th percentiles of both in the same blocks, milliseconds; NaN with too few blocks.

    Attributes:
        low_ms, high_ms: interval of the canary's, valid at every look, with the champion's taken
            as it is: their ratio's interval is that of both.
        blocks: minutes of a server in which both answered.
    """

    champion_ms: float
    canary_ms: float
    low_ms: float
    high_ms: float
    blocks: int

    def is_slower(self, factor: float, excess_ms: float) -> bool:
        """Return whether the canary is slower by a factor and by so much, beyond chance."""
        return self.low_ms > max(factor * self.champion_ms, self.champion_ms + excess_ms)

    def describe(self) -> str:
        """Return the figures as a phrase of a verdict."""
        return (
            f"{self.canary_ms:.1f} ms at the 95th percentile, the champion's {self.champion_ms:.1f}"
            f": {self.canary_ms / self.champion_ms:.2f} times ({self.low_ms / self.champion_ms:.2f} "
            f"to {self.high_ms / self.champion_ms:.2f}) in the same {self.blocks:,} minutes"
        )


UNKNOWN_LATENCY = LatencyComparison(math.nan, math.nan, math.nan, math.nan, 0)


def compare_versions(
    responses: pa.Table, canary: str, champion: str, *, alpha: float
) -> LatencyComparison:
    """Return the latencies of two versions in the minutes and servers that both answered in.

    Args:
        responses: with `BLOCK_COLUMNS`.
    """
    timed = responses.filter(pc.is_valid(responses["latency_us"]))
    minute = timed["ts"].cast(pa.int64()).to_numpy() // MINUTE
    server = timed["producer"].combine_chunks().dictionary_encode()
    server_codes = server.indices.fill_null(len(server.dictionary)).to_numpy().astype(np.int64)
    block = minute * (len(server.dictionary) + 1) + server_codes
    latency_us = timed["latency_us"].to_numpy().astype(np.float64)
    is_canary, is_champion = (
        pc.fill_null(pc.equal(timed["assigned_version"], version), False).to_numpy()
        for version in (canary, champion)
    )
    return compare_latencies(
        latency_us[is_canary],
        block[is_canary],
        latency_us[is_champion],
        block[is_champion],
        alpha=alpha,
    )


def compare_latencies(
    canary_us: Floats,
    canary_block: Ints,
    champion_us: Floats,
    champion_block: Ints,
    *,
    alpha: float,
) -> LatencyComparison:
    """Return the latencies of two versions from each answer's time and block."""
    blocks = np.intersect1d(canary_block, champion_block)
    if len(blocks) < BLOCKS_MIN:
        return UNKNOWN_LATENCY
    canary_index, canary_us = _select_blocks(blocks, canary_block, canary_us)
    champion_index, champion_us = _select_blocks(blocks, champion_block, champion_us)
    answers = np.bincount(canary_index, minlength=len(blocks)).astype(np.float64)
    weight = (answers / np.bincount(champion_index, minlength=len(blocks)))[champion_index]
    tail = 1.0 - LATENCY_QUANTILE
    champion_quantile, champion_slow = _find_tail(champion_us, weight, tail)
    champion_slow_by_block = np.bincount(champion_index, champion_slow * weight, len(blocks))

    def gap_interval(threshold_us: float) -> tuple[float, float]:
        """Return the interval of G."""
        slow = np.bincount(canary_index[canary_us > threshold_us], minlength=len(blocks))
        gap = Moments.from_totals(slow - champion_slow_by_block, answers)
        return confidence_sequence(
            gap.ratio,
            math.sqrt(gap.variance),
            len(blocks),
            tuned_for_units=TUNED_FOR_BLOCKS,
            alpha=alpha,
            burn_in=BLOCKS_MIN,
        )

    times = np.unique(canary_us)
    low_index = _first_index(len(times), lambda index: gap_interval(times[index])[0] <= 0)
    high_index = _first_index(len(times), lambda index: gap_interval(times[index])[1] < 0)
    canary_quantile, _ = _find_tail(canary_us, np.ones_like(canary_us), tail)
    return LatencyComparison(
        champion_ms=champion_quantile / 1_000,
        canary_ms=canary_quantile / 1_000,
        low_ms=float(times[low_index]) / 1_000 if low_index < len(times) else math.nan,
        high_ms=float(times[high_index]) / 1_000 if high_index < len(times) else math.inf,
        blocks=len(blocks),
    )


def _select_blocks(blocks: Ints, block: Ints, latency_us: Floats) -> tuple[Ints, Floats]:
    """Return the index into `blocks` and the latency of each answer that is in one of them."""
    index = np.minimum(np.searchsorted(blocks, block), len(blocks) - 1)
    is_shared = blocks[index] == block
    return index[is_shared], latency_us[is_shared]


def _find_tail(latency_us: Floats, weight: Floats, tail: float) -> tuple[float, Floats]:
    """Return the time above which a share `tail` lies, and how much of each answer is in the tail.

    Answers that take exactly that time count in part, so that the share is exact despite ties.
    """
    order = np.argsort(latency_us)
    total = weight.sum()
    position = np.searchsorted(np.cumsum(weight[order]), (1.0 - tail) * total)
    quantile = float(latency_us[order][min(position, len(order) - 1)])
    is_equal = latency_us == quantile
    above = float(weight[latency_us > quantile].sum())
    part = (tail * total - above) / float(weight[is_equal].sum())
    return quantile, np.where(is_equal, part, latency_us > quantile)


def _first_index(count: int, holds: Callable[[int], bool]) -> int:
    """Return the first index at which a condition holds that holds from there on; `count` if none."""
    low = 0
    high = count
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
