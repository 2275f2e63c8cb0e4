"""Which rows of logged answers the randomisation could have exchanged, read off their propensities.

The log says with which probability an item stood at its place, and not by which method. Each leaves
its own marks (`ranking.exploration`): `swap` has two probabilities that add up to 1, and both items
of a pair have the same; of `item` all rows have 1 − rate/m but at most one, whose rate/m is divided
by a whole number, the pool. Where all rows of an answer have one probability, the other answers of
the log say whose it is.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

EACH, PAIRS, NEVER = (
    0,
    1,
    2,
)  # what could be exchanged: each drawn row with each other, those of a pair, none
_SAME = 1e-6  # of two probabilities
_ODD_MAX = 0.01  # of the answers with a method's probabilities: those that it cannot have made


@dataclass(frozen=True)
class Drawn:
    """Rows of answers, one answer after the other, each from the top.

    Attributes:
        place: shape (n,), from 0.
        drawn: shape (n,), whether another item could have stood there.
        kind: shape (n,), of the row's answer.
        pair: shape (n,), whether the row is the upper one of a pair of `swap`, if its answer is of
            that kind.
    """

    answer: Ints
    place: Ints
    clicked: Bools
    propensity: Floats
    drawn: Bools
    kind: Ints
    pair: Bools


def drawn_rows(
    position: npt.NDArray, clicked: npt.NDArray, propensity: Floats, request: npt.NDArray
) -> Drawn:
    """In order, and told apart by how they were drawn. Shapes (n,); positions count from 1."""
    order = np.lexsort((position, request))
    place, propensity = position[order].astype(np.int64) - 1, propensity[order].astype(np.float64)
    answer = np.unique(request[order], return_inverse=True)[1].astype(np.int64)
    drawn = propensity < 1
    pair = _pairs(answer, place, drawn)
    kind = _kinds(answer, propensity, drawn, pair)[answer]
    return Drawn(answer, place, clicked[order].astype(bool), propensity, drawn, kind, pair)


def links(rows: Drawn) -> Iterator[Ints]:
    """For each kind of answers, the rows that could have been exchanged with the next row, which
    stands on the next place.
    """
    neighbours = (
        (np.diff(rows.answer) == 0) & (np.diff(rows.place) == 1) & rows.drawn[:-1] & rows.drawn[1:]
    )
    for kind, which in ((EACH, neighbours), (PAIRS, neighbours & rows.pair[:-1])):
        if (found := np.flatnonzero(which & (rows.kind[:-1] == kind))).size:
            yield found


def _pairs(answer: Ints, place: Ints, drawn: Bools) -> Bools:
    """The upper row of each pair, were all answers of `swap`.

    Pairs follow one another from where the first drawn row of a run stands, be it the first of the
    list or behind one that was not drawn. Which rows are drawn does not depend on what was swapped;
    so what is left out, where the row above is missing, is left out evenly.
    """
    n = len(place)
    follows = np.zeros(n, bool)
    follows[1:] = (np.diff(answer) == 0) & (np.diff(place) == 1)
    goes_on = follows & drawn & np.concatenate([[False], drawn[:-1]])
    starts = drawn & ~goes_on
    known = starts & ((place == 0) | follows)
    at = np.maximum.accumulate(np.where(starts, np.arange(n), 0))
    upper = drawn & known[at] & ((np.arange(n) - at) % 2 == 0)
    return upper & np.concatenate([goes_on[1:], [False]])


def _kinds(answer: Ints, propensity: Floats, drawn: Bools, pair: Bools) -> Ints:
    """What could be exchanged within each answer."""
    count = int(answer[-1]) + 1
    own, chance = answer[drawn], propensity[drawn]
    low, high = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(low, own, chance)
    np.maximum.at(high, own, chance)
    some = np.isfinite(low)
    low, high = np.where(some, low, 1.0), np.where(some, high, 1.0)
    size, lows, highs = (
        np.bincount(own[which], minlength=count)
        for which in (
            slice(None),
            np.abs(chance - low[own]) < _SAME,
            np.abs(chance - high[own]) < _SAME,
        )
    )
    equal = some & (high - low < _SAME)
    two = some & ~equal & (lows + highs == size)

    adds_up = (two | equal) & (np.abs(low + high - 1.0) < _SAME)
    upper = np.flatnonzero(pair)
    uneven = np.zeros(count, bool)
    uneven[answer[upper][np.abs(propensity[upper] - propensity[upper + 1]) >= _SAME]] = True
    rates = _mostly(_key(low[adds_up]), ~uneven[adds_up])
    swaps = (adds_up & np.isin(_key(low), rates)) | (
        equal & (np.isin(_key(low), rates) | np.isin(_key(1.0 - low), rates))
    )

    pool = (1.0 - high) / np.maximum(low, 1e-12)
    several = some & ~equal & ~swaps
    one = (
        several
        & two
        & (lows == 1)
        & (high >= 0.5)
        & (np.abs(pool - np.round(pool)) < 1e-3)
        & (pool > 0.5)
    )
    usual = _mostly(_key(high[several]), one[several])
    items = (one | (equal & ~swaps)) & np.isin(_key(high), usual)
    return np.where(items, NEVER, np.where(swaps, PAIRS, EACH)).astype(np.int64)


def _mostly(key: Ints, fits: Bools) -> Ints:
    """Of the probabilities that answers have, those of which nearly all answers look as one method
    makes them.
    """
    keys, which = np.unique(key, return_inverse=True)
    share = np.bincount(which, ~fits, len(keys)) / np.maximum(
        np.bincount(which, minlength=len(keys)), 1
    )
    return keys[share <= _ODD_MAX]


def _key(chance: Floats) -> Ints:
    return np.round(chance / _SAME).astype(np.int64)
