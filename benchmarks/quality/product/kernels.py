"""Numba kernels of the live baselines.

Every question knows the rows before its position and no later one. Postings are the positions of
rows by person, item or session, ascending: postings of x are rows[starts[x] : starts[x + 1]]. A
context is a range (low, high) of the postings by session: the person's latest rows.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tailorbird.features.offline.kernels.windows import compiled

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Rows(NamedTuple):
    """The rows of a log in order of time, and their postings; -1 is an unknown session."""

    ts: Ints
    item: Ints
    session: Ints
    items: int
    sessions: int
    person_starts: Ints
    person_rows: Ints
    item_starts: Ints
    item_rows: Ints
    session_starts: Ints
    session_rows: Ints


class Queries(NamedTuple):
    """Questions: how many rows are before each, its time, and who asks, -1 where unknown.

    With `hide`, no list has an item that the person had before.
    """

    at: Ints
    now: Ints
    person: Ints
    session: Ints
    hide: bool


@compiled
def insert(out_item: Ints, out_score: Any, size: int, code: int, score: Any) -> int:
    """Insert an item into a list that is best first, ties by code; returns the list's new size."""
    n = len(out_item)
    if size == n and (
        score < out_score[n - 1] or (score == out_score[n - 1] and code > out_item[n - 1])
    ):
        return size
    at = size if size < n else n - 1
    while at > 0 and (
        out_score[at - 1] < score or (out_score[at - 1] == score and out_item[at - 1] > code)
    ):
        out_score[at], out_item[at] = out_score[at - 1], out_item[at - 1]
        at -= 1
    out_score[at], out_item[at] = score, code
    return min(size + 1, n)


@compiled
def find_before(rows: Ints, low: int, high: int, at: int) -> int:
    """Return the first place in [low, high) whose row is not before `at`."""
    while low < high:
        middle = (low + high) // 2
        if rows[middle] < at:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def own_rows(queries: Queries, q: int, rows: Rows) -> tuple[int, int]:
    """Return the places of the rows that the person of a question had before, by person."""
    person = queries.person[q]
    if person < 0:
        return 0, 0
    low = rows.person_starts[person]
    return low, find_before(rows.person_rows, low, rows.person_starts[person + 1], queries.at[q])


@compiled
def mark_hidden(queries: Queries, q: int, rows: Rows, mark: Ints) -> None:
    """Mark the items that may not be listed with the question's number, counted from 1."""
    if queries.hide:
        low, high = own_rows(queries, q, rows)
        for place in range(low, high):
            mark[rows.item[rows.person_rows[place]]] = q + 1


@compiled
def list_popular(queries: Queries, rows: Rows, windows: Ints, out: Ints) -> None:
    """Fill out[w, q] with the items of most rows in window w, ties by the two next longer ones.

    Windows ascend.
    """
    last = len(windows) - 1
    counts = np.zeros((len(windows), rows.items), np.int64)
    tails = np.zeros(len(windows), np.int64)
    mark, score = np.zeros(rows.items, np.int64), np.zeros(out.shape[2], np.int64)
    head = 0
    for q in range(len(queries.at)):
        while head < queries.at[q]:
            counts[:, rows.item[head]] += 1
            head += 1
        for w in range(len(windows)):
            while tails[w] < head and rows.ts[tails[w]] < queries.now[q] - windows[w]:
                counts[w, rows.item[tails[w]]] -= 1
                tails[w] += 1
        mark_hidden(queries, q, rows, mark)
        for w in range(len(windows)):
            first, second, third = counts[w], counts[min(w + 1, last)], counts[min(w + 2, last)]
            size = 0
            for code in range(rows.items):
                key = (first[code] << 42) | (second[code] << 21) | third[code]
                if key > 0 and mark[code] != q + 1:
                    size = insert(out[w, q], score, size, code, key)


