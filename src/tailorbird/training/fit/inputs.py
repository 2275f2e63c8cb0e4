"""Prepare the inputs of a fit: the encoder, encoded rows, and the heads that can be learned."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.errors import NotReadyError
from tailorbird.events import DAY
from tailorbird.features import FeatureSet
from tailorbird.models.deep.rows import PartRows
from tailorbird.ranking.encode.encoder import Encoder
from tailorbird.ranking.encode.live import NO_LIVE_COLUMNS, LiveColumns
from tailorbird.ranking.policy.targets import item_heads, parse_return
from tailorbird.training.dataset.chunks import (
    CHUNK_ROWS,
    FeatureChunks,
    sample_blocks,
    write_matrix_files,
)
from tailorbird.training.dataset.dataset import Dataset
from tailorbird.training.dataset.indexes import IndexSeries
from tailorbird.training.dataset.matrix import iterate_features
from tailorbird.training.fit.architecture import allows_net
from tailorbird.training.fit.examination import click_weights, estimate_examination
from tailorbird.training.fit.heads import FitInputs, Matrix
from tailorbird.training.fit.net_columns import add_net_columns
from tailorbird.training.fit.preparation import learn_encoder, stack_matrices, training_labels
from tailorbird.training.fit.target_encoding import LabelledRows
from tailorbird.training.fit.warm_trees import FROM_SCRATCH, POSITIVES_MIN, WarmTrees
from tailorbird.training.leakage.columns import dominant_column_notes, find_leakage
from tailorbird.training.settings import Progress, TrainSettings
from tailorbird.training.sketches import FeatureSketch, Row, label_rows


@dataclass(frozen=True)
class SplitDatasets:
    """The three parts of a split, and the live columns of their rows."""

    train: Dataset
    validation: Dataset
    test: Dataset
    live: LiveColumns = NO_LIVE_COLUMNS


@dataclass(frozen=True)
class PreparedInputs:
    """Encoded rows to fit heads to.

    Attributes:
        leaks: columns that look like target leakage, with the reason.
        notes: what was left out, and why.
        sketches: histograms of features and labels of the training part.
    """

    inputs: FitInputs
    leaks: dict[str, str]
    notes: tuple[str, ...]
    sketches: tuple[Row, ...] = ()


def prepare_inputs(
    events: pa.Table,
    features: FeatureSet,
    parts: SplitDatasets,
    index_series: IndexSeries,
    objective: Mapping[str, float],
    settings: TrainSettings,
    *,
    position: bool,
    label_window: int,
    progress: Progress,
    heads: Sequence[str] = (),
    folder: Path | None = None,
    warm_trees: WarmTrees = FROM_SCRATCH,
) -> PreparedInputs:
    """Learn the encoder from the training part, encode it and the validation part, choose heads.

    Args:
        folder: for rows that do not fit into memory; None keeps them in memory.
        warm_trees: trees to go on from, with their encoder; without one it is learned.

    Raises:
        NotReadyError: no head of the objective has enough positives.
    """
    weight_note = ""
    sketch = FeatureSketch(features.numeric, features.categorical)
    label_histograms = label_rows(parts.train)  # before clicks are weighted
    if settings.position == "weights":
        parts, weight_note = _weight_clicks(parts, item_heads(objective)[0])
    position = position and settings.position == "column"
    progress("features", 0, 2)
    labels = training_labels(parts.train, settings)
    labelled = LabelledRows(
        parts.train.t[parts.train.request], labels, parts.train.weight, label_window
    )
    encoder, training_rows = _encode_training_rows(
        events,
        features,
        parts,
        index_series,
        settings,
        labelled,
        sketch,
        folder,
        position=position,
        warm_trees=warm_trees,
    )
    progress("features", 1, 2)
    validation = list(iterate_features(parts.validation, features, events))
    shown_matrix = stack_matrices(
        validation, encoder, index_series, position=position, live_columns=parts.live
    )
    served_matrix = (
        stack_matrices(validation, encoder, index_series, position=False, live_columns=parts.live)
        if position
        else shown_matrix
    )
    del validation
    progress("features", 2, 2)
    head_selection = _select_heads(
        (*objective, *heads), objective, encoder, training_rows, labels, parts
    )
    notes = [note for note in (weight_note, *head_selection.notes, training_rows.note) if note]
    if not any(head in head_selection.heads for head in objective):
        raise NotReadyError(
            "; ".join(notes) or f"none of {', '.join(objective)} ever happened",
            fix="train on a longer window",
        )
    inputs = FitInputs(
        encoder,
        training_rows.matrix,
        shown_matrix,
        served_matrix,
        parts.train,
        parts.validation,
        labels,
        head_selection.heads,
        objective,
        int(parts.train.t[-1]),
        label_window,
        training_rows.files,
        warm_trees.boosters,
    )
    sketches = (*sketch.rows(), *label_histograms)
    return PreparedInputs(inputs, head_selection.leaks, tuple(notes), sketches)


@dataclass(frozen=True)
class _TrainingRows:
    """Encoded training rows: a matrix, or files and a matrix without rows."""

    matrix: Matrix
    files: PartRows | None = None

    @property
    def note(self) -> str:
        return (
            ""
            if self.files is None
            else (
                f"the {len(self.files):,} rows that were learned from lay in files, a few blocks "
                "of them in memory"
            )
        )


def _encode_training_rows(
    events: pa.Table,
    features: FeatureSet,
    parts: SplitDatasets,
    index_series: IndexSeries,
    settings: TrainSettings,
    labelled: LabelledRows,
    sketch: FeatureSketch,
    folder: Path | None,
    *,
    position: bool,
    warm_trees: WarmTrees,
) -> tuple[Encoder, _TrainingRows]:
    """Learn the encoder, or take the base's, and encode the training rows."""
    train, live_columns = parts.train, parts.live
    if folder is None:
        chunks = FeatureChunks.of(
            list(sketch.count_chunks(iterate_features(train, features, events)))
        )
    else:
        chunks = FeatureChunks.spill_to_files(
            sketch.count_chunks(iterate_features(train, features, events, rows_max=CHUNK_ROWS)),
            folder / "features",
            train.rows,
        )
    time_encodings: Mapping[str, npt.NDArray[np.float64]] = {}
    if (encoder := warm_trees.encoder) is None:
        encoder, time_encodings = learn_encoder(
            chunks,
            features,
            index_series,
            settings,
            labelled,
            position=position,
            live_columns=live_columns,
        )
    if allows_net(settings):
        encoder = add_net_columns(encoder, train, index_series)
    if folder is None:
        return encoder, _TrainingRows(
            stack_matrices(
                chunks.chunks,
                encoder,
                index_series,
                position=position,
                target_encodings=time_encodings,
                live_columns=live_columns,
            )
        )
    labels, weight = labelled.labels, labelled.weight
    files = write_matrix_files(
        chunks,
        encoder,
        index_series,
        folder / "matrix",
        labels,
        weight,
        position=position,
        target_encodings=time_encodings,
        live_columns=live_columns,
    )
    del chunks
    shutil.rmtree(folder / "features")
    return encoder, _TrainingRows(np.zeros((0, len(encoder.names)), np.float32), files)


