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
from functools import cached_property, partial
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from tailorbird.errors import LeakError, NotReadyError
from tailorbird.events import to_iso
from tailorbird.features import FeatureSet
from tailorbird.lake import Lake
from tailorbird.models.deep.layout import Layout
from tailorbird.ranking.baseline import default_baselines
from tailorbird.ranking.policy.targets import item_probability_heads
from tailorbird.ranking.slot import Slot
from tailorbird.training.dataset.chunks import Pieces
from tailorbird.training.dataset.completion import EvaluationRows, training_rows
from tailorbird.training.dataset.completion import evaluation_rows as judged_rows
from tailorbird.training.dataset.dataset import Dataset
from tailorbird.training.dataset.indexes import IndexSeries, build_series
from tailorbird.training.dataset.matrix import FeatureChunk, iterate_features
from tailorbird.training.dataset.replay import Replay, select_live_columns
from tailorbird.training.dataset.rows import Material, load_material
from tailorbird.training.dataset.sampling import thin
from tailorbird.training.dataset.split import split_at, split_by_time
from tailorbird.training.evaluation import metrics
from tailorbird.training.evaluation.figures import K
from tailorbird.training.evaluation.judge import interaction_shares, long_tail_mask
from tailorbird.training.fit.fit import POSITIVES_MIN
from tailorbird.training.fit.net_columns import add_net_columns, build_layout
from tailorbird.training.fit.preparation import learn_encoder, stack_matrices
from tailorbird.training.fit.target_encoding import LabelledRows
from tailorbird.training.settings import Progress, TrainSettings

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

FIRST_TRAIN_SHARE = 0.4  # share of the requests in the first split's training part
ANSWERABLE_MIN = 30  # requests with a relevant item that each holdout part needs


@dataclass(frozen=True)
class Part:
    """Requests in order of time and their rows, as a model sees them.

    Attributes:
        matrix: shape (rows, columns).
        labels: head → shape (rows,).
        weight: shape (rows,), number of rows of the full set that a row represents.
        offsets: shape (requests + 1,).
        t, person: shape (requests,); −1 for an unknown person.
    """

    matrix: Matrix
    labels: Mapping[str, Bools]
    weight: Floats
    offsets: Ints
    t: Ints
    person: Ints

    def take(self, requests: Bools) -> "Part":
        """Return the part with some requests."""
        rows = requests[self.request]
        offsets = np.concatenate(([0], np.cumsum(np.diff(self.offsets)[requests]))).astype(np.int64)
        labels = {head: label[rows] for head, label in self.labels.items()}
        return Part(
            self.matrix[rows],
            labels,
            self.weight[rows],
            offsets,
            self.t[requests],
            self.person[requests],
        )

    @cached_property
    def request(self) -> Ints:
        """Index of each row's request."""
        return np.repeat(np.arange(len(self.t)), np.diff(self.offsets))

    def gain(self, objective: Mapping[str, float]) -> Floats:
        """Return the gain of each row under the slot's formula."""
        gain = np.zeros(len(self.matrix))
        for head, weight in objective.items():
            gain += weight * self.labels[head]
        return gain


