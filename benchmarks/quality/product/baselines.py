"""Lists of simple live baselines for each question, from every row before it.

Each ranks the whole catalogue and gives its own list of `SIZE` items. They know the same instant as
the product: the rows of training and test part before the question's position.
"""

import math
import time
from dataclasses import replace

import numpy as np

from benchmarks.quality.product import kernels
from benchmarks.quality.product.kernels import Queries, Rows
from benchmarks.quality.product.log import Ints, Log, Questions
from benchmarks.quality.product.neighbours import Recipe, list_neighbours
from benchmarks.quality.product.sets import DataSet
from tailorbird.events import DAY, HOUR

SIZE = 20
WINDOW_BY_BASELINE = {
    "clicked_1h": HOUR,
    "clicked_24h": DAY,
    "clicked_7d": 7 * DAY,
    "clicked_ever": 1 << 60,
}
POPULAR_US = 28 * DAY  # of `own_items_and_popular`
POPULARITY_WEIGHT = (
    0.5  # below 1, so that popularity never outweighs one more time that the person had an item
)
SESSION_SAMPLE, NEIGHBOURS = 1_000, 500
CONTEXT_MAX = 50
DESCRIPTIONS = {
    "clicked_1h": "most events of the last hour, ties by longer windows",
    "clicked_24h": "most events of the last 24 hours, ties by longer windows",
    "clicked_7d": "most events of the last 7 days, ties by longer windows",
    "clicked_ever": "most events",
    "clicked_1h_context": "most events of the last hour with the same referrer, then of all",
    "co_occurrence": "most sessions with the last item; of a basket, with any of the last one",
    "vsknn": f"V-SkNN, {NEIGHBOURS} neighbours of the {SESSION_SAMPLE:,} newest sessions with an item",
    "vsknn_and_popular": "the same, filled with `clicked_24h` where it is short",
    "stan": f"STAN, {NEIGHBOURS} neighbours, as the publishers of Globo.com's sessions tuned it",
    "own_items": "the person's own items by count, newest first among equals",
    "own_items_and_popular": f"own count + {POPULARITY_WEIGHT} · the item's share of 28 days",
}


Lists = dict[str, Ints]


def find_rows(log: Log, questions: Questions, hide: bool) -> tuple[Rows, Queries]:
    """Return the rows of a log that count, with their postings, and the questions as arrays."""
    counted_rows = np.flatnonzero(log.valid & (log.item >= 0))
    person, session, item = (
        log.person[counted_rows],
        log.session[counted_rows],
        log.item[counted_rows],
    )
    session_count = int(log.session.max(initial=0)) + 1
    by_person = build_postings(person, len(log.people))
    by_item, by_session = (
        build_postings(item, len(log.items)),
        build_postings(session, session_count),
    )
    sizes = (len(log.items), session_count)
    rows = Rows(log.ts[counted_rows], item, session, *sizes, *by_person, *by_item, *by_session)
    row_counts_before, asker = (
        np.searchsorted(counted_rows, questions.at).astype(np.int64),
        questions.asker,
    )
    return rows, Queries(
        row_counts_before, questions.now, log.person[asker], log.session[asker], hide
    )


def build_postings(codes: Ints, size: int) -> tuple[Ints, Ints]:
    """Return starts and rows of the postings by code; rows with the code -1 are in none."""
    order = np.argsort(codes, kind="stable").astype(np.int64)
    rows = order[np.searchsorted(codes[order], 0) :]
    starts = np.concatenate(([0], np.cumsum(np.bincount(codes[rows], minlength=size))))
    return starts.astype(np.int64), rows


def run_baselines(data_set: DataSet, log: Log, questions: Questions) -> tuple[Lists, float]:
    """Return the lists of each baseline, (questions, SIZE), -1 behind the end; and seconds."""
    started = time.perf_counter()
    rows, queries = find_rows(log, questions, not data_set.repeats)
    context = find_contexts(rows, queries)
    recent_context = last_rows(context) if data_set.truth == "item" else context
    lists = list_popular_items(rows, queries)
    if log.context is not None:
        lists["clicked_1h_context"] = list_popular_in_context(
            data_set, log, questions, lists["clicked_1h"]
        )
    lists["co_occurrence"] = list_co_occurring(rows, queries, recent_context)
    lists["vsknn"] = list_session_neighbours(rows, queries, context, VSKNN_RECIPE)
    if data_set.stan:
        lists["stan"] = list_session_neighbours(rows, queries, context, STAN_RECIPE)
    lists["vsknn_and_popular"] = fill_lists(lists["vsknn"], lists["clicked_24h"])
    return lists | list_own_items(rows, queries), time.perf_counter() - started


