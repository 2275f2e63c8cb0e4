"""Loops of nearest sessions, V-SkNN and STAN, live: compiled by Numba.

What the two are stands in `tailorbird.retrieval.neighbours`. Here a session holds what it had
before the question, and is as new as its newest row before that.
"""

from typing import NamedTuple

import numpy as np

from benchmarks.quality.product.kernels import (
    Asked,
    Counter,
    Floats,
    Ints,
    Rows,
    add_session,
    find_before,
    list_best,
    mark_hidden,
    new_counter,
)
from tailorbird.features.kernels import compiled


class Recipe(NamedTuple):
    """How sessions are compared with a context; a length and a place count from 1.

    Attributes:
        k, sample: the `k` likest of the `sample` newest sessions that share an item.
        weight: (length, place − 1): of an item of the context.
        decay: (steps − 1,): by steps from the context's end to the newest common item.
        recency: of the age of a session, in microseconds; infinite where age does not count.
        closeness: of the places between an item and the common item that the context has last;
            infinite where these do not count. Where they do, a session's size counts too.
    """

    k: int
    sample: int
    weight: Floats
    decay: Floats
    recency: float
    closeness: float


class Found(NamedTuple):
    """Sessions that share an item with a context, by code.

    Attributes:
        likeness: Σ of the weights of common items; what `compare` makes of it.
        back: steps from the end of the context to the newest common item, from 1.
        last: the newest row of the session before the question.
        by: which row of the context last added to the likeness.
        touched: the sessions that have any.
    """

    likeness: Floats
    back: Ints
    last: Ints
    by: Ints
    touched: Ints


@compiled
def find_sessions(
    found: Found, known: Ints, q: int, at: int, context: Ints, weight: Floats, rows: Rows
) -> int:
    """Find the sessions that share an item with a context, but for its own; returns how many."""
    low, high, size = context[0], context[1], 0
    own_session = rows.session[rows.session_rows[high - 1]] if high > low else -1
    for place in range(high - 1, low - 1, -1):  # newest first, so that an item keeps its last place
        row = rows.session_rows[place]
        given = rows.item[row]
        if known[given] == q + 1:
            continue
        known[given] = q + 1
        for held in range(rows.item_starts[given], rows.item_starts[given + 1]):
            if rows.item_rows[held] >= at:
                break
            which = rows.session[rows.item_rows[held]]
            if which < 0 or which == own_session or found.by[which] == row + 1:
                continue
            if found.likeness[which] == 0.0:
                found.touched[size] = which
                size += 1
                found.back[which] = high - place
                end = session_end(which, at, rows)
                found.last[which] = rows.session_rows[end - 1]
            found.by[which] = row + 1
            found.likeness[which] += weight[high - low, place - low]
    for which in found.touched[:size]:
        found.by[which] = 0
    return size


@compiled
def session_end(which: int, at: int, rows: Rows) -> int:
    """Return the place behind the last row that a session has before a position."""
    starts = rows.session_starts
    return find_before(rows.session_rows, starts[which], starts[which + 1], at)


@compiled
def keep_first(found: Found, order: Ints, size: int, most: int) -> int:
    """Keep the first `most` touched sessions of an order, forget the others; returns how many."""
    kept = found.touched[:size][order[:most]]
    values = found.likeness[kept]
    for which in found.touched[:size]:
        found.likeness[which] = 0.0
    found.touched[: len(kept)] = kept
    found.likeness[kept] = values
    return len(kept)


@compiled
def compare(found: Found, size: int, at: int, now: int, recipe: Recipe, rows: Rows) -> int:
    """Keep the nearest of the newest sessions, newest first among equals; returns how many."""
    newest = np.argsort(-found.last[found.touched[:size]], kind="mergesort")
    size = keep_first(found, newest, size, recipe.sample)
    for which in found.touched[:size]:
        if recipe.closeness != np.inf:
            many = session_end(which, at, rows) - rows.session_starts[which]
            found.likeness[which] /= np.sqrt(many)
        if recipe.recency != np.inf:
            age = now - rows.ts[found.last[which]]
            found.likeness[which] *= np.exp(-age / recipe.recency)
    likest = np.argsort(-found.likeness[found.touched[:size]], kind="mergesort")
    return keep_first(found, likest, size, recipe.k)


@compiled
def add_around(
    counter: Counter,
    size: int,
    which: int,
    at: int,
    gain: float,
    closeness: float,
    given: tuple[Ints, int],
    rows: Rows,
) -> int:
    """Add to each row's item a gain that falls with the places from the last one that was given."""
    first, end = rows.session_starts[which], session_end(which, at, rows)
    known, stamp = given
    star = first
    for place in range(first, end):
        if known[rows.item[rows.session_rows[place]]] == stamp:
            star = place
    for place in range(first, end):
        code = rows.item[rows.session_rows[place]]
        if counter.value[code] == 0.0:
            counter.touched[size] = code
            size += 1
        counter.value[code] += gain * np.exp(-abs(place - star) / closeness)
    return size


@compiled
def list_neighbours(asked: Asked, rows: Rows, context: Ints, recipe: Recipe, out: Ints) -> None:
    """Fill lists by what the nearest sessions hold: V-SkNN or STAN, as the recipe says."""
    counter, score = new_counter(rows.items), np.zeros(out.shape[1])
    known, sessions = np.zeros(rows.items, np.int64), rows.sessions
    found = Found(
        np.zeros(sessions),
        np.zeros(sessions, np.int64),
        np.zeros(sessions, np.int64),
        np.zeros(sessions, np.int64),
        np.zeros(sessions, np.int64),
    )
    stamp = 0
    for q in range(len(asked.at)):
        at = asked.at[q]
        mark_hidden(asked, q, rows, counter.hidden)
        touched = find_sessions(found, known, q, at, context[q], recipe.weight, rows)
        size = 0
        for which in found.touched[: compare(found, touched, at, asked.now[q], recipe, rows)]:
            gain = found.likeness[which] * recipe.decay[found.back[which] - 1]
            found.likeness[which] = 0.0
            stamp += 1
            if recipe.closeness == np.inf:
                size = add_session(counter, size, which, at, gain, stamp, rows)
            else:
                given = (known, q + 1)
                size = add_around(counter, size, which, at, gain, recipe.closeness, given, rows)
        list_best(counter, size, q, score, out)
