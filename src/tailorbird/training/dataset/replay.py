"""Replay of candidate sources: candidates of past requests, computed by the code that serves.

    replay = Replay(events, features, slot, items, live_columns)
    for chunk in replay.iterate_candidates(requests): ...  candidates and live columns, chunk by
    chunk replay.read_live_columns(rows)                      live columns of logged responses

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

from tailorbird.candidates.batch import CONTEXT_FIELDS, segment_keys
from tailorbird.candidates.contract import SERVED_KINDS, Contract, build_contract
from tailorbird.candidates.merge import ListMerger, MergedItems, bound_limits
from tailorbird.candidates.protocol import CandidateRequest, RankedList
from tailorbird.candidates.query import (
    CandidateColumns,
    RequestLists,
    select_live_sources,
    source_of,
)
from tailorbird.candidates.replay import ReplayRequests, assign_regular_epochs, replay_requests
from tailorbird.events import hash64s
from tailorbird.features import FeatureSet
from tailorbird.features.offline.backfill import History
from tailorbird.features.offline.bulk import RaggedSequence, Requests
from tailorbird.ranking.baseline import Baseline
from tailorbird.ranking.encode.live import LiveColumns
from tailorbird.ranking.encode.similarities import from_declaration
from tailorbird.ranking.slot import Slot
from tailorbird.training.dataset.codes import IdVocabulary
from tailorbird.training.dataset.dataset import Dataset
from tailorbird.training.dataset.slates import Slates, build_slates

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
class CandidateChunk:
    """Candidates of some requests, in order of the requests.

    Attributes:
        request_indexes: (m,), indices of the requests.
        sizes: (m,), number of candidates of each.
        item_codes: (n,), item codes.
        best_rank: (n,), best rank in any source.
        live_values: (n, columns), live columns.
        slates: slates by baseline.
    """

    request_indexes: Ints
    sizes: Ints
    item_codes: Ints
    best_rank: Ints
    live_values: Matrix
    slates: Mapping[str, Slates]


class Replay:
    """Queries the sources of a slot for past requests.

    Args:
        events: events of the lake, in order of p, with the columns of `candidates.batch.COLUMNS`
            and those that sequences need.
        item_vocabulary: codes of items.
        live_columns: live columns to read, possibly for several models.
        baselines: baselines whose slates are built as well.
        source_limits: source → limit; by default those of the slot.
        retriever: returns candidates by vectors, for the source `sequence`; None without vectors.
    """

    def __init__(
        self,
        events: pa.Table,
        features: FeatureSet,
        slot: Slot,
        item_vocabulary: IdVocabulary,
        live_columns: LiveColumns,
        *,
        baselines: Sequence[str] = (),
        source_limits: Mapping[str, int] | None = None,
        retriever: VectorRetriever | None = None,
    ) -> None:
        self._events = events
        self._features = features
        self._slot = slot
        self._item_vocabulary = item_vocabulary
        self.live_columns = live_columns
        self.baselines = {name: Baseline.parse(name) for name in baselines}
        self._source_limits = dict(
            source_limits if source_limits is not None else bound_limits(slot.sources)
        )
        self._retriever = retriever
        baseline_sources = (
            name for baseline in self.baselines.values() for name in baseline.sources
        )
        self._source_names = select_live_sources(
            dict.fromkeys([*self._source_limits, *live_columns.sources, *baseline_sources])
        )
        self._contract: Contract = build_contract(self._source_names, shown=slot.denominator)
        key_order = np.argsort(item_vocabulary.keys)
        self._sorted_keys = item_vocabulary.keys[key_order]
        self._sorted_codes = key_order
        self._list_cache: dict[int, tuple[RankedList, Ints]] = {}
        # Types of events that hide their item from the person.
        self._hidden_type_keys = (
            hash64s(list(slot.hide_seen)) if slot.hide_seen else np.zeros(0, np.uint64)
        )
        self._main_sequence_name = features.sequences[0] if features.sequences else ""
        self._history: History | None = None

    def iterate_candidates(
        self, data: Dataset, *, progress: Progress = lambda done, total: None
    ) -> Iterator[CandidateChunk]:
        """Yield the candidates of requests in chunks.

        Requests ascend within a chunk, but not necessarily across chunks.
        """
        sequences = self.read_sequences(data)
        request_candidates: list[_RequestCandidates] = []
        for request_index, lists in self.iterate_request_lists(data, sequences, progress=progress):
            request_candidates.append(
                self._collect_candidates(
                    request_index,
                    int(data.t[request_index]),
                    lists,
                    _request_sequences(sequences, request_index),
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
        item_keys = self._item_vocabulary.keys[data.item_codes]
        matrix = np.empty((data.row_count, len(self.live_columns.names)), np.float32)
        baseline_values = {name: np.zeros(data.row_count) for name in self.baselines}
        for request_index, lists in self.iterate_request_lists(data, sequences, progress=progress):
            row_range = slice(data.offsets[request_index], data.offsets[request_index + 1])
            matrix[row_range] = self.live_columns.matrix(
                lists, _request_sequences(sequences, request_index), item_keys[row_range]
            )
            for name, baseline in self.baselines.items():
                baseline_values[name][row_range] = baseline.values(lists, item_keys[row_range])
        return matrix, baseline_values

    def read_sequences(self, data: Dataset) -> Mapping[str, RaggedSequence]:
        """Return the persons' sequences as the features have them at the (t, p) of each request."""
        if not self._features.sequences:
            return {}
        if self._history is None:
            self._history = History(
                self._features, self._events, only_columns=list(self._features.sequences)
            )
        context = data.context
        no_item_ids = pa.nulls(data.request_count, pa.string())
        requests = Requests(
            data.t,
            data.log_position,
            context["person"],
            np.arange(data.request_count),
            no_item_ids,
            context["session_id"],
            context["device"],
            context["country"],
            context["local_hour"],
        )
        return self._history.rows(requests).sequences

    def iterate_request_lists(
        self,
        data: Dataset,
        sequences: Mapping[str, RaggedSequence],
        *,
        progress: Progress = lambda done, total: None,
    ) -> Iterator[tuple[int, RequestLists]]:
        """Yield each request with its lists in log order; lists are valid until the next one."""
        context_values = {name: data.context[name].to_pylist() for name in CONTEXT_FIELDS}
        requests = []
        for index in range(data.request_count):
            sequence = _request_sequences(sequences, index).get(self._main_sequence_name)
            segments = segment_keys(
                {name: values[index] for name, values in context_values.items()}
            )
            request = (
                CandidateRequest(segments=segments)
                if sequence is None
                else CandidateRequest(sequence.item, sequence.ts, segments)
            )
            requests.append(request)
        log_position = (
            data.log_position if data.log_position.ndim == 1 else data.log_position.max(axis=1)
        )
        requests_to_replay = ReplayRequests(
            requests, assign_regular_epochs(self._events, log_position)
        )
        for indices, lists in replay_requests(
            self._contract, self._events, requests_to_replay, self._source_names, progress=progress
        ):
            yield from zip(indices.tolist(), lists, strict=True)

    def merge_sources(
        self, t: int, lists: RequestLists, source_limits: Mapping[str, int]
    ) -> MergedItems:
        """Return the merged candidates of some sources for a request at t; rows are item codes."""
        merger = ListMerger(len(self._item_vocabulary))
        for name, limit in source_limits.items():
            source = source_of(name)
            if source.kind in SERVED_KINDS:
                merger.add(name, limit, *self._find_list_codes(lists.get(name)))
            elif source.kind == "sequence" and self._retriever is not None:
                merger.add(
                    name,
                    limit,
                    *self._find_list_codes(
                        self._retriever(t, lists.request, limit + merger.merged_count)
                    ),
                )
        return merger.result()

    def _collect_candidates(
        self, request_index: int, t: int, lists: RequestLists, sequences: Mapping[str, Any]
    ) -> "_RequestCandidates":
        """Return the candidates of one request as a server would find them."""
        merged_candidates = self.merge_sources(t, lists, self._source_limits)
        hidden_key_arrays = (
            [
                sequence.item[np.isin(sequence.type, self._hidden_type_keys)]
                for sequence in sequences.values()
            ]
            if len(self._hidden_type_keys)
            else []
        )
        hidden_item_keys = np.concatenate([np.zeros(0, np.uint64), *hidden_key_arrays])
        keys = self._item_vocabulary.keys[merged_candidates.rows]
        is_visible = ~np.isin(keys, hidden_item_keys)
        codes = merged_candidates.rows[is_visible]
        keys = keys[is_visible]
        ranks_by_source = [
            source_ranks
            for name in self._source_names
            if len(source_ranks := lists.get(name).ranks(keys))
        ]
        best_ranks = (
            np.min(
                [
                    np.where(source_ranks < 0, ABSENT_RANK, source_ranks)
                    for source_ranks in ranks_by_source
                ],
                axis=0,
            )
            if ranks_by_source
            else np.zeros(len(keys), np.int64)
        )
        slates = {
            name: self._encode_keys(baseline.top(lists, hidden_item_keys, SLATE_SIZE))
            for name, baseline in self.baselines.items()
        }
        return _RequestCandidates(
            request_index,
            codes,
            best_ranks,
            self.live_columns.matrix(lists, sequences, keys),
            slates,
        )

    def _find_list_codes(self, ranked_list: RankedList) -> tuple[Ints, npt.NDArray[np.float64]]:
        """Return the codes of a list's items; codes of shared leaderboards are cached.

        A source of the project may return items that were never logged. They are left out.
        """
        cached_list, cached_codes = self._list_cache.get(id(ranked_list), (None, None))
        if cached_codes is not None and cached_list is ranked_list:
            return cached_codes, ranked_list.scores
        codes, has_code = self._find_codes(ranked_list.keys)
        if not has_code.all():
            return codes[has_code], ranked_list.scores[has_code]
        if ranked_list.is_shared:
            if len(self._list_cache) > CACHED_LISTS_MAX:
                self._list_cache.clear()
            self._list_cache[id(ranked_list)] = ranked_list, codes
        return codes, ranked_list.scores

    def _encode_keys(self, keys: Keys) -> Ints:
        codes, has_code = self._find_codes(keys)
        assert has_code.all()  # sources only know logged items
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
    request_index: int
    item_codes: Ints
    best_rank: Ints
    live_values: Matrix
    slates: Mapping[str, Ints]


