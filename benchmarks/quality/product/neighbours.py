"""Numba kernels of the live nearest-session baselines, V-SkNN and STAN.

Both are described in `tailorbird.candidates.session_knn`. Here a session holds its rows before the
question, and is as new as the newest of them.
"""

from typing import NamedTuple

import numpy as np

from benchmarks.quality.product.kernels import (
    Counter,
    Floats,
    Ints,
    Queries,
    Rows,
    add_session,
    find_before,
    list_best,
    mark_hidden,
    new_counter,
)
from tailorbird.features.offline.kernels.windows import compiled


class Recipe(NamedTuple):
    """Parameters of the comparison of sessions with a context; lengths and places count from 1.

    Attributes:
        k, sample: the `k` most similar of the `sample` newest sessions that share an item.
        weight: (length, place − 1): of an item of the context.
        decay: (steps − 1,): by steps from the context's end to the newest common item.
        recency: of the age of a session, in microseconds; infinite if age does not count.
        closeness: of the places between an item and the common item that the context has last;
        infinite if these do not count. If they do, a session's size counts too.
    """

    k: int
    sample: int
    weight: Floats
    decay: Floats
    recency: float
    closeness: float


class Matches(NamedTuple):
    """Sessions that share an item with a context, by code.

    Attributes:
        similarity: Σ of the weights of common items; `rank_sessions` rescales it.
        steps_back: steps from the end of the context to the newest common item, from 1.
        last_row: the newest row of the session before the question.
        added_by: the row of the context that last added to the similarity.
        touched: the sessions with any similarity.
    """

    similarity: Floats
    steps_back: Ints
    last_row: Ints
    added_by: Ints
    touched: Ints


@compiled
def match_sessions(
    matches: Matches, seen_items: Ints, q: int, at: int, context: Ints, weight: Floats, rows: Rows
) -> int:
    """Match the sessions that share an item with a context, except its own; return the number."""
    low, high, size = context[0], context[1], 0
    own_session = rows.session[rows.session_rows[high - 1]] if high > low else -1
    for place in range(high - 1, low - 1, -1):  # newest first, so that an item keeps its last place
        row = rows.session_rows[place]
        item = rows.item[row]
        if seen_items[item] == q + 1:
            continue
        seen_items[item] = q + 1
        for posting in range(rows.item_starts[item], rows.item_starts[item + 1]):
            if rows.item_rows[posting] >= at:
                break
            session = rows.session[rows.item_rows[posting]]
            if session < 0 or session == own_session or matches.added_by[session] == row + 1:
                continue
            if matches.similarity[session] == 0.0:
                matches.touched[size] = session
                size += 1
                matches.steps_back[session] = high - place
                end = session_end(session, at, rows)
                matches.last_row[session] = rows.session_rows[end - 1]
            matches.added_by[session] = row + 1
            matches.similarity[session] += weight[high - low, place - low]
    for session in matches.touched[:size]:
        matches.added_by[session] = 0
    return size


@compiled
def session_end(session: int, at: int, rows: Rows) -> int:
    """Return the position after the last row that a session has before `at`."""
    starts = rows.session_starts
    return find_before(rows.session_rows, starts[session], starts[session + 1], at)


@compiled
def keep_first(matches: Matches, order: Ints, size: int, max_sessions: int) -> int:
    """Keep the first touched sessions of an order and reset the others; return the number kept."""
    best_sessions = matches.touched[:size][order[:max_sessions]]
    values = matches.similarity[best_sessions]
    for session in matches.touched[:size]:
        matches.similarity[session] = 0.0
    matches.touched[: len(best_sessions)] = best_sessions
    matches.similarity[best_sessions] = values
    return len(best_sessions)


@compiled
def rank_sessions(
    matches: Matches, size: int, at: int, now: int, recipe: Recipe, rows: Rows
) -> int:
    """Keep the nearest of the newest sessions, newest first among equals; return the number."""
    newest = np.argsort(-matches.last_row[matches.touched[:size]], kind="mergesort")
    size = keep_first(matches, newest, size, recipe.sample)
    for session in matches.touched[:size]:
        if recipe.closeness != np.inf:
            session_size = session_end(session, at, rows) - rows.session_starts[session]
            matches.similarity[session] /= np.sqrt(session_size)
        if recipe.recency != np.inf:
            age = now - rows.ts[matches.last_row[session]]
            matches.similarity[session] *= np.exp(-age / recipe.recency)
    most_similar = np.argsort(-matches.similarity[matches.touched[:size]], kind="mergesort")
    return keep_first(matches, most_similar, size, recipe.k)


@compiled
def add_around(
    counter: Counter,
    size: int,
    session: int,
    at: int,
    gain: float,
    closeness: float,
    seen_and_stamp: tuple[Ints, int],
    rows: Rows,
) -> int:
    """Add to each row's item a gain that falls with the distance from the last common item."""
    first, end = rows.session_starts[session], session_end(session, at, rows)
    seen_items, stamp = seen_and_stamp
    last_common = first
    for place in range(first, end):
        if seen_items[rows.item[rows.session_rows[place]]] == stamp:
            last_common = place
    for place in range(first, end):
        code = rows.item[rows.session_rows[place]]
        if counter.value[code] == 0.0:
            counter.touched[size] = code
            size += 1
        counter.value[code] += gain * np.exp(-abs(place - last_common) / closeness)
    return size


@compiled
def list_neighbours(queries: Queries, rows: Rows, context: Ints, recipe: Recipe, out: Ints) -> None:
    """Fill lists by the items of the nearest sessions: V-SkNN or STAN, by the recipe."""
    counter, score = new_counter(rows.items), np.zeros(out.shape[1])
    seen_items, sessions = np.zeros(rows.items, np.int64), rows.sessions
    matches = Matches(
        np.zeros(sessions),
        np.zeros(sessions, np.int64),
        np.zeros(sessions, np.int64),
        np.zeros(sessions, np.int64),
        np.zeros(sessions, np.int64),
    )
    stamp = 0
    for q in range(len(queries.at)):
        at = queries.at[q]
        mark_hidden(queries, q, rows, counter.hidden)
        touched = match_sessions(matches, seen_items, q, at, context[q], recipe.weight, rows)
        size = 0
        for session in matches.touched[
            : rank_sessions(matches, touched, at, queries.now[q], recipe, rows)
        ]:
            gain = matches.similarity[session] * recipe.decay[matches.steps_back[session] - 1]
            matches.similarity[session] = 0.0
            stamp += 1
            if recipe.closeness == np.inf:
                size = add_session(counter, size, session, at, gain, stamp, rows)
            else:
                seen_and_stamp = (seen_items, q + 1)
                size = add_around(
                    counter, size, session, at, gain, recipe.closeness, seen_and_stamp, rows
                )
        list_best(counter, size, q, score, out)
