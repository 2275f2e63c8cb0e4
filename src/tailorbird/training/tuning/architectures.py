"""The architectures that can be tuned: their settings, search spaces, and how one fit runs.

The estimators are those of training, a project's own among them. A fit sees the rows of one split
and returns a value for each held-out row, by which the slot's list is ordered. All architectures
get the same rows, splits and budget. The first trial of each uses its defaults. Backtests fit
models the same way (`training.backtests.model`).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from tailorbird.errors import UsageError
from tailorbird.models.architectures import (
    ARCHITECTURES,
    GBDT,
    Logistic,
    NeuralNet,
    default_settings,
)
from tailorbird.models.deep.fitting import NETS, is_available
from tailorbird.models.deep.layout import Layout, build_layout
from tailorbird.models.deep.rows import Rows
from tailorbird.models.estimator import EncodedRows, Estimator, Model
from tailorbird.models.gbdt import GbdtSettings
from tailorbird.models.space import Choices, Range, Value
from tailorbird.ranking.calibration import Calibration
from tailorbird.ranking.own_models import own_estimator_classes
from tailorbird.training.fit.calibrate import assign_periods, choose_calibration
from tailorbird.training.fit.estimator import build_estimator
from tailorbird.training.fit.net import QUICK_EPOCHS
from tailorbird.training.own import OwnEstimator, is_probability
from tailorbird.training.settings import TrainSettings
from tailorbird.training.tuning.space import SearchSpace
from tailorbird.training.tuning.splits import Split, SplitPart

Floats = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float32]

TREE_COLUMNS = "trees"
NET_COLUMNS = "nets"


@dataclass(frozen=True)
class FitRequest:
    """One requested fit: the tried settings, on top of how training would do it."""

    settings: Mapping[str, Value]
    seed: int
    train_settings: TrainSettings
    threads: int


@dataclass(frozen=True)
class CalibratedModel:
    """A fitted model with a calibration for each head, and the slot's formula over them.

    Attributes:
        column_indices: of the matrix's columns that the model reads; None for all.
    """

    model: Model
    calibration_by_head: Mapping[str, Calibration]
    objective: Mapping[str, float]
    column_indices: npt.NDArray[np.intp] | None = None

    def predict_probabilities(self, matrix: Matrix) -> dict[str, Floats]:
        model_matrix = (
            matrix
            if self.column_indices is None
            else np.ascontiguousarray(matrix[:, self.column_indices])
        )
        return {
            head: self.calibration_by_head[head].apply(raw_scores)
            for head, raw_scores in self.model.score(model_matrix).items()
        }

    def predict_values(self, matrix: Matrix) -> Floats:
        head_probabilities = self.predict_probabilities(matrix)
        return sum(
            (weight * head_probabilities[head] for head, weight in self.objective.items()),
            np.zeros(len(matrix)),
        )


@dataclass(frozen=True)
class Architecture:
    """A model family that can be tuned.

    Attributes:
        defaults: the tunable settings, with their values without tuning.
        search_space: the search space; a project's `tune.toml` may change it.
        column_set: the matrix a fit needs: `TREE_COLUMNS`, or `NET_COLUMNS` with codes of the
            candidate and of the newest items as further columns.
        fit_model: fits a model to a split.
        adapt_defaults: returns the defaults adapted to the data, given positives and rows; the
            search starts there.
    """

    name: str
    defaults: Mapping[str, Value]
    search_space: Mapping[str, Range | Choices]
    column_set: str
    fit_model: Callable[[Split, FitRequest], CalibratedModel]
    adapt_defaults: Callable[[Mapping[str, Value], int, int], Mapping[str, Value]] = (
        lambda settings, positives, rows: settings
    )

    def build_search_space(self) -> SearchSpace:
        return SearchSpace(self.search_space, {}, self.defaults)

    def fit_and_predict(self, split: Split, request: FitRequest) -> Floats:
        """Return the value of each held-out row."""
        return self.fit_model(split, request).predict_values(split.holdout.matrix)


def tunable_gbdt_defaults() -> dict[str, Value]:
    """Return the tunable settings of `GbdtSettings` with their defaults."""
    return default_settings(GBDT())


def merge_net_settings(request: FitRequest) -> dict[str, Value]:
    """Return the settings of a net that differ from the architecture's defaults.

    With `quick` there are fewer epochs, as in training.
    """
    return {
        "threads": request.threads,
        **({"epochs": QUICK_EPOCHS} if request.train_settings.quick else {}),
        **request.settings,
    }


def fit_split(architecture: str, split: Split, request: FitRequest) -> CalibratedModel:
    """Fit an estimator to a split, each head calibrated on the part that ended its training.

    Columns that only nets can use are left out for the others.
    """
    is_net = architecture in NETS
    model_split = split
    if not is_net and split.tree_columns != split.names:
        model_split = split.select_columns(split.tree_columns)
    parameters: dict[str, Value] = dict(request.settings)
    if is_net:
        parameters = merge_net_settings(request)
    elif architecture == "gbdt":
        parameters |= {"threads": request.threads}
    settings = replace(request.train_settings, seed=request.seed)
    estimator = build_estimator(architecture, parameters, settings)
    layout = model_split.layout or build_tree_layout(model_split)
    model = estimator.fit(
        EncodedRows(_to_rows(model_split.train, split.objective), layout),
        EncodedRows(_to_rows(model_split.validation, split.objective), layout),
    )
    column_indices = (
        None
        if model_split is split
        else np.array([split.names.index(column) for column in model_split.names])
    )
    raw_scores = model.score(model_split.served_matrix)
    is_probability = architecture in NETS or _outputs_probabilities(
        architecture, estimator, model, model_split
    )
    calibration = _calibrate_heads(raw_scores, split, is_probability=is_probability)
    return CalibratedModel(model, calibration, split.objective, column_indices)


def _to_rows(part: SplitPart, objective: Iterable[str]) -> Rows:
    labels = {head: part.labels[head] for head in objective}
    return Rows(part.matrix, labels, part.weight, np.diff(part.offsets))


def _outputs_probabilities(
    architecture: str, estimator: Estimator, model: Model, split: Split
) -> bool:
    if isinstance(estimator, GBDT):
        return estimator.settings.objective == "binary"
    return is_probability(model, split.served_matrix)


def build_tree_layout(split: Split) -> Layout:
    """Return the roles of the columns of trees; a code column has the codes seen in training."""
    cardinalities = {
        name: int(split.train.matrix[:, split.names.index(name)].max(initial=1.0)) + 1
        for name in split.categorical_columns
    }
    return build_layout(split.names, cardinalities)


def _calibrate_heads(
    raw_scores: Mapping[str, Floats], split: Split, *, is_probability: bool = True
) -> dict[str, Calibration]:
    """Calibrate each head on the model's served scores of the validation part."""
    validation = split.validation
    periods = assign_periods(validation.t[validation.request_index])
    return {
        head: choose_calibration(
            raw_scores[head],
            validation.labels[head],
            periods,
            validation.weight,
            is_probability=is_probability,
        ).calibration
        for head in raw_scores
    }


