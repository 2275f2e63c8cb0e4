"""The rows of several splits in time, encoded: what every fit of a tuning sees. No row of the test
part is among them.

    ├──── S0 ────┤─ S1 ─┤─ S2 ─┤─ S3 ─┤─ S4 ─┤══ test ══►  t        three splits, whose origin rolls on
       train        watch  judge
       train ─────────┘    watch  judge
       train ────────────────┘    watch  judge

Each split learns from the past alone: its encoder and its target encodings are those of its own
training rows, and a row sees the newest index that is not after it. The test part is cut off
exactly as `tailorbird train` cuts it, so that what training judges by had no say in what was
chosen. Requests whose label window reaches over a border are left out.
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
from tailorbird.ranking.slot import Slot
from tailorbird.ranking.targets import chances_of_items
from tailorbird.training import metrics
from tailorbird.training.architecture import layout_of, with_columns_for_nets
from tailorbird.training.completing import Judged, completed
from tailorbird.training.completing import judged as judged_rows
from tailorbird.training.dataset import Dataset
from tailorbird.training.fit import POSITIVES_MIN
from tailorbird.training.indexes import IndexSeries, build_series
from tailorbird.training.judge import K, long_tail, shares
from tailorbird.training.matrix import Featured, featured
from tailorbird.training.pieces import Pieces
from tailorbird.training.prepared import learn_encoder, stack
from tailorbird.training.replaying import Replay, live_columns
from tailorbird.training.rows import Material, load_material
from tailorbird.training.settings import Progress, TrainSettings
from tailorbird.training.split import split_at, split_by_time
from tailorbird.training.target import Labelled
from tailorbird.training.thinned import thinned

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

EARLIEST = 0.4  # share of the requests that the first split learns from
FOUND_MIN = 30  # requests with something to find, in each part that is judged


@dataclass(frozen=True)
class Part:
    """Requests in order of time and their rows, as a model sees them.

    Attributes:
        matrix: shape (rows, columns).
        labels: head → shape (rows,).
        weight: shape (rows,), how many rows of the full set a row stands for.
        offsets: shape (requests + 1,).
        t, person: shape (requests,); −1 for nobody.
    """

    matrix: Matrix
    labels: Mapping[str, Bools]
    weight: Floats
    offsets: Ints
    t: Ints
    person: Ints

    def take(self, requests: Bools) -> "Part":
        """Some requests."""
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
        """The request of each row."""
        return np.repeat(np.arange(len(self.t)), np.diff(self.offsets))

    def gain(self, objective: Mapping[str, float]) -> Floats:
        """What each row was worth by the slot's formula."""
        gain = np.zeros(len(self.matrix))
        for head, weight in objective.items():
            gain += weight * self.labels[head]
        return gain


