"""Gradient-boosted trees on the encoded feature matrix: one LightGBM booster for each head.

A binary booster returns the probability of its target. A `lambdarank` booster returns a score that
orders a list and has no scale before calibration. A `poisson` booster returns an expected count, a
`tweedie` booster an expected amount that is mostly 0. Early stopping uses the validation part,
which is later in time than the training part. `ranking.encode.encoder` makes the columns,
`models.export` the file that serving loads.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import lightgbm as lgb
import numpy as np
import numpy.typing as npt

from tailorbird.errors import UsageError
from tailorbird.models.deep.rows import Rows

Matrix = npt.NDArray[np.float32]

_METRIC_BY_OBJECTIVE = {
    "binary": "binary_logloss",
    "lambdarank": "ndcg",
    "poisson": "poisson",
    "tweedie": "tweedie",
}  # for early stopping
OBJECTIVES = tuple(_METRIC_BY_OBJECTIVE)
AMOUNT_OBJECTIVES = ("poisson", "tweedie")  # their labels are numbers ≥ 0, not classes


@dataclass(frozen=True)
class GbdtSettings:
    """Settings of the trees. The defaults are simple on purpose; `tune` finds better ones.

    Attributes:
        objective: `binary`, `lambdarank`, `poisson` for a count or a rate, or `tweedie` (power 1.5)
            for the mean of an amount such as seconds: mostly 0, with a long tail.
        trees: maximum; early stopping usually ends sooner.
        patience: trees without a better validation metric before stopping; 0 grows all.
        leaves: leaves of a tree; 0 takes one for each 600 positives, from 5 to 31: clicks are rare,
            and finer trees learn noise (on 3,400 clicks of a simulated shop NDCG@10 was .550 with
            31 leaves, .558 with 5, .540 by popularity).
        leaf_rows: minimum rows of a leaf; 0 takes as many as hold `leaf_positives` positives on
            average.
        rate, l2: learning rate, penalty on leaf values.
        column_share, row_share: share of the columns, and of the rows, for each tree.
        set_split_positives: number of positives from which codes are split as sets; with fewer, as
            ranges of codes, which are ordered by frequency. ONNX tests a set value by value: on a
            shop's baskets a row took 0.4 ms with sets, and NDCG@10 was .231 (.235 with ranges).
        threads: 0 uses half the cores. LightGBM's threads spin while they wait: on cores in use by
            others, two were ten times slower than one. The number does not change the model
            (`deterministic`, `force_col_wise`).
        seed: of all sampling.
    """

    objective: str = "binary"
    trees: int = 800
    patience: int = 50
    leaves: int = 0
    leaf_rows: int = 0
    leaf_positives: float = 15.0
    rate: float = 0.03
    l2: float = 20.0
    column_share: float = 0.4
    row_share: float = 0.7
    set_split_positives: int = 1_000_000
    threads: int = 0
    seed: int = 7

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise UsageError(
                f"unknown objective {self.objective!r}", fix=f"use one of {', '.join(OBJECTIVES)}"
            )

    def resolve_sizes(self, positives: int, rows: int) -> "GbdtSettings":
        """Return the settings with data-dependent defaults filled in."""
        leaves = self.leaves or min(max(positives // 600, 5), 31)
        leaf_rows = self.leaf_rows or min(
            max(round(self.leaf_positives * rows / max(positives, 1)), 20), max(rows // 20, 1)
        )
        return replace(
            self,
            leaves=leaves,
            leaf_rows=leaf_rows,
            threads=self.threads or max(1, (os.cpu_count() or 2) // 2),
        )


@dataclass(frozen=True)
class Sample:
    """Rows for training or validation.

    Attributes:
        matrix: shape (n, columns), float32, because serving computes in float32.
        label: shape (n,), 0 or 1; a number for `AMOUNT_OBJECTIVES`.
        lengths: rows of each request, in order; only `lambdarank` needs them.
        weight: shape (n,), or None for 1 everywhere.
    """

    matrix: Matrix
    label: npt.NDArray
    lengths: npt.NDArray[np.int64] | None = None
    weight: npt.NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        if self.matrix.dtype != np.float32:
            raise UsageError(
                f"expected a float32 matrix, got {self.matrix.dtype}",
                fix="cast before training, not after",
            )


@dataclass(frozen=True)
class Gbdt:
    """A fitted booster.

    Attributes:
        columns: names of the matrix's columns, in order.
        curve: learning curve, metric by tree of `train` and `validation`.
    """

    booster: lgb.Booster
    columns: tuple[str, ...]
    settings: GbdtSettings
    curve: dict[str, list[float]] = field(default_factory=dict)

    @property
    def trees(self) -> int:
        """Number of trees in use: up to the best one with early stopping."""
        return (
            self.booster.current_iteration()
            if self.booster.best_iteration <= 0
            else self.booster.best_iteration
        )

    @property
    def steps(self) -> int:
        """Number of training steps in use, in `unit`s, as for models of other kinds."""
        return self.trees

    @property
    def unit(self) -> str:
        return "trees"

    def score(self, matrix: Matrix) -> npt.NDArray[np.float64]:
        """Return the prediction of each row, shape (n,).

        It is a probability (binary), an order score (lambdarank), or an expected count or amount
        (poisson, tweedie).
        """
        if not len(matrix):
            return np.zeros(0)
        return np.asarray(self.booster.predict(matrix, num_iteration=self.trees), np.float64)

    def to_bytes(self) -> bytes:
        """Return the trees in use as LightGBM writes them, to go on from."""
        return self.booster.model_to_string(num_iteration=self.trees).encode()

    def importance(self) -> dict[str, float]:
        """Return each column's share of the total gain, largest first."""
        gains = self.booster.feature_importance("gain", iteration=self.trees)
        gain_shares = gains / max(gains.sum(), 1e-12)
        return {
            self.columns[i]: float(gain_shares[i]) for i in np.argsort(-gain_shares, kind="stable")
        }


