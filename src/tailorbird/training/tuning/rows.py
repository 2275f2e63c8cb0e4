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
from tailorbird.training.dataset.completion import (
    EvaluationRows,
    build_evaluation_rows,
    build_training_rows,
)
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
RELEVANT_REQUESTS_MIN = 30  # requests with a relevant item that each holdout part needs


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
    index_series: IndexSeries
    replay: Replay


def segment_requests(
    features: FeatureSet,
    slot: Slot,
    lake: Lake,
    now: int,
    split_count: int,
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
    data = training_data.dataset
    label_window = training_data.label_window_us
    test_border = settings.test_from
    time_split = (
        split_at(data.t, settings.validation_from or test_border, test_border, gap=label_window)
        if test_border
        else split_by_time(data.t, gap=label_window)
    )
    test_from = (
        int(data.t.max()) + label_window + 1 if include_test else time_split.validation_until
    )
    usable_requests = (
        np.arange(data.request_count)
        if include_test
        else np.sort(np.concatenate([time_split.train, time_split.validation]))
    )
    request_ts = data.t[usable_requests]
    cut_shares = np.linspace(FIRST_TRAIN_SHARE, 1, split_count + 2)[:-1]
    cut_times = [int(request_ts[int(share * len(request_ts))]) for share in cut_shares]
    borders = (*cut_times, test_from)
    segments = tuple(
        usable_requests[(request_ts >= start) & (request_ts + label_window <= end)]
        for start, end in zip((np.iinfo(np.int64).min, *cut_times), borders, strict=True)
    )
    _require_before_test(data, segments, test_from, label_window)
    for split_number, holdout_requests in enumerate(segments[2:], 1):
        relevant_count = len(_select_relevant_requests(data, holdout_requests, slot))
        if relevant_count < RELEVANT_REQUESTS_MIN:
            problem = (
                f"split {split_number} of {split_count} has {relevant_count} requests with "
                f"something to find to judge by; at least {RELEVANT_REQUESTS_MIN} are needed"
            )
            raise NotReadyError(
                problem,
                fix="tune on a longer --window, with fewer --splits, or when there is more traffic",
            )
    progress("read", 1, 1)
    index_times = _choose_index_times(segments[0], data, cut_times, settings)
    index_series = build_series(
        training_data.events,
        training_data.item_profiles,
        index_times,
        progress=partial(progress, "index"),
    )
    return SegmentedRequests(
        training_data,
        segments,
        borders,
        index_series,
        Replay(
            training_data.events_with_profiles,
            features,
            slot,
            training_data.item_vocabulary,
            select_live_columns(features, slot),
            baselines=default_baselines(slot.sources),
        ),
    )


def _require_before_test(
    data: Dataset, segments: Sequence[Ints], test_from: int, label_window: int
) -> None:
    """Raise LeakError if a request or a label reaches into the test part."""
    latest_ts = max(
        int(data.t[segment].max(initial=np.iinfo(np.int64).min)) for segment in segments
    )
    if latest_ts >= test_from or latest_ts + label_window > test_from:
        raise LeakError(
            f"a request of {to_iso(latest_ts)} reaches into the test part, which begins at "
            f"{to_iso(test_from)}"
        )


def _select_relevant_requests(data: Dataset, requests: Ints, slot: Slot) -> Ints:
    """Return the requests with at least one relevant item."""
    is_positive = data.gain(slot.objective) > 0
    return requests[np.isin(requests, np.unique(data.request_index[is_positive]))]


def _choose_index_times(
    first_segment: Ints, data: Dataset, cut_times: Sequence[int], settings: TrainSettings
) -> list[int]:
    sampled_indexes = np.linspace(0, len(first_segment), settings.index_parts + 1).astype(int)[:-1]
    return [*(int(data.t[first_segment[index]]) for index in sampled_indexes), *cut_times]


@dataclass(frozen=True)
class _SegmentFeatures:
    """A segment with its features, as used for training and as used for evaluation."""

    training_rows: Dataset
    training_chunks: list[FeatureChunk]
    evaluation_rows: "EvaluationRows | None"
    evaluation_chunks: list[FeatureChunk]


def encode_splits(
    segmented_requests: SegmentedRequests,
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
    training_data = segmented_requests.training_data
    segments = segmented_requests.segments
    index_series = segmented_requests.index_series
    data = training_data.dataset
    segment_sizes = [len(requests) for requests in segments]
    segment_features: list[_SegmentFeatures] = []
    for index, requests in enumerate(segments):
        progress("features", index, len(segments))
        requests_max = round(settings.requests * segment_sizes[index] / sum(segment_sizes))
        indexed_requests = requests[index_series.index_numbers_at(data.t[requests]) >= 0]
        training_requests = thin_evenly(indexed_requests, requests_max, settings.seed)
        holdout_requests = None
        if index >= 2:
            eligible_requests = (
                requests if uniform_holdout else _select_relevant_requests(data, requests, slot)
            )
            holdout_requests = thin_evenly(eligible_requests, judged_max, settings.seed)
        segment_features.append(
            _compute_segment_features(
                segmented_requests, features, training_requests, holdout_requests
            )
        )
    progress("features", len(segments), len(segments))

    splits = []
    for index in range(2, len(segments)):
        progress("encode", index - 2, len(segments) - 2)
        holdout = segment_features[index].evaluation_rows
        assert holdout is not None
        border = segmented_requests.borders[index - 1]
        item_shares = interaction_shares(training_data.history, border)
        split = _encode_split(
            segment_features[: index + 1],
            long_tail_mask(item_shares)[holdout.rows.item_codes],
            segmented_requests,
            features,
            slot,
            settings,
            for_nets=for_nets,
        )
        splits.append((split, holdout))
    progress("encode", len(segments) - 2, len(segments) - 2)
    return splits


def _compute_segment_features(
    segmented_requests: SegmentedRequests,
    features: FeatureSet,
    training_requests: Ints,
    holdout_requests: Ints | None,
) -> _SegmentFeatures:
    training_data = segmented_requests.training_data
    data = training_data.dataset
    events = training_data.events
    training_part = build_training_rows(
        training_data, data.take(training_requests), segmented_requests.replay
    )
    training_chunks = list(iterate_features(training_part, features, events))
    if holdout_requests is None:
        return _SegmentFeatures(training_part, training_chunks, None, [])
    evaluation_part = build_evaluation_rows(
        training_data, data.take(holdout_requests), segmented_requests.replay
    )
    evaluation_chunks = list(iterate_features(evaluation_part.rows, features, events))
    return _SegmentFeatures(training_part, training_chunks, evaluation_part, evaluation_chunks)


def _encode_split(
    segments: Sequence[_SegmentFeatures],
    is_long_tail: Bools,
    segmented_requests: SegmentedRequests,
    features: FeatureSet,
    slot: Slot,
    settings: TrainSettings,
    *,
    for_nets: bool,
) -> Split:
    """Encode a split: train on all segments but the last two, which are validation and holdout."""
    *train_segments, validation, holdout = segments
    training_data = segmented_requests.training_data
    index_series = segmented_requests.index_series
    live_columns = segmented_requests.replay.live_columns
    uses_position = training_data.is_logged and slot.denominator == "answer"
    chunks = [chunk for segment in train_segments for chunk in segment.training_chunks]
    train_sets = [segment.training_rows for segment in train_segments]
    labels = {
        head: np.concatenate([data.labels[head] for data in train_sets])
        for head in train_sets[0].labels
    }
    weights = np.concatenate([data.weight for data in train_sets])
    objective, evaluation_weights = _select_heads(slot, labels)
    row_ts = np.concatenate([data.t[data.request_index] for data in train_sets])
    encoder, encodings = learn_encoder(
        FeatureChunks.of(chunks),
        features,
        index_series,
        settings,
        LabelledRows(row_ts, labels, weights, training_data.label_window_us),
        with_positions=uses_position,
        live_columns=live_columns,
    )
    if for_nets:
        items = np.concatenate([data.item_codes for data in train_sets])
        encoder = add_net_columns(encoder, replace(train_sets[0], item_codes=items), index_series)

    encode_chunks = partial(
        stack_matrices, encoder=encoder, index_series=index_series, live_columns=live_columns
    )
    train_matrix = encode_chunks(chunks, with_positions=uses_position, target_encodings=encodings)
    validation_matrix = encode_chunks(validation.training_chunks, with_positions=uses_position)
    served_matrix = validation_matrix
    if uses_position:
        served_matrix = encode_chunks(validation.training_chunks, with_positions=False)
    assert holdout.evaluation_rows is not None
    holdout_matrix = encode_chunks(holdout.evaluation_chunks, with_positions=False)
    request_lengths = np.concatenate([np.diff(data.offsets) for data in train_sets])
    train_part = SplitPart(
        train_matrix,
        {head: labels[head] for head in objective},
        weights,
        np.concatenate([[0], np.cumsum(request_lengths)]).astype(np.int64),
        np.concatenate([data.t for data in train_sets]),
        np.concatenate([data.person_codes for data in train_sets]),
    )
    return Split(
        encoder.names,
        encoder.categorical_names,
        objective,
        evaluation_weights,
        train_part,
        _build_part(validation.training_rows, validation_matrix, objective),
        _build_part(holdout.evaluation_rows.rows, holdout_matrix, evaluation_weights),
        served_matrix,
        is_long_tail,
        build_layout(encoder) if for_nets else None,
    )


def _select_heads(
    slot: Slot, labels: Mapping[str, Bools]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the weights of the heads with enough positives, and of all heads that order items.

    Splits are evaluated by the order of items, so return heads are left out. Expected amounts are
    not tuned.

    Raises:
        NotReadyError: no head has enough positives.
    """
    ordering_weights = {
        head: slot.objective[head] for head in item_probability_heads(slot.objective)
    }
    learnable_weights = {
        head: weight
        for head, weight in ordering_weights.items()
        if int(labels[head].sum()) >= POSITIVES_MIN
    }
    if not learnable_weights:
        raise NotReadyError(
            f"no target of slot {slot.name} has enough positives in the first split: at least "
            f"{POSITIVES_MIN} are needed",
            fix="tune on a longer --window",
        )
    return learnable_weights, ordering_weights


def _build_part(data: Dataset, matrix: Matrix, objective: Mapping[str, float]) -> SplitPart:
    return SplitPart(
        matrix,
        {head: data.labels[head] for head in objective},
        data.weight,
        data.offsets,
        data.t,
        data.person_codes,
    )


def describe_splits(
    segmented_requests: SegmentedRequests, splits: Sequence[Split]
) -> dict[str, Any]:
    """Return sizes and times of the splits, as JSON."""
    split_summaries = [
        {
            "learned_until": to_iso(segmented_requests.borders[split_index]),
            "judged_from": to_iso(int(split.holdout.t[0])),
            "judged_to": to_iso(int(split.holdout.t[-1])),
            "requests_learned": len(split.train.t),
            "requests_judged": len(split.holdout.t),
            "positives": {head: int(label.sum()) for head, label in split.train.labels.items()},
            "rows_learned": len(split.train.matrix),
            "rows_judged": len(split.holdout.matrix),
        }
        for split_index, split in enumerate(splits)
    ]
    return {
        "source": segmented_requests.training_data.source_note,
        "test_from": to_iso(segmented_requests.borders[-1]),
        "test_from_us": segmented_requests.borders[-1],
        "splits": split_summaries,
    }
