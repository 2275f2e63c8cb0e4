"""Replay of candidate sources: candidates of past requests, computed by the code that serves.

    replay = Replay(events, features, slot, items, live_columns)
    for chunk in replay.draw_candidates(requests): ...  candidates and live columns, chunk by chunk
    replay.read_live_columns(rows)                      live columns of logged responses

A replay processes the log once (`candidates.replay`). Each request sees the tables of its moment,
and the person's sequences as the features had them at its (t, p). A chosen item is no candidate
unless a source gave it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.candidates.batch import CONTEXT, segment_keys
from tailorbird.candidates.contract import SERVED_KINDS, Contract, contract_of
from tailorbird.candidates.merge import ListMerger, MergedItems, bound_limits
from tailorbird.candidates.protocol import CandidateRequest, RankedList
from tailorbird.candidates.query import CandidateColumns, RequestLists, live_sources, source_of
from tailorbird.candidates.replay import ReplayRequests, epochs_by_group, replay_requests
from tailorbird.events import hash64s
from tailorbird.features import FeatureSet
from tailorbird.features.offline.backfill import History
from tailorbird.features.offline.bulk import RaggedSequence, Requests
from tailorbird.ranking.baseline import Baseline
from tailorbird.ranking.encode.live import LiveColumns
from tailorbird.ranking.encode.similarities import from_declaration
from tailorbird.ranking.slot import Slot
from tailorbird.training.dataset.codes import Codes
from tailorbird.training.dataset.dataset import Dataset

Ints = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
# Arguments: time, requester, limit. Returns the items nearest to the person's vector.
VectorRetriever = Callable[[int, CandidateRequest, int], RankedList]
Progress = Callable[[int, int], None]

CHUNK_REQUESTS = 500
SLATE_SIZE = 20  # items of a baseline's slate


@dataclass(frozen=True)
class Slates:
    """Slates of a baseline: request r has item[offsets[r]:offsets[r + 1]], best first."""

    offsets: Ints
    item: Ints

    def take(self, requests: Ints) -> "Slates":
        """Select the slates of some requests, in the given order."""
        size = np.diff(self.offsets)[requests]
        offsets = np.concatenate(([0], np.cumsum(size))).astype(np.int64)
        return Slates(
            offsets,
            self.item[
                np.arange(offsets[-1]) + np.repeat(self.offsets[requests] - offsets[:-1], size)
            ],
        )


def concat_slates(slates_by_request: Sequence[Mapping[str, Slates]]) -> dict[str, Slates]:
    """Concatenate the slates of different requests, in the given order."""
    return (
        {
            name: _build_slates(
                [lists for part in slates_by_request for lists in _split_slates(part[name])]
            )
            for name in slates_by_request[0]
        }
        if slates_by_request
        else {}
    )


@dataclass(frozen=True)
class CandidateChunk:
    """Candidates of some requests, in order of the requests.

    Attributes:
        request: (m,), indices of the requests.
        size: (m,), number of candidates of each.
        item: (n,), item codes.
        rank: (n,), best rank in any source.
        live: (n, columns), live columns.
        slates: slates by baseline.
    """

    request: Ints
    size: Ints
    item: Ints
    rank: Ints
    live: Matrix
    slates: Mapping[str, Slates]


class Replay:
    """Queries the sources of a slot for past requests.

    Args:
        events: events of the lake, in order of p, with the columns of `candidates.batch.COLUMNS`
            and those that sequences need.
        items: codes of items.
        live_columns: live columns to read, possibly for several models.
        baselines: baselines whose slates are built as well.
        sources: source → limit; by default those of the slot.
        retriever: returns candidates by vectors, for the source `sequence`; None without vectors.
    """

    def __init__(
        self,
        events: pa.Table,
        features: FeatureSet,
        slot: Slot,
        items: Codes,
        live_columns: LiveColumns,
        *,
        baselines: Sequence[str] = (),
        sources: Mapping[str, int] | None = None,
        retriever: VectorRetriever | None = None,
    ) -> None:
        self._events, self._features, self._slot, self._items = events, features, slot, items
        self.live_columns = live_columns
        self.baselines = {name: Baseline.parse(name) for name in baselines}
        self._sources = dict(sources if sources is not None else bound_limits(slot.sources))
        self._retriever = retriever
        baseline_sources = (
            name for baseline in self.baselines.values() for name in baseline.sources
        )
        self._source_names = live_sources(
            dict.fromkeys([*self._sources, *live_columns.sources, *baseline_sources])
        )
        self._contract: Contract = contract_of(self._source_names, shown=slot.denominator)
        order = np.argsort(items.keys)
        self._sorted_keys, self._sorted_codes = items.keys[order], order
        self._list_cache: dict[int, tuple[RankedList, Ints]] = {}
        self._hidden_types = (
            hash64s(list(slot.hide_seen)) if slot.hide_seen else np.zeros(0, np.uint64)
        )
        self._main_sequence = features.sequences[0] if features.sequences else ""
        self._history: History | None = None

    def draw_candidates(
        self, data: Dataset, *, progress: Progress = lambda done, total: None
    ) -> Iterator[CandidateChunk]:
        """Yield the candidates of requests in chunks.

        Requests ascend within a chunk, but not necessarily across chunks.
        """
        sequences = self.read_sequences(data)
        request_candidates: list[_RequestCandidates] = []
        for request, lists in self.iterate_lists(data, sequences, progress=progress):
            request_candidates.append(
                self._collect_candidates(
                    request, int(data.t[request]), lists, _request_sequences(sequences, request)
                )
            )
            if len(request_candidates) >= CHUNK_REQUESTS:
                yield _build_chunk(request_candidates, tuple(self.baselines))
                request_candidates = []
        if request_candidates:
            yield _build_chunk(request_candidates, tuple(self.baselines))

    def read_live_columns(
        self, data: Dataset, *, progress: Progress = lambda done, total: None
    ) -> tuple[Matrix, dict[str, Floats]]:
        """Return live columns of rows, (rows, columns), and their values by baseline, (rows,)."""
        sequences = self.read_sequences(data)
        keys, matrix = (
            self._items.keys[data.item],
            np.empty((data.rows, len(self.live_columns.names)), np.float32),
        )
        values = {name: np.zeros(data.rows) for name in self.baselines}
        for request, lists in self.iterate_lists(data, sequences, progress=progress):
            row_range = slice(data.offsets[request], data.offsets[request + 1])
            matrix[row_range] = self.live_columns.matrix(
                lists, _request_sequences(sequences, request), keys[row_range]
            )
            for name, baseline in self.baselines.items():
                values[name][row_range] = baseline.values(lists, keys[row_range])
        return matrix, values

    def read_sequences(self, data: Dataset) -> Mapping[str, RaggedSequence]:
        """Return the persons' sequences as the features have them at the (t, p) of each request."""
        if not self._features.sequences:
            return {}
        if self._history is None:
            self._history = History(
                self._features, self._events, only=list(self._features.sequences)
            )
        context = data.context
        no_item_ids = pa.nulls(data.requests, pa.string())
        requests = Requests(
            data.t,
            data.p,
            context["person"],
            np.arange(data.requests),
            no_item_ids,
            context["session_id"],
            context["device"],
            context["country"],
            context["local_hour"],
        )
        return self._history.rows(requests).sequences

    def iterate_lists(
        self,
        data: Dataset,
        sequences: Mapping[str, RaggedSequence],
        *,
        progress: Progress = lambda done, total: None,
    ) -> Iterator[tuple[int, RequestLists]]:
        """Yield each request with its lists in log order; lists are valid until the next one."""
        texts = {name: data.context[name].to_pylist() for name in CONTEXT}
        requests = []
        for index in range(data.requests):
            sequence = _request_sequences(sequences, index).get(self._main_sequence)
            segments = segment_keys({name: values[index] for name, values in texts.items()})
            request = (
                CandidateRequest(segments=segments)
                if sequence is None
                else CandidateRequest(sequence.item, sequence.ts, segments)
            )
            requests.append(request)
        p = data.p if data.p.ndim == 1 else data.p.max(axis=1)
        replayed = ReplayRequests(requests, epochs_by_group(self._events, p))
        for indices, lists in replay_requests(
            self._contract, self._events, replayed, self._source_names, progress=progress
        ):
            yield from zip(indices.tolist(), lists, strict=True)

    def merge_sources(self, t: int, lists: RequestLists, sources: Mapping[str, int]) -> MergedItems:
        """Return the merged candidates of some sources for a request at t; rows are item codes."""
        merge = ListMerger(len(self._items))
        for name, limit in sources.items():
            source = source_of(name)
            if source.kind in SERVED_KINDS:
                merge.add(name, limit, *self._list_codes(lists.get(name)))
            elif source.kind == "sequence" and self._retriever is not None:
                merge.add(
                    name,
                    limit,
                    *self._list_codes(self._retriever(t, lists.request, limit + merge.size)),
                )
        return merge.result()

    def _collect_candidates(
        self, request: int, t: int, lists: RequestLists, sequences: Mapping[str, Any]
    ) -> "_RequestCandidates":
        """Return the candidates of one request as a server would find them."""
        merged_candidates = self.merge_sources(t, lists, self._sources)
        hidden_keys = (
            [
                sequence.item[np.isin(sequence.type, self._hidden_types)]
                for sequence in sequences.values()
            ]
            if len(self._hidden_types)
            else []
        )
        hidden_items = np.concatenate([np.zeros(0, np.uint64), *hidden_keys])
        keys = self._items.keys[merged_candidates.rows]
        is_visible = ~np.isin(keys, hidden_items)
        codes, keys = merged_candidates.rows[is_visible], keys[is_visible]
        ranks = [rank for name in self._source_names if len(rank := lists.get(name).ranks(keys))]
        best_ranks = (
            np.min([np.where(rank < 0, ABSENT_RANK, rank) for rank in ranks], axis=0)
            if ranks
            else np.zeros(len(keys), np.int64)
        )
        slates = {
            name: self._encode_keys(baseline.top(lists, hidden_items, SLATE_SIZE))
            for name, baseline in self.baselines.items()
        }
        return _RequestCandidates(
            request, codes, best_ranks, self.live_columns.matrix(lists, sequences, keys), slates
        )

    def _list_codes(self, ranked_list: RankedList) -> tuple[Ints, npt.NDArray[np.float64]]:
        """Return the codes of a list's items; codes of shared leaderboards are cached.

        A source of the project may return items that were never logged. They are left out.
        """
        cached = self._list_cache.get(id(ranked_list))
        if cached is not None and cached[0] is ranked_list:
            return cached[1], ranked_list.scores
        codes, is_known = self._find_codes(ranked_list.keys)
        if not is_known.all():
            return codes[is_known], ranked_list.scores[is_known]
        if ranked_list.is_shared:
            if len(self._list_cache) > CACHED_LISTS_MAX:
                self._list_cache.clear()
            self._list_cache[id(ranked_list)] = ranked_list, codes
        return codes, ranked_list.scores

    def _encode_keys(self, keys: Keys) -> Ints:
        codes, is_known = self._find_codes(keys)
        assert is_known.all()  # sources only know logged items
        return codes

    def _find_codes(self, keys: Keys) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """Return the code of each key, and whether it is known; the others have any code."""
        if not len(self._sorted_keys):
            return np.zeros(len(keys), np.intp), np.zeros(len(keys), np.bool_)
        index = np.minimum(np.searchsorted(self._sorted_keys, keys), len(self._sorted_keys) - 1)
        return self._sorted_codes[index], self._sorted_keys[index] == keys


