"""Target leakage of single columns, measured by the AUC that a column reaches alone.

A column may leak the target by its order, by whether it is missing, or by bins: an exact value, a
band, or a category that only positives have. Rates in bins are learned on one half of the rows and
evaluated on the other, and vice versa, so chance patterns in few positives do not repeat. The
halves consist of alternating stretches of rows, since rows of one request agree in many columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.training.evaluation import metrics

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

LEAK_AUC = 0.98  # an AUC that no honest column reaches alone
DOMINANT_MARGIN = 0.12  # lead in AUC over all other columns that is suspicious
# smallest suspicious AUC of one column, and of several
DOMINANT_AUC = 0.75
DOMINANT_GROUP_AUC = 0.9
BINS = 32  # by quantiles of all values, by quantiles of positives, and for frequent values
BLOCKS = 16  # stretches of the rows; every other one belongs to the same half
# rows that are binned
POSITIVES_MAX = 50_000
NEGATIVES_MAX = 150_000
CLASS_ROWS_MIN = 5  # positives, and negatives, of each half: fewer may separate by chance


@dataclass(frozen=True)
class LeakageReport:
    """Columns that may leak a target.

    Attributes:
        leaks: columns that alone reach more than an honest column could, with the reason.
        dominant_aucs: other columns that alone reach far more than all the rest, with their AUC.
        rest_auc: the best AUC of the rest.
    """

    leaks: dict[str, str]
    dominant_aucs: dict[str, float]
    rest_auc: float = 0.0

    def describe_dominant(self, head: str) -> dict[str, str]:
        """Describe the columns that are far ahead for a target, by name."""
        context = f"for {head}, while no other column is above {self.rest_auc:.3f}"
        return {
            name: f"alone it reaches an AUC of {auc:.3f} {context}"
            for name, auc in self.dominant_aucs.items()
        }


def describe_dominant_columns(evidence_by_column: Mapping[str, str]) -> list[str]:
    """Return report notes on columns that are far ahead; these do not fail the gate."""
    return [
        f"column {name} is far ahead of all others: {why}; if it knows the answer, leave it out"
        for name, why in evidence_by_column.items()
    ]


def count_changes(
    names: Sequence[str], expected: npt.NDArray, actual: npt.NDArray
) -> dict[str, int]:
    """Return column → rows that differ in any bit, if any do; two missing values are equal.

    Args:
        expected, actual: shape (n, len(names)).
    """
    is_changed = (expected != actual) & ((expected == expected) | (actual == actual))
    counts = np.count_nonzero(is_changed, axis=0).tolist()
    return {name: count for name, count in zip(names, counts, strict=True) if count}


def find_leakage(
    columns: Sequence[str], matrix: Matrix, label: npt.NDArray, *, auc_limit: float = LEAK_AUC
) -> LeakageReport:
    """Find columns that predict the label too well alone, or far better than all others."""
    leaks: dict[str, str] = {}
    best_aucs: dict[str, float] = {}
    if not 0 < np.count_nonzero(label) < len(label):
        return LeakageReport(leaks, {})
    sample_rows = _sample_rows(label)
    for index, name in enumerate(columns):
        column = matrix[:, index]
        best_auc = 0.0
        for measure_name, compute_auc in (
            ("its value", lambda column=column: order_auc(column, label)),
            ("whether it is there", lambda column=column: _missingness_auc(column, label)),
            (
                "bins of its value",
                lambda column=column: binned_auc(column[sample_rows], label[sample_rows]),
            ),
        ):
            best_auc = max(best_auc, auc := compute_auc())
            if auc >= auc_limit:
                leaks[name] = f"by {measure_name} alone it reaches an AUC of {auc:.3f}"
                break
        else:
            best_aucs[name] = best_auc
    dominant_columns, rest_auc = find_dominant_columns(best_aucs)
    return LeakageReport(leaks, {name: best_aucs[name] for name in dominant_columns}, rest_auc)


def _missingness_auc(column: npt.NDArray[np.float32], label: npt.NDArray) -> float:
    auc = metrics.auc(np.isnan(column).astype(np.float64), label)
    return max(auc, 1 - auc)


def find_leaking_columns(
    columns: Sequence[str], matrix: Matrix, label: npt.NDArray, *, auc_limit: float = LEAK_AUC
) -> dict[str, str]:
    """Return the columns of `LeakageReport.leaks`."""
    return find_leakage(columns, matrix, label, auc_limit=auc_limit).leaks


def find_dominant_columns(aucs: Mapping[str, float]) -> tuple[list[str], float]:
    """Return columns that are far ahead of all others, and the best AUC of the rest.

    Several leaking columns would hide each other if each were compared with the next one only.
    Honest columns come in families too (clicks of a day, of a week), so a group has to reach a
    higher AUC than a single column.
    """
    columns_by_auc = sorted(aucs, key=lambda name: -aucs[name])
    for group_size in range(len(columns_by_auc) - 1, 0, -1):
        last_auc = aucs[columns_by_auc[group_size - 1]]
        next_auc = aucs[columns_by_auc[group_size]]
        if (
            last_auc >= (DOMINANT_AUC if group_size == 1 else DOMINANT_GROUP_AUC)
            and last_auc >= next_auc + DOMINANT_MARGIN
        ):
            return columns_by_auc[:group_size], next_auc
    return [], 0.0


def order_auc(column: npt.NDArray[np.float32], label: npt.NDArray) -> float:
    """Return the AUC of the values in the better direction; missing values rank lowest."""
    auc = metrics.auc(np.where(np.isnan(column), -np.inf, column.astype(np.float64)), label)
    return max(auc, 1 - auc)


def binned_auc(column: npt.NDArray[np.float32], label: npt.NDArray) -> float:
    """Return the AUC of the positive rate per bin, the mean of both halves.

    Returns 0.5 if a half has too few rows of a class.
    """
    is_positive = label > 0
    is_first_half = (np.arange(len(label)) * BLOCKS // max(len(label), 1)) % 2 == 0
    if any(
        np.count_nonzero(class_rows & half_mask) < CLASS_ROWS_MIN
        for class_rows in (is_positive, ~is_positive)
        for half_mask in (is_first_half, ~is_first_half)
    ):
        return 0.5
    aucs = []
    for is_train in (is_first_half, ~is_first_half):
        bin_edges = _bin_edges(column[is_train], is_positive[is_train])
        bin_count = len(bin_edges) + 2
        (train_positives, train_rows), (test_positives, test_rows) = (
            _bin_counts(bin_edges, bin_count, column[half_mask], is_positive[half_mask])
            for half_mask in (is_train, ~is_train)
        )
        # A bin without rows gets the overall rate.
        bin_rates = (train_positives + train_positives.sum() / train_rows.sum()) / (train_rows + 1)
        outcome_scores = np.concatenate([bin_rates, bin_rates])
        outcome_labels = np.repeat([1, 0], bin_count)
        aucs.append(
            metrics.auc(
                outcome_scores,
                outcome_labels,
                np.concatenate([test_positives, test_rows - test_positives]),
            )
        )
    return float(np.mean(aucs))


def _sample_rows(label: npt.NDArray) -> npt.NDArray[np.intp]:
    """Return a sample of rows with the same AUC: each class is thinned out evenly."""
    is_positive = label > 0
    class_rows_and_limits = [
        (np.flatnonzero(is_positive), POSITIVES_MAX),
        (np.flatnonzero(~is_positive), NEGATIVES_MAX),
    ]
    return np.sort(
        np.concatenate(
            [rows[:: -(-len(rows) // rows_max) or 1] for rows, rows_max in class_rows_and_limits]
        )
    )


def _bin_edges(column: npt.NDArray[np.float32], is_positive: npt.NDArray[np.bool_]) -> Floats:
    """Return upper ends of bins: frequent values, and quantiles of all values and of positives."""
    is_present = ~np.isnan(column)
    edges = [np.zeros(0)]
    for present_values in (column[is_present], column[is_present & is_positive]):
        if len(present_values):
            distinct_values, counts = np.unique(
                present_values.astype(np.float64), return_counts=True
            )
            frequent_values = distinct_values[np.argsort(-counts, kind="stable")[:BINS]]
            quantile_positions = np.searchsorted(
                np.cumsum(counts), np.linspace(0, len(present_values), BINS + 1)[1:-1]
            )
            edges += [
                frequent_values,
                np.nextafter(frequent_values, -np.inf),
                distinct_values[quantile_positions],
                np.nextafter(distinct_values[:1], -np.inf),
                distinct_values[-1:],
            ]
    return np.unique(np.concatenate(edges))


def _bin_counts(
    edges: Floats,
    bin_count: int,
    column: npt.NDArray[np.float32],
    is_positive: npt.NDArray[np.bool_],
) -> tuple[Floats, Floats]:
    """Return positives and rows of each bin; missing values have bin 0."""
    bin_index = np.where(np.isnan(column), 0, 1 + np.searchsorted(edges, column.astype(np.float64)))
    return metrics.sum_by_index(
        bin_index, is_positive.astype(np.float64), bin_count
    ), metrics.sum_by_index(bin_index, np.ones(len(bin_index)), bin_count)
