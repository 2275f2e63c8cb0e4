"""Candidates of past requests: what the slot's own sources gave at each request's moment, by the
code that serving runs.

    replay = Replay(events, features, slot, people, items, live)
    for part in replay.drawn(requests): ...       candidates, labels and live columns, one chunk of requests at a time
    replay.columns(rows)                          live columns of rows that are there already, such as logged answers

A replay takes in the log once (`candidates.replay`); each request sees the tables of its moment,
and the person's sequences as the features had them at its (t, p). Nothing is drawn from pools, and
what a person chose is no candidate unless a source gave it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.candidates.batch import CONTEXT, segment_keys
from tailorbird.candidates.contract import Contract, contract_of
from tailorbird.candidates.merge import Merge, Merged, bounded
from tailorbird.candidates.protocol import CandidateRequest, RankedList
from tailorbird.candidates.query import (
    LIVE,
    CandidateColumns,
    RequestLists,
    live_sources,
    source_of,
)
from tailorbird.candidates.replay import Questions, epochs_by_group, replayed
from tailorbird.events import hash64s
from tailorbird.features import FeatureSet
from tailorbird.features.backfill import History
from tailorbird.features.bulk import RaggedSequence, Requests
from tailorbird.ranking.baseline import Baseline
from tailorbird.ranking.live import LiveColumns
from tailorbird.ranking.similarities import kept
from tailorbird.ranking.slot import Slot
from tailorbird.training.coding import Codes
from tailorbird.training.dataset import Dataset

Ints = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Near = Callable[
    [int, CandidateRequest, int], RankedList
]  # time, who asks, how many: what is nearest to the person's vector
Progress = Callable[[int, int], None]

CHUNK = 500  # requests
SLATE = 20  # items of a baseline's list


@dataclass(frozen=True)
class Slates:
    """What a baseline would show to some requests: request r has the item codes
    item[offsets[r]:offsets[r + 1]], best first.
    """

    offsets: Ints
    item: Ints

    def take(self, requests: Ints) -> "Slates":
        """Those of some requests, in the given order."""
        size = np.diff(self.offsets)[requests]
        offsets = np.concatenate(([0], np.cumsum(size))).astype(np.int64)
        return Slates(
            offsets,
            self.item[
                np.arange(offsets[-1]) + np.repeat(self.offsets[requests] - offsets[:-1], size)
            ],
        )


def joined_slates(each: Sequence[Mapping[str, Slates]]) -> dict[str, Slates]:
    """Put the slates of different requests together, in the given order."""
    return (
        {
            name: _slates([lists for part in each for lists in _lists(part[name])])
            for name in each[0]
        }
        if each
        else {}
    )


@dataclass(frozen=True)
class Part:
    """Candidates of some requests, in order of the requests.

    Attributes:
        request: (m,): which requests of those that were asked for.
        size: (m,): how many candidates each has.
        item: (n,): codes; `rank`: the best rank in any source; `live`: (n, columns).
        slates: by baseline.
    """

    request: Ints
    size: Ints
    item: Ints
    rank: Ints
    live: Matrix
    slates: Mapping[str, Slates]


class Replay:
    """Asks the sources of a slot about past requests.

    Args:
        events: of the lake, in order of p, with the columns of `candidates.batch.COLUMNS` and those
            that sequences need.
        hide: event types whose items are not shown again.
        live: columns to read; more than one model may want them.
        baselines: whose lists are wanted as well.
        near: gives candidates by vectors, for the source `sequence`; None without them.
    """

    def __init__(
        self,
        events: pa.Table,
        features: FeatureSet,
        slot: Slot,
        items: Codes,
        live: LiveColumns,
        *,
        baselines: Sequence[str] = (),
        sources: Mapping[str, int] | None = None,
        near: Near | None = None,
    ) -> None:
        self._events, self._features, self._slot, self._items = events, features, slot, items
        self.live = live
        self.baselines = {name: Baseline.parse(name) for name in baselines}
        self._sources = dict(sources if sources is not None else bounded(slot.sources))
        self._near = near
        further = (name for baseline in self.baselines.values() for name in baseline.sources)
        self._names = live_sources(dict.fromkeys([*self._sources, *live.sources, *further]))
        self._contract: Contract = contract_of(self._names, shown=slot.denominator)
        order = np.argsort(items.keys)
        self._keys, self._code = items.keys[order], order
        self._of_lists: dict[int, tuple[RankedList, Ints]] = {}
        self._hide = hash64s(list(slot.hide_seen)) if slot.hide_seen else np.zeros(0, np.uint64)
        self._main = features.sequences[0] if features.sequences else ""
        self._past: History | None = None

    def drawn(
        self, data: Dataset, *, progress: Progress = lambda done, total: None
    ) -> Iterator[Part]:
        """Yield the candidates of requests, a chunk at a time; the requests of a chunk ascend,
        those of chunks need not.
        """
        sequences = self.sequences(data)
        taken: list[_Taken] = []
        for question, lists in self.asked(data, sequences, progress=progress):
            taken.append(
                self._take(question, int(data.t[question]), lists, _of(sequences, question))
            )
            if len(taken) >= CHUNK:
                yield _part(taken, tuple(self.baselines))
                taken = []
        if taken:
            yield _part(taken, tuple(self.baselines))

    def of_rows(
        self, data: Dataset, *, progress: Progress = lambda done, total: None
    ) -> tuple[Matrix, dict[str, Floats]]:
        """Return the live columns of rows that are there already, (rows, columns), and by baseline
        their values, (rows,).
        """
        sequences = self.sequences(data)
        keys, found = (
            self._items.keys[data.item],
            np.empty((data.rows, len(self.live.names)), np.float32),
        )
        values = {name: np.zeros(data.rows) for name in self.baselines}
        for question, lists in self.asked(data, sequences, progress=progress):
            here = slice(data.offsets[question], data.offsets[question + 1])
            found[here] = self.live.matrix(lists, _of(sequences, question), keys[here])
            for name, each in self.baselines.items():
                values[name][here] = each.values(lists, keys[here])
        return found, values

    def sequences(self, data: Dataset) -> Mapping[str, RaggedSequence]:
        """Return the persons' sequences at the (t, p) of each request, as the features have them."""
        if not self._features.sequences:
            return {}
        if self._past is None:
            self._past = History(self._features, self._events, only=list(self._features.sequences))
        context = data.context
        nothing = pa.nulls(data.requests, pa.string())
        asked = Requests(
            data.t,
            data.p,
            context["person"],
            np.arange(data.requests),
            nothing,
            context["session_id"],
            context["device"],
            context["country"],
            context["local_hour"],
        )
        return self._past.rows(asked).sequences

    def asked(
        self,
        data: Dataset,
        sequences: Mapping[str, RaggedSequence],
        *,
        progress: Progress = lambda done, total: None,
    ) -> Iterator[tuple[int, RequestLists]]:
        """Yield each request with its lists, in log order; they hold until the next."""
        texts = {name: data.context[name].to_pylist() for name in CONTEXT}
        requests = []
        for question in range(data.requests):
            mine = _of(sequences, question).get(self._main)
            segments = segment_keys({name: values[question] for name, values in texts.items()})
            asked = (
                CandidateRequest(segments=segments)
                if mine is None
                else CandidateRequest(mine.item, mine.ts, segments)
            )
            requests.append(asked)
        p = data.p if data.p.ndim == 1 else data.p.max(axis=1)
        questions = Questions(requests, epochs_by_group(self._events, p))
        for chosen, lists in replayed(
            self._contract, self._events, questions, self._names, progress=progress
        ):
            yield from zip(chosen.tolist(), lists, strict=True)

    def merged(self, t: int, lists: RequestLists, sources: Mapping[str, int]) -> Merged:
        """Return what some sources give one request at t, rows being codes of items."""
        merge = Merge(len(self._items))
        for name, limit in sources.items():
            source = source_of(name)
            if source.kind in LIVE:
                merge.add(name, limit, *self._codes(lists.of(name)))
            elif source.kind == "sequence" and self._near is not None:
                merge.add(
                    name, limit, *self._codes(self._near(t, lists.request, limit + merge.size))
                )
        return merge.all()

    def _take(
        self, question: int, t: int, lists: RequestLists, sequences: Mapping[str, Any]
    ) -> "_Taken":
        """One request's candidates, as a server would find them."""
        merged = self.merged(t, lists, self._sources)
        hidden = (
            [one.item[np.isin(one.type, self._hide)] for one in sequences.values()]
            if len(self._hide)
            else []
        )
        seen = np.concatenate([np.zeros(0, np.uint64), *hidden])
        keys = self._items.keys[merged.rows]
        kept = ~np.isin(keys, seen)
        codes, keys = merged.rows[kept], keys[kept]
        ranks = [rank for name in self._names if len(rank := lists.of(name).ranks(keys))]
        best = (
            np.min([np.where(rank < 0, FAR, rank) for rank in ranks], axis=0)
            if ranks
            else np.zeros(len(keys), np.int64)
        )
        slates = {
            name: self._codes_of(each.top(lists, seen, SLATE))
            for name, each in self.baselines.items()
        }
        return _Taken(question, codes, best, self.live.matrix(lists, sequences, keys), slates)

    def _codes(self, listed: RankedList) -> tuple[Ints, npt.NDArray[np.float64]]:
        """The codes of a list's items; those of leaderboards, which many requests read, are
        remembered.
        """
        kept = self._of_lists.get(id(listed))
        if kept is not None and kept[0] is listed:
            return kept[1], listed.scores
        codes = self._codes_of(listed.keys)
        if "ordered" in listed.__dict__:
            if len(self._of_lists) > LISTS_KEPT:
                self._of_lists.clear()
            self._of_lists[id(listed)] = listed, codes
        return codes, listed.scores

    def _codes_of(self, keys: Keys) -> Ints:
        at = np.minimum(np.searchsorted(self._keys, keys), max(len(self._keys) - 1, 0))
        assert not len(keys) or (self._keys[at] == keys).all()  # sources give what the log has
        return self._code[at] if len(keys) else np.zeros(0, np.intp)


