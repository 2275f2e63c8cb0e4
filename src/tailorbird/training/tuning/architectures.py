"""The architectures that can be tuned: their settings, search spaces, and how one fit runs.

To add an architecture, add a line to `ARCHITECTURES`. A fit sees the rows of one split and returns
a value for each held-out row, by which the slot's list is ordered. All architectures get the same
rows, splits and budget. The first trial of each uses its defaults. Validation fits models the same
way (`training.backtest.model`).
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from tailorbird.errors import UsageError
from tailorbird.models.architectures import DEEP, Forests, Ranker, fit_net, is_available
from tailorbird.models.deep.batches import Rows
from tailorbird.models.deep.parameters import DEFAULTS
from tailorbird.models.gbdt import GbdtSettings, Sample, fit_gbdt
from tailorbird.ranking.calibration import Calibration
from tailorbird.training.fit.architecture import QUICK_EPOCHS
from tailorbird.training.fit.calibrate import assign_periods, choose_calibration
from tailorbird.training.settings import TrainSettings
from tailorbird.training.tuning.rows import Split
from tailorbird.training.tuning.space import Choices, Range, SearchSpace, Value

Floats = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float32]

TREES, NETS = "trees", "nets"


@dataclass(frozen=True)
class FitRequest:
    """One requested fit: the tried settings, on top of how training would do it."""

    settings: Mapping[str, Value]
    seed: int
    train: TrainSettings
    threads: int


@dataclass(frozen=True)
class CalibratedModel:
    """A fitted model with a calibration for each head, and the slot's formula over them.

    Attributes:
        column_indices: of the matrix's columns that the model reads; None for all.
    """

    model: Ranker
    calibration: Mapping[str, Calibration]
    objective: Mapping[str, float]
    column_indices: npt.NDArray[np.intp] | None = None

    def probabilities(self, matrix: Matrix) -> dict[str, Floats]:
        visible = (
            matrix
            if self.column_indices is None
            else np.ascontiguousarray(matrix[:, self.column_indices])
        )
        return {
            head: self.calibration[head].apply(raw)
            for head, raw in self.model.score(visible).items()
        }

    def value(self, matrix: Matrix) -> Floats:
        head_probabilities = self.probabilities(matrix)
        return sum(
            (weight * head_probabilities[head] for head, weight in self.objective.items()),
            np.zeros(len(matrix)),
        )


@dataclass(frozen=True)
class Architecture:
    """A model family that can be tuned.

    Attributes:
        defaults: the tunable settings, with their values without tuning.
        space: the search space; a project's `tune.toml` may change it.
        columns: the matrix a fit needs: `TREES`, or `NETS` with codes of the candidate and of the
            newest items as further columns.
        fit_heads: fits a model to a split.
        sized: returns the defaults adapted to the data, given positives and rows; the search starts
            there.
    """

    name: str
    defaults: Mapping[str, Value]
    space: Mapping[str, Range | Choices]
    columns: str
    fit_heads: Callable[[Split, FitRequest], CalibratedModel]
    sized: Callable[[Mapping[str, Value], int, int], Mapping[str, Value]] = (
        lambda settings, positives, rows: settings
    )

    def full_space(self) -> SearchSpace:
        return SearchSpace(self.space, {}, self.defaults)

    def fit(self, split: Split, request: FitRequest) -> Floats:
        """Return the value of each held-out row."""
        return self.fit_heads(split, request).value(split.holdout.matrix)


_GBDT = ("objective", "leaves", "leaf_positives", "rate", "l2", "columns", "rows")
_GBDT_SPACE: dict[str, Range | Choices] = {
    "objective": Choices(("binary", "lambdarank")),
    "leaves": Range(3, 63, log=True),
    "leaf_positives": Range(2, 60, log=True),
    "rate": Range(0.01, 0.15, log=True),
    "l2": Range(0.1, 100, log=True),
    "columns": Range(0.2, 1.0),
    "rows": Range(0.4, 1.0),
}


def gbdt_defaults() -> dict[str, Value]:
    """Return the tunable settings of `GbdtSettings` with their defaults."""
    return {name: value for name, value in asdict(GbdtSettings()).items() if name in _GBDT}


def fit_gbdt_heads(split: Split, request: FitRequest) -> CalibratedModel:
    """Fit trees for each head, calibrated on the part that early stopping watched.

    Columns that only nets can use are left out.
    """
    tried = {**request.settings, "seed": request.seed, "threads": request.threads}
    settings = replace(request.train.gbdt, **tried)  # type: ignore[arg-type]
    tree_split = (
        split if split.tree_columns == split.names else split.select_columns(split.tree_columns)
    )
    train, watch = tree_split.train, tree_split.validation
    boosters, raw = {}, {}
    for head in split.objective:
        train_sample = Sample(
            train.matrix, train.labels[head], np.diff(train.offsets), train.weight
        )
        validation_sample = Sample(
            watch.matrix, watch.labels[head], np.diff(watch.offsets), watch.weight
        )
        boosters[head] = fit_gbdt(
            train_sample,
            validation_sample,
            tree_split.names,
            settings,
            categorical=tree_split.categorical,
        )
        raw[head] = boosters[head].score(tree_split.served)
    column_indices = (
        None
        if tree_split is split
        else np.array([split.names.index(name) for name in tree_split.names])
    )
    calibration = _calibrate_heads(raw, split, probability=settings.objective == "binary")
    return CalibratedModel(Forests(boosters, {}), calibration, split.objective, column_indices)


def _calibrate_heads(
    raw: Mapping[str, Floats], split: Split, *, probability: bool = True
) -> dict[str, Calibration]:
    """Calibrate each head on the model's served scores of the validation part."""
    watch = split.validation
    periods = assign_periods(watch.t[watch.request])
    return {
        head: choose_calibration(
            raw[head], watch.labels[head], periods, watch.weight, is_probability=probability
        ).calibration
        for head in raw
    }


