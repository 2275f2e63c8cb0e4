"""EASE with decayed input: a closed-form linear model of which items go together.

B = −P / diag(P), with a zero diagonal, where P = (XᵀX + λI)⁻¹ (Steck, WWW 2019, equations 6 to 8); scores are x·B for a person's x.
Here X holds Σ 2^(−age / half_life) in place of ones, ages counted to the person's newest interaction in training and to the question's
moment in serving, so that what somebody liked years ago does not crowd out last week (one entry a (person, item): its newest interaction).

The matrix is dense: only the `catalogue` items most chosen take part, others are never found. 8,000 items are 0.5 GB and
about half a minute on two cores, and cost grows with the third power; with fewer people than items, with the second, times the
people. People with more than `history` items count with their newest ones.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tailorbird.events import DAY
from tailorbird.models.baselines import Interactions
from tailorbird.models.retrievers.protocol import Contexts, Ints, Scores, Top, best_of, joined

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

ROWS = 2_048  # questions scored at once: 2,048 × 8,000 scores are 64 MB


@dataclass(frozen=True)
class EASE:
    """EASE; see the module.

    Attributes:
        regularisation: λ, in units of squared weights: 100 to 1,000 is usual.
        half_life_us: age at which an interaction counts half; None: all count alike.
        catalogue: how many items at most take part.
        history: how many of a person's newest interactions count.
    """

    regularisation: float = 300.0
    half_life_us: int | None = 90 * DAY
    catalogue: int = 8_000
    history: int = 1_000

    def fit(self, seen: Interactions, t: int) -> "LinearItems":
        known = (seen.person >= 0) & (seen.item >= 0) & (seen.ts < t)
        count = np.bincount(seen.item[known], minlength=seen.items)
        chosen = np.sort(np.lexsort((np.arange(seen.items), -count))[: min(self.catalogue, int((count > 0).sum()))])
        column = np.full(seen.items, -1, np.int64)
        column[chosen] = np.arange(len(chosen))
        person, item, ts = (each[known] for each in (seen.person, seen.item, seen.ts))
        weights = _solved(self._people(person, column[item], ts, len(chosen)), self.regularisation)
        return LinearItems(self, chosen, column, weights, seen)

    def _people(self, person: Ints, column: Ints, ts: Ints, width: int) -> "csr_matrix":
        """X, shape (people, width)."""
        from scipy.sparse import csr_matrix

        order = np.lexsort((ts, person))
        order = order[column[order] >= 0]
        person, column, ts = person[order], column[order], ts[order]
        # Of equal (person, item) the newest.
        pair = person * width + column
        _, newest = np.unique(pair[::-1], return_index=True)
        rows = len(pair) - 1 - newest
        rows.sort()
        person, column, ts = person[rows], column[rows], ts[rows]
        _, code, size = np.unique(person, return_inverse=True, return_counts=True)
        end = np.cumsum(size)
        recent = end[code] - np.arange(len(code)) <= self.history
        weight = np.ones(len(code)) if self.half_life_us is None else np.exp2(-(ts[end[code] - 1] - ts) / self.half_life_us)
        return csr_matrix((weight[recent], (code[recent], column[recent])), shape=(len(size), width))


@dataclass(frozen=True)
class LinearItems:
    """A fitted EASE.

    Attributes:
        chosen: (width,): the items that take part; `column` (items,): their place there, −1 for others.
        weights: float32 (width, width).
    """

    recipe: EASE
    chosen: Ints
    column: Ints
    weights: Scores
    seen: Interactions

    @property
    def items(self) -> int:
        return len(self.column)

    def updated(self, more: Interactions, t: int) -> "LinearItems":
        return self.recipe.fit(joined(self.seen, more), t)

    def top(self, contexts: Contexts, n: int, *, repeats: bool = False) -> Top:
        item, score = np.full((len(contexts), n), -1, np.int32), np.zeros((len(contexts), n), np.float32)
        for low in range(0, len(contexts) if len(self.chosen) else 0, ROWS):
            some = contexts.part(low, min(low + ROWS, len(contexts))).newest(self.recipe.history)
            x, own = self._inputs(some)
            found = best_of((x @ self.weights).astype(np.float32, copy=False), own, n, repeats=repeats)
            item[low : low + len(some)] = np.where(found.item >= 0, self.chosen[np.maximum(found.item, 0)], -1)
            score[low : low + len(some)] = found.score
        return Top(item, score)

    def _inputs(self, contexts: Contexts) -> tuple[Scores, Contexts]:
        """Rows of decayed interactions, and the contexts in columns of the matrix."""
        inside = (contexts.item >= 0) & (contexts.item < self.items)
        column = np.where(inside, self.column[np.where(inside, contexts.item, 0)], -1)
        half = self.recipe.half_life_us
        weight = np.ones(len(column)) if half is None else np.exp2(-(contexts.t[contexts.owner] - contexts.ts) / half)
        x = np.zeros((len(contexts), len(self.chosen)), np.float32)
        known = column >= 0
        np.maximum.at(x, (contexts.owner[known], column[known]), weight[known].astype(np.float32))
        return x, Contexts(contexts.t, column, contexts.ts, contexts.offsets)


def _solved(x: "csr_matrix", regularisation: float) -> Scores:
    people, width = x.shape
    if not width:
        return np.zeros((0, 0), np.float32)
    inverse = _through_people(x, regularisation) if people < width else _through_items(x, regularisation)
    weights = (inverse / -np.diag(inverse)).astype(np.float32)
    np.fill_diagonal(weights, 0)
    return weights


def _through_items(x: "csr_matrix", regularisation: float) -> npt.NDArray[np.float64]:
    """P by a Cholesky factor in place: half the work and a third of the memory of a general inverse."""
    from scipy.linalg import lapack

    gram = np.asfortranarray((x.T @ x).todense(), np.float64)
    gram[np.diag_indices(len(gram))] += regularisation
    factor, _ = lapack.dpotrf(gram, lower=1, overwrite_a=1)  # pyrefly: ignore[missing-attribute]: made when SciPy is built
    inverse, _ = lapack.dpotri(factor, lower=1, overwrite_c=1)  # pyrefly: ignore[missing-attribute]: made when SciPy is built
    return _mirrored(inverse)


def _through_people(x: "csr_matrix", regularisation: float) -> npt.NDArray[np.float64]:
    """The same where there are fewer people than items: P = (I − YᵀY) / λ, Y = L⁻¹X, LLᵀ = XXᵀ + λI (Woodbury)."""
    from scipy.linalg import blas, lapack

    gram = np.asfortranarray((x @ x.T).todense(), np.float64)
    gram[np.diag_indices(len(gram))] += regularisation
    factor, _ = lapack.dpotrf(gram, lower=1, overwrite_a=1)  # pyrefly: ignore[missing-attribute]: made when SciPy is built
    y = blas.dtrsm(1.0, factor, np.asfortranarray(x.todense()), lower=1, overwrite_b=1)  # pyrefly: ignore[missing-attribute]: the same
    inverse = blas.dsyrk(-1 / regularisation, y, trans=1, lower=1)  # pyrefly: ignore[missing-attribute]: the same
    inverse[np.diag_indices(len(inverse))] += 1 / regularisation
    return _mirrored(inverse)


def _mirrored(lower: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A symmetric matrix of which the lower half is there."""
    low = np.tril(lower)
    return low + np.tril(low, -1).T
