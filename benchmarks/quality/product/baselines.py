"""Compute what simple live baselines list for each question, from every row before it.

Each ranks the whole catalogue and gives its own list of `SIZE` items. They know the same instant
as the product: the rows of training and test part before the question's position.
"""

import math
import time
from dataclasses import replace

import numpy as np

from benchmarks.quality.product import kernels
from benchmarks.quality.product.kernels import Asked, Rows
from benchmarks.quality.product.log import Ints, Log, Questions
from benchmarks.quality.product.neighbours import Recipe, list_neighbours
from benchmarks.quality.product.sets import DataSet
from tailorbird.events import DAY, HOUR

SIZE = 20
WINDOWS = {"clicked_1h": HOUR, "clicked_24h": DAY, "clicked_7d": 7 * DAY, "clicked_ever": 1 << 60}
POPULAR_US = 28 * DAY  # of `own_items_and_popular`
ALPHA = 0.5  # below 1, so that popularity never outweighs one more time that the person had an item
SAMPLE, NEIGHBOURS = 1_000, 500
CONTEXT_MAX = 50
DESCRIPTIONS = {
    "clicked_1h": "most events of the last hour, ties by longer windows",
    "clicked_24h": "most events of the last 24 hours, ties by longer windows",
    "clicked_7d": "most events of the last 7 days, ties by longer windows",
    "clicked_ever": "most events",
    "clicked_1h_context": "most events of the last hour with the same referrer, then of all",
    "co_occurrence": "most sessions with the last item; of a basket, with any of the last one",
    "vsknn": f"V-SkNN, {NEIGHBOURS} neighbours of the {SAMPLE:,} newest sessions with an item",
    "vsknn_and_popular": "the same, filled with `clicked_24h` where it is short",
    "stan": f"STAN, {NEIGHBOURS} neighbours, as the publishers of Globo.com's sessions tuned it",
    "own_items": "the person's own items by count, newest first among equals",
    "own_items_and_popular": f"own count + {ALPHA} · the item's share of 28 days",
}


Lists = dict[str, Ints]


def find_rows(log: Log, questions: Questions, hide: bool) -> tuple[Rows, Asked]:
    """Return the rows of a log that count, with their postings, and who asks what."""
    kept = np.flatnonzero(log.valid & (log.item >= 0))
    person, session, item = log.person[kept], log.session[kept], log.item[kept]
    sessions = int(log.session.max(initial=0)) + 1
    by_person = group(person, len(log.people))
    by_item, by_session = group(item, len(log.items)), group(session, sessions)
    sizes = (len(log.items), sessions)
    rows = Rows(log.ts[kept], item, session, *sizes, *by_person, *by_item, *by_session)
    before, asker = np.searchsorted(kept, questions.at).astype(np.int64), questions.asker
    return rows, Asked(before, questions.now, log.person[asker], log.session[asker], hide)


def group(codes: Ints, size: int) -> tuple[Ints, Ints]:
    """Return starts and rows of the postings by code; rows with the code -1 are in none."""
    order = np.argsort(codes, kind="stable").astype(np.int64)
    rows = order[np.searchsorted(codes[order], 0) :]
    starts = np.concatenate(([0], np.cumsum(np.bincount(codes[rows], minlength=size))))
    return starts.astype(np.int64), rows


def run_baselines(data_set: DataSet, log: Log, questions: Questions) -> tuple[Lists, float]:
    """Return the lists of each baseline, (questions, SIZE), -1 behind the end; and seconds."""
    begun = time.perf_counter()
    rows, asked = find_rows(log, questions, not data_set.repeats)
    context = find_contexts(rows, asked)
    given = last_rows(context) if data_set.truth == "item" else context
    lists = popular(rows, asked)
    if log.context is not None:
        lists["clicked_1h_context"] = by_context(data_set, log, questions, lists["clicked_1h"])
    lists["co_occurrence"] = co_occurrence(rows, asked, given)
    lists["vsknn"] = neighbours(rows, asked, context, VSKNN)
    if data_set.stan:
        lists["stan"] = neighbours(rows, asked, context, STAN)
    lists["vsknn_and_popular"] = filled(lists["vsknn"], lists["clicked_24h"])
    return lists | own(rows, asked), time.perf_counter() - begun