@dataclass(frozen=True)
class Split:
    """One split: what is learned from, what stops and calibrates, what is judged.

    Attributes:
        names, categorical: of the matrix's columns.
        objective: head → weight; those heads of the slot's that can be learned here. worth: all of
            them, which lists are judged by.
        served: rows of `watch` as serving would see them, with all items at the first position.
        tail: which judged rows are of items of the long tail, as of the split's time.
        layout: what a net takes the columns for, where there are columns for nets.
    """

    names: tuple[str, ...]
    categorical: tuple[str, ...]
    objective: Mapping[str, float]
    worth: Mapping[str, float]
    train: Part
    watch: Part
    judge: Part
    served: Matrix
    tail: Bools
    layout: Layout | None = None

    def only(self, names: Sequence[str]) -> "Split":
        """The same with some of the columns."""
        places = [self.names.index(name) for name in names]

        def some(matrix: Matrix) -> Matrix:
            return np.ascontiguousarray(matrix[:, places])

        train, watch, judge = (
            replace(part, matrix=some(part.matrix)) for part in (self.train, self.watch, self.judge)
        )
        categorical = tuple(name for name in self.categorical if name in names)
        layout = self.layout.only(names) if self.layout else None
        return Split(
            tuple(names),
            categorical,
            self.objective,
            self.worth,
            train,
            watch,
            judge,
            some(self.served),
            self.tail,
            layout,
        )

    @property
    def for_trees(self) -> tuple[str, ...]:
        """Names of the columns that trees see: all but those that only a net can use."""
        return (
            tuple(name for name in self.names if name not in self.layout.for_nets)
            if self.layout
            else self.names
        )

    def learned_from(self, train: Bools, watch: Bools) -> "Split":
        """The same with some requests of what is learned from and watched."""
        served = self.served[watch[self.watch.request]]
        return replace(
            self, train=self.train.take(train), watch=self.watch.take(watch), served=served
        )

    def quality(self, value: Floats) -> Floats:
        """NDCG@10 of each judged request when rows are ordered by a value, shape (requests,)."""
        return metrics.ndcg(self._ranked(value), K)

    def quality_of_tail(self, value: Floats) -> Floats:
        """The same where only items of the long tail are worth finding."""
        ranked = self._ranked(value)
        return metrics.ndcg(ranked.only(self.tail[ranked.row], np.zeros_like(ranked.missed)), K)

    def _ranked(self, value: Floats) -> metrics.Ranked:
        return metrics.rank_lists(value, self.judge.gain(self.worth), self.judge.offsets, k=K)

    def arrays(self) -> dict[str, npt.NDArray]:
        """All of it as arrays with names, for a file."""
        found: dict[str, npt.NDArray] = {"served": self.served, "tail": self.tail}
        for part, rows in (("train", self.train), ("watch", self.watch), ("judge", self.judge)):
            found |= {f"{part}.{name}": getattr(rows, name) for name in _OF_PART}
            found |= {f"{part}.label.{head}": label for head, label in rows.labels.items()}
        head = msgspec.json.encode(
            [
                self.names,
                self.categorical,
                list(self.objective.items()),
                list(self.worth.items()),
                self.layout,
            ]
        )
        return {**found, "head": np.frombuffer(head, np.uint8)}

    @classmethod
    def of(cls, arrays: Mapping[str, npt.NDArray]) -> "Split":
        """The split out of `arrays`."""
        names, categorical, objective, worth, layout = msgspec.json.decode(arrays["head"].tobytes())

        def part(name: str) -> Part:
            start = f"{name}.label."
            labels = {
                key.removeprefix(start): value
                for key, value in arrays.items()
                if key.startswith(start)
            }
            return Part(labels=labels, **{field: arrays[f"{name}.{field}"] for field in _OF_PART})

        columns, formula = (tuple(names), tuple(categorical)), (dict(objective), dict(worth))
        return cls(
            *columns,
            *formula,
            part("train"),
            part("watch"),
            part("judge"),
            arrays["served"],
            arrays["tail"],
            _layout(layout),
        )


def _layout(told: Any) -> Layout | None:
    return None if told is None else msgspec.convert(told, Layout, strict=False)


_OF_PART = ("matrix", "weight", "offsets", "t", "person")


@dataclass(frozen=True)
class Ground:
    """The requests before the test part, cut in segments.

    Attributes:
        segments: indices of requests of each, in order of time; the first one is only ever learned
            from.
        replay: gives requests their candidates.
        borders: where each segment but the first begins, then where the test part begins.
    """

    material: Material
    segments: tuple[Ints, ...]
    borders: tuple[int, ...]
    series: IndexSeries
    replay: Replay


