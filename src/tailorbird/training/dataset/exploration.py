"""Exploration in logged responses: rows that could have been exchanged, inferred from propensities.

The log has the probability with which an item stood at its position, but not the exploration
method. Each method leaves a trace (`ranking.policy.exploration`). `swap` has two probabilities that
add up to 1, equal for both items of a pair. With `item`, all rows have 1 − rate/m except at most
one, whose rate/m is divided by the pool size, an integer. Where all rows of a response have one
probability, the other responses of the log decide on the method.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Kinds of responses, by the rows that could be exchanged: any drawn row with any other, the rows
# of a pair, none.
ANY_ROW = 0
PAIRS = 1
NO_ROW = 2
_PROBABILITY_TOLERANCE = 1e-6  # tolerance for equal probabilities
_UNEXPLAINED_SHARE_MAX = (
    0.01  # share of responses with a method's probabilities that it cannot have made
)


@dataclass(frozen=True)
class ExplorationRows:
    """Rows of responses, one response after the other, each from the top.

    Attributes:
        position_index: shape (n,), position from 0.
        is_drawn: shape (n,), whether another item could have stood there.
        kind: shape (n,), kind of the row's response.
        is_pair_upper: shape (n,), whether the row is the upper one of a `swap` pair, if its
            response is of that kind.
    """

    response_index: Ints
    position_index: Ints
    is_clicked: Bools
    propensity: Floats
    is_drawn: Bools
    kind: Ints
    is_pair_upper: Bools


def collect_exploration_rows(
    position: npt.NDArray, clicked: npt.NDArray, propensity: Floats, request: npt.NDArray
) -> ExplorationRows:
    """Sort rows and infer how they were drawn. Shapes are (n,); positions count from 1."""
    order = np.lexsort((position, request))
    position_index = position[order].astype(np.int64) - 1
    propensity = propensity[order].astype(np.float64)
    response = np.unique(request[order], return_inverse=True)[1].astype(np.int64)
    is_drawn_row = propensity < 1
    is_pair_upper = _mark_pairs(response, position_index, is_drawn_row)
    kind = _response_kinds(response, propensity, is_drawn_row, is_pair_upper)[response]
    return ExplorationRows(
        response_index=response,
        position_index=position_index,
        is_clicked=clicked[order].astype(bool),
        propensity=propensity,
        is_drawn=is_drawn_row,
        kind=kind,
        is_pair_upper=is_pair_upper,
    )


def exchangeable_rows(rows: ExplorationRows) -> Iterator[Ints]:
    """Yield, for each kind of response, the rows that could have been exchanged with the next row.

    The next row stands at the next position.
    """
    is_exchangeable = (
        (np.diff(rows.response_index) == 0)
        & (np.diff(rows.position_index) == 1)
        & rows.is_drawn[:-1]
        & rows.is_drawn[1:]
    )
    for kind, mask in (
        (ANY_ROW, is_exchangeable),
        (PAIRS, is_exchangeable & rows.is_pair_upper[:-1]),
    ):
        if (upper_rows := np.flatnonzero(mask & (rows.kind[:-1] == kind))).size:
            yield upper_rows


def _mark_pairs(response: Ints, position_index: Ints, is_drawn_row: Bools) -> Bools:
    """Return the mask of the upper rows of pairs, as if all responses used `swap`.

    Pairs follow one another from the first drawn row of a run, be it the first of the list or one
    after a row that was not drawn. Which rows are drawn does not depend on what was swapped, so
    pairs that are dropped because the row above is missing are dropped evenly.
    """
    n = len(position_index)
    follows_previous = np.zeros(n, bool)
    follows_previous[1:] = (np.diff(response) == 0) & (np.diff(position_index) == 1)
    continues_pair = follows_previous & is_drawn_row & np.concatenate([[False], is_drawn_row[:-1]])
    is_run_start = is_drawn_row & ~continues_pair
    is_anchored = is_run_start & ((position_index == 0) | follows_previous)
    run_start = np.maximum.accumulate(np.where(is_run_start, np.arange(n), 0))
    is_upper = is_drawn_row & is_anchored[run_start] & ((np.arange(n) - run_start) % 2 == 0)
    return is_upper & np.concatenate([continues_pair[1:], [False]])


def _response_kinds(
    response: Ints, propensity: Floats, is_drawn_row: Bools, is_pair_upper: Bools
) -> Ints:
    """Return the kind of each response."""
    response_count = int(response[-1]) + 1
    drawn_response = response[is_drawn_row]
    chance = propensity[is_drawn_row]
    lowest_chance = np.full(response_count, np.inf)
    highest_chance = np.full(response_count, -np.inf)
    np.minimum.at(lowest_chance, drawn_response, chance)
    np.maximum.at(highest_chance, drawn_response, chance)
    has_draws = np.isfinite(lowest_chance)
    lowest_chance = np.where(has_draws, lowest_chance, 1.0)
    highest_chance = np.where(has_draws, highest_chance, 1.0)
    drawn_counts, low_counts, high_counts = (
        np.bincount(drawn_response[mask], minlength=response_count)
        for mask in (
            slice(None),
            np.abs(chance - lowest_chance[drawn_response]) < _PROBABILITY_TOLERANCE,
            np.abs(chance - highest_chance[drawn_response]) < _PROBABILITY_TOLERANCE,
        )
    )
    has_one_level = has_draws & (highest_chance - lowest_chance < _PROBABILITY_TOLERANCE)
    has_two_levels = has_draws & ~has_one_level & (low_counts + high_counts == drawn_counts)

    sums_to_one = (has_two_levels | has_one_level) & (
        np.abs(lowest_chance + highest_chance - 1.0) < _PROBABILITY_TOLERANCE
    )
    upper_rows = np.flatnonzero(is_pair_upper)
    has_uneven_pair = np.zeros(response_count, bool)
    has_uneven_pair[
        response[upper_rows][
            np.abs(propensity[upper_rows] - propensity[upper_rows + 1]) >= _PROBABILITY_TOLERANCE
        ]
    ] = True
    swap_keys = _consistent_probability_keys(
        _to_probability_key(lowest_chance[sums_to_one]), ~has_uneven_pair[sums_to_one]
    )
    is_swap = (sums_to_one & np.isin(_to_probability_key(lowest_chance), swap_keys)) | (
        has_one_level
        & (
            np.isin(_to_probability_key(lowest_chance), swap_keys)
            | np.isin(_to_probability_key(1.0 - lowest_chance), swap_keys)
        )
    )

    pool_size = (1.0 - highest_chance) / np.maximum(lowest_chance, 1e-12)
    may_use_item_method = has_draws & ~has_one_level & ~is_swap
    has_item_trace = (
        may_use_item_method
        & has_two_levels
        & (low_counts == 1)
        & (highest_chance >= 0.5)
        & (np.abs(pool_size - np.round(pool_size)) < 1e-3)
        & (pool_size > 0.5)
    )
    item_keys = _consistent_probability_keys(
        _to_probability_key(highest_chance[may_use_item_method]),
        has_item_trace[may_use_item_method],
    )
    is_item = (has_item_trace | (has_one_level & ~is_swap)) & np.isin(
        _to_probability_key(highest_chance), item_keys
    )
    return np.where(is_item, NO_ROW, np.where(is_swap, PAIRS, ANY_ROW)).astype(np.int64)


def _consistent_probability_keys(key: Ints, is_consistent: Bools) -> Ints:
    """Return the probabilities whose responses nearly all fit the traces of one method."""
    keys, key_index = np.unique(key, return_inverse=True)
    share = np.bincount(key_index, ~is_consistent, len(keys)) / np.maximum(
        np.bincount(key_index, minlength=len(keys)), 1
    )
    return keys[share <= _UNEXPLAINED_SHARE_MAX]


def _to_probability_key(chance: Floats) -> Ints:
    return np.round(chance / _PROBABILITY_TOLERANCE).astype(np.int64)
