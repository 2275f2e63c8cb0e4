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
        train_matrix: rows of the training part; empty if they lie in files.
        validation_shown_matrix, validation_served_matrix: rows of the validation part, encoded with
            the position as it was shown and as serving sets it.
        train_labels: labels of the training part, NaN where unknown.
        heads: heads to learn.
        objective: head → its weight in the value that a slot ranks by.
        train_until: end of the training part, microseconds.
        label_window_us: microseconds until the label of a row is known.
        row_files: rows of the training part in files. A net learns from them, and trees from a
            sample.
        boosters: head → booster to which trees are added.
    """

    encoder: Encoder
    train_matrix: Matrix
    validation_shown_matrix: Matrix
    validation_served_matrix: Matrix
    train: Dataset
    validation: Dataset
    train_labels: Mapping[str, npt.NDArray]
    heads: tuple[str, ...]
    objective: Mapping[str, float]
    train_until: int
    label_window_us: int
    row_files: PartRows | None = None
    boosters: Mapping[str, Booster] = field(default_factory=dict)

    def without_net_columns(self) -> "FitInputs":
        """Return the inputs without net columns."""
        encoder = drop_net_columns(self.encoder)
        if encoder is self.encoder:
            return self
        train_matrix, shown_matrix, served_matrix = (
            np.ascontiguousarray(rows[:, : len(encoder.names)])
            for rows in (
                self.train_matrix,
                self.validation_shown_matrix,
                self.validation_served_matrix,
            )
        )
        return replace(
            self,
            encoder=encoder,
            train_matrix=train_matrix,
            validation_shown_matrix=shown_matrix,
            validation_served_matrix=served_matrix,
            row_files=None,
        )

    def with_blank_net_columns(self) -> "FitInputs":
        """Return the inputs with net columns blanked.

        Trees next to a net then have the width of its matrix and never split on these columns.
        """
        tree_column_count = len(drop_net_columns(self.encoder).names)
        blank_matrices = [
            matrix.copy()
            for matrix in (
                self.train_matrix,
                self.validation_shown_matrix,
                self.validation_served_matrix,
            )
        ]
        for matrix in blank_matrices:
            matrix[:, tree_column_count:] = np.nan
        train_matrix, shown_matrix, served_matrix = blank_matrices
        return replace(
            self,
            train_matrix=train_matrix,
            validation_shown_matrix=shown_matrix,
            validation_served_matrix=served_matrix,
        )


@dataclass(frozen=True)
class FittedHeads:
    """Fitted models by head, and their exported files.

    Attributes:
        head_files: location of each head in `exported_files`.
        parity_error: largest difference between a trained model and its export.
        is_probability: whether classification heads return probabilities without calibration.
        note: how the architecture was chosen; empty if it was requested.
    """

    architecture: str
    encoder: Encoder
    model_by_head: dict[str, HeadModel]
    exported_files: dict[str, bytes]
    head_files: dict[str, HeadFile]
    parity_error: float
    is_probability: bool
    note: str = ""

    def score(self, matrix: Matrix) -> dict[str, Floats]:
        """Return the uncalibrated output of each head's model."""
        return {head: model.score(matrix) for head, model in self.model_by_head.items()}

    def choose_calibrations(
        self, raw_scores: Mapping[str, Floats], validation: Dataset, label_window_us: int
    ) -> dict[str, CalibrationChoice]:
        """Choose the calibration of each head from its output on the validation part as served."""
        return {
            head: choose_head_calibration(
                head, score, validation, label_window_us, is_probability=self.is_probability
            )
            for head, score in raw_scores.items()
        }