def lay_out(
    features: FeatureSet,
    slot: Slot,
    lake: Lake,
    now: int,
    splits: int,
    settings: TrainSettings,
    progress: Progress,
    *,
    whole: bool = False,
) -> Ground:
    """Read the lake and cut off the test part as training would; cut what is left in segments.

    Args:
        whole: cut nothing off: for figures that nothing is chosen by.

    Raises:
        NotReadyError: there is too little to judge each split by.
    """
    progress("read", 0, 1)
    material = load_material(lake, features, slot, settings.wanted(now))
    data, gap = material.data, material.label_window
    border = settings.test_from
    cut = (
        split_at(data.t, settings.validation_from or border, border, gap=gap)
        if border
        else split_by_time(data.t, gap=gap)
    )
    until = int(data.t.max()) + gap + 1 if whole else cut.validation_until
    before = (
        np.arange(data.requests) if whole else np.sort(np.concatenate([cut.train, cut.validation]))
    )
    t = data.t[before]
    places = np.linspace(EARLIEST, 1, splits + 2)[:-1]
    cuts = [int(t[int(place * len(t))]) for place in places]
    borders = (*cuts, until)
    segments = tuple(
        before[(t >= low) & (t + gap <= high)]
        for low, high in zip((np.iinfo(np.int64).min, *cuts), borders, strict=True)
    )
    _untouched(data, segments, until, gap)
    for number, judged in enumerate(segments[2:], 1):
        found = len(_found(data, judged, slot))
        if found < FOUND_MIN:
            why = (
                f"split {number} of {splits} has {found} requests with something to find to "
                f"judge by; at least {FOUND_MIN} are needed"
            )
            raise NotReadyError(
                why,
                fix="tune on a longer --window, with fewer --splits, or when there is more traffic",
            )
    progress("read", 1, 1)
    moments = _moments(segments[0], data, cuts, settings)
    series = build_series(
        material.events, material.items, moments, progress=partial(progress, "index")
    )
    live, baselines = live_columns(features, slot), default_baselines(slot.sources)
    return Ground(
        material,
        segments,
        borders,
        series,
        Replay(material.log, features, slot, material.codes, live, baselines=baselines),
    )


def _untouched(data: Dataset, segments: Sequence[Ints], test_from: int, gap: int) -> None:
    """That no request, and no label, reaches into the test part."""
    latest = max(int(data.t[part].max(initial=np.iinfo(np.int64).min)) for part in segments)
    if latest >= test_from or latest + gap > test_from:
        raise LeakError(
            f"a request of {to_iso(latest)} reaches into the test part, which begins at "
            f"{to_iso(test_from)}"
        )


def _found(data: Dataset, requests: Ints, slot: Slot) -> Ints:
    """The requests in which there is something to find."""
    good = data.gain(slot.objective) > 0
    return requests[np.isin(requests, np.unique(data.request[good]))]


def _moments(first: Ints, data: Dataset, cuts: Sequence[int], settings: TrainSettings) -> list[int]:
    places = np.linspace(0, len(first), settings.index_parts + 1).astype(int)[:-1]
    return [*(int(data.t[first[place]]) for place in places), *cuts]


@dataclass(frozen=True)
class _Pieces:
    """A segment with its features, once as training takes it and once as it is judged."""

    learned: Dataset
    learned_pieces: list[Featured]
    judged: "Judged | None"
    judged_pieces: list[Featured]


def encode_splits(
    ground: Ground,
    features: FeatureSet,
    slot: Slot,
    settings: TrainSettings,
    *,
    judged_max: int,
    progress: Progress,
    evenly: bool = False,
    nets: bool = False,
) -> list[tuple[Split, Judged]]:
    """Every split, encoded, and the requests that it is judged by.

    `settings.requests` bounds what is learned from, `judged_max` the requests each split is judged
    by: those in which there is something to find, since only they say anything of an order, or, for
    figures of probabilities, some drawn evenly.
    """
    material, segments = ground.material, ground.segments
    data, share = material.data, [len(part) for part in segments]
    made: list[_Pieces] = []
    for number, requests in enumerate(segments):
        progress("features", number, len(segments))
        usable = requests[ground.series.place_of(data.t[requests]) >= 0]
        limit = round(settings.requests * share[number] / sum(share)) if settings.requests else 0
        learned = completed(
            material, data.take(thinned(usable, limit, settings.seed)), ground.replay
        )
        judged = None
        if number >= 2:
            chosen = thinned(
                requests if evenly else _found(data, requests, slot), judged_max, settings.seed
            )
            judged = judged_rows(material, data.take(chosen), ground.replay)
        pieces = list(featured(learned, features, material.events))
        made.append(
            _Pieces(
                learned,
                pieces,
                judged,
                list(featured(judged.rows, features, material.events))
                if judged is not None
                else [],
            )
        )
    progress("features", len(segments), len(segments))
    position = material.logged and slot.denominator == "answer"
    found = []
    for number in range(2, len(segments)):
        progress("encode", number - 2, len(segments) - 2)
        judged = made[number].judged
        assert judged is not None
        tail = long_tail(shares(material.history, ground.borders[number - 1]))[judged.rows.item]
        past, watch = made[: number - 1], made[number - 1]
        split = _split(
            past,
            watch,
            made[number],
            tail,
            ground,
            features,
            slot,
            settings,
            position=position,
            nets=nets,
        )
        found.append((split, judged))
    progress("encode", len(segments) - 2, len(segments) - 2)
    return found