def select_head_rows(rows: Rows, head: str) -> Sample:
    """Return the rows with a known label of a head, as boosters take them."""
    labels = np.asarray(rows.labels[head])
    is_labelled = np.isfinite(labels.astype(np.float32))
    weight = None if rows.weight is None else np.asarray(rows.weight, np.float64)
    if is_labelled.all():
        return Sample(rows.matrix, labels, rows.lengths, weight)
    lengths = None
    if rows.lengths is not None:
        request_index = np.repeat(np.arange(len(rows.lengths)), rows.lengths)
        lengths = np.bincount(request_index[is_labelled], minlength=len(rows.lengths))
        lengths = lengths[lengths > 0]
    return Sample(
        rows.matrix[is_labelled],
        labels[is_labelled],
        lengths,
        None if weight is None else weight[is_labelled],
    )


def fit_gbdt(
    train: Sample,
    validation: Sample,
    columns: Sequence[str],
    settings: GbdtSettings = GbdtSettings(),
    *,
    categorical: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
    on_tree: Callable[[int, Mapping[str, float]], bool] | None = None,
    initial_booster: lgb.Booster | None = None,
) -> Gbdt:
    """Grow trees on `train` until `validation` stops improving.

    Args:
        columns: names of the matrix's columns.
        categorical: columns with small non-negative codes, split as sets instead of ranges.
        progress: called with (trees so far, maximum trees).
        on_tree: called with the number of trees and the metrics of `train` and `validation`;
            training stops if it returns True.
        initial_booster: a booster over the same columns, to which trees are added.

    Raises:
        UsageError: the training part has only one class, or no column.
    """
    if not 0 < np.count_nonzero(train.label > 0) < len(train.label):
        class_counts = f"{np.count_nonzero(train.label > 0)} positives of {len(train.label)} rows"
        fix = (
            'take a longer window, or see whether clicks arrive: tailorbird sql "select type, '
            'count(*) from events group by type"'
        )
        raise UsageError(f"the training part has {class_counts}: nothing to tell apart", fix=fix)
    if not columns:
        raise UsageError("no column is left to learn from", fix="leave fewer out")
    positives = int(np.count_nonzero(train.label > 0))
    settings = settings.resolve_sizes(positives, len(train.label))
    categorical = categorical if positives >= settings.set_split_positives else ()
    is_amount = settings.objective in AMOUNT_OBJECTIVES
    train_data = _build_dataset(train, columns, categorical, is_amount=is_amount)
    validation_data = _build_dataset(
        validation, columns, categorical, is_amount=is_amount, reference=train_data
    )
    recorded_metrics: dict[str, dict[str, list[float]]] = {}
    callbacks = [lgb.record_evaluation(recorded_metrics), lgb.log_evaluation(0)]
    can_stop_early = len(validation.label) > 0 and 0 < np.count_nonzero(validation.label > 0) < len(
        validation.label
    )
    if settings.patience and can_stop_early:
        callbacks.append(
            lgb.early_stopping(settings.patience, first_metric_only=True, verbose=False)
        )
    if progress is not None:
        callbacks.append(lambda env: progress(env.iteration + 1, settings.trees))
    if on_tree is not None:
        callbacks.append(partial(_report_tree, on_tree))
    booster = lgb.train(
        _booster_parameters(settings),
        train_data,
        settings.trees,
        valid_sets=[validation_data, train_data] if can_stop_early else [train_data],
        valid_names=["validation", "train"] if can_stop_early else ["train"],
        init_model=initial_booster,
        callbacks=callbacks,
    )
    return Gbdt(
        booster,
        tuple(columns),
        settings,
        {name: next(iter(series.values())) for name, series in recorded_metrics.items()},
    )


