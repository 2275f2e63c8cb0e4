"""Fitting of heads: a model per target, calibrated on later data, equal to its export."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.features import FeatureSet
from tailorbird.models.deep.fitting import NETS
from tailorbird.models.estimator import HeadFile
from tailorbird.ranking.calibration import Calibration
from tailorbird.ranking.encode.encoder import Encoder
from tailorbird.ranking.encode.live import LiveColumns
from tailorbird.training.dataset.dataset import Dataset
from tailorbird.training.dataset.indexes import IndexSeries
from tailorbird.training.dataset.matrix import FeatureChunk, encode_rows
from tailorbird.training.fit.architecture import fit_heads
from tailorbird.training.fit.calibrate import CalibrationChoice
from tailorbird.training.fit.heads import FittedHeads, HeadModel
from tailorbird.training.fit.inputs import PreparedInputs, SplitDatasets, prepare_inputs
from tailorbird.training.fit.warm_trees import FROM_SCRATCH, WarmTrees
from tailorbird.training.settings import Progress, TrainSettings
from tailorbird.training.sketches import HistogramRow, objective_value, score_histogram

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

PARITY_ROWS = 10_000  # rows on which a trained model and its export are compared
SPILL_FOLDER = "rows"  # folder of rows that do not fit into memory


@dataclass(frozen=True)
class FittedModel:
    """The outcome of a fit.

    Attributes:
        exported_files: file → ONNX bytes.
        head_files: location of each head in the files.
        golden_rows: rows of the matrix that a bundle carries to check itself.
        parity_error: largest difference between a trained model and its export.
        leak_reasons: columns that look like target leakage, with the reason.
        calibration_choices: head → how its calibration was chosen.
        sketches: histograms of what it learned from, see `training.sketches`.
    """

    encoder: Encoder
    architecture: str
    model_by_head: dict[str, HeadModel]
    exported_files: dict[str, bytes]
    head_files: dict[str, HeadFile]
    calibration_by_head: dict[str, Calibration]
    golden_rows: Matrix
    parity_error: float
    leak_reasons: dict[str, str]
    notes: tuple[str, ...]
    calibration_choices: dict[str, CalibrationChoice] = field(
        default_factory=dict
    )  # head → how its calibration was chosen
    sketches: tuple[HistogramRow, ...] = ()

    def score(
        self,
        chunk: FeatureChunk,
        index_series: IndexSeries,
        objective: Mapping[str, float],
        live_columns: LiveColumns,
    ) -> tuple[dict[str, Floats], Floats]:
        """Return the calibrated probability by head, and the value, of each row of a chunk.

        This is what serving computes from the export.
        """
        matrix = encode_rows(chunk, self.encoder, index_series, live_columns=live_columns)
        heads = {
            name: self.calibration_by_head[name].apply(model.score(matrix))
            for name, model in self.model_by_head.items()
        }
        return heads, objective_value(heads, objective, len(matrix))


def fit(
    events: pa.Table,
    features: FeatureSet,
    datasets: SplitDatasets,
    index_series: IndexSeries,
    objective: Mapping[str, float],
    settings: TrainSettings,
    *,
    with_positions: bool,
    label_window_us: int,
    progress: Progress,
    extra_heads: Sequence[str] = (),
    warm_trees: WarmTrees = FROM_SCRATCH,
) -> FittedModel:
    """Fit on the training part; stop early and calibrate on the validation part.

    Args:
        with_positions: whether rows are all shown items, seen or not. The model then reads the
            position, which serving sets to the first. Where only seen items are rows, the position
            only reflects the old policy. Click weights can be learned from rows of either kind:
            among seen items, from how much less is clicked further down.
        label_window_us: microseconds until the label of a row is known; target encodings use no
            younger one.
        extra_heads: extra targets, of other slots, that have labels; those that cannot be learned
            are left out.

        warm_trees: trees to go on from.

    Raises:
        NotReadyError: no head of the objective has enough positives.
        UsageError: clicks are to be weighted by position, but no row has a position, or none was
            drawn at random.
    """
    with _spill_folder(datasets.train, settings) as spill_folder:
        prepared_inputs = prepare_inputs(
            events=events,
            features=features,
            datasets=datasets,
            index_series=index_series,
            objective=objective,
            settings=settings,
            with_positions=with_positions,
            label_window_us=label_window_us,
            progress=progress,
            extra_heads=extra_heads,
            spill_folder=spill_folder,
            warm_trees=warm_trees,
        )
        golden_row_indexes = sample_row_indexes(
            len(prepared_inputs.fit_inputs.validation_served_matrix), settings.seed
        )
        fitted_heads = fit_heads(prepared_inputs.fit_inputs, settings, progress, golden_row_indexes)
    return calibrate(prepared_inputs, fitted_heads, golden_row_indexes)


def calibrate(
    prepared_inputs: PreparedInputs,
    fitted_heads: FittedHeads,
    golden_row_indexes: npt.NDArray[np.intp],
) -> FittedModel:
    """Calibrate each head on the validation part as served."""
    fit_inputs = prepared_inputs.fit_inputs
    serving_matrix = fit_inputs.validation_served_matrix[:, : len(fitted_heads.encoder.names)]
    raw_scores = fitted_heads.score(serving_matrix)
    choices = fitted_heads.choose_calibrations(
        raw_scores, fit_inputs.validation, fit_inputs.label_window_us
    )
    probabilities = {
        head: choice.calibration.apply(raw_scores[head]) for head, choice in choices.items()
    }
    value = objective_value(probabilities, fit_inputs.objective, len(serving_matrix))
    return FittedModel(
        encoder=fitted_heads.encoder,
        architecture=fitted_heads.architecture,
        model_by_head=fitted_heads.model_by_head,
        exported_files=fitted_heads.exported_files,
        head_files=fitted_heads.head_files,
        calibration_by_head={head: choice.calibration for head, choice in choices.items()},
        golden_rows=serving_matrix[golden_row_indexes],
        parity_error=fitted_heads.parity_error,
        leak_reasons=prepared_inputs.leak_reasons,
        notes=(*prepared_inputs.notes, *((fitted_heads.note,) if fitted_heads.note else ())),
        calibration_choices=choices,
        sketches=(*prepared_inputs.sketches, *score_histogram(fit_inputs.validation, value)),
    )


@contextmanager
def _spill_folder(train: Dataset, settings: TrainSettings) -> Iterator[Path | None]:
    """Yield the folder for rows that do not fit into memory, None where they do."""
    if settings.architecture not in NETS or train.row_count <= settings.rows_in_memory:
        yield None
        return
    # Erasures search the checkpoint folder, and a killed run left its rows there.
    folder = (settings.checkpoint or Path(tempfile.mkdtemp(prefix="tailorbird-"))) / SPILL_FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder if settings.checkpoint else folder.parent, ignore_errors=True)


def sample_row_indexes(row_count: int, seed: int) -> npt.NDArray[np.intp]:
    if row_count <= PARITY_ROWS:
        return np.arange(row_count)
    return np.sort(np.random.default_rng(seed).choice(row_count, PARITY_ROWS, replace=False))