FAR = 1 << 20  # the rank of what a source does not have
LISTS_KEPT = 256


@dataclass(frozen=True)
class _Taken:
    request: int
    item: Ints
    rank: Ints
    live: Matrix
    slates: Mapping[str, Ints]


def _part(taken: list[_Taken], baselines: Sequence[str]) -> Part:
    taken = sorted(taken, key=lambda one: one.request)
    item, rank, live = (
        np.concatenate([getattr(one, name) for one in taken]) for name in ("item", "rank", "live")
    )
    slates = {name: _slates([one.slates[name] for one in taken]) for name in baselines}
    request, size = (
        np.array([one.request for one in taken]),
        np.array([len(one.item) for one in taken]),
    )
    return Part(request, size, item, rank, live, slates)


def _slates(lists: Sequence[Ints]) -> Slates:
    offsets = np.concatenate(([0], np.cumsum([len(one) for one in lists]))).astype(np.int64)
    return Slates(offsets, np.concatenate([np.zeros(0, np.int64), *lists]))


def _lists(slates: Slates) -> list[Ints]:
    return np.split(slates.item, slates.offsets[1:-1])


def _of(sequences: Mapping[str, RaggedSequence], request: int) -> dict[str, Any]:
    """The sequences of one request."""
    return {name: each.of(request) for name, each in sequences.items()}


def live_columns(features: FeatureSet, slot: Slot) -> LiveColumns:
    """Return the columns that a ranker of a slot reads live: of the slot's sources, of the columns
    that it asks for, and similarities.
    """
    names = dict.fromkeys(live_sources([*slot.sources, *slot.columns, *DEFAULT_COLUMNS]))
    by_column = {
        source_of(name).column: name for name in names
    }  # `trending` and `popular:1h` are one
    similar = tuple(kept(one) for one in features.similarities)
    return LiveColumns(CandidateColumns(tuple(by_column.values())), similar)


DEFAULT_COLUMNS = ("popular:1h", "popular:24h", "popular:7d", "item_knn:1", "item_knn")