def _adapt_gbdt_defaults(
    settings: Mapping[str, Value], positives: int, rows: int
) -> dict[str, Value]:
    gbdt_settings = replace(GbdtSettings(), **settings)  # type: ignore[arg-type]
    adapted_settings = gbdt_settings.resolve_sizes(positives, rows)
    return {**settings, "leaves": adapted_settings.leaves}


def find_architecture(name: str) -> Architecture:
    """Return how an estimator is tuned.

    Raises:
        UsageError: it is unknown.
    """
    fit_model = partial(fit_split, name)
    if name == "gbdt":
        estimator: Estimator = GBDT()
        return Architecture(
            name,
            tunable_gbdt_defaults(),
            estimator.search_space(),
            TREE_COLUMNS,
            fit_model,
            _adapt_gbdt_defaults,
        )
    if name in ARCHITECTURES:
        estimator = NeuralNet(name) if name in NETS else Logistic()
        column_set = NET_COLUMNS if name in NETS else TREE_COLUMNS
        return Architecture(
            name, default_settings(estimator), estimator.search_space(), column_set, fit_model
        )
    own_estimator = OwnEstimator(name, {})
    space = own_estimator.search_space()
    defaults = {
        setting: value for setting, value in own_estimator.defaults().items() if setting in space
    }
    return Architecture(name, defaults, space, TREE_COLUMNS, fit_model)


def list_tunable_names() -> tuple[str, ...]:
    """Return the names of all estimators with a search space."""
    own_names = (
        name
        for name, estimator_class in own_estimator_classes().items()
        if hasattr(estimator_class, "search_space")
    )
    return (*ARCHITECTURES, *own_names)


def select_architectures(names: tuple[str, ...]) -> list[Architecture]:
    """Return the architectures with the given names.

    Raises:
        UsageError: a name is unknown, none is given, or a dependency is not installed.
    """
    known_names = list_tunable_names()
    if not names:
        raise UsageError(
            "names no architecture",
            where="--architectures",
            fix=f"use some of {', '.join(known_names)}",
        )
    if unknown := [name for name in names if name not in known_names]:
        fix = f"use one of {', '.join(known_names)}"
        raise UsageError(
            f"there is no architecture {unknown[0]!r}", where="--architectures", fix=fix
        )
    if uninstalled := [name for name in names if not is_available(name)]:
        raise UsageError(
            f"{uninstalled[0]} needs torch, which is not installed",
            where="--architectures",
            fix="pip install 'tailorbird[deep]'",
        )
    return [find_architecture(name) for name in dict.fromkeys(names)]