@compiled
def list_own(
    queries: Queries, rows: Rows, window: int, alpha: float, out_own: Ints, out_both: Ints
) -> None:
    """Fill lists of a person's items by count, newest first among equals; and with popular ones.

    The score of `out_both` is the person's count + alpha · the item's share of the window's rows.
    """
    recent = np.zeros(rows.items, np.int64)
    count, newest = np.zeros(rows.items, np.int64), np.zeros(rows.items, np.int64)
    key, score = np.zeros(out_own.shape[1], np.int64), np.zeros(out_own.shape[1])
    head = tail = 0
    for q in range(len(queries.at)):
        while head < queries.at[q]:
            recent[rows.item[head]] += 1
            head += 1
        while tail < head and rows.ts[tail] < queries.now[q] - window:
            recent[rows.item[tail]] -= 1
            tail += 1
        low, high = own_rows(queries, q, rows)
        for row in rows.person_rows[low:high]:
            count[rows.item[row]] += 1
            newest[rows.item[row]] = row
        size = 0
        for row in rows.person_rows[low:high]:
            code = rows.item[row]
            if newest[code] == row:
                size = insert(out_own[q], key, size, code, (count[code] << 32) | row)
        size, share = 0, alpha / max(1, head - tail)
        for code in range(rows.items):
            value = count[code] + recent[code] * share
            if value > 0:
                size = insert(out_both[q], score, size, code, value)
        for row in rows.person_rows[low:high]:
            count[rows.item[row]] = 0


@compiled
def fill_contexts(queries: Queries, rows: Rows, max_rows: int, out: Ints) -> None:
    """Fill out[q] with the newest `max_rows` rows of the question's session before it.

    If that has none, use those of the person's last session.
    """
    starts, places = rows.session_starts, rows.session_rows
    for q in range(len(queries.at)):
        session = queries.session[q]
        for _ in range(2):
            if session >= 0:
                high = find_before(places, starts[session], starts[session + 1], queries.at[q])
                out[q, 0], out[q, 1] = max(starts[session], high - max_rows), high
                if out[q, 1] > out[q, 0]:
                    break
            low, high = own_rows(queries, q, rows)
            session = rows.session[rows.person_rows[high - 1]] if high > low else -1


class Counter(NamedTuple):
    """Scores of items by code, 0 but for the `touched`, and marks by which each counts once."""

    value: Floats
    touched: Ints
    once: Ints
    hidden: Ints


@compiled
def add_session(
    counter: Counter, size: int, session: int, at: int, gain: float, stamp: int, rows: Rows
) -> int:
    """Add a gain to each item that a session had before a position; return how many have any.

    An item whose mark is `stamp` already gets none.
    """
    for place in range(rows.session_starts[session], rows.session_starts[session + 1]):
        if rows.session_rows[place] >= at:
            break
        code = rows.item[rows.session_rows[place]]
        if counter.once[code] != stamp:
            counter.once[code] = stamp
            if counter.value[code] == 0.0:
                counter.touched[size] = code
                size += 1
            counter.value[code] += gain
    return size


@compiled
def list_best(counter: Counter, size: int, q: int, score: Floats, out: Ints) -> None:
    """Write the best of the touched items that are not hidden, and set their values to 0."""
    listed = 0
    for code in counter.touched[:size]:
        if counter.hidden[code] != q + 1:
            listed = insert(out[q], score, listed, code, counter.value[code])
        counter.value[code] = 0.0


@compiled
def new_counter(items: int) -> Counter:
    """Return a counter without any value."""
    return Counter(
        np.zeros(items),
        np.zeros(items, np.int64),
        np.zeros(items, np.int64),
        np.zeros(items, np.int64),
    )


@compiled
def list_co_occurrence(queries: Queries, rows: Rows, context: Ints, out: Ints) -> None:
    """Fill lists by how many sessions hold an item with one of the context, summed over these."""
    counter, score = new_counter(rows.items), np.zeros(out.shape[1])
    item_query, visited_by = np.zeros(rows.items, np.int64), np.zeros(rows.sessions, np.int64)
    stamp = visit = 0
    for q in range(len(queries.at)):
        mark_hidden(queries, q, rows, counter.hidden)
        size = 0
        for row in rows.session_rows[context[q, 0] : context[q, 1]]:
            item = rows.item[row]
            if item_query[item] == q + 1:
                continue
            item_query[item] = q + 1
            visit += 1
            for place in range(rows.item_starts[item], rows.item_starts[item + 1]):
                if rows.item_rows[place] >= queries.at[q]:
                    break
                session = rows.session[rows.item_rows[place]]
                if session >= 0 and visited_by[session] != visit:
                    visited_by[session] = visit
                    stamp += 1
                    counter.once[item] = stamp  # an item does not occur together with itself
                    size = add_session(counter, size, session, queries.at[q], 1.0, stamp, rows)
        list_best(counter, size, q, score, out)
