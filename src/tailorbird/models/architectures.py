"""The built-in estimators: boosted trees, logistic regression and nets.

    GBDT(leaves=15).fit(train, valid)                       LightGBM, a booster per head
    Logistic(penalty=3.0).fit(train, valid)                 a regression per head
    NeuralNet("mmoe", experts=3, seed=3).fit(train, valid)  a net; needs the extra `deep`

The settings are documented in `models.gbdt` (`GbdtSettings`) and `models.deep.parameters`
(`DeepParameters`). `fit` is the same by name.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import numpy.typing as npt

from tailorbird.errors import UsageError
from tailorbird.models.deep.fitting import NETS, NetModel, OnEpoch, fit_net
from tailorbird.models.deep.layout import Layout
from tailorbird.models.deep.parameters import DEFAULTS
from tailorbird.models.deep.rows import Rows
from tailorbird.models.estimator import (
    Dimensions,
    EncodedRows,
    Estimator,
    HeadFile,
    Model,
    describe_model,
    describe_settings,
    name_head_files,
)
from tailorbird.models.export import gbdt_to_onnx
from tailorbird.models.gbdt import Gbdt, GbdtSettings, fit_gbdt, select_head_rows
from tailorbird.models.logistic import FittedLogistic, fit_logistic, logistic_to_onnx
from tailorbird.models.space import Choices, Range
from tailorbird.pages.notebook import text_html

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
HeadProgress = Callable[[str, int, int], None]

ARCHITECTURES = ("gbdt", "logistic", *NETS)
TREES_PER_EPOCH = 10  # trees of `gbdt` between two calls of `on_epoch`
VALIDATION_SHARE = 0.2


def fit(
    architecture: str,
    parameters: Mapping[str, Any],
    layout: Layout,
    rows: Rows,
    validation: Rows | None = None,
    *,
    seed: int = 7,
    on_epoch: OnEpoch | None = None,
    progress: Callable[[int, int], None] | None = None,
    checkpoint: Path | None = None,
) -> Model:
    """Fit a model to all heads of the rows.

    Args:
        parameters: overrides of the architecture's defaults; see above.
        layout: roles of the columns; `models.deep.layout.build_layout(encoder.names,
            encoder.code_counts)` for a matrix of numbers and codes.
        rows: in order of time.
        validation: later rows for early stopping; None splits off the newest fifth of `rows`.
        on_epoch: called after each epoch (of `gbdt`: every ten trees) with its number, from 1,
            and metrics, such as `validation`: the log loss, mean over heads so far. Training stops
            if it returns True.
        progress: called with (rows or trees so far, total).
        checkpoint: folder from which a killed training of a net resumes.

    Raises:
        UsageError: unknown architecture or parameter, a value out of bounds, a head with one
            class only, or torch is not installed.
    """
    if architecture not in ARCHITECTURES:
        raise UsageError(
            f"there is no architecture {architecture!r}",
            fix=f"use one of {', '.join(ARCHITECTURES)}",
        )
    if validation is None:
        rows, validation = rows.split_newest(VALIDATION_SHARE)
    train = EncodedRows(rows, layout)
    valid = EncodedRows(validation, layout)
    if architecture == "gbdt":
        overrides: dict[str, Any] = {"seed": seed, **parameters}
        head_progress = None if progress is None else _sum_progress(rows.heads, progress)
        return GBDT(on_epoch=on_epoch, progress=head_progress, **overrides).fit(train, valid)
    if architecture == "logistic":
        return Logistic(**parameters).fit(train, valid)
    options = NetOptions(on_epoch=on_epoch, progress=progress, checkpoint=checkpoint)
    return NeuralNet(architecture, seed=seed, options=options, **parameters).fit(train, valid)


def _sum_progress(heads: tuple[str, ...], progress: Callable[[int, int], None]) -> HeadProgress:
    """Return a callback that counts the trees of all heads."""
    return lambda head, done, total: progress(heads.index(head) * total + done, len(heads) * total)


class GBDT:
    """Gradient-boosted trees: a LightGBM booster for each head.

    Args:
        settings: all settings at once; by default those of `GbdtSettings`.
        on_epoch: called every ten trees, see `fit`.
        progress: called with (head, trees so far, total).
        initial_boosters: head → booster to which trees are added; others start from scratch.
        overrides: single settings, such as `leaves=31`.
    """

    name = "gbdt"

    def __init__(
        self,
        settings: GbdtSettings | None = None,
        /,
        *,
        on_epoch: OnEpoch | None = None,
        progress: HeadProgress | None = None,
        initial_boosters: Mapping[str, lightgbm.Booster] | None = None,
        **overrides: Any,
    ) -> None:
        known_names = [field.name for field in fields(GbdtSettings)]
        if unknown := [name for name in overrides if name not in known_names]:
            raise UsageError(
                f"gbdt has no parameter {unknown[0]!r}", fix=f"use one of {', '.join(known_names)}"
            )
        self.settings = replace(settings or GbdtSettings(), **overrides)
        self.on_epoch = on_epoch
        self.progress = progress
        self.initial_boosters = initial_boosters or {}

    def fit(self, train: EncodedRows, valid: EncodedRows) -> "Forests":
        """Grow trees for each head, stopped early on `valid`.

        Items of a request share its `return` label, so it has no order; an amount is not a class.
        """
        booster_by_head: dict[str, Gbdt] = {}
        item_objective = self.settings.objective
        fixed_objectives = {"return": "binary", "amount": "tweedie"}
        for head_index, head in enumerate(train.heads):
            objective = fixed_objectives.get(train.kinds.get(head, "item"), item_objective)
            reporter = _EpochReporter(self.on_epoch, head_index, self.settings.trees)
            booster_by_head[head] = fit_gbdt(
                select_head_rows(train.rows, head),
                select_head_rows(valid.rows, head),
                train.columns,
                replace(self.settings, objective=objective),
                categorical=train.categorical,
                progress=self._build_progress(head),
                on_tree=None if self.on_epoch is None else reporter.on_tree,
                initial_booster=self.initial_boosters.get(head),
            )
            if reporter.is_stopped:
                break
        return Forests(booster_by_head, _mean_curves(booster_by_head))

    def _build_progress(self, head: str) -> Callable[[int, int], None] | None:
        progress = self.progress
        return None if progress is None else lambda done, total: progress(head, done, total)

    @staticmethod
    def search_space() -> Dimensions:
        """Return what `tune` may try."""
        return {
            "objective": Choices(("binary", "lambdarank")),
            "leaves": Range(3, 63, log=True),
            "leaf_positives": Range(2, 60, log=True),
            "rate": Range(0.01, 0.15, log=True),
            "l2": Range(0.1, 100, log=True),
            "column_share": Range(0.2, 1.0),
            "row_share": Range(0.4, 1.0),
        }

    def __repr__(self) -> str:
        defaults = asdict(GbdtSettings())
        changed_settings = {
            name: value for name, value in asdict(self.settings).items() if value != defaults[name]
        }
        return describe_settings("GBDT", changed_settings)

    _repr_html_ = text_html


class Logistic:
    """Logistic regression: one for each head, on logarithms of the columns.

    Args:
        penalty: on squared slopes of standardised columns.
    """

    name = "logistic"

    def __init__(self, *, penalty: float = 1.0) -> None:
        if not penalty > 0:
            raise UsageError(f"expected a penalty above 0, got {penalty}", where="logistic")
        self.penalty = penalty

    def fit(self, train: EncodedRows, valid: EncodedRows) -> "Regressions":
        """Fit by maximum likelihood; codes are left out, as they have no linear meaning."""
        model_by_head = {}
        for head in train.heads:
            sample = select_head_rows(train.rows, head)
            model_by_head[head] = fit_logistic(
                sample.matrix,
                sample.label,
                train.columns,
                weight=sample.weight,
                ignored_columns=(*train.categorical, *train.layout.net_only_columns),
                penalty=self.penalty,
            )
        return Regressions(model_by_head)

    @staticmethod
    def search_space() -> Dimensions:
        """Return what `tune` may try."""
        return {"penalty": Range(0.01, 1_000.0, log=True)}

    def __repr__(self) -> str:
        return describe_settings("Logistic", {"penalty": self.penalty})

    _repr_html_ = text_html


@dataclass(frozen=True)
class NetOptions:
    """How a net is trained, which does not change what it is.

    Attributes:
        on_epoch, progress, checkpoint: see `fit`.
        layout: roles of the columns, in place of those of the rows.
        initial_weights: weights to start from, see `models.deep.warm`.
        processes: number of processes that share each batch.
    """

    on_epoch: OnEpoch | None = None
    progress: Callable[[int, int], None] | None = None
    checkpoint: Path | None = None
    layout: Layout | None = None
    initial_weights: Mapping[str, npt.NDArray] | None = None
    processes: int = 1


class NeuralNet:
    """A neural network for all heads.

    Args:
        name: `mlp`, `dcn`, `shared` or `mmoe`.
        parameters: overrides of its defaults, see `models.deep.parameters`.
    """

    def __init__(
        self,
        name: str = "mmoe",
        /,
        *,
        seed: int = 7,
        options: NetOptions | None = None,
        **parameters: Any,
    ) -> None:
        if name not in NETS:
            raise UsageError(f"there is no net {name!r}", fix=f"use one of {', '.join(NETS)}")
        self.name = name
        self.seed = seed
        self.parameters = parameters
        self.options = options or NetOptions()

    def fit(self, train: EncodedRows, valid: EncodedRows) -> NetModel:
        """Train until the validation loss stops falling."""
        options = self.options
        return fit_net(
            self.name,
            self.parameters,
            options.layout or train.layout,
            train.blocks,
            valid.blocks,
            seed=self.seed,
            on_epoch=options.on_epoch,
            progress=options.progress,
            checkpoint=options.checkpoint,
            initial_weights=options.initial_weights,
            processes=options.processes,
        )

    def search_space(self) -> Dimensions:
        """Return what `tune` may try."""
        return {**_NET_SPACE, **_EXTRA_SPACE.get(self.name, {})}

    def __repr__(self) -> str:
        settings_text = describe_settings("", self.parameters)[1:-1]
        return f"NeuralNet({', '.join(part for part in (repr(self.name), settings_text) if part)})"

    _repr_html_ = text_html


_NET_SPACE: Dimensions = {
    "rate": Range(1e-4, 1e-2, log=True),
    "dropout": Range(0.0, 0.5),
    "weight_decay": Range(1e-7, 1e-2, log=True),
    "embedding_l2": Range(1e-6, 1e-2, log=True),
    "batch": Choices((128, 256, 512, 1_024)),
    "numeric": Choices(("standardise", "quantile", "periodic")),
    "embedding_max": Range(4, 32, log=True),
    "unknown_share": Range(0.005, 0.2),
}
_EXTRA_SPACE: Mapping[str, Dimensions] = {
    "dcn": {"crosses": Range(1, 4)},
    "mmoe": {"experts": Range(2, 8)},
}


def default_settings(estimator: Estimator) -> dict[str, Any]:
    """Return the tunable settings of a built-in estimator with their defaults."""
    space = estimator.search_space()
    if estimator.name in NETS:
        defaults = asdict(DEFAULTS[estimator.name])
    else:
        defaults = asdict(GbdtSettings()) if estimator.name == "gbdt" else {"penalty": 1.0}
    return {name: value for name, value in defaults.items() if name in space}


@dataclass(frozen=True, repr=False)
class Forests:
    """A booster for each head as a model."""

    boosters: Mapping[str, Gbdt]
    curve: Mapping[str, list[float]]
    architecture: str = "gbdt"

    @property
    def heads(self) -> tuple[str, ...]:
        return tuple(self.boosters)

    def score(self, matrix: Matrix) -> dict[str, Floats]:
        return {head: booster.score(matrix) for head, booster in self.boosters.items()}

    def export(self) -> tuple[dict[str, bytes], dict[str, HeadFile]]:
        return name_head_files({head: gbdt_to_onnx(gbdt) for head, gbdt in self.boosters.items()})

    __repr__ = describe_model
    _repr_html_ = text_html


@dataclass(frozen=True, repr=False)
class Regressions:
    """A regression for each head as a model."""

    models: Mapping[str, FittedLogistic]
    architecture: str = "logistic"

    @property
    def heads(self) -> tuple[str, ...]:
        return tuple(self.models)

    @property
    def curve(self) -> Mapping[str, list[float]]:
        return {}

    def score(self, matrix: Matrix) -> dict[str, Floats]:
        return {head: model.score(matrix) for head, model in self.models.items()}

    def export(self) -> tuple[dict[str, bytes], dict[str, HeadFile]]:
        return name_head_files(
            {head: logistic_to_onnx(model) for head, model in self.models.items()}
        )

    __repr__ = describe_model
    _repr_html_ = text_html


@dataclass
class _EpochReporter:
    """Reports trees of one head as epochs of all heads."""

    on_epoch: OnEpoch | None
    head_index: int
    trees_per_head: int
    is_stopped: bool = False

    def on_tree(self, trees_done: int, metrics: Mapping[str, float]) -> bool:
        if self.on_epoch is None or trees_done % TREES_PER_EPOCH:
            return False
        total_trees = self.head_index * self.trees_per_head + trees_done
        self.is_stopped = bool(self.on_epoch(total_trees // TREES_PER_EPOCH, metrics))
        return self.is_stopped


def _mean_curves(boosters: Mapping[str, Gbdt]) -> dict[str, list[float]]:
    """Return the curve `PART_HEAD` of each head, and the means over heads of both parts."""
    curves = {
        f"{part}_{head}": list(curve)
        for head, booster in boosters.items()
        for part, curve in booster.curve.items()
    }
    for part in ("train", "validation"):
        head_curves = [curves[name] for head in boosters if (name := f"{part}_{head}") in curves]
        if head_curves:
            length = min(map(len, head_curves))
            curves[part] = np.mean([curve[:length] for curve in head_curves], axis=0).tolist()
    return curves