def _gbdt_sized(settings: Mapping[str, Value], positives: int, rows: int) -> dict[str, Value]:
    sized = replace(GbdtSettings(), **settings).sized(positives, rows)  # type: ignore[arg-type]
    return {**settings, "leaves": sized.leaves}


_NET_SPACE: dict[str, Range | Choices] = {
    "rate": Range(1e-4, 1e-2, log=True),
    "dropout": Range(0.0, 0.5),
    "weight_decay": Range(1e-7, 1e-2, log=True),
    "embedding_l2": Range(1e-6, 1e-2, log=True),
    "batch": Choices((128, 256, 512, 1_024)),
    "numeric": Choices(("standardise", "quantile", "periodic")),
    "embedding_max": Range(4, 32, log=True),
    "unknown_share": Range(0.005, 0.2),
}
_EXTRA_SPACE: Mapping[str, Mapping[str, Range | Choices]] = {
    "dcn": {"crosses": Range(1, 4)},
    "mmoe": {"experts": Range(2, 8)},
}


def net_settings(request: FitRequest) -> dict[str, Value]:
    """Return the settings of a net that differ from the architecture's defaults.

    With `quick` there are fewer epochs, as in training.
    """
    return {
        "threads": request.threads,
        **({"epochs": QUICK_EPOCHS} if request.train.quick else {}),
        **request.settings,
    }


def fit_net_heads(name: str, split: Split, request: FitRequest) -> CalibratedModel:
    """Fit a net for all heads, each calibrated on the part that ended its training."""
    assert split.layout is not None
    train, watch = (
        Rows(
            part.matrix,
            {head: part.labels[head] for head in split.objective},
            part.weight,
            np.diff(part.offsets),
        )
        for part in (split.train, split.validation)
    )
    model = fit_net(name, net_settings(request), split.layout, train, watch, seed=request.seed)
    return CalibratedModel(
        model, _calibrate_heads(model.score(split.served), split), split.objective
    )


def _net_architecture(name: str) -> Architecture:
    space = {**_NET_SPACE, **_EXTRA_SPACE.get(name, {})}
    defaults = {
        setting: value for setting, value in asdict(DEFAULTS[name]).items() if setting in space
    }
    return Architecture(name, defaults, space, NETS, partial(fit_net_heads, name))


ARCHITECTURES: dict[str, Architecture] = {
    "gbdt": Architecture("gbdt", gbdt_defaults(), _GBDT_SPACE, TREES, fit_gbdt_heads, _gbdt_sized),
    **{name: _net_architecture(name) for name in DEEP},
}


def select_architectures(names: tuple[str, ...]) -> list[Architecture]:
    """Return the architectures with the given names.

    Raises:
        UsageError: a name is unknown, none is given, or a dependency is not installed.
    """
    if not names:
        raise UsageError(
            "names no architecture",
            where="--architectures",
            fix=f"use some of {', '.join(ARCHITECTURES)}",
        )
    if unknown := [name for name in names if name not in ARCHITECTURES]:
        fix = f"use one of {', '.join(ARCHITECTURES)}"
        raise UsageError(
            f"there is no architecture {unknown[0]!r}", where="--architectures", fix=fix
        )
    if uninstalled := [name for name in names if not is_available(name)]:
        raise UsageError(
            f"{uninstalled[0]} needs torch, which is not installed",
            where="--architectures",
            fix="pip install 'tailorbird[deep]'",
        )
    return [ARCHITECTURES[name] for name in dict.fromkeys(names)]
