"""Learns transforms from training rows, and from nothing else: no validation or test row comes near
here.

What a project declares is in `features.transforms`; what is learned, and applied to rows, in
`ranking.steps`. Target encodings of the training rows themselves, each as of its own time, are in
`training.target`.

A preset says how a kind of model takes the columns that no declaration names: trees as they are,
nets on one scale and complete.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from tailorbird.errors import DeclarationError, UsageError
from tailorbird.events import SECOND, hash64, hash64s, to_iso
from tailorbird.features import transforms as declared
from tailorbird.features.declare import POSITION
from tailorbird.features.transforms import Transform
from tailorbird.ranking import steps as learned
from tailorbird.ranking.computed import COMPUTED
from tailorbird.ranking.steps import Floats, Keys
from tailorbird.ranking.transforms import Column, Output
from tailorbird.registry import Columns
from tailorbird.training.target import Labelled, final_rates, rates_in_time

Preset = Callable[[Columns, bool, Sequence[str]], tuple[Transform, ...]]
"""From the columns of the features, whether the model takes the position, and the computed columns, to transforms of all that it does not
take as they are."""

PRESETS = ("trees", "nets")

Made = learned.NumberSteps | learned.KeySteps | learned.Missing


def for_trees(
    columns: Columns, position: bool, computed: Sequence[str] = tuple(COMPUTED)
) -> tuple[Transform, ...]:
    """None: trees split what they are given where they like, and know what is missing."""
    return ()


def for_nets(
    columns: Columns,
    position: bool,
    computed: Sequence[str] = tuple(COMPUTED),
    *,
    scale: declared.Step | None = None,
) -> tuple[Transform, ...]:
    """Every number on one scale and filled in, with an indicator of what was missing; every
    category as codes for an embedding.

    Args:
        scale: the normal score of the rank unless said otherwise: counts and prices are spread over
            many sizes.
    """
    scale = scale or declared.ranks(100, normal=True)
    numeric = [
        Transform(name, (scale, declared.impute("median")), indicator=True)
        for name in (*columns.numeric, *computed)
    ]
    placed = [Transform(POSITION, (declared.standardise(),))] if position else []
    return (
        *numeric,
        *placed,
        *(Transform(name, (declared.vocabulary(),)) for name in columns.categorical),
    )


def preset(name: str) -> Preset:
    """A preset by its name.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in PRESETS:
        raise UsageError(f"unknown preset {name!r}", fix=f"use one of {', '.join(PRESETS)}")
    return for_nets if name == "nets" else for_trees


@dataclass(frozen=True)
class Plan:
    """What is made of the columns.

    Attributes:
        transforms: as declared, and of the other columns as the preset has it.
        hidden: columns that the encoder must not take as they are: what is transformed, and what
            the model must not see.
    """

    transforms: tuple[Transform, ...]
    hidden: tuple[str, ...]


def plan(
    columns: Columns,
    declarations: Sequence[Transform],
    by: Preset,
    *,
    position: bool,
    leave_out: Sequence[str] = (),
    similarities: Sequence[str] = (),
) -> Plan:
    """What a model is given of the columns.

    Args:
        leave_out: columns of the features or of the matrix that the model must not see.
        similarities: names of those that are declared.
    """
    named = {one.column for one in declarations}
    every = (
        *declarations,
        *(
            one
            for one in by(columns, position, (*COMPUTED, *similarities))
            if one.column not in named
        ),
    )
    kept = tuple(
        one for one in every if one.column not in leave_out and one.output not in leave_out
    )
    return Plan(kept, tuple(dict.fromkeys((*leave_out, *(one.column for one in every)))))


@dataclass(frozen=True)
class Learned:
    """What came of the training rows.

    Attributes:
        outputs: for the encoder.
        in_time: name of a target encoding → its value for each training row as of the row's time,
            shape (n,), for `Encoder.encode`.
    """

    outputs: tuple[Output, ...]
    in_time: Mapping[str, Floats]


