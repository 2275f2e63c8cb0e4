"""One call for every ranker: rows in, a fitted model with its curve and its ONNX files out.

    fit("gbdt", {"leaves": 15}, layout, rows, validation)          LightGBM, a booster per head
    fit("mmoe", {"experts": 3}, layout, rows, validation, seed=3)  a net; needs the extra `deep`

`tune` draws parameters and calls this; `training.fit.fit` calls it with a project's settings. The
parameters are documented in `models.gbdt` (`GbdtSettings`) and `models.deep.parameters`
(`DeepParameters`).
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from tailorbird.errors import UsageError
from tailorbird.models.deep.batches import Blocks, Rows
from tailorbird.models.deep.layout import Layout
from tailorbird.models.export import gbdt_to_onnx
from tailorbird.models.gbdt import Gbdt, GbdtSettings, Sample, fit_gbdt

if TYPE_CHECKING:
    from tailorbird.models.deep.model import DeepModel

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
OnEpoch = Callable[[int, Mapping[str, float]], bool | None]

ARCHITECTURES = ("gbdt", "mlp", "dcn", "shared", "mmoe")
DEEP = ARCHITECTURES[1:]
TREES_PER_EPOCH = 10  # trees of `gbdt` between two calls of `on_epoch`
VALIDATION = 0.2


@dataclass(frozen=True)
class HeadFile:
    """Location of a head in a bundle: a file, and a column of its last output."""

    file: str
    column: int = -1


class Ranker(Protocol):
    """A fitted model of one or several heads."""

    @property
    def architecture(self) -> str: ...
    @property
    def heads(self) -> tuple[str, ...]: ...
    @property
    def curve(self) -> Mapping[str, list[float]]:
        """Metrics by epoch: `train`, `validation`, `train_HEAD` and `validation_HEAD`."""
        ...

    def score(self, matrix: Matrix) -> dict[str, Floats]:
        """Return head → scores, shape (n,)."""
        ...

    def export(self) -> tuple[dict[str, bytes], dict[str, HeadFile]]:
        """Return files by name, and the location of each head."""
        ...


def is_available(architecture: str) -> bool:
    """Return whether an architecture's dependencies are installed."""
    return architecture == "gbdt" or find_spec("torch") is not None


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
) -> Ranker:
    """Fit a model to all heads of the rows.

    Args:
        parameters: overrides of the architecture's defaults; see above.
        layout: roles of the columns; `models.deep.layout.build_layout(encoder.names,
            encoder.sizes)` for a matrix of numbers and codes.
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
        rows, validation = rows.split_newest(VALIDATION)
    if architecture == "gbdt":
        return _fit_gbdt(parameters, layout, rows, validation, seed, on_epoch, progress)
    return fit_net(
        architecture,
        parameters,
        layout,
        rows,
        validation,
        seed=seed,
        on_epoch=on_epoch,
        progress=progress,
        checkpoint=checkpoint,
    )


def fit_net(
    architecture: str,
    parameters: Mapping[str, Any],
    layout: Layout,
    rows: Blocks,
    validation: Blocks,
    *,
    seed: int = 7,
    on_epoch: OnEpoch | None = None,
    progress: Callable[[int, int], None] | None = None,
    checkpoint: Path | None = None,
    initial_weights: Mapping[str, npt.NDArray] | None = None,
    processes: int = 1,
) -> "Net":
    """Fit a net to rows that may lie in files (`models.deep.batches.PartRows`).

    Args:
        initial_weights: weights to start from, see `models.deep.warm`.
        processes: number of processes that share each batch, see `models.deep.parallel`; with
            several, `on_epoch` is called for all epochs at the end, and cannot stop training.
    """
    if not is_available(architecture):
        raise UsageError(
            f"{architecture} needs torch, which is not installed",
            fix="pip install 'tailorbird[deep]'",
        )
    from tailorbird.models.deep.loop import Run
    from tailorbird.models.deep.model import fit_deep
    from tailorbird.models.deep.parameters import resolve_parameters

    if processes > 1:
        from tailorbird.models.deep.parallel import fit_parallel

        shared_parameters = {
            "shards": processes,
            "threads": max(1, (os.cpu_count() or 2) // 2 // processes),
            **parameters,
        }
        with _process_folder(checkpoint) as folder:
            deep = fit_parallel(
                folder,
                architecture,
                shared_parameters,
                layout,
                rows,
                validation,
                seed=seed,
                processes=processes,
                progress=progress,
                initial_weights=initial_weights,
            )
        for epoch in range(1, len(deep.curve["train"]) + 1):
            if on_epoch is not None:
                on_epoch(epoch, {name: series[epoch - 1] for name, series in deep.curve.items()})
        return Net(deep)
    run = Run(checkpoint=checkpoint, on_epoch=on_epoch, progress=progress)
    return Net(
        fit_deep(
            architecture,
            resolve_parameters(architecture, parameters),
            layout,
            rows,
            validation,
            seed=seed,
            run=run,
            initial_weights=initial_weights,
        )
    )


@contextmanager
def _process_folder(checkpoint: Path | None) -> Iterator[Path]:
    """Yield the folder where processes meet: inside the checkpoint, or a temporary one."""
    if checkpoint is not None:
        yield checkpoint / "processes"
        return
    with tempfile.TemporaryDirectory(prefix="tailorbird-processes-") as folder:
        yield Path(folder)


@dataclass(frozen=True)
class Net:
    """A net as a ranker."""

    deep: "DeepModel"

    @property
    def architecture(self) -> str:
        return self.deep.architecture

    @property
    def heads(self) -> tuple[str, ...]:
        return self.deep.heads

    @property
    def curve(self) -> Mapping[str, list[float]]:
        return self.deep.curve

    def score(self, matrix: Matrix) -> dict[str, Floats]:
        return self.deep.score(matrix)

    def export(self) -> tuple[dict[str, bytes], dict[str, HeadFile]]:
        file = f"model/{self.architecture}.onnx"
        return {file: self.deep.export()}, {
            head: HeadFile(file, column) for column, head in enumerate(self.heads)
        }


@dataclass(frozen=True)
class Forests:
    """A booster for each head as a ranker."""

    boosters: Mapping[str, Gbdt]
    curve: Mapping[str, list[float]]
    architecture: str = "gbdt"

    @property
    def heads(self) -> tuple[str, ...]:
        return tuple(self.boosters)

    def score(self, matrix: Matrix) -> dict[str, Floats]:
        return {head: booster.score(matrix) for head, booster in self.boosters.items()}

    def export(self) -> tuple[dict[str, bytes], dict[str, HeadFile]]:
        files = {head: f"model/{head}.onnx" for head in self.boosters}
        return {file: gbdt_to_onnx(self.boosters[head]) for head, file in files.items()}, {
            h: HeadFile(f) for h, f in files.items()
        }


def _fit_gbdt(
    parameters: Mapping[str, Any],
    layout: Layout,
    rows: Rows,
    validation: Rows,
    seed: int,
    on_epoch: OnEpoch | None,
    progress: Callable[[int, int], None] | None,
) -> Forests:
    parameter_names = [field.name for field in fields(GbdtSettings)]
    if unknown_names := [name for name in parameters if name not in parameter_names]:
        raise UsageError(
            f"gbdt has no parameter {unknown_names[0]!r}",
            fix=f"use one of {', '.join(parameter_names)}",
        )
    overrides: dict[str, Any] = {"seed": seed, **parameters}
    settings = replace(GbdtSettings(), **overrides)
    categorical = [layout.columns[place] for place in layout.codes]
    boosters: dict[str, Gbdt] = {}
    for number, head in enumerate(rows.heads):
        reporter = _EpochReporter(on_epoch, progress, number, len(rows.heads), settings.trees)
        train_sample, validation_sample = head_sample(rows, head), head_sample(validation, head)
        boosters[head] = fit_gbdt(
            train_sample,
            validation_sample,
            layout.columns,
            settings,
            categorical=categorical,
            progress=reporter.progress,
            on_tree=reporter.on_tree,
        )
        if reporter.stopped:
            break
    return Forests(boosters, _mean_curves(boosters))


@dataclass
class _EpochReporter:
    """Reports trees of one head as epochs of all heads."""

    on_epoch: OnEpoch | None
    on_progress: Callable[[int, int], None] | None
    head_index: int
    heads: int
    trees: int
    stopped: bool = False

    def progress(self, done: int, total: int) -> None:
        if self.on_progress is not None:
            self.on_progress(self.head_index * total + done, self.heads * total)

    def on_tree(self, trees: int, figures: Mapping[str, float]) -> bool:
        if self.on_epoch is None or trees % TREES_PER_EPOCH:
            return False
        epoch = (self.head_index * self.trees + trees) // TREES_PER_EPOCH
        self.stopped = bool(self.on_epoch(epoch, figures))
        return self.stopped


def head_sample(rows: Rows, head: str) -> Sample:
    """Return the rows with a known label of a head, as boosters take them."""
    label = np.asarray(rows.labels[head])
    is_labelled = np.isfinite(label.astype(np.float32))
    weight = None if rows.weight is None else np.asarray(rows.weight, np.float64)
    if is_labelled.all():
        return Sample(rows.matrix, label, rows.lengths, weight)
    lengths = None
    if rows.lengths is not None:
        request = np.repeat(np.arange(len(rows.lengths)), rows.lengths)
        lengths = np.bincount(request[is_labelled], minlength=len(rows.lengths))
        lengths = lengths[lengths > 0]
    return Sample(
        rows.matrix[is_labelled],
        label[is_labelled],
        lengths,
        None if weight is None else weight[is_labelled],
    )


def _mean_curves(boosters: Mapping[str, Gbdt]) -> dict[str, list[float]]:
    curves = {
        f"{part}_{head}": list(series)
        for head, booster in boosters.items()
        for part, series in booster.curve.items()
    }
    for part in ("train", "validation"):
        series = [curves[f"{part}_{head}"] for head in boosters if f"{part}_{head}" in curves]
        if series:
            shortest = min(map(len, series))
            curves[part] = np.mean([each[:shortest] for each in series], axis=0).tolist()
    return curves
