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
from tailorbird.training.fit.preparation import build_training_labels, learn_encoder, stack_matrices
from tailorbird.training.fit.target_encoding import LabelledRows
from tailorbird.training.fit.warm_trees import FROM_SCRATCH, POSITIVES_MIN, WarmTrees
from tailorbird.training.leakage.columns import describe_dominant_columns, find_leakage
from tailorbird.training.settings import Progress, TrainSettings
from tailorbird.training.sketches import FeatureSketch, HistogramRow, label_histogram_rows


@dataclass(frozen=True)
class SplitDatasets:
    """The three parts of a split, and the live columns of their rows."""

    train: Dataset
    validation: Dataset
    test: Dataset
    live_columns: LiveColumns = NO_LIVE_COLUMNS


@dataclass(frozen=True)
class PreparedInputs:
    """Encoded rows to fit heads to.

    Attributes:
        leak_reasons: columns that look like target leakage, with the reason.
        notes: what was left out, and why.
        sketches: histograms of features and labels of the training part.
    """

    fit_inputs: FitInputs
    leak_reasons: dict[str, str]
    notes: tuple[str, ...]
    sketches: tuple[HistogramRow, ...] = ()


def prepare_inputs(
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
    spill_folder: Path | None = None,
    warm_trees: WarmTrees = FROM_SCRATCH,
) -> PreparedInputs:
    """Learn the encoder from the training part, encode it and the validation part, choose heads.

    Args:
        with_positions: whether rows are all shown items, seen or not; see `fit.fit`.
        spill_folder: for rows that do not fit into memory; None keeps them in memory.
        warm_trees: trees to go on from, with their encoder; without one it is learned.

    Raises:
        NotReadyError: no head of the objective has enough positives.
    """
    weight_note = ""
    feature_sketch = FeatureSketch(features.numeric, features.categorical)
    label_histograms = label_histogram_rows(datasets.train)  # before clicks are weighted
    if settings.position == "weights":
        datasets, weight_note = _weight_clicks(datasets, item_heads(objective)[0])
    with_positions = with_positions and settings.position == "column"
    progress("features", 0, 2)
    labels = build_training_labels(datasets.train, settings)
    labelled_rows = LabelledRows(
        datasets.train.t[datasets.train.request_index],
        labels,
        datasets.train.weight,
        label_window_us,
    )
    encoder, training_rows = _encode_training_rows(
        events=events,
        features=features,
        datasets=datasets,
        index_series=index_series,
        settings=settings,
        labelled_rows=labelled_rows,
        sketch=feature_sketch,
        spill_folder=spill_folder,
        with_positions=with_positions,
        warm_trees=warm_trees,
    )
    progress("features", 1, 2)
    validation_chunks = list(iterate_features(datasets.validation, features, events))
    shown_matrix = stack_matrices(
        validation_chunks,
        encoder,
        index_series,
        with_positions=with_positions,
        live_columns=datasets.live_columns,
    )
    served_matrix = (
        stack_matrices(
            validation_chunks,
            encoder,
            index_series,
            with_positions=False,
            live_columns=datasets.live_columns,
        )
        if with_positions
        else shown_matrix
    )
    del validation_chunks
    progress("features", 2, 2)
    head_selection = _select_heads(
        candidate_heads=(*objective, *extra_heads),
        objective=objective,
        encoder=encoder,
        training_rows=training_rows,
        labels=labels,
        datasets=datasets,
    )
    notes = [note for note in (weight_note, *head_selection.notes, training_rows.note) if note]
    if not any(head in head_selection.heads for head in objective):
        raise NotReadyError(
            "; ".join(notes) or f"none of {', '.join(objective)} ever happened",
            fix="train on a longer window",
        )
    fit_inputs = FitInputs(
        encoder=encoder,
        train_matrix=training_rows.matrix,
        validation_shown_matrix=shown_matrix,
        validation_served_matrix=served_matrix,
        train=datasets.train,
        validation=datasets.validation,
        train_labels=labels,
        heads=head_selection.heads,
        objective=objective,
        train_until=int(datasets.train.t[-1]),
        label_window_us=label_window_us,
        row_files=training_rows.row_files,
        boosters=warm_trees.boosters,
    )
    all_histograms = (*feature_sketch.histogram_rows(), *label_histograms)
    return PreparedInputs(fit_inputs, head_selection.leak_reasons, tuple(notes), all_histograms)


@dataclass(frozen=True)
class _TrainingRows:
    """Encoded training rows: a matrix, or files and a matrix without rows."""

    matrix: Matrix
    row_files: PartRows | None = None

    @property
    def note(self) -> str:
        return (
            ""
            if self.row_files is None
            else (
                f"the {len(self.row_files):,} rows that were learned from lay in files, a few "
                "blocks of them in memory"
            )
        )


