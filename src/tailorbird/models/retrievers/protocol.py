"""What every retriever promises: from what people did before a moment to the best items of the
whole catalogue, for many at once.

A *recipe* (a frozen dataclass of settings) is fitted on interactions and gives a *retriever*. Both
know items and people as codes; `Interactions.person` is whose sequence it is: a person, or a
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
    """Questions: what some people, or sessions, did so far. Question q owns rows
    offsets[q]:offsets[q + 1], oldest first.

    Attributes:
        t: shape (questions,): the moment of each question, microseconds.
        item, ts: shape (n,): what was done and when, before t.
        offsets: shape (questions + 1,).
    """

    t: Ints
    item: Ints
    ts: Ints
    offsets: Ints

    def __len__(self) -> int:
        return len(self.t)

    def part(self, low: int, high: int) -> "Contexts":
        """Questions low … high − 1."""
        first, last = self.offsets[low], self.offsets[high]
        return Contexts(
            self.t[low:high],
            self.item[first:last],
            self.ts[first:last],
            self.offsets[low : high + 1] - first,
        )

    def newest(self, length: int) -> "Contexts":
        """The same questions with at most the last `length` items each."""
        size = np.minimum(np.diff(self.offsets), length)
        offsets = np.concatenate(([0], np.cumsum(size))).astype(np.int64)
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[1:] - offsets[1:], size)
        return Contexts(self.t, self.item[rows], self.ts[rows], offsets)

    @property
    def owner(self) -> Ints:
        """Which question each row belongs to, shape (n,)."""
        return np.repeat(np.arange(len(self), dtype=np.int64), np.diff(self.offsets))


@dataclass(frozen=True)
class Top:
    """The best items of each question, best first.

    Attributes:
        item: int32 (questions, n), −1 where fewer were found.
        score: float32 (questions, n), 0 there; comparable within a question only.
    """

    item: npt.NDArray[np.int32]
    score: Scores


class Retriever(Protocol):
    """A fitted model. It never changes: `updated` makes another one.

    Promised: a score of 0 or less means "not found" and is never listed; ties are broken by the
    smaller item code; with `repeats=False` no item of the question's own context is listed. Not
    promised: scores that can be compared between retrievers.
    """

    @property
    def items(self) -> int:
        """How many there are."""
        ...

    def top(self, contexts: Contexts, n: int, *, repeats: bool = False) -> Top:
        """The best `n` of all items for each question."""
        ...

    def updated(self, more: Interactions, t: int) -> "Retriever":
        """What `fit` would give on the interactions so far and `more`, which are none of them
        earlier.
        """
        ...


class Recipe(Protocol):
    """Settings that make a retriever."""

    def fit(self, seen: Interactions, t: int) -> Retriever:
        """Learn from interactions (any order, none at or after `t`, the moment as of which the
        model is).
        """
        ...


def best_of(scores: Scores, contexts: Contexts, n: int, *, repeats: bool) -> Top:
    """The best `n` of dense scores (questions, items), which are overwritten."""
    if not repeats:
        known = contexts.item >= 0
        scores[contexts.owner[known], contexts.item[known]] = 0
    width = scores.shape[1]
    n_found = min(n, width)
    item = np.full((len(contexts), n), -1, np.int32)
    score = np.zeros((len(contexts), n), np.float32)
    if n_found == 0 or not len(contexts):
        return Top(item, score)
    if n_found < width:
        edge = -np.partition(-scores, n_found - 1, axis=1)[:, n_found - 1 : n_found]
        # Of the ties at the edge those with the smallest codes: a partial sort would take any.
        above, level = scores > edge, scores == edge
        room = n_found - above.sum(axis=1, keepdims=True)
        chosen = above | (level & (np.cumsum(level, axis=1) <= room))
        listed = np.nonzero(chosen)[1].reshape(len(contexts), n_found)
    else:
        listed = np.broadcast_to(np.arange(width), scores.shape)
    value = np.take_along_axis(scores, listed, axis=1)
    order = np.argsort(
        -value, axis=1, kind="stable"
    )  # `listed` ascends, so equal scores stay in order of code
    value = np.take_along_axis(value, order, axis=1)
    item[:, :n_found] = np.where(value > 0, np.take_along_axis(listed, order, axis=1), -1)
    score[:, :n_found] = np.where(value > 0, value, 0)
    return Top(item, score)


def joined(first: Interactions, second: Interactions) -> Interactions:
    """The interactions of both."""
    columns = ((first.person, second.person), (first.item, second.item), (first.ts, second.ts))
    person, item, ts = (np.concatenate(pair) for pair in columns)
    return Interactions(
        person, item, ts, max(first.people, second.people), max(first.items, second.items)
    )