def popular(rows: Rows, asked: Asked) -> Lists:
    """List the most popular items of each window."""
    out = np.full((len(WINDOWS), len(asked.at), SIZE), -1, np.int64)
    kernels.popular(asked, rows, np.array(list(WINDOWS.values()), np.int64), out)
    return dict(zip(WINDOWS, out, strict=True))


def by_context(data_set: DataSet, log: Log, questions: Questions, others: Ints) -> Ints:
    """List the most popular items of the last hour among rows with the question's context."""
    out = others.copy()
    assert log.context is not None, "the set has columns of context"
    for value in np.unique(log.context[questions.asker]).tolist():
        here = np.flatnonzero(log.context[questions.asker] == value)
        part = replace(log, valid=log.valid & (log.context == value))
        none = np.zeros(0, np.int64)
        some = Questions(questions.at[here], questions.now[here], questions.asker[here], none, none)
        rows, asked = find_rows(part, some, not data_set.repeats)
        out[here] = filled(popular(rows, asked)["clicked_1h"], others[here])
    return out


def own(rows: Rows, asked: Asked) -> Lists:
    """List the person's own items, alone and with popular ones behind."""
    alone, both = _empty(asked), _empty(asked)
    kernels.own(asked, rows, POPULAR_US, ALPHA, alone, both)
    return {"own_items": alone, "own_items_and_popular": both}


def find_contexts(rows: Rows, asked: Asked) -> Ints:
    """Return (low, high) of each question in the postings by session: what the person did last."""
    out = np.zeros((len(asked.at), 2), np.int64)
    kernels.contexts(asked, rows, CONTEXT_MAX, out)
    return out


def last_rows(contexts: Ints) -> Ints:
    """Return contexts of the last row alone."""
    low = np.maximum(contexts[:, 0], contexts[:, 1] - 1)
    return np.stack([low, contexts[:, 1]], axis=1)


def co_occurrence(rows: Rows, asked: Asked, contexts: Ints) -> Ints:
    """List what most sessions hold together with an item of the context."""
    out = _empty(asked)
    kernels.co_occurrence(asked, rows, contexts, out)
    return out


def neighbours(rows: Rows, asked: Asked, contexts: Ints, recipe: Recipe) -> Ints:
    """List what the nearest sessions hold."""
    out = _empty(asked)
    list_neighbours(asked, rows, contexts, recipe, out)
    return out


def vsknn(k: int, sample: int) -> Recipe:
    """Return V-SkNN (Ludewig and Jannach, UMUAI 2018): weights place ÷ length and 1 ÷ steps."""
    length, place = _length_and_place()
    decay = 1.0 / np.arange(1, CONTEXT_MAX + 1)
    return Recipe(k, sample, place / np.maximum(length, 1), decay, math.inf, math.inf)


def stan(k: int, sample: int, position: float, recency_us: float, closeness: float) -> Recipe:
    """Return STAN (Garg et al., SIGIR 2019), whose λ1, λ2, λ3 are the last three."""
    length, place = _length_and_place()
    weight = np.exp(np.minimum(place - length, 0) / position)
    return Recipe(k, sample, weight, np.ones(CONTEXT_MAX), recency_us, closeness)


def _length_and_place() -> tuple[Ints, Ints]:
    return np.arange(CONTEXT_MAX + 1)[:, None], np.arange(1, CONTEXT_MAX + 1)[None, :]


VSKNN = vsknn(NEIGHBOURS, SAMPLE)
STAN = stan(NEIGHBOURS, 500, 0.6725, 100.0 * DAY, 0.6725)


def filled(lists: Ints, more: Ints) -> Ints:
    """Return lists that go on with those items of other lists that they lack."""
    out = lists.copy()
    for row in np.flatnonzero((lists < 0).any(axis=1)).tolist():
        listed = lists[row][lists[row] >= 0]
        rest = more[row][(more[row] >= 0) & ~np.isin(more[row], listed)]
        both = np.concatenate([listed, rest])[: lists.shape[1]]
        out[row, : len(both)] = both
    return out


def _empty(asked: Asked) -> Ints:
    return np.full((len(asked.at), SIZE), -1, np.int64)