def _encode_training_rows(
    events: pa.Table,
    features: FeatureSet,
    datasets: SplitDatasets,
    index_series: IndexSeries,
    settings: TrainSettings,
    labelled_rows: LabelledRows,
    sketch: FeatureSketch,
    spill_folder: Path | None,
    *,
    with_positions: bool,
    warm_trees: WarmTrees,
) -> tuple[Encoder, _TrainingRows]:
    """Learn the encoder, or take that of the warm trees, and encode the training rows."""
    train = datasets.train
    live_columns = datasets.live_columns
    if spill_folder is None:
        chunks = FeatureChunks.of(
            list(sketch.count_chunks(iterate_features(train, features, events)))
        )
    else:
        chunks = FeatureChunks.spill_to_files(
            sketch.count_chunks(iterate_features(train, features, events, rows_max=CHUNK_ROWS)),
            spill_folder / "features",
            train.row_count,
        )
    target_encodings: Mapping[str, npt.NDArray[np.float64]] = {}
    if (encoder := warm_trees.encoder) is None:
        encoder, target_encodings = learn_encoder(
            chunks,
            features,
            index_series,
            settings,
            labelled_rows,
            with_positions=with_positions,
            live_columns=live_columns,
        )
    if allows_net(settings):
        encoder = add_net_columns(encoder, train, index_series)
    if spill_folder is None:
        return encoder, _TrainingRows(
            stack_matrices(
                chunks.chunks,
                encoder,
                index_series,
                with_positions=with_positions,
                target_encodings=target_encodings,
                live_columns=live_columns,
            )
        )
    labels = labelled_rows.labels
    weight = labelled_rows.weight
    row_files = write_matrix_files(
        chunks=chunks,
        encoder=encoder,
        index_series=index_series,
        folder=spill_folder / "matrix",
        labels=labels,
        weight=weight,
        with_positions=with_positions,
        target_encodings=target_encodings,
        live_columns=live_columns,
    )
    del chunks
    shutil.rmtree(spill_folder / "features")
    return encoder, _TrainingRows(np.zeros((0, len(encoder.names)), np.float32), row_files)


@dataclass(frozen=True)
class _HeadSelection:
    """Heads that can be learned, leaking columns, and notes on what was left out."""

    heads: tuple[str, ...]
    leak_reasons: dict[str, str]
    notes: tuple[str, ...]


def _select_heads(
    candidate_heads: Sequence[str],
    objective: Mapping[str, float],
    encoder: Encoder,
    training_rows: _TrainingRows,
    labels: Mapping[str, npt.NDArray],
    datasets: SplitDatasets,
) -> _HeadSelection:
    matrix = training_rows.matrix
    label_sample = labels
    if training_rows.row_files is not None:
        sampled_rows = sample_blocks(training_rows.row_files)
        matrix = sampled_rows.matrix
        label_sample = sampled_rows.labels
    heads: list[str] = []
    leaks: dict[str, str] = {}
    dominant_columns: dict[str, str] = {}
    notes: list[str] = []
    for head in dict.fromkeys(candidate_heads):
        if reason := _explain_unvalidated(head, datasets.validation):
            notes.append(f"head {head} was left out: {reason}")
            continue
        if (positive_count := int(np.count_nonzero(labels[head] > 0))) < POSITIVES_MIN:
            notes.append(
                f"head {head} was left out: {positive_count} positives in the training part, at "
                f"least {POSITIVES_MIN} are needed"
            )
            continue
        leakage = find_leakage(encoder.names, *_labelled_rows(matrix, label_sample[head]))
        leaking_columns = leakage.leaks
        if leaking_columns and head not in objective:
            notes.append(
                f"head {head} of another slot was left out: columns that look as if they "
                f"knew the answer: {', '.join(leaking_columns)}"
            )
            continue
        leaks |= leaking_columns
        dominant_columns = leakage.describe_dominant(head) | dominant_columns
        heads.append(head)
    return _HeadSelection(
        tuple(heads), leaks, (*notes, *describe_dominant_columns(dominant_columns))
    )


def _weight_clicks(datasets: SplitDatasets, head: str) -> tuple[SplitDatasets, str]:
    """Weight clicks of the training part by the examination of their position; add a note."""
    train = datasets.train
    examination = estimate_examination(
        train.position, train.labels[head] > 0, train.propensity, train.request_index
    )
    is_positive = np.logical_or.reduce(
        [train.labels[head_name] > 0 for head_name in item_heads(train.labels)]
    )
    weight = train.weight * click_weights(examination, train.position, is_positive)
    chances = ", ".join(f"{chance:.2f}" for chance in examination.chance_by_position)
    return replace(
        datasets, train=replace(train, weight=weight)
    ), f"positives weigh by how likely their place was looked at: {chances}"


def _explain_unvalidated(head: str, validation: Dataset) -> str:
    """Return why a return head cannot be validated, "" if it can."""
    return_target = parse_return(head)
    if return_target is None:
        return ""
    label = validation.labels[head]
    finite_labels = label[np.isfinite(label)]
    if 0 < np.count_nonzero(finite_labels) < len(finite_labels):
        return ""
    days = f"{(validation.t[-1] - validation.t[0]) / DAY:.1f} days"
    return (
        f"what it asks for is known {return_target.until_us / DAY:g} days later, and the "
        f"validation part is {days} long; train on a longer --window"
    )


def _labelled_rows(matrix: Matrix, label: npt.NDArray) -> tuple[Matrix, npt.NDArray]:
    """Return the rows with a known label."""
    is_labelled = np.isfinite(label)
    return (matrix, label) if is_labelled.all() else (matrix[is_labelled], label[is_labelled])