def fit_transforms(
    transforms: Sequence[Transform], rows: Mapping[str, Column], labelled: Labelled
) -> Learned:
    """Learn each transform from training rows.

    Every row counts once, whatever its weight, but for target encodings, which are rates and need
    it. What is not finite counts nothing.

    Args:
        rows: column → its values (n,): float32, or uint64 keys of a category.
        labelled: times and labels of the same rows.
    Raises:
        DeclarationError: a transform learns from a head without labels, or takes vectors that know
            what came after the first row.
    """
    outputs: list[Output] = []
    in_time: dict[str, Floats] = {}
    for one in transforms:
        steps, codes = _learn(one, rows[one.column], labelled)
        if codes is not None:
            in_time[one.output] = codes
        outputs.append(Output(one.output, one.column, steps))
        if one.indicator:
            outputs.append(Output(f"{one.output}_missing", one.column, (learned.Missing(),)))
    return Learned(tuple(outputs), in_time)


def _learn(
    one: Transform, column: Column, labelled: Labelled
) -> tuple[tuple[Made, ...], Floats | None]:
    """The steps, each learned from what those before it made of the column; and its target encoding
    in time, if it has one.
    """
    categorical = column.dtype == np.uint64
    keys: Keys = column.astype(np.uint64) if categorical else np.zeros(0, np.uint64)
    x: Floats = (
        np.zeros(0)
        if categorical
        else np.clip(column.astype(np.float64), -learned.LARGEST, learned.LARGEST)
    )
    counted = np.ones(len(column), bool) if categorical else np.isfinite(column)
    numbers = not categorical
    steps: list[Made] = []
    codes: Floats | None = None
    for step in _completed(one, categorical):
        if isinstance(step, declared.TargetStep):
            made, x = _target(step, one, keys, labelled)
            codes, numbers = x, True
        elif isinstance(step, declared.ImputeStep) and not numbers:
            made = _impute_key(step, keys)
            keys = made.fill(keys)
        elif step.takes == declared.KEY:
            made = _learn_keys(step, one, keys, labelled)
            x, numbers = made.apply(keys), True
        else:
            made = _learn_numbers(step, x[counted][np.isfinite(x[counted])])
            x = made.apply(x)
        steps.append(made)
    return tuple(steps), codes


def _completed(one: Transform, categorical: bool) -> tuple[declared.Step, ...]:
    """A category needs a step that makes numbers of it: codes, where none is said."""
    made = any(step.takes == declared.KEY for step in one.steps)
    return one.steps if made or not categorical else (*one.steps, declared.vocabulary())


def _learn_numbers(step: declared.Step, x: Floats) -> learned.NumberSteps:
    """From the finite numbers of the training rows."""
    match step:
        case declared.LogStep():
            return learned.Log()
        case declared.ClipStep():
            return _clip(step, x)
        case declared.StandardiseStep():
            return _standardise(x)
        case declared.QuantileStep():
            return _quantile(step, x)
        case declared.ImputeStep():
            return _impute(step, x)
    raise AssertionError(step)


def _learn_keys(
    step: declared.Step, one: Transform, keys: Keys, labelled: Labelled
) -> learned.KeySteps:
    match step:
        case declared.VocabularyStep():
            return learned.Codes(_frequent(keys[keys != 0], step)[0].tolist())
        case declared.HashingStep():
            return _hashed(step, keys[keys != 0])
        case declared.FrequencyStep():
            known, counts = _frequent(keys[keys != 0], step)
            return learned.Frequency(known.tolist(), (counts / max(len(keys), 1)).tolist())
        case declared.VectorsStep():
            return _vectors(step, one, labelled)
    raise AssertionError(step)


def _hashed(step: declared.HashingStep, keys: Keys) -> learned.Hashed:
    """Buckets of a few rows are left to the unknown: an embedding of them would be little but the
    noise that it began with.
    """
    buckets, counts = np.unique(keys % np.uint64(step.buckets), return_counts=True)
    return learned.Hashed(step.buckets, buckets[counts >= declared.HASHED_MIN].tolist())


