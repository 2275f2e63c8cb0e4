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
from tailorbird.training.dataset.rows import Material, load_material
from tailorbird.training.dataset.sampling import thin_evenly
from tailorbird.training.dataset.split import split_at, split_by_time
from tailorbird.training.evaluation.judge import interaction_shares, long_tail_mask
from tailorbird.training.fit.inputs import POSITIVES_MIN
from tailorbird.training.fit.net_columns import add_net_columns, build_layout
from tailorbird.training.fit.preparation import learn_encoder, stack_matrices
from tailorbird.training.fit.target_encoding import LabelledRows
from tailorbird.training.settings import Progress, TrainSettings
from tailorbird.training.tuning.splits import Bools, Ints, Matrix, Part, Split

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

    material: Material
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
    material = load_material(lake, features, slot, settings.row_settings(now))
    data, gap = material.data, material.label_window
    border = settings.test_from
    time_split = (
        split_at(data.t, settings.validation_from or border, border, gap=gap)
        if border
        else split_by_time(data.t, gap=gap)
    )
    until = int(data.t.max()) + gap + 1 if include_test else time_split.validation_until
    usable_requests = (
        np.arange(data.requests)
        if include_test
        else np.sort(np.concatenate([time_split.train, time_split.validation]))
    )
    t = data.t[usable_requests]
    cut_shares = np.linspace(FIRST_TRAIN_SHARE, 1, splits + 2)[:-1]
    cuts = [int(t[int(share * len(t))]) for share in cut_shares]
    borders = (*cuts, until)
    segments = tuple(
        usable_requests[(t >= low) & (t + gap <= high)]
        for low, high in zip((np.iinfo(np.int64).min, *cuts), borders, strict=True)
    )
    _require_before_test(data, segments, until, gap)
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
    moments = _index_moments(segments[0], data, cuts, settings)
    series = build_series(
        material.events, material.items, moments, progress=partial(progress, "index")
    )
    live_columns, baselines = select_live_columns(features, slot), default_baselines(slot.sources)
    return SegmentedRequests(
        material,
        segments,
        borders,
        series,
        Replay(material.log, features, slot, material.codes, live_columns, baselines=baselines),
    )


def _require_before_test(data: Dataset, segments: Sequence[Ints], test_from: int, gap: int) -> None:
    """Raise LeakError if a request or a label reaches into the test part."""
    latest = max(int(data.t[part].max(initial=np.iinfo(np.int64).min)) for part in segments)
    if latest >= test_from or latest + gap > test_from:
        raise LeakError(
            f"a request of {to_iso(latest)} reaches into the test part, which begins at "
            f"{to_iso(test_from)}"
        )


def _answerable_requests(data: Dataset, requests: Ints, slot: Slot) -> Ints:
    """Return the requests with at least one relevant item."""
    is_positive = data.gain(slot.objective) > 0
    return requests[np.isin(requests, np.unique(data.request[is_positive]))]


def _index_moments(
    first_row: Ints, data: Dataset, cuts: Sequence[int], settings: TrainSettings
) -> list[int]:
    sampled_positions = np.linspace(0, len(first_row), settings.index_parts + 1).astype(int)[:-1]
    return [*(int(data.t[first_row[index]]) for index in sampled_positions), *cuts]


@dataclass(frozen=True)
class _SegmentFeatures:
    """A segment with its features, as used for training and as used for evaluation."""

    learned: Dataset
    learned_pieces: list[FeatureChunk]
    judged: "EvaluationRows | None"
    judged_pieces: list[FeatureChunk]


