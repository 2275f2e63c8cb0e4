"""Fitting of transforms on training rows, never on validation or test rows.

`features.transforms` has the declarations, and `ranking.encode.steps` the fitted steps and how they
are applied. Target encodings of the training rows, each as of its own time, are in
`training.fit.target_encoding`.

A preset defines how a kind of model treats columns without a declaration: trees take them as they
are, nets need one scale and no missing values.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from tailorbird.errors import DeclarationError, UsageError
from tailorbird.events import SECOND, hash64, hash64s, to_iso
from tailorbird.features import transforms as step_declarations
from tailorbird.features.declare.declarations import POSITION_COLUMN
from tailorbird.features.transform_steps import (
    KEY,
    ClipStep,
    FrequencyStep,
    HashingStep,
    ImputeStep,
    LogStep,
    QuantileStep,
    StandardiseStep,
    Step,
    TableStep,
    TargetStep,
    VectorsStep,
    VocabularyStep,
)
from tailorbird.features.transforms import Transform
from tailorbird.ranking.encode import steps as learned_steps
from tailorbird.ranking.encode.computed import COMPUTED_COLUMNS
from tailorbird.ranking.encode.steps import Floats, Keys
from tailorbird.ranking.encode.transforms import Column, TransformOutput
from tailorbird.registry import ColumnNames
from tailorbird.training.fit.target_encoding import LabelledRows, final_rates, rates_in_time

# Arguments: columns of the features, whether the model reads the position, computed columns.
# Returns transforms of all columns that it does not take as they are.
Preset = Callable[[ColumnNames, bool, Sequence[str]], tuple[Transform, ...]]

PRESETS = ("trees", "nets")

LearnedStep = learned_steps.NumberSteps | learned_steps.KeySteps | learned_steps.Missing


def tree_preset(
    columns: ColumnNames,
    with_position: bool,
    computed_columns: Sequence[str] = tuple(COMPUTED_COLUMNS),
) -> tuple[Transform, ...]:
    """Return no transforms: trees split at any value and handle missing ones."""
    return ()


def net_preset(
    columns: ColumnNames,
    with_position: bool,
    computed_columns: Sequence[str] = tuple(COMPUTED_COLUMNS),
    *,
    scale_step: Step | None = None,
) -> tuple[Transform, ...]:
    """Return transforms that scale and impute numbers, and encode categories for embeddings.

    Each number also gets an indicator of missing values.

    Args:
        scale_step: step that scales numbers; by default the normal score of the rank, as counts and
            prices span many orders of magnitude.
    """
    scale_step = scale_step or step_declarations.ranks(100, normal=True)
    numeric = [
        Transform(name, (scale_step, step_declarations.impute("median")), indicator=True)
        for name in (*columns.numeric, *computed_columns)
    ]
    position_transforms = (
        [Transform(POSITION_COLUMN, (step_declarations.standardise(),))] if with_position else []
    )
    return (
        *numeric,
        *position_transforms,
        *(Transform(name, (step_declarations.vocabulary(),)) for name in columns.categorical),
    )


def find_preset(name: str) -> Preset:
    """Return a preset by its name.

    Raises:
        UsageError: there is no such preset.
    """
    if name not in PRESETS:
        raise UsageError(f"unknown preset {name!r}", fix=f"use one of {', '.join(PRESETS)}")
    return net_preset if name == "nets" else tree_preset


@dataclass(frozen=True)
class TransformPlan:
    """The transforms of a model's columns.

    Attributes:
        transforms: declared transforms, and those of the preset for other columns.
        hidden_columns: columns that the encoder must not take as they are: transformed ones, and those
            that the model must not see.
    """

    transforms: tuple[Transform, ...]
    hidden_columns: tuple[str, ...]


def plan_transforms(
    columns: ColumnNames,
    declarations: Sequence[Transform],
    preset: Preset,
    *,
    with_position: bool,
    leave_out: Sequence[str] = (),
    similarity_names: Sequence[str] = (),
) -> TransformPlan:
    """Plan the transforms of a model's columns.

    Args:
        leave_out: columns of the features or of the matrix that the model must not see.
        similarity_names: names of the declared similarities.
    """
    declared_columns = {transform.column for transform in declarations}
    transforms = (
        *declarations,
        *(
            transform
            for transform in preset(columns, with_position, (*COMPUTED_COLUMNS, *similarity_names))
            if transform.column not in declared_columns
        ),
    )
    visible_transforms = tuple(
        transform
        for transform in transforms
        if transform.column not in leave_out and transform.output not in leave_out
    )
    return TransformPlan(
        visible_transforms,
        tuple(dict.fromkeys((*leave_out, *(transform.column for transform in transforms)))),
    )


@dataclass(frozen=True)
class FittedTransforms:
    """Transforms fitted on training rows.

    Attributes:
        outputs: transforms for the encoder.
        encodings_in_time: name of a target encoding → its value for each training row as of the
            row's time, shape (n,), for `Encoder.encode`.
    """

    outputs: tuple[TransformOutput, ...]
    encodings_in_time: Mapping[str, Floats]


def fit_transforms(
    transforms: Sequence[Transform],
    values_by_column: Mapping[str, Column],
    labelled_rows: LabelledRows,
) -> FittedTransforms:
    """Fit each transform on training rows.

    Rows count once whatever their weight, except for target encodings, which are weighted rates.
    Values that are not finite do not count.

    Args:
        values_by_column: column → its values (n,): float32, or uint64 keys of a category.
        labelled_rows: times and labels of the same rows.

    Raises:
        DeclarationError: a transform needs labels of a head that has none, or vectors that know
            what came after the first row.
    """
    transform_outputs: list[TransformOutput] = []
    encodings_in_time: dict[str, Floats] = {}
    for transform in transforms:
        steps, target_encoding = _learn_steps(
            transform, values_by_column[transform.column], labelled_rows
        )
        if target_encoding is not None:
            encodings_in_time[transform.output] = target_encoding
        transform_outputs.append(TransformOutput(transform.output, transform.column, steps))
        if transform.indicator:
            transform_outputs.append(
                TransformOutput(
                    f"{transform.output}_missing", transform.column, (learned_steps.Missing(),)
                )
            )
    return FittedTransforms(tuple(transform_outputs), encodings_in_time)


def _learn_steps(
    transform: Transform, column: Column, labelled_rows: LabelledRows
) -> tuple[tuple[LearnedStep, ...], Floats | None]:
    """Fit the steps, each on the output of the previous one.

    Return them, and the target encoding in time if there is one.
    """
    is_categorical = column.dtype == np.uint64
    keys: Keys = column.astype(np.uint64) if is_categorical else np.zeros(0, np.uint64)
    x: Floats = (
        np.zeros(0)
        if is_categorical
        else np.clip(
            column.astype(np.float64), -learned_steps.FLOAT32_MAX, learned_steps.FLOAT32_MAX
        )
    )
    is_finite = np.ones(len(column), bool) if is_categorical else np.isfinite(column)
    is_numeric = not is_categorical
    steps: list[LearnedStep] = []
    target_encoding: Floats | None = None
    for step in _append_vocabulary_step(transform, is_categorical):
        if isinstance(step, TargetStep):
            fitted_step, x = _learn_target(step, transform, keys, labelled_rows)
            target_encoding = x
            is_numeric = True
        elif isinstance(step, ImputeStep) and not is_numeric:
            fitted_step = _learn_impute_key(step, keys)
            keys = fitted_step.fill(keys)
        elif step.input_kind == KEY:
            fitted_step = _learn_keys(step, transform, keys, labelled_rows)
            x = fitted_step.apply(keys)
            is_numeric = True
        else:
            fitted_step = _learn_numbers(step, x[is_finite][np.isfinite(x[is_finite])])
            x = fitted_step.apply(x)
        steps.append(fitted_step)
    return tuple(steps), target_encoding


def _append_vocabulary_step(transform: Transform, is_categorical: bool) -> tuple[Step, ...]:
    """Append a vocabulary step to a category without a step that makes numbers."""
    has_key_step = any(step.input_kind == KEY for step in transform.steps)
    return (
        transform.steps
        if has_key_step or not is_categorical
        else (*transform.steps, step_declarations.vocabulary())
    )


def _learn_numbers(step: Step, x: Floats) -> learned_steps.NumberSteps:
    """Fit a step on the finite numbers of the training rows."""
    match step:
        case LogStep():
            return learned_steps.Log()
        case ClipStep():
            return _learn_clip(step, x)
        case StandardiseStep():
            return _learn_standardise(x)
        case QuantileStep():
            return _learn_quantile(step, x)
        case ImputeStep():
            return _learn_impute(step, x)
    raise AssertionError(step)


def _learn_keys(
    step: Step, transform: Transform, keys: Keys, labelled_rows: LabelledRows
) -> learned_steps.KeySteps:
    match step:
        case VocabularyStep():
            return learned_steps.Codes(_frequent_keys(keys[keys != 0], step)[0].tolist())
        case HashingStep():
            return _learn_buckets(step, keys[keys != 0])
        case FrequencyStep():
            frequent_keys, counts = _frequent_keys(keys[keys != 0], step)
            return learned_steps.Frequency(
                frequent_keys.tolist(), (counts / max(len(keys), 1)).tolist()
            )
        case VectorsStep():
            return _load_vectors(step, transform, labelled_rows)
    raise AssertionError(step)


def _learn_buckets(step: HashingStep, keys: Keys) -> learned_steps.Hashed:
    """Fit hash buckets; those with few rows are unknown.

    Their embeddings would be little but their random initial values.
    """
    buckets, counts = np.unique(keys % np.uint64(step.buckets), return_counts=True)
    return learned_steps.Hashed(
        step.buckets, buckets[counts >= step_declarations.BUCKET_ROWS_MIN].tolist()
    )


def _learn_clip(step: ClipStep, x: Floats) -> learned_steps.Clip:
    low, high = np.quantile(x, step.quantiles).tolist() if x.size else (0.0, 0.0)
    low = low if step.low is None else step.low
    high = high if step.high is None else step.high
    # A constant beyond all training values wins over a learned bound.
    if step.low is not None and step.high is None:
        high = max(low, high)
    return learned_steps.Clip(min(low, high), high)


def _learn_standardise(x: Floats) -> learned_steps.Standardise:
    mean, std = (float(x.mean()), float(x.std())) if x.size else (0.0, 1.0)
    # The mean of equal numbers may be off by a rounding error, which would then be all deviation.
    is_constant = not x.size or x.min() == x.max() or std <= 0
    return learned_steps.Standardise(
        float(x[0]) if is_constant and x.size else mean, 1.0 if is_constant else std
    )


def _learn_quantile(step: QuantileStep, x: Floats) -> learned_steps.Quantile:
    ranks = np.linspace(0, 1, step.bins + 1)
    # Rounding may move a cut below its neighbour.
    bin_edges = np.maximum.accumulate(np.quantile(x, ranks)) if x.size else np.zeros(len(ranks))
    values = ranks
    if step.normal:
        half_bin = 0.5 / step.bins
        values = np.array(
            [
                NormalDist().inv_cdf(min(max(rank, half_bin), 1 - half_bin))
                for rank in ranks.tolist()
            ]
        )
    return learned_steps.Quantile(bin_edges.tolist(), values.tolist(), step.normal)


def _learn_impute(step: ImputeStep, x: Floats) -> learned_steps.Fill:
    if step.how == "constant":
        return learned_steps.Fill(float(step.value or 0.0), "constant")
    if not x.size:
        return learned_steps.Fill(0.0, step.how)
    if step.how == "mode":
        values, counts = np.unique(x, return_counts=True)
        return learned_steps.Fill(float(values[np.argmax(counts)]), "mode")
    return learned_steps.Fill(float(x.mean() if step.how == "mean" else np.median(x)), step.how)


def _learn_impute_key(step: ImputeStep, keys: Keys) -> learned_steps.FillKey:
    if step.how == "constant":
        return learned_steps.FillKey(hash64(str(step.value)), f"constant {step.value}")
    values, counts = np.unique(keys[keys != 0], return_counts=True)
    return learned_steps.FillKey(int(values[np.argmax(counts)]) if values.size else 0, "mode")


def _load_vectors(
    step: VectorsStep, transform: Transform, labelled_rows: LabelledRows
) -> learned_steps.Vectors:
    if len(labelled_rows.t) and (first_ts := int(labelled_rows.t.min())) < step.trained_until:
        message = (
            f"the vectors of {transform.column} know what came until "
            f"{to_iso(step.trained_until)}, training begins at {to_iso(first_ts)}"
        )
        raise DeclarationError(
            message,
            where=transform.location,
            fix="learn them from an earlier window, or train on a later one",
        )
    flat_values = [number for row in step.rows for number in row]
    return learned_steps.Vectors(
        hash64s(step.texts).tolist(), len(step.rows[0]), flat_values, step.trained_until // SECOND
    )


def _learn_target(
    step: TargetStep, transform: Transform, keys: Keys, labelled_rows: LabelledRows
) -> tuple[learned_steps.TargetEncoding, Floats]:
    if step.head not in labelled_rows.labels:
        message = f"{transform.output} learns from {step.head}, which has no labels here"
        raise DeclarationError(
            message,
            where=transform.location,
            fix=f"use one of {', '.join(sorted(labelled_rows.labels))}",
        )
    vocabulary, _ = _frequent_keys(keys, step)
    is_rare = ~np.isin(keys, vocabulary)
    rates, mean_rate = final_rates(keys, vocabulary, step.head, labelled_rows, step.smoothing)
    encodings_in_time = rates_in_time(
        np.where(is_rare, np.uint64(0), keys), is_rare, step.head, labelled_rows, step.smoothing
    )
    return learned_steps.TargetEncoding(
        vocabulary.tolist(), rates.tolist(), mean_rate, step.head, step.smoothing
    ), encodings_in_time


def _frequent_keys(keys: Keys, step: TableStep) -> tuple[Keys, npt.NDArray[np.int64]]:
    """Return the frequent keys and their counts: the most frequent first, ties by key."""
    values, counts = np.unique(keys, return_counts=True)
    is_frequent = counts >= step.count_min
    values = values[is_frequent]
    counts = counts[is_frequent]
    order = np.lexsort((values, -counts))[: step.size_max]
    return values[order], counts[order]
