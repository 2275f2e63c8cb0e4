"""How much a column alone tells of a target: one that tells nearly all, or far more than the others
do, is likely to have been told it.

A column may give the answer away by its order (the higher, the likelier), by being there at all, or
by bins: where it is exactly 0, or in a band, or the category that only positives have. Rates in
bins are learned from one half of the rows and judged on the other, each half in turn, so that what
is found by chance in few positives is not found again. The halves are made of stretches of the
rows, since rows of one request say the same in many columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.training import metrics

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

CERTAIN = 0.98  # the AUC that no honest column reaches alone
FAR = 0.12  # by which an AUC may be above those of all others
GOOD, GOOD_TOGETHER = 0.75, 0.9  # below, being far ahead is no wonder: of one column, of several
BINS = 32  # of all values, of those of positives, and of the most frequent ones
STRETCHES = 16  # of the rows, of which every other belongs to the same half
POSITIVES_MAX, NEGATIVES_MAX = 50_000, 150_000  # looked at in bins
EACH_MIN = 5  # positives, and negatives, of each half: fewer may stand apart by chance


@dataclass(frozen=True)
class Giveaways:
    """Columns that may have been told a target.

    Attributes:
        known: those that alone tell more than an honest one could, by name, with why.
        ahead: of the others, those that alone tell far more than all others do, by name, with the
            AUC that they reach.
        rest: the best of those others.
    """

    known: dict[str, str]
    ahead: dict[str, float]
    rest: float = 0.0

    def told_of_ahead(self, head: str) -> dict[str, str]:
        """Columns that are far ahead, with why, as words on a target."""
        but = f"for {head}, while no other column is above {self.rest:.3f}"
        return {
            name: f"alone it reaches an AUC of {reached:.3f} {but}"
            for name, reached in self.ahead.items()
        }


def notes_on_ahead(ahead: Mapping[str, str]) -> list[str]:
    """Sentences for a report on columns that are far ahead; unlike those that tell nearly all they
    refuse nothing.
    """
    return [
        f"column {name} is far ahead of all others: {why}; if it knows the answer, leave it out"
        for name, why in ahead.items()
    ]


def giveaways(
    columns: Sequence[str], matrix: Matrix, label: npt.NDArray, *, limit: float = CERTAIN
) -> Giveaways:
    """Columns that alone tell positives from negatives better than an honest one could, or far
    better than all others do.
    """
    known: dict[str, str] = {}
    reached: dict[str, float] = {}
    if not 0 < np.count_nonzero(label) < len(label):
        return Giveaways(known, {})
    some = _some(label)
    for place, name in enumerate(columns):
        column = matrix[:, place]
        best = 0.0
        for what, worth in (
            ("its value", lambda column=column: by_order(column, label)),
            ("whether it is there", lambda column=column: _by_being_there(column, label)),
            ("bins of its value", lambda column=column: by_bins(column[some], label[some])),
        ):
            best = max(best, found := worth())
            if found >= limit:
                known[name] = f"by {what} alone it reaches an AUC of {found:.3f}"
                break
        else:
            reached[name] = best
    ahead, rest = far_ahead(reached)
    return Giveaways(known, {name: reached[name] for name in ahead}, rest)


def _by_being_there(column: npt.NDArray[np.float32], label: npt.NDArray) -> float:
    there = metrics.auc(np.isnan(column).astype(np.float64), label)
    return max(there, 1 - there)


def suspicious(
    columns: Sequence[str], matrix: Matrix, label: npt.NDArray, *, limit: float = CERTAIN
) -> dict[str, str]:
    """The columns of `Giveaways.known`, without a look at what is far ahead."""
    return giveaways(columns, matrix, label, limit=limit).known


def far_ahead(reached: Mapping[str, float]) -> tuple[list[str], float]:
    """Columns that are far above all others, and what the best of those others reaches.

    Several may have been told the answer, and would hide each other if each were held against the
    next one. But honest columns come in families too (clicks of a day, of a week), so several have
    to reach more than one alone.
    """
    ordered = sorted(reached, key=lambda name: -reached[name])
    for count in range(len(ordered) - 1, 0, -1):
        last, rest = reached[ordered[count - 1]], reached[ordered[count]]
        if last >= (GOOD if count == 1 else GOOD_TOGETHER) and last >= rest + FAR:
            return ordered[:count], rest
    return [], 0.0


def by_order(column: npt.NDArray[np.float32], label: npt.NDArray) -> float:
    """The AUC of the values, in the better direction; what is missing stands below everything."""
    value = metrics.auc(np.where(np.isnan(column), -np.inf, column.astype(np.float64)), label)
    return max(value, 1 - value)


def by_bins(column: npt.NDArray[np.float32], label: npt.NDArray) -> float:
    """The AUC of the rate of positives in each bin, the mean of both halves; 0.5 where a half has
    too few of a class.
    """
    positive = label > 0
    half = (np.arange(len(label)) * STRETCHES // max(len(label), 1)) % 2 == 0
    if any(
        np.count_nonzero(each & part) < EACH_MIN
        for each in (positive, ~positive)
        for part in (half, ~half)
    ):
        return 0.5
    reached = []
    for learned in (half, ~half):
        edges = _edges(column[learned], positive[learned])
        size = len(edges) + 2
        (hits, rows), (hits_judged, rows_judged) = (
            _counted(edges, size, column[which], positive[which]) for which in (learned, ~learned)
        )
        rate = (hits + hits.sum() / rows.sum()) / (
            rows + 1
        )  # a bin without rows has the rate of all
        score, label_of = np.concatenate([rate, rate]), np.repeat([1, 0], size)
        reached.append(
            metrics.auc(score, label_of, np.concatenate([hits_judged, rows_judged - hits_judged]))
        )
    return float(np.mean(reached))


def _some(label: npt.NDArray) -> npt.NDArray[np.intp]:
    """Rows to look at: their AUC is that of all, as positives and negatives are each thinned out
    evenly.
    """
    positive = label > 0
    parts = [(np.flatnonzero(positive), POSITIVES_MAX), (np.flatnonzero(~positive), NEGATIVES_MAX)]
    return np.sort(np.concatenate([rows[:: -(-len(rows) // most) or 1] for rows, most in parts]))


def _edges(column: npt.NDArray[np.float32], positive: npt.NDArray[np.bool_]) -> Floats:
    """Upper ends of bins. The most frequent values have one each, and the values of positives some
    of their own, however few they are.
    """
    known = ~np.isnan(column)
    edges = [np.zeros(0)]
    for value in (column[known], column[known & positive]):
        if len(value):
            values, counts = np.unique(value.astype(np.float64), return_counts=True)
            most = values[np.argsort(-counts, kind="stable")[:BINS]]
            placed = np.searchsorted(np.cumsum(counts), np.linspace(0, len(value), BINS + 1)[1:-1])
            edges += [
                most,
                np.nextafter(most, -np.inf),
                values[placed],
                np.nextafter(values[:1], -np.inf),
                values[-1:],
            ]
    return np.unique(np.concatenate(edges))


def _counted(
    edges: Floats, size: int, column: npt.NDArray[np.float32], positive: npt.NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """Positives and rows in each bin; what is missing has one of its own."""
    place = np.where(np.isnan(column), 0, 1 + np.searchsorted(edges, column.astype(np.float64)))
    return metrics.totals(place, positive.astype(np.float64), size), metrics.totals(
        place, np.ones(len(place)), size
    )