@dataclass(frozen=True)
class Split:
    """One split: training, validation and holdout parts.

    Attributes:
        names, categorical: names of the matrix's columns.
        objective: head → weight, of the slot's heads with enough data here.
        worth: head → weight, of all heads; lists are evaluated by it.
        served: rows of `validation` as serving would see them, with all items at the first
            position.
        tail: mask of the holdout rows with long-tail items, as of the split's time.
        layout: column layout of a net, if there are columns for nets.
    """

    names: tuple[str, ...]
    categorical: tuple[str, ...]
    objective: Mapping[str, float]
    worth: Mapping[str, float]
    train: Part
    validation: Part
    holdout: Part
    served: Matrix
    tail: Bools
    layout: Layout | None = None

    def select_columns(self, names: Sequence[str]) -> "Split":
        """Return the split with some of the columns."""
        indices = [self.names.index(name) for name in names]

        def select(matrix: Matrix) -> Matrix:
            return np.ascontiguousarray(matrix[:, indices])

        train, watch, judge = (
            replace(part, matrix=select(part.matrix))
            for part in (self.train, self.validation, self.holdout)
        )
        categorical = tuple(name for name in self.categorical if name in names)
        layout = self.layout.select_columns(names) if self.layout else None
        return Split(
            tuple(names),
            categorical,
            self.objective,
            self.worth,
            train,
            watch,
            judge,
            select(self.served),
            self.tail,
            layout,
        )

    @property
    def tree_columns(self) -> tuple[str, ...]:
        """Names of the columns that trees use: all but those that only a net can use."""
        return (
            tuple(name for name in self.names if name not in self.layout.net_only_columns)
            if self.layout
            else self.names
        )

    def restrict_training(self, train: Bools, watch: Bools) -> "Split":
        """Return the split with some requests of the training and validation parts."""
        served = self.served[watch[self.validation.request]]
        return replace(
            self,
            train=self.train.take(train),
            validation=self.validation.take(watch),
            served=served,
        )

    def quality(self, value: Floats) -> Floats:
        """Return NDCG@10 of each holdout request for rows ordered by a value, shape (requests,)."""
        return metrics.ndcg(self._ranked(value), K)

    def tail_quality(self, value: Floats) -> Floats:
        """Return NDCG@10 with long-tail items alone as relevant."""
        ranked = self._ranked(value)
        return metrics.ndcg(ranked.restrict(self.tail[ranked.row], np.zeros_like(ranked.missed)), K)

    def _ranked(self, value: Floats) -> metrics.RankedLists:
        return metrics.rank_lists(value, self.holdout.gain(self.worth), self.holdout.offsets, k=K)

    def to_arrays(self) -> dict[str, npt.NDArray]:
        """Return the split as named arrays, for a file."""
        arrays: dict[str, npt.NDArray] = {"served": self.served, "tail": self.tail}
        for part, rows in (
            ("train", self.train),
            ("watch", self.validation),
            ("judge", self.holdout),
        ):
            arrays |= {f"{part}.{name}": getattr(rows, name) for name in _PART_FIELDS}
            arrays |= {f"{part}.label.{head}": label for head, label in rows.labels.items()}
        head = msgspec.json.encode(
            [
                self.names,
                self.categorical,
                list(self.objective.items()),
                list(self.worth.items()),
                self.layout,
            ]
        )
        return {**arrays, "head": np.frombuffer(head, np.uint8)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray]) -> "Split":
        """Restore a split from named arrays."""
        names, categorical, objective, worth, layout = msgspec.json.decode(arrays["head"].tobytes())

        def part(name: str) -> Part:
            start = f"{name}.label."
            labels = {
                key.removeprefix(start): value
                for key, value in arrays.items()
                if key.startswith(start)
            }
            return Part(
                labels=labels, **{field: arrays[f"{name}.{field}"] for field in _PART_FIELDS}
            )

        columns, formula = (tuple(names), tuple(categorical)), (dict(objective), dict(worth))
        return cls(
            *columns,
            *formula,
            part("train"),
            part("watch"),
            part("judge"),
            arrays["served"],
            arrays["tail"],
            _decode_layout(layout),
        )


def _decode_layout(encoded: Any) -> Layout | None:
    return None if encoded is None else msgspec.convert(encoded, Layout, strict=False)


_PART_FIELDS = ("matrix", "weight", "offsets", "t", "person")


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
    before = (
        np.arange(data.requests)
        if include_test
        else np.sort(np.concatenate([time_split.train, time_split.validation]))
    )
    t = data.t[before]
    cut_shares = np.linspace(FIRST_TRAIN_SHARE, 1, splits + 2)[:-1]
    cuts = [int(t[int(place * len(t))]) for place in cut_shares]
    borders = (*cuts, until)
    segments = tuple(
        before[(t >= low) & (t + gap <= high)]
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
    live, baselines = select_live_columns(features, slot), default_baselines(slot.sources)
    return SegmentedRequests(
        material,
        segments,
        borders,
        series,
        Replay(material.log, features, slot, material.codes, live, baselines=baselines),
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
    first: Ints, data: Dataset, cuts: Sequence[int], settings: TrainSettings
) -> list[int]:
    sampled_positions = np.linspace(0, len(first), settings.index_parts + 1).astype(int)[:-1]
    return [*(int(data.t[first[place]]) for place in sampled_positions), *cuts]


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
            material, data.take(thin(usable, limit, settings.seed)), segmented.replay
        )
        judged = None
        if number >= 2:
            chosen = thin(
                requests if evenly else _answerable_requests(data, requests, slot),
                judged_max,
                settings.seed,
            )
            judged = judged_rows(material, data.take(chosen), segmented.replay)
        pieces = list(iterate_features(learned, features, material.events))
        segment_features.append(
            _SegmentFeatures(
                learned,
                pieces,
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
    series, live = segmented.series, segmented.replay.live
    pieces = [piece for part in past for piece in part.learned_pieces]
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
        Pieces.of(pieces), features, series, settings, labelled, position=position, live=live
    )
    if nets:
        all_items = replace(
            learned[0], item=np.concatenate([part.item for part in learned])
        )  # only its items are read
        encoder = add_net_columns(encoder, all_items, series)
    train = stack_matrices(pieces, encoder, series, position=position, learned=in_time, live=live)
    shown = stack_matrices(validation.learned_pieces, encoder, series, position=position, live=live)
    served = (
        stack_matrices(validation.learned_pieces, encoder, series, position=False, live=live)
        if position
        else shown
    )
    assert holdout.judged is not None
    judged = stack_matrices(holdout.judged_pieces, encoder, series, position=False, live=live)
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