def _build_chunk(
    request_candidates: list[_RequestCandidates], baselines: Sequence[str]
) -> CandidateChunk:
    request_candidates = sorted(request_candidates, key=lambda candidates: candidates.request_index)
    item_codes, best_rank, live_values = (
        np.concatenate([getattr(candidates, name) for candidates in request_candidates])
        for name in ("item_codes", "best_rank", "live_values")
    )
    slates = {
        name: build_slates([candidates.slates[name] for candidates in request_candidates])
        for name in baselines
    }
    request_index = np.array([candidates.request_index for candidates in request_candidates])
    sizes = np.array([len(candidates.item_codes) for candidates in request_candidates])
    return CandidateChunk(
        request_indexes=request_index,
        sizes=sizes,
        item_codes=item_codes,
        best_rank=best_rank,
        live_values=live_values,
        slates=slates,
    )


def _request_sequences(
    sequences: Mapping[str, RaggedSequence], request_index: int
) -> dict[str, Any]:
    """Return the sequences of one request."""
    return {name: sequence.of(request_index) for name, sequence in sequences.items()}


def select_live_columns(features: FeatureSet, slot: Slot) -> LiveColumns:
    """Return the live columns of a slot's ranker: sources, declared columns and similarities."""
    names = dict.fromkeys(select_live_sources([*slot.sources, *slot.columns, *DEFAULT_COLUMNS]))
    # `trending` and `popular:1h` are one column.
    name_by_column = {source_of(name).column: name for name in names}
    similarities = tuple(from_declaration(similarity) for similarity in features.similarities)
    return LiveColumns(CandidateColumns(tuple(name_by_column.values())), similarities)


DEFAULT_COLUMNS = ("popular:1h", "popular:24h", "popular:7d", "item_knn:1", "item_knn")
