"""Interface of retrievers: from interactions before a moment to the best items of the catalogue.

A *recipe* (a frozen dataclass of settings) is fitted on interactions and returns a *retriever*.
Both know items and people as codes; `Interactions.person` identifies a sequence: a person, or a
session. Recipes: `popular`, `cooccurrence`, `ease`, `neighbours` (V-SkNN and STAN), `transformer`
(of sequences, extra `deep`).
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tailorbird.models.interactions import Interactions

Ints = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Contexts:
    """Queries: the recent interactions of people or sessions.

    Query q owns rows offsets[q]:offsets[q + 1], oldest first.

    Attributes:
        t: shape (queries,): the moment of each query, microseconds.
        item, ts: shape (n,): item and time of each interaction, before t.
        offsets: shape (queries + 1,).
    """

    t: Ints
    item: Ints
    ts: Ints
    offsets: Ints

    def __len__(self) -> int:
        return len(self.t)

    def slice_queries(self, first_query: int, end_query: int) -> "Contexts":
        """Return the queries from `first_query` to before `end_query`."""
        start = self.offsets[first_query]
        stop = self.offsets[end_query]
        return Contexts(
            self.t[first_query:end_query],
            self.item[start:stop],
            self.ts[start:stop],
            self.offsets[first_query : end_query + 1] - start,
        )

    def truncate(self, length: int) -> "Contexts":
        """Return the same queries with at most the last `length` items each."""
        lengths = np.minimum(np.diff(self.offsets), length)
        offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[1:] - offsets[1:], lengths)
        return Contexts(self.t, self.item[rows], self.ts[rows], offsets)

    @property
    def query_index(self) -> Ints:
        """Index of each row's query, shape (n,)."""
        return np.repeat(np.arange(len(self), dtype=np.int64), np.diff(self.offsets))


@dataclass(frozen=True)
class TopItems:
    """The best items of each query, best first.

    Attributes:
        item: int32 (queries, n), −1 past the last match.
        score: float32 (queries, n), 0 there; comparable within a query only.
    """

    item: npt.NDArray[np.int32]
    score: Scores


class Retriever(Protocol):
    """A fitted model. It is immutable: `updated` returns another one.

    A score of 0 or less is no match and is never listed. Ties are broken by the smaller item code.
    With `repeats=False` no item of the query's own context is listed. Scores are not comparable
    between retrievers.
    """

    @property
    def items(self) -> int:
        """Number of items."""
        ...

    def top(self, contexts: Contexts, n: int, *, repeats: bool = False) -> TopItems:
        """Return the best `n` of all items for each query."""
        ...

    def updated(self, new_interactions: Interactions, t: int) -> "Retriever":
        """Return the model of all interactions so far and `new_interactions`, which are not
        earlier.
        """
        ...


class Recipe(Protocol):
    """Settings that fit a retriever."""

    def fit(self, interactions: Interactions, t: int) -> Retriever:
        """Learn from interactions before `t`, in any order; the model is as of `t`."""
        ...


def top_items(scores: Scores, contexts: Contexts, n: int, *, repeats: bool) -> TopItems:
    """Return the best `n` of dense scores (queries, items), which are overwritten."""
    if not repeats:
        is_item = contexts.item >= 0  # -1: an unknown item
        scores[contexts.query_index[is_item], contexts.item[is_item]] = 0
    item_count = scores.shape[1]
    n_listed = min(n, item_count)
    item = np.full((len(contexts), n), -1, np.int32)
    score = np.zeros((len(contexts), n), np.float32)
    if n_listed == 0 or not len(contexts):
        return TopItems(item, score)
    if n_listed < item_count:
        threshold = -np.partition(-scores, n_listed - 1, axis=1)[:, n_listed - 1 : n_listed]
        # A partial sort would break ties arbitrarily, so those with the smallest codes are taken.
        is_above = scores > threshold
        is_tied = scores == threshold
        tie_slots = n_listed - is_above.sum(axis=1, keepdims=True)
        is_listed = is_above | (is_tied & (np.cumsum(is_tied, axis=1) <= tie_slots))
        listed_items = np.nonzero(is_listed)[1].reshape(len(contexts), n_listed)
    else:
        listed_items = np.broadcast_to(np.arange(item_count), scores.shape)
    listed_scores = np.take_along_axis(scores, listed_items, axis=1)
    item_order = np.argsort(
        -listed_scores, axis=1, kind="stable"
    )  # stable: `listed_items` ascends, so equal scores stay in order of code
    listed_scores = np.take_along_axis(listed_scores, item_order, axis=1)
    item[:, :n_listed] = np.where(
        listed_scores > 0, np.take_along_axis(listed_items, item_order, axis=1), -1
    )
    score[:, :n_listed] = np.where(listed_scores > 0, listed_scores, 0)
    return TopItems(item, score)


def concatenate_interactions(first: Interactions, second: Interactions) -> Interactions:
    """Return the interactions of both."""
    column_pairs = ((first.person, second.person), (first.item, second.item), (first.ts, second.ts))
    person, item, ts = (np.concatenate(pair) for pair in column_pairs)
    return Interactions(
        person,
        item,
        ts,
        max(first.person_count, second.person_count),
        max(first.item_count, second.item_count),
    )