@dataclass(frozen=True)
class _HeadSelection:
    """Heads that can be learned, leaking columns, and notes on what was left out."""

    heads: tuple[str, ...]
    leaks: dict[str, str]
    notes: tuple[str, ...]


def _select_heads(
    candidates: Sequence[str],
    objective: Mapping[str, float],
    encoder: Encoder,
    training_rows: _TrainingRows,
    labels: Mapping[str, npt.NDArray],
    parts: SplitDatasets,
) -> _HeadSelection:
    matrix, label_sample = training_rows.matrix, labels
    if training_rows.files is not None:
        rows = sample_blocks(training_rows.files)
        matrix, label_sample = rows.matrix, rows.labels
    heads: list[str] = []
    leaks: dict[str, str] = {}
    ahead_columns: dict[str, str] = {}
    notes: list[str] = []
    for head in dict.fromkeys(candidates):
        if reason := _explain_unvalidated(head, parts.validation):
            notes.append(f"head {head} was left out: {reason}")
            continue
        if (count := int(np.count_nonzero(labels[head] > 0))) < POSITIVES_MIN:
            notes.append(
                f"head {head} was left out: {count} positives in the training part, at least "
                f"{POSITIVES_MIN} are needed"
            )
            continue
        leakage = find_leakage(encoder.names, *_labelled_rows(matrix, label_sample[head]))
        leaking = leakage.leaks
        if leaking and head not in objective:
            notes.append(
                f"head {head} of another slot was left out: columns that look as if they "
                f"knew the answer: {', '.join(leaking)}"
            )
            continue
        leaks |= leaking
        ahead_columns = leakage.describe_dominant(head) | ahead_columns
        heads.append(head)
    return _HeadSelection(tuple(heads), leaks, (*notes, *dominant_column_notes(ahead_columns)))


def _weight_clicks(parts: SplitDatasets, head: str) -> tuple[SplitDatasets, str]:
    """Weight clicks of the training part by the examination of their position; add a note."""
    train = parts.train
    examination = estimate_examination(
        train.position, train.labels[head] > 0, train.propensity, train.request
    )
    positive = np.logical_or.reduce(
        [train.labels[head_name] > 0 for head_name in item_heads(train.labels)]
    )
    weight = train.weight * click_weights(examination, train.position, positive)
    chances = ", ".join(f"{chance:.2f}" for chance in examination.chance)
    return replace(
        parts, train=replace(train, weight=weight)
    ), f"positives weigh by how likely their place was looked at: {chances}"


def _explain_unvalidated(head: str, validation: Dataset) -> str:
    """Return why a return head cannot be validated, "" if it can."""
    return_target = parse_return(head)
    if return_target is None:
        return ""
    label = validation.labels[head]
    finite = label[np.isfinite(label)]
    if 0 < np.count_nonzero(finite) < len(finite):
        return ""
    days = f"{(validation.t[-1] - validation.t[0]) / DAY:.1f} days"
    return (
        f"what it asks for is known {return_target.until / DAY:g} days later, and the "
        f"validation part is {days} long; train on a longer --window"
    )


def _labelled_rows(matrix: Matrix, label: npt.NDArray) -> tuple[Matrix, npt.NDArray]:
    """Return the rows with a known label."""
    is_labelled = np.isfinite(label)
    return (matrix, label) if is_labelled.all() else (matrix[is_labelled], label[is_labelled])
