"""Fit a net in this process or in several, and the fitted net as a model."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tailorbird.errors import UsageError
from tailorbird.models.deep.layout import Layout
from tailorbird.models.deep.rows import Blocks
from tailorbird.models.estimator import HeadFile

if TYPE_CHECKING:
    from tailorbird.models.deep.model import DeepModel

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
OnEpoch = Callable[[int, Mapping[str, float]], bool | None]  # as in `models.deep.loop`

NETS = ("mlp", "dcn", "shared", "mmoe")


def is_available(architecture: str) -> bool:
    """Return whether an architecture's dependencies are installed."""
    return architecture not in NETS or find_spec("torch") is not None


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
) -> "NetModel":
    """Fit a net to rows that may lie in files (`models.deep.rows.PartRows`).

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
    from tailorbird.models.deep.loop import RunOptions
    from tailorbird.models.deep.model import fit_deep
    from tailorbird.models.deep.parameters import resolve_parameters

    if processes > 1:
        from tailorbird.models.deep.parallel import fit_parallel

        process_parameters = {
            "shards": processes,
            "threads": max(1, (os.cpu_count() or 2) // 2 // processes),
            **parameters,
        }
        with _process_folder(checkpoint) as folder:
            deep_model = fit_parallel(
                folder,
                architecture,
                process_parameters,
                layout,
                rows,
                validation,
                seed=seed,
                processes=processes,
                progress=progress,
                initial_weights=initial_weights,
            )
        for epoch in range(1, len(deep_model.curve["train"]) + 1):
            if on_epoch is not None:
                on_epoch(
                    epoch, {name: series[epoch - 1] for name, series in deep_model.curve.items()}
                )
        return NetModel(deep_model)
    run_options = RunOptions(checkpoint=checkpoint, on_epoch=on_epoch, progress=progress)
    return NetModel(
        fit_deep(
            architecture,
            resolve_parameters(architecture, parameters),
            layout,
            rows,
            validation,
            seed=seed,
            run_options=run_options,
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
class NetModel:
    """A net as a ranker; `deep` is the fitted net."""

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