def encode_splits(
    segmented: SegmentedRequests,
    features: FeatureSet,
    slot: Slot,
    settings: TrainSettings,
    *,
    judged_max: int,
    progress: Progress,
    evenly: bool = False,
    nets: bool = False,
) -> list[tuple[Split, EvaluationRows]]:
    """Encode every split, and return it with its holdout requests.

    `settings.requests` bounds the training requests, `judged_max` the holdout requests of a split.
    These are requests with a relevant item, since only they say anything about an order, or a
    uniform sample for metrics of probabilities.
    """
    material, segments = segmented.material, segmented.segments
    data, share = material.data, [len(part) for part in segments]
    segment_features: list[_SegmentFeatures] = []
    for number, requests in enumerate(segments):
        progress("features", number, len(segments))
        usable = requests[segmented.series.positions_at(data.t[requests]) >= 0]
        limit = round(settings.requests * share[number] / sum(share)) if settings.requests else 0
        learned = training_rows(
            material, data.take(thin_evenly(usable, limit, settings.seed)), segmented.replay
        )
        judged = None
        if number >= 2:
            chosen = thin_evenly(
                requests if evenly else _answerable_requests(data, requests, slot),
                judged_max,
                settings.seed,
            )
            judged = judged_rows(material, data.take(chosen), segmented.replay)
        chunks = list(iterate_features(learned, features, material.events))
        segment_features.append(
            _SegmentFeatures(
                learned,
                chunks,
                judged,
                list(iterate_features(judged.rows, features, material.events))
                if judged is not None
                else [],
            )
        )
    progress("features", len(segments), len(segments))
    position = material.is_logged and slot.denominator == "answer"
    splits = []
    for number in range(2, len(segments)):
        progress("encode", number - 2, len(segments) - 2)
        judged = segment_features[number].judged
        assert judged is not None
        tail = long_tail_mask(interaction_shares(material.history, segmented.borders[number - 1]))[
            judged.rows.item
        ]
        past, watch = segment_features[: number - 1], segment_features[number - 1]
        split = _encode_split(
            past,
            watch,
            segment_features[number],
            tail,
            segmented,
            features,
            slot,
            settings,
            position=position,
            nets=nets,
        )
        splits.append((split, judged))
    progress("encode", len(segments) - 2, len(segments) - 2)
    return splits


def _encode_split(
    past: Sequence[_SegmentFeatures],
    validation: _SegmentFeatures,
    holdout: _SegmentFeatures,
    tail: Bools,
    segmented: SegmentedRequests,
    features: FeatureSet,
    slot: Slot,
    settings: TrainSettings,
    *,
    position: bool,
    nets: bool,
) -> Split:
    series, live_columns = segmented.series, segmented.replay.live_columns
    chunks = [chunk for part in past for chunk in part.learned_pieces]
    learned, t = (
        [part.learned for part in past],
        [part.learned.t[part.learned.request] for part in past],
    )
    labels = {
        head: np.concatenate([part.labels[head] for part in learned]) for head in learned[0].labels
    }
    weight = np.concatenate([part.weight for part in learned])
    # Splits are evaluated by the order of items, so return heads are left out. Expected amounts are
    # not tuned.
    ordering = {head: slot.objective[head] for head in item_probability_heads(slot.objective)}
    objective = {
        head: worth for head, worth in ordering.items() if int(labels[head].sum()) >= POSITIVES_MIN
    }
    if not objective:
        requirement = f"at least {POSITIVES_MIN} are needed"
        raise NotReadyError(
            f"no target of slot {slot.name} has enough positives in the first split: {requirement}",
            fix="tune on a longer --window",
        )
    labelled = LabelledRows(np.concatenate(t), labels, weight, segmented.material.label_window)
    encoder, in_time = learn_encoder(
        FeatureChunks.of(chunks),
        features,
        series,
        settings,
        labelled,
        position=position,
        live_columns=live_columns,
    )
    if nets:
        all_items = replace(
            learned[0], item=np.concatenate([part.item for part in learned])
        )  # only its items are read
        encoder = add_net_columns(encoder, all_items, series)
    train = stack_matrices(
        chunks,
        encoder,
        series,
        position=position,
        target_encodings=in_time,
        live_columns=live_columns,
    )
    shown = stack_matrices(
        validation.learned_pieces, encoder, series, position=position, live_columns=live_columns
    )
    served = (
        stack_matrices(
            validation.learned_pieces, encoder, series, position=False, live_columns=live_columns
        )
        if position
        else shown
    )
    assert holdout.judged is not None
    judged = stack_matrices(
        holdout.judged_pieces, encoder, series, position=False, live_columns=live_columns
    )
    offsets = np.concatenate(
        [[0], np.cumsum(np.concatenate([np.diff(part.offsets) for part in learned]))]
    ).astype(np.int64)
    of_requests = (
        np.concatenate([part.t for part in learned]),
        np.concatenate([part.person for part in learned]),
    )
    heads = {head: labels[head] for head in objective}
    return Split(
        encoder.names,
        encoder.categorical_names,
        objective,
        ordering,
        Part(train, heads, weight, offsets, *of_requests),
        _build_part(validation.learned, shown, objective),
        _build_part(holdout.judged.rows, judged, ordering),
        served,
        tail,
        build_layout(encoder) if nets else None,
    )


def _build_part(data: Dataset, matrix: Matrix, objective: Mapping[str, float]) -> Part:
    return Part(
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
        "source": segmented.material.source_note,
        "test_from": to_iso(segmented.borders[-1]),
        "test_from_us": segmented.borders[-1],
        "splits": rows,
    }
