"""Encode the rows of several time splits for tuning. No row of the test part is among them.

    ├──── S0 ────┤─ S1 ─┤─ S2 ─┤─ S3 ─┤─ S4 ─┤══ test ══►  t     three splits, rolling origin
       train        valid. holdout
       train ─────────┘    valid. holdout
       train ────────────────┘    valid. holdout

Each split learns from the past alone: its encoder and target encodings are fitted on its own
training rows, and a row sees the newest index that is not later than it. The test part is cut off
exactly as `tailorbird train` cuts it, so the final evaluation takes no part in the choice. Requests
whose label window crosses a border are left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from tailorbird.errors import LeakError, NotReadyError
from tailorbird.events import to_iso
from tailorbird.features import FeatureSet
from tailorbird.lake import Lake
from tailorbird.ranking.baseline import default_baselines
from tailorbird.ranking.policy.targets import item_probability_heads
from tailorbird.ranking.slot import Slot
from tailorbird.training.dataset.chunks import FeatureChunks
from tailorbird.training.dataset.completion import EvaluationRows, training_rows
from tailorbird.training.dataset.completion import evaluation_rows as judged_rows
from tailorbird.training.dataset.dataset import Dataset
from tailorbird.training.dataset.indexes import IndexSeries, build_series
from tailorbird.training.dataset.matrix import FeatureChunk, iterate_features
from tailorbird.training.dataset.replay import Replay, select_live_columns
from tailorbird.training.dataset.rows import TrainingData, load_training_data
from tailorbird.training.dataset.sampling import thin_evenly
from tailorbird.training.dataset.split import split_at, split_by_time
from tailorbird.training.evaluation.judge import interaction_shares, long_tail_mask
from tailorbird.training.fit.inputs import POSITIVES_MIN
from tailorbird.training.fit.net_columns import add_net_columns, build_layout
from tailorbird.training.fit.preparation import learn_encoder, stack_matrices
from tailorbird.training.fit.target_encoding import LabelledRows
from tailorbird.training.settings import Progress, TrainSettings
from tailorbird.training.tuning.splits import Bools, Ints, Matrix, Split, SplitPart

FIRST_TRAIN_SHARE = 0.4  # share of the requests in the first split's training part
ANSWERABLE_MIN = 30  # requests with a relevant item that each holdout part needs


@dataclass(frozen=True)
class SegmentedRequests:
    """The requests before the test part, cut into time segments.

    Attributes:
        segments: request indices of each segment, in order of time; the first is only used for
            training.
        replay: generates candidates of requests.
        borders: start of each segment but the first, then start of the test part.
    """

    training_data: TrainingData
    segments: tuple[Ints, ...]
    borders: tuple[int, ...]
    series: IndexSeries
    replay: Replay


def segment_requests(
    features: FeatureSet,
    slot: Slot,
    lake: Lake,
    now: int,
    splits: int,
    settings: TrainSettings,
    progress: Progress,
    *,
    include_test: bool = False,
) -> SegmentedRequests:
    """Read the lake, cut off the test part as training would, and segment the rest.

    Args:
        include_test: do not cut off the test part; for evaluations that choose nothing.

    Raises:
        NotReadyError: there is too little data to evaluate each split.
    """
    progress("read", 0, 1)
    training_data = load_training_data(lake, features, slot, settings.row_settings(now))
    data, label_window = training_data.data, training_data.label_window
    border = settings.test_from
    time_split = (
        split_at(data.t, settings.validation_from or border, border, gap=label_window)
        if border
        else split_by_time(data.t, gap=label_window)
    )
    test_from = (
        int(data.t.max()) + label_window + 1 if include_test else time_split.validation_until
    )
    usable_requests = (
        np.arange(data.requests)
        if include_test
        else np.sort(np.concatenate([time_split.train, time_split.validation]))
    )
    t = data.t[usable_requests]
    cut_shares = np.linspace(FIRST_TRAIN_SHARE, 1, splits + 2)[:-1]
    cut_times = [int(t[int(share * len(t))]) for share in cut_shares]
    borders = (*cut_times, test_from)
    segments = tuple(
        usable_requests[(t >= low) & (t + label_window <= high)]
        for low, high in zip((np.iinfo(np.int64).min, *cut_times), borders, strict=True)
    )
    _require_before_test(data, segments, test_from, label_window)
    for number, judged in enumerate(segments[2:], 1):
        answerable_count = len(_answerable_requests(data, judged, slot))
        if answerable_count < ANSWERABLE_MIN:
            problem = (
                f"split {number} of {splits} has {answerable_count} requests with something "
                "to find to "
                f"judge by; at least {ANSWERABLE_MIN} are needed"
            )
            raise NotReadyError(
                problem,
                fix="tune on a longer --window, with fewer --splits, or when there is more traffic",
            )
    progress("read", 1, 1)
    moments = _index_moments(segments[0], data, cut_times, settings)
    series = build_series(
        training_data.events, training_data.items, moments, progress=partial(progress, "index")
    )
    live_columns, baselines = select_live_columns(features, slot), default_baselines(slot.sources)
    return SegmentedRequests(
        training_data,
        segments,
        borders,
        series,
        Replay(
            training_data.events_with_profiles,
            features,
            slot,
            training_data.item_codes,
            live_columns,
            baselines=baselines,
        ),
    )


def _require_before_test(
    data: Dataset, segments: Sequence[Ints], test_from: int, label_window: int
) -> None:
    """Raise LeakError if a request or a label reaches into the test part."""
    latest = max(int(data.t[part].max(initial=np.iinfo(np.int64).min)) for part in segments)
    if latest >= test_from or latest + label_window > test_from:
        raise LeakError(
            f"a request of {to_iso(latest)} reaches into the test part, which begins at "
            f"{to_iso(test_from)}"
        )


def _answerable_requests(data: Dataset, requests: Ints, slot: Slot) -> Ints:
    """Return the requests with at least one relevant item."""
    is_positive = data.gain(slot.objective) > 0
    return requests[np.isin(requests, np.unique(data.request[is_positive]))]


def _index_moments(
    first_segment: Ints, data: Dataset, cut_times: Sequence[int], settings: TrainSettings
) -> list[int]:
    sampled_positions = np.linspace(0, len(first_segment), settings.index_parts + 1).astype(int)[
        :-1
    ]
    return [*(int(data.t[first_segment[index]]) for index in sampled_positions), *cut_times]


@dataclass(frozen=True)
class _SegmentFeatures:
    """A segment with its features, as used for training and as used for evaluation."""

    training: Dataset
    training_chunks: list[FeatureChunk]
    evaluation: "EvaluationRows | None"
    evaluation_chunks: list[FeatureChunk]


def encode_splits(
    segmented: SegmentedRequests,
    features: FeatureSet,
    slot: Slot,
    settings: TrainSettings,
    *,
    judged_max: int,
    progress: Progress,
    uniform_holdout: bool = False,
    for_nets: bool = False,
) -> list[tuple[Split, EvaluationRows]]:
    """Encode every split, and return it with its holdout requests.

    `settings.requests` bounds the training requests, `judged_max` the holdout requests of a split.
    These are requests with a relevant item, since only they say anything about an order, or with
    `uniform_holdout` a uniform sample, for metrics of probabilities.
    """
    training_data, segments = segmented.training_data, segmented.segments
    data, sizes = training_data.data, [len(requests) for requests in segments]
    segment_features: list[_SegmentFeatures] = []
    for number, requests in enumerate(segments):
        progress("features", number, len(segments))
        limit = round(settings.requests * sizes[number] / sum(sizes)) if settings.requests else 0
        usable = requests[segmented.series.positions_at(data.t[requests]) >= 0]
        training_requests = thin_evenly(usable, limit, settings.seed)
        holdout_requests = None
        if number >= 2:
            candidates = requests if uniform_holdout else _answerable_requests(data, requests, slot)
            holdout_requests = thin_evenly(candidates, judged_max, settings.seed)
        segment_features.append(
            _compute_segment(segmented, features, training_requests, holdout_requests)
        )
    progress("features", len(segments), len(segments))

    splits = []
    for number in range(2, len(segments)):
        progress("encode", number - 2, len(segments) - 2)
        holdout = segment_features[number].evaluation
        assert holdout is not None
        shares = interaction_shares(training_data.history, segmented.borders[number - 1])
        split = _encode_split(
            segment_features[: number + 1],
            long_tail_mask(shares)[holdout.rows.item],
            segmented,
            features,
            slot,
            settings,
            for_nets=for_nets,
        )
        splits.append((split, holdout))
    progress("encode", len(segments) - 2, len(segments) - 2)
    return splits


def _compute_segment(
    segmented: SegmentedRequests,
    features: FeatureSet,
    training_requests: Ints,
    holdout_requests: Ints | None,
) -> _SegmentFeatures:
    training_data = segmented.training_data
    data, events = training_data.data, training_data.events
    training = training_rows(training_data, data.take(training_requests), segmented.replay)
    training_chunks = list(iterate_features(training, features, events))
    if holdout_requests is None:
        return _SegmentFeatures(training, training_chunks, None, [])
    evaluation = judged_rows(training_data, data.take(holdout_requests), segmented.replay)
    evaluation_chunks = list(iterate_features(evaluation.rows, features, events))
    return _SegmentFeatures(training, training_chunks, evaluation, evaluation_chunks)


def _encode_split(
    segments: Sequence[_SegmentFeatures],
    is_long_tail: Bools,
    segmented: SegmentedRequests,
    features: FeatureSet,
    slot: Slot,
    settings: TrainSettings,
    *,
    for_nets: bool,
) -> Split:
    """Encode a split: train on all segments but the last two, which are validation and holdout."""
    *past, validation, holdout = segments
    training_data, series = segmented.training_data, segmented.series
    live_columns = segmented.replay.live_columns
    position = training_data.is_logged and slot.denominator == "answer"
    chunks = [chunk for segment in past for chunk in segment.training_chunks]
    rows = [segment.training for segment in past]
    labels = {head: np.concatenate([data.labels[head] for data in rows]) for head in rows[0].labels}
    weight = np.concatenate([data.weight for data in rows])
    objective, evaluation_weights = _split_objective(slot, labels)
    row_times = np.concatenate([data.t[data.request] for data in rows])
    encoder, target_encodings = learn_encoder(
        FeatureChunks.of(chunks),
        features,
        series,
        settings,
        LabelledRows(row_times, labels, weight, training_data.label_window),
        position=position,
        live_columns=live_columns,
    )
    if for_nets:
        all_items = replace(rows[0], item=np.concatenate([data.item for data in rows]))
        encoder = add_net_columns(encoder, all_items, series)  # only reads items

    encode = partial(
        stack_matrices, encoder=encoder, index_series=series, live_columns=live_columns
    )
    train_matrix = encode(chunks, position=position, target_encodings=target_encodings)
    validation_matrix = encode(validation.training_chunks, position=position)
    served = encode(validation.training_chunks, position=False) if position else validation_matrix
    assert holdout.evaluation is not None
    holdout_matrix = encode(holdout.evaluation_chunks, position=False)
    lengths = np.concatenate([np.diff(data.offsets) for data in rows])
    train_part = SplitPart(
        train_matrix,
        {head: labels[head] for head in objective},
        weight,
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.concatenate([data.t for data in rows]),
        np.concatenate([data.person for data in rows]),
    )
    return Split(
        encoder.names,
        encoder.categorical_names,
        objective,
        evaluation_weights,
        train_part,
        _build_part(validation.training, validation_matrix, objective),
        _build_part(holdout.evaluation.rows, holdout_matrix, evaluation_weights),
        served,
        is_long_tail,
        build_layout(encoder) if for_nets else None,
    )


def _split_objective(
    slot: Slot, labels: Mapping[str, Bools]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the weights of the heads with enough positives, and of all heads that order items.

    Splits are evaluated by the order of items, so return heads are left out. Expected amounts are
    not tuned.

    Raises:
        NotReadyError: no head has enough positives.
    """
    ordering = {head: slot.objective[head] for head in item_probability_heads(slot.objective)}
    learnable = {
        head: weight
        for head, weight in ordering.items()
        if int(labels[head].sum()) >= POSITIVES_MIN
    }
    if not learnable:
        raise NotReadyError(
            f"no target of slot {slot.name} has enough positives in the first split: at least "
            f"{POSITIVES_MIN} are needed",
            fix="tune on a longer --window",
        )
    return learnable, ordering


def _build_part(data: Dataset, matrix: Matrix, objective: Mapping[str, float]) -> SplitPart:
    return SplitPart(
        matrix,
        {head: data.labels[head] for head in objective},
        data.weight,
        data.offsets,
        data.t,
        data.person,
    )


def describe_splits(segmented: SegmentedRequests, splits: Sequence[Split]) -> dict[str, Any]:
    """Return sizes and times of the splits, as JSON."""
    rows = [
        {
            "learned_until": to_iso(segmented.borders[number]),
            "judged_from": to_iso(int(split.holdout.t[0])),
            "judged_to": to_iso(int(split.holdout.t[-1])),
            "requests_learned": len(split.train.t),
            "requests_judged": len(split.holdout.t),
            "positives": {head: int(label.sum()) for head, label in split.train.labels.items()},
            "rows_learned": len(split.train.matrix),
            "rows_judged": len(split.holdout.matrix),
        }
        for number, split in enumerate(splits)
    ]
    return {
        "source": segmented.training_data.source_note,
        "test_from": to_iso(segmented.borders[-1]),
        "test_from_us": segmented.borders[-1],
        "splits": rows,
    }
