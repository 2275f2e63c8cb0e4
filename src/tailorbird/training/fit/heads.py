"""Inputs for fitting heads, and the fitted heads."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
from lightgbm import Booster

from tailorbird.models.deep.rows import PartRows
from tailorbird.models.estimator import HeadFile, Model
from tailorbird.ranking.encode.encoder import Encoder
from tailorbird.training.dataset.dataset import Dataset
from tailorbird.training.fit.calibrate import CalibrationChoice, choose_head_calibration
from tailorbird.training.fit.net_columns import drop_net_columns

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]


class HeadModel(Protocol):
    """The model of one head."""

    @property
    def curve(self) -> dict[str, list[float]]:
        """Return the metric after each step, for `train` and `validation`."""
        ...

    @property
    def steps(self) -> int:
        """Return the number of steps that the model uses."""
        ...

    @property
    def unit(self) -> str:
        """Return the plural name of a step, such as "trees"."""
        ...

    def score(self, matrix: Matrix) -> Floats: ...
    def importance(self) -> dict[str, float]: ...


@dataclass(frozen=True)
class ModelHead:
    """One head of a model that fits all heads at once.

    Attributes:
        column_importance: column → share of how far scores move when it is shuffled.
        steps, unit: see `HeadModel`.
    """

    model: Model
    head: str
    column_importance: Mapping[str, float]
    steps: int
    unit: str

    @property
    def curve(self) -> dict[str, list[float]]:
        return {
            part: list(self.model.curve[f"{part}_{self.head}"])
            for part in ("train", "validation")
            if f"{part}_{self.head}" in self.model.curve
        }

    def score(self, matrix: Matrix) -> Floats:
        return self.model.score(matrix)[self.head]

    def importance(self) -> dict[str, float]:
        return dict(self.column_importance)


@dataclass(frozen=True)
class FitInputs:
    """Inputs for fitting heads.

    Attributes:
        encoder: encoder of the matrices, with net columns where a net may be fitted.
        matrix: rows of the training part; empty if they lie in files.
        validation_shown, validation_served: rows of the validation part, encoded with the position
            as it was shown and as serving sets it.
        labels: labels of the training part, NaN where unknown.
        heads: heads to learn.
        until: end of the training part, microseconds.
        label_window: microseconds until the label of a row is known.
        files: rows of the training part in files. A net learns from them, and trees from a sample.
        boosters: head → booster to which trees are added.
    """

    encoder: Encoder
    matrix: Matrix
    validation_shown: Matrix
    validation_served: Matrix
    train: Dataset
    validation: Dataset
    labels: Mapping[str, npt.NDArray]
    heads: tuple[str, ...]
    objective: Mapping[str, float]
    until: int
    label_window: int
    files: PartRows | None = None
    boosters: Mapping[str, Booster] = field(default_factory=dict)

    def without_net_columns(self) -> "FitInputs":
        """Return the inputs without net columns."""
        encoder = drop_net_columns(self.encoder)
        if encoder is self.encoder:
            return self
        matrix, shown, served = (
            np.ascontiguousarray(rows[:, : len(encoder.names)])
            for rows in (self.matrix, self.validation_shown, self.validation_served)
        )
        return replace(
            self,
            encoder=encoder,
            matrix=matrix,
            validation_shown=shown,
            validation_served=served,
            files=None,
        )

    def with_blank_net_columns(self) -> "FitInputs":
        """Return the inputs with net columns blanked.

        Trees next to a net then have the width of its matrix and never split on these columns.
        """
        width = len(drop_net_columns(self.encoder).names)
        blank_matrices = [
            rows.copy() for rows in (self.matrix, self.validation_shown, self.validation_served)
        ]
        for copy in blank_matrices:
            copy[:, width:] = np.nan
        return replace(
            self,
            matrix=blank_matrices[0],
            validation_shown=blank_matrices[1],
            validation_served=blank_matrices[2],
        )


@dataclass(frozen=True)
class FittedHeads:
    """Fitted models by head, and their exported files.

    Attributes:
        head_files: location of each head in `files`.
        parity_error: largest difference between a trained model and its export.
        is_probability: whether classification heads return probabilities without calibration.
        note: how the architecture was chosen; empty if it was requested.
    """

    architecture: str
    encoder: Encoder
    models: dict[str, HeadModel]
    files: dict[str, bytes]
    head_files: dict[str, HeadFile]
    parity_error: float
    is_probability: bool
    note: str = ""

    def score(self, matrix: Matrix) -> dict[str, Floats]:
        """Return the uncalibrated output of each head's model."""
        return {head: model.score(matrix) for head, model in self.models.items()}

    def calibrations(
        self, raw: Mapping[str, Floats], validation: Dataset, label_window: int
    ) -> dict[str, CalibrationChoice]:
        """Choose the calibration of each head from its output on the validation part as served."""
        return {
            head: choose_head_calibration(
                head, score, validation, label_window, is_probability=self.is_probability
            )
            for head, score in raw.items()
        }