ABSENT_RANK = 1 << 20  # rank of an item that a source does not have
CACHED_LISTS_MAX = 256


@dataclass(frozen=True)
class _RequestCandidates:
    request: int
    item: Ints
    rank: Ints
    live: Matrix
    slates: Mapping[str, Ints]


def _build_chunk(
    request_candidates: list[_RequestCandidates], baselines: Sequence[str]
) -> CandidateChunk:
    request_candidates = sorted(request_candidates, key=lambda candidates: candidates.request)
    item, rank, live = (
        np.concatenate([getattr(candidates, name) for candidates in request_candidates])
        for name in ("item", "rank", "live")
    )
    slates = {
        name: _build_slates([candidates.slates[name] for candidates in request_candidates])
        for name in baselines
    }
    request, size = (
        np.array([candidates.request for candidates in request_candidates]),
        np.array([len(candidates.item) for candidates in request_candidates]),
    )
    return CandidateChunk(request, size, item, rank, live, slates)


def _build_slates(lists: Sequence[Ints]) -> Slates:
    offsets = np.concatenate(([0], np.cumsum([len(items) for items in lists]))).astype(np.int64)
    return Slates(offsets, np.concatenate([np.zeros(0, np.int64), *lists]))


def _split_slates(slates: Slates) -> list[Ints]:
    return np.split(slates.item, slates.offsets[1:-1])


def _request_sequences(sequences: Mapping[str, RaggedSequence], request: int) -> dict[str, Any]:
    """Return the sequences of one request."""
    return {name: sequence.of(request) for name, sequence in sequences.items()}


def select_live_columns(features: FeatureSet, slot: Slot) -> LiveColumns:
    """Return the live columns of a slot's ranker: sources, declared columns and similarities."""
    names = dict.fromkeys(live_sources([*slot.sources, *slot.columns, *DEFAULT_COLUMNS]))
    # `trending` and `popular:1h` are one column.
    by_column = {source_of(name).column: name for name in names}
    similar = tuple(from_declaration(similarity) for similarity in features.similarities)
    return LiveColumns(CandidateColumns(tuple(by_column.values())), similar)


DEFAULT_COLUMNS = ("popular:1h", "popular:24h", "popular:7d", "item_knn:1", "item_knn")