def list_popular_items(rows: Rows, queries: Queries) -> Lists:
    """List the most popular items of each window."""
    out = np.full((len(WINDOW_BY_BASELINE), len(queries.at), SIZE), -1, np.int64)
    kernels.list_popular(queries, rows, np.array(list(WINDOW_BY_BASELINE.values()), np.int64), out)
    return dict(zip(WINDOW_BY_BASELINE, out, strict=True))


def list_popular_in_context(
    data_set: DataSet, log: Log, questions: Questions, fallback: Ints
) -> Ints:
    """List the most popular items of the last hour among rows with the question's context."""
    out = fallback.copy()
    assert log.context is not None, "the set has columns of context"
    for value in np.unique(log.context[questions.asker]).tolist():
        in_context = np.flatnonzero(log.context[questions.asker] == value)
        part = replace(log, valid=log.valid & (log.context == value))
        none = np.zeros(0, np.int64)
        part_questions = Questions(
            questions.at[in_context],
            questions.now[in_context],
            questions.asker[in_context],
            none,
            none,
        )
        rows, queries = find_rows(part, part_questions, not data_set.repeats)
        out[in_context] = fill_lists(
            list_popular_items(rows, queries)["clicked_1h"], fallback[in_context]
        )
    return out


def list_own_items(rows: Rows, queries: Queries) -> Lists:
    """List the person's own items, alone and with popular ones behind."""
    own_lists, own_and_popular_lists = _empty_lists(queries), _empty_lists(queries)
    kernels.list_own(queries, rows, POPULAR_US, POPULARITY_WEIGHT, own_lists, own_and_popular_lists)
    return {"own_items": own_lists, "own_items_and_popular": own_and_popular_lists}


def find_contexts(rows: Rows, queries: Queries) -> Ints:
    """Return (low, high) of each question in the postings by session: the person's latest rows."""
    out = np.zeros((len(queries.at), 2), np.int64)
    kernels.fill_contexts(queries, rows, CONTEXT_MAX, out)
    return out


def last_rows(contexts: Ints) -> Ints:
    """Return contexts of the last row alone."""
    low = np.maximum(contexts[:, 0], contexts[:, 1] - 1)
    return np.stack([low, contexts[:, 1]], axis=1)


def list_co_occurring(rows: Rows, queries: Queries, contexts: Ints) -> Ints:
    """List the items that most sessions hold together with an item of the context."""
    out = _empty_lists(queries)
    kernels.list_co_occurrence(queries, rows, contexts, out)
    return out


def list_session_neighbours(rows: Rows, queries: Queries, contexts: Ints, recipe: Recipe) -> Ints:
    """List the items of the nearest sessions."""
    out = _empty_lists(queries)
    list_neighbours(queries, rows, contexts, recipe, out)
    return out


def vsknn_recipe(k: int, sample: int) -> Recipe:
    """Return V-SkNN (Ludewig and Jannach, UMUAI 2018): weights place ÷ length and 1 ÷ steps."""
    length, place = _length_and_place()
    decay = 1.0 / np.arange(1, CONTEXT_MAX + 1)
    return Recipe(k, sample, place / np.maximum(length, 1), decay, math.inf, math.inf)


def stan_recipe(
    k: int, sample: int, position: float, recency_us: float, closeness: float
) -> Recipe:
    """Return STAN (Garg et al., SIGIR 2019), whose λ1, λ2, λ3 are the last three."""
    length, place = _length_and_place()
    weight = np.exp(np.minimum(place - length, 0) / position)
    return Recipe(k, sample, weight, np.ones(CONTEXT_MAX), recency_us, closeness)


def _length_and_place() -> tuple[Ints, Ints]:
    return np.arange(CONTEXT_MAX + 1)[:, None], np.arange(1, CONTEXT_MAX + 1)[None, :]


VSKNN_RECIPE = vsknn_recipe(NEIGHBOURS, SESSION_SAMPLE)
STAN_RECIPE = stan_recipe(NEIGHBOURS, 500, 0.6725, 100.0 * DAY, 0.6725)


def fill_lists(lists: Ints, extra: Ints) -> Ints:
    """Return lists, filled up with the items of other lists that they lack."""
    out = lists.copy()
    for row in np.flatnonzero((lists < 0).any(axis=1)).tolist():
        listed = lists[row][lists[row] >= 0]
        rest = extra[row][(extra[row] >= 0) & ~np.isin(extra[row], listed)]
        filled = np.concatenate([listed, rest])[: lists.shape[1]]
        out[row, : len(filled)] = filled
    return out


def _empty_lists(queries: Queries) -> Ints:
    return np.full((len(queries.at), SIZE), -1, np.int64)
