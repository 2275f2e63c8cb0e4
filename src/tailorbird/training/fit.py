"""Heads: trees for each target, calibrated on the later part, exported, and proven equal to their export."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.errors import NotReadyError
from tailorbird.features import FeatureSet
from tailorbird.features.declare import POSITION
from tailorbird.models.export import gbdt_to_onnx, largest_difference
from tailorbird.models.gbdt import Gbdt, Sample, fit_gbdt
from tailorbird.ranking.calibration import Calibration
from tailorbird.ranking.computed import COMPUTED
from tailorbird.ranking.encoders import Encoder, fit_encoder
from tailorbird.ranking.transforms import Column
from tailorbird.training.calibrate import Chosen, choose, periods_of
from tailorbird.training.dataset import Dataset
from tailorbird.training.indexes import IndexSeries
from tailorbird.training.judge import suspicious
from tailorbird.training.matrix import Featured, columns_of, encoded, featured
from tailorbird.training.settings import Progress, TrainSettings
from tailorbird.training.target import Labelled
from tailorbird.training.transforms import fit_transforms, plan, preset

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

POSITIVES_MIN = 30  # of a head in the training part; a head with fewer is left out, and said so
PARITY_ROWS = 10_000


@dataclass(frozen=True)
class Parts:
    """The three parts of a split, with all their rows."""

    train: Dataset
    validation: Dataset
    test: Dataset


@dataclass(frozen=True)
class Fitted:
    """What training made.

    Attributes:
        exported: head → ONNX bytes.
        golden: rows of the matrix that a bundle carries to check itself.
        parity: the largest difference between a trained model and its export.
        leaks: columns that look as if they knew the answer, with why.
    """

    encoder: Encoder
    models: dict[str, Gbdt]
    exported: dict[str, bytes]
    calibration: dict[str, Calibration]
    golden: Matrix
    parity: float
    leaks: dict[str, str]
    notes: tuple[str, ...]
    chosen: dict[str, Chosen] = field(default_factory=dict)  # head → how its calibration was chosen

    def score(self, piece: Featured, series: IndexSeries, objective: Mapping[str, float]) -> tuple[dict[str, Floats], Floats]:
        """Calibrated probability by head, and the value, of each row of a piece: what serving computes from the export."""
        matrix = encoded(piece, self.encoder, series)
        heads = {name: self.calibration[name].apply(model.score(matrix)) for name, model in self.models.items()}
        value = sum((weight * heads[name] for name, weight in objective.items() if name in heads), np.zeros(len(matrix)))
        return heads, value


def fit(
    events: pa.Table,
    features: FeatureSet,
    parts: Parts,
    series: IndexSeries,
    objective: Mapping[str, float],
    settings: TrainSettings,
    *,
    position: bool,
    label_window: int,
    progress: Progress,
    heads: Sequence[str] = (),
) -> Fitted:
    """Learn from the training part, watch and calibrate by the validation part.

    Args:
        position: whether rows are all that was shown, looked at or not: the model then takes the position into account, which
            serving sets to the first. Where only seen items are rows, position tells nothing but what the old policy liked.
        label_window: microseconds until a row's label is known; target encodings look at no younger one.
        heads: further targets, of other slots, that have labels; one that cannot be learned here is left out.

    Raises:
        NotReadyError: no head of the objective has enough positives.
    """
    progress("features", 0, 2)
    pieces = list(featured(parts.train, features, events))
    labels = _labels(parts.train, settings)
    labelled = Labelled(parts.train.t[parts.train.request], labels, parts.train.weight, label_window)
    encoder, in_time = _learned(pieces, features, series, settings, labelled, position=position)
    matrix = _stack(pieces, encoder, series, position=position, learned=in_time)
    del pieces, in_time
    progress("features", 1, 2)
    held = list(featured(parts.validation, features, events))
    shown = _stack(held, encoder, series, position=position)
    served = _stack(held, encoder, series, position=False) if position else shown
    del held
    progress("features", 2, 2)

    rng = np.random.default_rng(settings.seed)
    sample = _some(served, rng)
    models: dict[str, Gbdt] = {}
    exported: dict[str, bytes] = {}
    chosen: dict[str, Chosen] = {}
    leaks: dict[str, str] = {}
    notes: list[str] = []
    parity = 0.0
    for head in dict.fromkeys((*objective, *heads)):
        label = labels[head]
        if (count := int(label.sum())) < POSITIVES_MIN:
            notes.append(f"head {head} was left out: {count} positives in the training part, at least {POSITIVES_MIN} are needed")
            continue
        known = suspicious(encoder.names, matrix, label)
        if known and head not in objective:
            notes.append(f"head {head} of another slot was left out: columns that look as if they knew the answer: {', '.join(known)}")
            continue
        leaks |= known
        train = Sample(matrix, label, np.diff(parts.train.offsets), parts.train.weight)
        watch = Sample(shown, parts.validation.labels[head], np.diff(parts.validation.offsets), parts.validation.weight)
        told = partial(progress, f"trees of {head}")
        models[head] = fit_gbdt(train, watch, encoder.names, settings.gbdt, categorical=encoder.categorical_names, progress=told)
        chosen[head] = _calibrated(models[head].score(served), parts.validation, head, settings)
        exported[head] = gbdt_to_onnx(models[head])
        parity = max(parity, largest_difference(models[head], exported[head], sample))
    if not any(head in models for head in objective):
        raise NotReadyError("; ".join(notes) or f"none of {', '.join(objective)} ever happened", fix="train on a longer window")
    calibration = {head: each.calibration for head, each in chosen.items()}
    return Fitted(encoder, models, exported, calibration, sample, parity, leaks, tuple(notes), chosen)


def _labels(train: Dataset, settings: TrainSettings) -> dict[str, npt.NDArray[np.bool_]]:
    """What is learned from: the labels, or the same shuffled, which no transform may see through either."""
    rng = np.random.default_rng([settings.seed, 1])
    return {head: rng.permutation(label) if settings.shuffle else label for head, label in train.labels.items()}


def _learned(
    pieces: list[Featured], features: FeatureSet, series: IndexSeries, settings: TrainSettings, labelled: Labelled, *, position: bool
) -> tuple[Encoder, Mapping[str, Floats]]:
    """The encoder, learned from training rows, and the target encodings of these very rows as of their times."""
    columns = columns_of(features)
    similar = tuple(one.name for one in features.similarities)
    wanted = plan(
        columns, features.transforms, preset(settings.preset), position=position, leave_out=settings.leave_out, similarities=similar
    )
    categorical = np.concatenate([piece.rows.categorical for piece in pieces])
    placed = position and POSITION not in wanted.hidden
    encoder = fit_encoder(columns, categorical, position=placed, leave_out=wanted.hidden, similarities=features.similarities)
    sources = {one.column for one in wanted.transforms}
    rows: dict[str, Column] = {name: categorical[:, place] for place, name in enumerate(columns.categorical) if name in sources}
    for place, name in enumerate(columns.numeric):
        if name in sources:
            rows[name] = np.concatenate([piece.rows.numeric[:, place] for piece in pieces])
    if others := [name for name in (*COMPUTED, *similar, POSITION) if name in sources]:
        probe = msgspec.structs.replace(
            encoder, numeric=(), vocabularies=(), computed=tuple(name for name in others if name != POSITION), position=POSITION in others
        )
        computed = _stack(pieces, probe, series, position=position)
        rows |= {name: computed[:, place] for place, name in enumerate(probe.names)}
    learned = fit_transforms(wanted.transforms, rows, labelled)
    return msgspec.structs.replace(encoder, transforms=learned.outputs), learned.in_time


def _stack(
    pieces: list[Featured], encoder: Encoder, series: IndexSeries, *, position: bool, learned: Mapping[str, Floats] | None = None
) -> Matrix:
    matrices, at = [], 0
    for piece in pieces:
        here = slice(at, at := at + piece.part.rows)
        mine = {name: column[here] for name, column in (learned or {}).items()}
        matrices.append(encoded(piece, encoder, series, position=position, learned=mine))
    return np.concatenate(matrices)


def _calibrated(raw: Floats, held: Dataset, head: str, settings: TrainSettings) -> Chosen:
    """Chosen by the next day, which is still within the validation part."""
    periods = periods_of(held.t[held.request])
    return choose(raw, held.labels[head], periods, held.weight, probability=settings.gbdt.objective == "binary")


def _some(matrix: Matrix, rng: np.random.Generator) -> Matrix:
    if len(matrix) <= PARITY_ROWS:
        return matrix
    return matrix[np.sort(rng.choice(len(matrix), PARITY_ROWS, replace=False))]