def _clip(step: declared.ClipStep, x: Floats) -> learned.Clip:
    low, high = np.quantile(x, step.quantiles).tolist() if x.size else (0.0, 0.0)
    low = low if step.low is None else step.low
    high = high if step.high is None else step.high
    if (
        step.low is not None and step.high is None
    ):  # a constant beyond all that was seen wins over what was learned
        high = max(low, high)
    return learned.Clip(min(low, high), high)


def _standardise(x: Floats) -> learned.Standardise:
    mean, std = (float(x.mean()), float(x.std())) if x.size else (0.0, 1.0)
    # Of equal numbers the mean may be off by a rounding, and so be all of the deviation.
    constant = not x.size or x.min() == x.max() or std <= 0
    return learned.Standardise(
        float(x[0]) if constant and x.size else mean, 1.0 if constant else std
    )


def _quantile(step: declared.QuantileStep, x: Floats) -> learned.Quantile:
    ranks = np.linspace(0, 1, step.bins + 1)
    cuts = (
        np.maximum.accumulate(np.quantile(x, ranks)) if x.size else np.zeros(len(ranks))
    )  # roundings may take a cut below its neighbour
    values = ranks
    if step.normal:
        half = 0.5 / step.bins
        values = np.array(
            [NormalDist().inv_cdf(min(max(rank, half), 1 - half)) for rank in ranks.tolist()]
        )
    return learned.Quantile(cuts.tolist(), values.tolist(), step.normal)


def _impute(step: declared.ImputeStep, x: Floats) -> learned.Fill:
    if step.how == "constant":
        return learned.Fill(float(step.value or 0.0), "constant")
    if not x.size:
        return learned.Fill(0.0, step.how)
    if step.how == "mode":
        values, counts = np.unique(x, return_counts=True)
        return learned.Fill(float(values[np.argmax(counts)]), "mode")
    return learned.Fill(float(x.mean() if step.how == "mean" else np.median(x)), step.how)


def _impute_key(step: declared.ImputeStep, keys: Keys) -> learned.FillKey:
    if step.how == "constant":
        return learned.FillKey(hash64(str(step.value)), f"constant {step.value}")
    values, counts = np.unique(keys[keys != 0], return_counts=True)
    return learned.FillKey(int(values[np.argmax(counts)]) if values.size else 0, "mode")


def _vectors(step: declared.VectorsStep, one: Transform, labelled: Labelled) -> learned.Vectors:
    if len(labelled.t) and (first := int(labelled.t.min())) < step.trained_until:
        message = (
            f"the vectors of {one.column} know what came until "
            f"{to_iso(step.trained_until)}, training begins at {to_iso(first)}"
        )
        raise DeclarationError(
            message,
            where=one.place,
            fix="learn them from an earlier window, or train on a later one",
        )
    flat = [number for row in step.rows for number in row]
    return learned.Vectors(
        hash64s(step.texts).tolist(), len(step.rows[0]), flat, step.trained_until // SECOND
    )


def _target(
    step: declared.TargetStep, one: Transform, keys: Keys, labelled: Labelled
) -> tuple[learned.Target, Floats]:
    if step.head not in labelled.labels:
        message = f"{one.output} learns from {step.head}, which has no labels here"
        raise DeclarationError(
            message, where=one.place, fix=f"use one of {', '.join(sorted(labelled.labels))}"
        )
    kept, _ = _frequent(keys, step)
    rare = ~np.isin(keys, kept)
    rates, mean = final_rates(keys, kept, step.head, labelled, step.smoothing)
    in_time = rates_in_time(
        np.where(rare, np.uint64(0), keys), rare, step.head, labelled, step.smoothing
    )
    return learned.Target(kept.tolist(), rates.tolist(), mean, step.head, step.smoothing), in_time


def _frequent(keys: Keys, step: declared.Table) -> tuple[Keys, npt.NDArray[np.int64]]:
    """The keys that are frequent enough, and how often they are: the most frequent first, then the
    smallest key.
    """
    values, counts = np.unique(keys, return_counts=True)
    kept = counts >= step.count_min
    values, counts = values[kept], counts[kept]
    order = np.lexsort((values, -counts))[: step.size_max]
    return values[order], counts[order]
