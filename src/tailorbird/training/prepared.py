"""From rows with their features to what a model is fitted on: labels, the encoder as it is learned
from training rows, matrices.

Training and tuning prepare rows by these functions alike. What a column is made of stands in
`ranking.encoders`; how pieces get their features, in `training.matrix`.
"""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from tailorbird.features import FeatureSet
from tailorbird.features.declare import POSITION
from tailorbird.ranking.computed import COMPUTED
from tailorbird.ranking.encoders import Encoder, fit_encoder
from tailorbird.ranking.live import LiveColumns
from tailorbird.ranking.tower import VECTOR_COLUMNS
from tailorbird.ranking.transforms import Column
from tailorbird.training.dataset import Dataset
from tailorbird.training.indexes import IndexSeries
from tailorbird.training.matrix import Featured, columns_of, encoded
from tailorbird.training.pieces import Pieces
from tailorbird.training.settings import TrainSettings
from tailorbird.training.target import Labelled
from tailorbird.training.transforms import fit_transforms, plan, preset

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]


def labels_of(train: Dataset, settings: TrainSettings) -> dict[str, npt.NDArray]:
    """What is learned from: the labels (NaN where unknown), or the same shuffled, which no
    transform may see through either.
    """
    rng = np.random.default_rng([settings.seed, 1])
    return {
        head: rng.permutation(label) if settings.shuffle else label
        for head, label in train.labels.items()
    }


def learn_encoder(
    pieces: Pieces,
    features: FeatureSet,
    series: IndexSeries,
    settings: TrainSettings,
    labelled: Labelled,
    *,
    position: bool,
    live: LiveColumns,
) -> tuple[Encoder, Mapping[str, Floats]]:
    """The encoder, learned from training rows, and the target encodings of these very rows as of
    their times.
    """
    columns = columns_of(features)
    near = tuple(VECTOR_COLUMNS) if series.spaces else ()
    similar = (*near, *live.names)
    wanted = plan(
        columns,
        features.transforms,
        preset(settings.preset),
        position=position,
        leave_out=settings.leave_out,
        similarities=similar,
    )
    categorical = pieces.categorical
    placed = position and POSITION not in wanted.hidden
    computed = (*COMPUTED, *near)
    encoder = fit_encoder(
        columns,
        categorical,
        computed=computed,
        position=placed,
        leave_out=wanted.hidden,
        similarities=features.similarities,
        candidates=live.candidates,
    )
    sources = {one.column for one in wanted.transforms}
    rows: dict[str, Column] = {
        name: categorical[:, place]
        for place, name in enumerate(columns.categorical)
        if name in sources
    }
    for place, name in enumerate(columns.numeric):
        if name in sources:
            rows[name] = pieces.number(place)
    if others := [name for name in (*COMPUTED, *similar, POSITION) if name in sources]:
        probe = msgspec.structs.replace(
            encoder,
            numeric=(),
            vocabularies=(),
            computed=tuple(name for name in others if name != POSITION),
            position=POSITION in others,
        )
        probed = stack(pieces.each, probe, series, position=position, live=live)
        rows |= {name: probed[:, place] for place, name in enumerate(probe.names)}
    learned = fit_transforms(wanted.transforms, rows, labelled)
    return msgspec.structs.replace(encoder, transforms=learned.outputs), learned.in_time


def stack(
    pieces: Sequence[Featured],
    encoder: Encoder,
    series: IndexSeries,
    *,
    position: bool,
    live: LiveColumns,
    learned: Mapping[str, Floats] | None = None,
) -> Matrix:
    """The matrix of several pieces, one after the other; see `training.matrix.encoded`."""
    matrices, at = [], 0
    for piece in pieces:
        here = slice(at, at := at + piece.part.rows)
        mine = {name: column[here] for name, column in (learned or {}).items()}
        matrices.append(encoded(piece, encoder, series, position=position, learned=mine, live=live))
    return np.concatenate(matrices)
