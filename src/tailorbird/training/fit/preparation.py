"""Preparation of rows for fitting: labels, the encoder learned from training rows, matrices.

Training and tuning share these functions. `ranking.encode.encoder` defines the columns, and
`training.dataset.matrix` computes features.
"""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from tailorbird.features import FeatureSet
from tailorbird.features.declare.declarations import POSITION_COLUMN
from tailorbird.ranking.encode.computed import COMPUTED_COLUMNS
from tailorbird.ranking.encode.encoder import Encoder
from tailorbird.ranking.encode.encoder_fit import fit_encoder
from tailorbird.ranking.encode.live import LiveColumns
from tailorbird.ranking.encode.transforms import Column
from tailorbird.ranking.tower import VECTOR_COLUMNS
from tailorbird.training.dataset.chunks import FeatureChunks, encode_chunks
from tailorbird.training.dataset.dataset import Dataset
from tailorbird.training.dataset.indexes import IndexSeries
from tailorbird.training.dataset.matrix import FeatureChunk, bundle_columns
from tailorbird.training.fit.target_encoding import LabelledRows
from tailorbird.training.fit.transforms import find_preset, fit_transforms, plan_transforms
from tailorbird.training.settings import TrainSettings

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]


def build_training_labels(train: Dataset, settings: TrainSettings) -> dict[str, npt.NDArray]:
    """Return the labels to learn from (NaN where unknown), shuffled if the settings say so.

    Shuffling happens here so that transforms see shuffled labels too.
    """
    rng = np.random.default_rng([settings.seed, 1])
    return {
        head: rng.permutation(label) if settings.shuffle else label
        for head, label in train.labels.items()
    }


def learn_encoder(
    chunks: FeatureChunks,
    features: FeatureSet,
    index_series: IndexSeries,
    settings: TrainSettings,
    labelled_rows: LabelledRows,
    *,
    with_positions: bool,
    live_columns: LiveColumns,
) -> tuple[Encoder, Mapping[str, Floats]]:
    """Learn the encoder from training rows; return also target encodings as of each row's time."""
    columns = bundle_columns(features)
    vector_columns = tuple(VECTOR_COLUMNS) if index_series.spaces else ()
    similarity_columns = (*vector_columns, *live_columns.names)
    column_plan = plan_transforms(
        columns,
        features.transforms,
        find_preset(settings.preset),
        with_position=with_positions,
        leave_out=settings.leave_out,
        similarity_names=similarity_columns,
    )
    categorical = chunks.categorical
    has_position = with_positions and POSITION_COLUMN not in column_plan.hidden_columns
    computed_columns = (*COMPUTED_COLUMNS, *vector_columns)
    encoder = fit_encoder(
        columns,
        categorical,
        computed=computed_columns,
        position=has_position,
        excluded_columns=column_plan.hidden_columns,
        similarities=features.similarities,
        candidates=live_columns.candidates,
    )
    transformed_names = {transform.column for transform in column_plan.transforms}
    values_by_column: dict[str, Column] = {
        name: categorical[:, index]
        for index, name in enumerate(columns.categorical)
        if name in transformed_names
    }
    for column_index, name in enumerate(columns.numeric):
        if name in transformed_names:
            values_by_column[name] = chunks.numeric_column(column_index)
    if computed_names := [
        name
        for name in (*COMPUTED_COLUMNS, *similarity_columns, POSITION_COLUMN)
        if name in transformed_names
    ]:
        computed_encoder = msgspec.structs.replace(
            encoder,
            numeric=(),
            vocabularies=(),
            computed=tuple(name for name in computed_names if name != POSITION_COLUMN),
            position=POSITION_COLUMN in computed_names,
        )
        computed_matrix = stack_matrices(
            chunks.chunks,
            computed_encoder,
            index_series,
            with_positions=with_positions,
            live_columns=live_columns,
        )
        values_by_column |= {
            name: computed_matrix[:, index] for index, name in enumerate(computed_encoder.names)
        }
    fitted_transforms = fit_transforms(column_plan.transforms, values_by_column, labelled_rows)
    return msgspec.structs.replace(
        encoder, transforms=fitted_transforms.outputs
    ), fitted_transforms.encodings_in_time


def stack_matrices(
    chunks: Sequence[FeatureChunk],
    encoder: Encoder,
    index_series: IndexSeries,
    *,
    with_positions: bool,
    live_columns: LiveColumns,
    target_encodings: Mapping[str, Floats] | None = None,
) -> Matrix:
    """Stack the matrices of several chunks; see `training.dataset.matrix.encode_rows`."""
    matrices = encode_chunks(
        chunks,
        encoder,
        index_series,
        with_positions=with_positions,
        live_columns=live_columns,
        target_encodings=target_encodings,
    )
    return np.concatenate([matrix for _, matrix in matrices])