def _split(
    past: Sequence[_Pieces],
    watch: _Pieces,
    judge: _Pieces,
    tail: Bools,
    ground: Ground,
    features: FeatureSet,
    slot: Slot,
    settings: TrainSettings,
    *,
    position: bool,
    nets: bool,
) -> Split:
    series, live = ground.series, ground.replay.live
    pieces = [piece for part in past for piece in part.learned_pieces]
    learned, t = (
        [part.learned for part in past],
        [part.learned.t[part.learned.request] for part in past],
    )
    labels = {
        head: np.concatenate([part.labels[head] for part in learned]) for head in learned[0].labels
    }
    weight = np.concatenate([part.weight for part in learned])
    # Whether people return tells no order of items, by which splits are judged; of expected amounts
    # nothing is tuned.
    ordering = {head: slot.objective[head] for head in chances_of_items(slot.objective)}
    objective = {
        head: worth for head, worth in ordering.items() if int(labels[head].sum()) >= POSITIVES_MIN
    }
    if not objective:
        least = f"at least {POSITIVES_MIN} are needed"
        raise NotReadyError(
            f"no target of slot {slot.name} has enough positives in the first split: {least}",
            fix="tune on a longer --window",
        )
    labelled = Labelled(np.concatenate(t), labels, weight, ground.material.label_window)
    encoder, in_time = learn_encoder(
        Pieces.of(pieces), features, series, settings, labelled, position=position, live=live
    )
    if nets:
        everything = replace(
            learned[0], item=np.concatenate([part.item for part in learned])
        )  # of which only the items are looked at
        encoder = with_columns_for_nets(encoder, everything, series)
    train = stack(pieces, encoder, series, position=position, learned=in_time, live=live)
    shown = stack(watch.learned_pieces, encoder, series, position=position, live=live)
    served = (
        stack(watch.learned_pieces, encoder, series, position=False, live=live)
        if position
        else shown
    )
    assert judge.judged is not None
    judged = stack(judge.judged_pieces, encoder, series, position=False, live=live)
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
        _part(watch.learned, shown, objective),
        _part(judge.judged.rows, judged, ordering),
        served,
        tail,
        layout_of(encoder) if nets else None,
    )


def _part(data: Dataset, matrix: Matrix, objective: Mapping[str, float]) -> Part:
    return Part(
        matrix,
        {head: data.labels[head] for head in objective},
        data.weight,
        data.offsets,
        data.t,
        data.person,
    )


def told(ground: Ground, splits: Sequence[Split]) -> dict[str, Any]:
    """Sizes and times, as JSON."""
    rows = [
        {
            "learned_until": to_iso(ground.borders[number]),
            "judged_from": to_iso(int(split.judge.t[0])),
            "judged_to": to_iso(int(split.judge.t[-1])),
            "requests_learned": len(split.train.t),
            "requests_judged": len(split.judge.t),
            "positives": {head: int(label.sum()) for head, label in split.train.labels.items()},
            "rows_learned": len(split.train.matrix),
            "rows_judged": len(split.judge.matrix),
        }
        for number, split in enumerate(splits)
    ]
    return {
        "source": ground.material.why,
        "test_from": to_iso(ground.borders[-1]),
        "test_from_us": ground.borders[-1],
        "splits": rows,
    }