def _report_tree(
    on_tree: Callable[[int, Mapping[str, float]], bool], env: lgb.callback.CallbackEnv
) -> None:
    metrics = {part: value for part, _, value, *_ in env.evaluation_result_list or ()}
    if on_tree(env.iteration + 1, metrics):
        raise lgb.callback.EarlyStopException(env.iteration, env.evaluation_result_list or [])


def _build_dataset(
    sample: Sample,
    columns: Sequence[str],
    categorical: Sequence[str],
    *,
    is_amount: bool = False,
    reference: lgb.Dataset | None = None,
) -> lgb.Dataset:
    return lgb.Dataset(
        sample.matrix,
        sample.label.astype(np.float32) if is_amount else (sample.label > 0).astype(np.float32),
        reference=reference,
        weight=sample.weight,
        group=sample.lengths,
        feature_name=[
            f"c{i}" for i in range(len(columns))
        ],  # column names may contain characters that LightGBM rejects
        categorical_feature=[list(columns).index(name) for name in categorical],
        free_raw_data=True,
        params={"verbosity": -1},
    )


def _booster_parameters(settings: GbdtSettings) -> dict[str, object]:
    return {
        "objective": settings.objective,
        "metric": [_METRIC_BY_OBJECTIVE[settings.objective]],
        "eval_at": [10],
        "num_leaves": settings.leaves,
        "min_data_in_leaf": settings.leaf_rows,
        "learning_rate": settings.rate,
        "lambda_l2": settings.l2,
        "feature_fraction": settings.column_share,
        "bagging_fraction": settings.row_share,
        "bagging_freq": 1 if settings.row_share < 1 else 0,
        "max_cat_to_onehot": 8,
        "max_cat_threshold": 8,
        "cat_smooth": 20.0,
        "lambdarank_truncation_level": 20,
        "num_threads": settings.threads,
        "seed": settings.seed,
        "deterministic": True,
        "force_col_wise": True,
        "verbosity": -1,
    }
