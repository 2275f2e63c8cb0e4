"""The architectures that can be tuned: settings, what is tried of them, and how one fit goes. To add one, add a line to `ARCHITECTURES`.

A fit sees the rows of one split and gives a value for each row that is judged: what the slot's list would be ordered by. All
architectures get the same rows, the same splits and the same budget; the first trial of each has its defaults as they are.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from tailorbird.errors import UsageError
from tailorbird.models.architectures import DEEP, available, fit_net
from tailorbird.models.deep.batches import Rows
from tailorbird.models.deep.parameters import DEFAULTS
from tailorbird.models.gbdt import Gbdt, GbdtSettings, Sample, fit_gbdt
from tailorbird.ranking.calibration import Calibration
from tailorbird.training.architecture import QUICK_EPOCHS
from tailorbird.training.calibrate import choose, periods_of
from tailorbird.training.settings import TrainSettings
from tailorbird.training.tune.rows import Split
from tailorbird.training.tune.space import Choices, Range, Space, Value

Floats = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float32]

TREES, NETS = "trees", "nets"


@dataclass(frozen=True)
class Ask:
    """One fit that is asked for: the settings that are tried, on top of how training would do it."""

    settings: Mapping[str, Value]
    seed: int
    train: TrainSettings
    threads: int


@dataclass(frozen=True)
class Architecture:
    """Attributes:
    defaults: the settings that can be tried, as they are without tuning.
    space: what is tried; a project's `tune.toml` may change it.
    columns: which matrix a fit sees: `TREES`, or `NETS` with codes of the candidate and of the newest items behind it.
    fit: the value of each judged row of a split.
    sized: the defaults with what depends on the data filled in, given positives and rows: where the search begins.
    """

    name: str
    defaults: Mapping[str, Value]
    space: Mapping[str, Range | Choices]
    columns: str
    fit: Callable[[Split, Ask], Floats]
    sized: Callable[[Mapping[str, Value], int, int], Mapping[str, Value]] = lambda settings, positives, rows: settings

    def whole_space(self) -> Space:
        return Space(self.space, {}, self.defaults)


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
    """What of `GbdtSettings` can be tuned."""
    return {name: value for name, value in asdict(GbdtSettings()).items() if name in _GBDT}


@dataclass(frozen=True)
class Heads:
    """Trees for each head with their calibrations, and what a list is ordered by: the slot's formula over them."""

    models: Mapping[str, Gbdt]
    calibration: Mapping[str, Calibration]
    objective: Mapping[str, float]

    def probabilities(self, matrix: Matrix) -> dict[str, Floats]:
        return {head: self.calibration[head].apply(model.score(matrix)) for head, model in self.models.items()}

    def value(self, matrix: Matrix) -> Floats:
        found = self.probabilities(matrix)
        return sum((weight * found[head] for head, weight in self.objective.items()), np.zeros(len(matrix)))


def gbdt_heads(split: Split, ask: Ask) -> Heads:
    """Trees for each head, calibrated by the part that early stopping watched."""
    settings = replace(ask.train.gbdt, **ask.settings, seed=ask.seed, threads=ask.threads)  # type: ignore[arg-type]
    train, watch = split.train, split.watch
    periods = periods_of(watch.t[watch.request])
    models, calibration = {}, {}
    for head in split.objective:
        learned = Sample(train.matrix, train.labels[head], np.diff(train.offsets), train.weight)
        watched = Sample(watch.matrix, watch.labels[head], np.diff(watch.offsets), watch.weight)
        models[head] = fit_gbdt(learned, watched, split.names, settings, categorical=split.categorical)
        raw = models[head].score(split.served)
        chosen = choose(raw, watch.labels[head], periods, watch.weight, probability=settings.objective == "binary")
        calibration[head] = chosen.calibration
    return Heads(models, calibration, split.objective)


def gbdt_fit(split: Split, ask: Ask) -> Floats:
    """The value of each judged row."""
    return gbdt_heads(split, ask).value(split.judge.matrix)


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
_MORE: Mapping[str, Mapping[str, Range | Choices]] = {"dcn": {"crosses": Range(1, 4)}, "mmoe": {"experts": Range(2, 8)}}


def _net_fit(name: str, split: Split, ask: Ask) -> Floats:
    """A net for all heads, each calibrated by the part that ended its training."""
    assert split.layout is not None
    settings = {**ask.settings, "threads": ask.threads, **({"epochs": QUICK_EPOCHS} if ask.train.quick else {})}
    train, watch = (
        Rows(part.matrix, {head: part.labels[head] for head in split.objective}, part.weight, np.diff(part.offsets))
        for part in (split.train, split.watch)
    )
    model = fit_net(name, settings, split.layout, train, watch, seed=ask.seed)
    raw, judged, value = model.score(split.served), model.score(split.judge.matrix), np.zeros(len(split.judge.matrix))
    periods = periods_of(split.watch.t[split.watch.request])
    for head, weight in split.objective.items():
        chosen = choose(raw[head], split.watch.labels[head], periods, split.watch.weight)
        value += weight * chosen.calibration.apply(judged[head])
    return value


def _net(name: str) -> Architecture:
    space = {**_NET_SPACE, **_MORE.get(name, {})}
    defaults = {setting: value for setting, value in asdict(DEFAULTS[name]).items() if setting in space}
    return Architecture(name, defaults, space, NETS, partial(_net_fit, name))


ARCHITECTURES: dict[str, Architecture] = {
    "gbdt": Architecture("gbdt", gbdt_defaults(), _GBDT_SPACE, TREES, gbdt_fit, _gbdt_sized),
    **{name: _net(name) for name in DEEP},
}


def architectures(names: tuple[str, ...]) -> list[Architecture]:
    """The architectures of some names.

    Raises:
        UsageError: there is no such one, or none at all, or it needs what is not installed.
    """
    if not names:
        raise UsageError("names no architecture", where="--architectures", fix=f"use some of {', '.join(ARCHITECTURES)}")
    if unknown := [name for name in names if name not in ARCHITECTURES]:
        fix = f"use one of {', '.join(ARCHITECTURES)}"
        raise UsageError(f"there is no architecture {unknown[0]!r}", where="--architectures", fix=fix)
    if lacking := [name for name in names if not available(name)]:
        raise UsageError(f"{lacking[0]} needs torch, which is not installed", where="--architectures", fix="pip install 'tailorbird[deep]'")
    return [ARCHITECTURES[name] for name in dict.fromkeys(names)]
