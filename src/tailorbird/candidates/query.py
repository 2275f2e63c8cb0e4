"""Candidate lists by source name, and feature columns from them: shared by serving and training."""

import logging
from collections.abc import Iterable
from functools import cached_property

import msgspec
import numpy as np
import numpy.typing as npt

from tailorbird.candidates.contract import (
    BASE_BOARDS,
    SERVED_KINDS,
    Source,
    parse_source,
    table_group_of,
)
from tailorbird.candidates.item_knn.query import RECENT_MAX, score_neighbours
from tailorbird.candidates.own import OWN_KIND, SourceError, own_source
from tailorbird.candidates.popularity.query import query_popular
from tailorbird.candidates.protocol import (
    EMPTY_LIST,
    SESSIONS,
    CandidateRequest,
    CandidateTables,
    Keys,
    Neighbours,
    RankedList,
)
from tailorbird.candidates.repeat.query import query_repeat
from tailorbird.candidates.session_knn.query import query_sessions

Matrix = npt.NDArray[np.float32]
log = logging.getLogger(__name__)

WEEK_BOARD = BASE_BOARDS[-1]
_SOURCE_BY_NAME: dict[str, Source] = {}


def source_of(name: str) -> Source:
    """Return a source, parsed once per name.

    Raises DeclarationError.
    """
    source = _SOURCE_BY_NAME.get(name)
    if source is None and own_source(name) is not None:  # another project may have no such source
        return parse_source(name)
    if source is None:
        source = _SOURCE_BY_NAME[name] = parse_source(name)
    return source


def select_live_sources(names: Iterable[str]) -> list[str]:
    """Return the names of the sources read from published tables, in order."""
    return [name for name in names if source_of(name).kind in SERVED_KINDS]


def table_group(name: str) -> str:
    """Return the group of tables that a source reads: `boards`, `neighbours`, `sessions` or ""."""
    return table_group_of(source_of(name))


def reads_neighbours(name: str) -> bool:
    """Return whether a source reads the co-occurrence of items."""
    return source_of(name).kind == "item_knn"


class RequestLists:
    """The lists of one request, each computed once, before rules and limits.

    Args:
        strict: raise if an own source fails; otherwise its list is empty and `failed_sources` names
            it.
    """

    def __init__(
        self, tables: CandidateTables, request: CandidateRequest, *, strict: bool = True
    ) -> None:
        self.tables = tables
        self.request = request
        self.strict = strict
        self.failed_sources: list[str] = []
        self.list_by_source: dict[str, RankedList] = {}

    def get(self, name: str) -> RankedList:
        """Return the list of a live source by its name."""
        ranked_list = self.list_by_source.get(name)
        if ranked_list is None:
            ranked_list = self.list_by_source[name] = self._query(source_of(name))
        return ranked_list

    @cached_property
    def recent_neighbours(self) -> tuple[Keys, Neighbours]:
        """The user's last items, newest first, and the neighbours of each."""
        recent = self.request.recent[::-1][:RECENT_MAX]
        return recent, self.tables.neighbours(recent)

    def neighbours_of(self, keys: Keys) -> Neighbours:
        """Return the neighbours of some items."""
        recent, neighbours = self.recent_neighbours
        return neighbours if np.array_equal(recent, keys) else self.tables.neighbours(keys)

    def weekly_board(self) -> RankedList:
        """Return the most popular items of the week by their counts."""
        return self.tables.leaderboard(WEEK_BOARD).items

    def traffic_shares(self, keys: Keys) -> npt.NDArray[np.float64]:
        """Return each item's share of the week's traffic, (n,); 0 for items beyond the table."""
        return self.tables.leaderboard(WEEK_BOARD).shares.scores_of(keys)

    def popularity_percentiles(self, keys: Keys) -> npt.NDArray[np.float64]:
        """Return the share of the week's leaderboard that is less popular, (n,) in [0, 1].

        It is 0 for items that are not on it.
        """
        board = self.weekly_board()
        rank = board.ranks(keys)
        return np.where(rank >= 0, 1.0 - rank / max(len(board), 1), 0.0)

    def _query(self, source: Source) -> RankedList:
        if source.kind == OWN_KIND:
            return self._query_own(source.name)
        if source.board is not None:
            return query_popular(self.tables, self.request, source.board)
        if source.kind == "item_knn":
            return (
                score_neighbours(*self.recent_neighbours, source.last_items)
                if len(self.request.recent)
                else EMPTY_LIST
            )
        if table_group_of(source) == SESSIONS:
            return query_sessions(self.tables, self.request, source.kind)
        if source.kind == "new_items":
            return self.tables.new_items()
        assert source.kind == "repeat", source.name
        return query_repeat(self.request)

    def _query_own(self, name: str) -> RankedList:
        """Return the list of a source of the project."""
        project_source = own_source(name)
        assert project_source is not None, name
        try:
            return RankedList(*project_source.run(self.request, self.tables))
        except SourceError as error:
            if self.strict:
                raise
            log.warning("%s", error)
            self.failed_sources.append(name)
            return EMPTY_LIST


class CandidateColumns(msgspec.Struct, frozen=True, dict=True):
    """Feature columns of candidates: rank and score in each source, as of the request.

        SOURCE_rank     position in the list, from 0; missing for items that are not in it
        SOURCE_score    traffic share for leaderboards, else the source's own score; 0 likewise

    Attributes:
        sources: names of live sources.
    """

    sources: tuple[str, ...] = ()

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(
            f"{source_of(name).column}_{suffix}"
            for name in self.sources
            for suffix in ("rank", "score")
        )

    def describe_columns(self) -> dict[str, str]:
        """Describe each column."""
        descriptions: dict[str, str] = {}
        for name in self.sources:
            source = source_of(name)
            score = "share of the traffic" if source.board is not None else "score"
            descriptions[f"{source.column}_rank"] = f"position of the candidate in {name}, from 0"
            descriptions[f"{source.column}_score"] = f"{score} of the candidate in {name}"
        return descriptions

    def matrix(self, lists: RequestLists, keys: Keys) -> Matrix:
        """Return the columns of a request's candidates, (n, columns)."""
        columns = np.zeros((len(keys), len(self.names)), np.float32)
        for index, name in enumerate(self.sources):
            ranked_list = lists.get(name)
            rank = ranked_list.ranks(keys)
            is_listed = rank >= 0
            columns[:, 2 * index] = np.where(is_listed, rank, np.nan)
            columns[is_listed, 2 * index + 1] = ranked_list.scores[rank[is_listed]]
        return columns
