"""The architectures that can be tuned: settings, what is tried of them, and how one fit goes. To
add one, add a line to `ARCHITECTURES`.

A fit sees the rows of one split and gives a value for each row that is judged: what the slot's list
would be ordered by. All architectures get the same rows, the same splits and the same budget; the
first trial of each has its defaults as they are. Validation fits by them too
(`training.validate.model`).
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from tailorbird.errors import UsageError
from tailorbird.models.architectures import DEEP, Forests, Ranker, available, fit_net
from tailorbird.models.deep.batches import Rows
from tailorbird.models.deep.parameters import DEFAULTS
from tailorbird.models.gbdt import GbdtSettings, Sample, fit_gbdt
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
class Heads:
    """A fitted model with the calibration of each head, and what a list is ordered by: the slot's
    formula over them.

    Attributes:
        places: of the matrix's columns that the model sees; None for all.
    """

    model: Ranker
    calibration: Mapping[str, Calibration]
    objective: Mapping[str, float]
    places: npt.NDArray[np.intp] | None = None

    def probabilities(self, matrix: Matrix) -> dict[str, Floats]:
        seen = matrix if self.places is None else np.ascontiguousarray(matrix[:, self.places])
        return {
            head: self.calibration[head].apply(raw) for head, raw in self.model.score(seen).items()
        }

    def value(self, matrix: Matrix) -> Floats:
        found = self.probabilities(matrix)
        return sum(
            (weight * found[head] for head, weight in self.objective.items()), np.zeros(len(matrix))
        )


@dataclass(frozen=True)
class Architecture:
    """Attributes:
    defaults: the settings that can be tried, as they are without tuning. space: what is tried; a
    project's `tune.toml` may change it. columns: which matrix a fit needs: `TREES`, or `NETS` with
    codes of the candidate and of the newest items behind it. heads: what is fitted to a split.
    sized: the defaults with what depends on the data filled in, given positives and rows: where the
    search begins.
    """

    name: str
    defaults: Mapping[str, Value]
    space: Mapping[str, Range | Choices]
    columns: str
    heads: Callable[[Split, Ask], Heads]
    sized: Callable[[Mapping[str, Value], int, int], Mapping[str, Value]] = (
        lambda settings, positives, rows: settings
    )

    def whole_space(self) -> Space:
        return Space(self.space, {}, self.defaults)

    def fit(self, split: Split, ask: Ask) -> Floats:
        """The value of each judged row."""
        return self.heads(split, ask).value(split.judge.matrix)


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


def gbdt_heads(split: Split, ask: Ask) -> Heads:
    """Trees for each head, calibrated by the part that early stopping watched. Columns for nets,
    where there are any, they do not see.
    """
    settings = replace(ask.train.gbdt, **ask.settings, seed=ask.seed, threads=ask.threads)  # type: ignore[arg-type]
    seen = split if split.for_trees == split.names else split.only(split.for_trees)
    train, watch = seen.train, seen.watch
    boosters, raw = {}, {}
    for head in split.objective:
        learned = Sample(train.matrix, train.labels[head], np.diff(train.offsets), train.weight)
        watched = Sample(watch.matrix, watch.labels[head], np.diff(watch.offsets), watch.weight)
        boosters[head] = fit_gbdt(
            learned, watched, seen.names, settings, categorical=seen.categorical
        )
        raw[head] = boosters[head].score(seen.served)
    places = None if seen is split else np.array([split.names.index(name) for name in seen.names])
    calibration = _calibrated(raw, split, probability=settings.objective == "binary")
    return Heads(Forests(boosters, {}), calibration, split.objective, places)


def _calibrated(
    raw: Mapping[str, Floats], split: Split, *, probability: bool = True
) -> dict[str, Calibration]:
    """Of each head, by what the model said of the watched part as it would be served."""
    watch = split.watch
    periods = periods_of(watch.t[watch.request])
    return {
        head: choose(
            raw[head], watch.labels[head], periods, watch.weight, probability=probability
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
_MORE: Mapping[str, Mapping[str, Range | Choices]] = {
    "dcn": {"crosses": Range(1, 4)},
    "mmoe": {"experts": Range(2, 8)},
}


def net_settings(ask: Ask) -> dict[str, Value]:
    """What a net is fitted with where it differs from the architecture's own; with `quick` fewer
    epochs, as training has it.
    """
    return {
        "threads": ask.threads,
        **({"epochs": QUICK_EPOCHS} if ask.train.quick else {}),
        **ask.settings,
    }


def net_heads(name: str, split: Split, ask: Ask) -> Heads:
    """A net for all heads, each calibrated by the part that ended its training."""
    assert split.layout is not None
    train, watch = (
        Rows(
            part.matrix,
            {head: part.labels[head] for head in split.objective},
            part.weight,
            np.diff(part.offsets),
        )
        for part in (split.train, split.watch)
    )
    model = fit_net(name, net_settings(ask), split.layout, train, watch, seed=ask.seed)
    return Heads(model, _calibrated(model.score(split.served), split), split.objective)


def _net(name: str) -> Architecture:
    space = {**_NET_SPACE, **_MORE.get(name, {})}
    defaults = {
        setting: value for setting, value in asdict(DEFAULTS[name]).items() if setting in space
    }
    return Architecture(name, defaults, space, NETS, partial(net_heads, name))


ARCHITECTURES: dict[str, Architecture] = {
    "gbdt": Architecture("gbdt", gbdt_defaults(), _GBDT_SPACE, TREES, gbdt_heads, _gbdt_sized),
    **{name: _net(name) for name in DEEP},
}


def architectures(names: tuple[str, ...]) -> list[Architecture]:
    """The architectures of some names.

    Raises:
        UsageError: there is no such one, or none at all, or it needs what is not installed.
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
    if lacking := [name for name in names if not available(name)]:
        raise UsageError(
            f"{lacking[0]} needs torch, which is not installed",
            where="--architectures",
            fix="pip install 'tailorbird[deep]'",
        )
    return [ARCHITECTURES[name] for name in dict.fromkeys(names)]
