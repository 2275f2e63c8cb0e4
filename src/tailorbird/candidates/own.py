"""A project's own candidate sources, which its `sources.py` registers.

    @source("category_hits", reads="boards", boards=["popular:24h:category"])
    def category_hits(request, tables): ...

A query reads the request and one group of published tables, and nothing that changes otherwise. A
replay then gives the list that a server gave, and `tailorbird features verify` compares the two.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from tailorbird.errors import DeclarationError, TailorbirdError
from tailorbird.project_file import run_file

if TYPE_CHECKING:
    from tailorbird.candidates.protocol import CandidateRequest, CandidateTables

FILE = "sources.py"
OWN_KIND = "own"
Group = Literal["", "boards", "neighbours", "sessions"]
TABLE_GROUPS: tuple[Group, ...] = get_args(Group)
Query = Callable[["CandidateRequest", "CandidateTables"], Any]


class SourceError(TailorbirdError):
    """An own source failed, or returned something else than a list of items."""


@dataclass(frozen=True)
class OwnSource:
    """A source of the project.

    Attributes:
        query: returns the keys and scores of items, best first.
        reads: the group of tables that it reads; "" for none.
        boards: names of the leaderboards that it reads, besides those of every project.
    """

    name: str
    query: Query
    reads: Group = ""
    boards: tuple[str, ...] = ()

    def run(
        self, request: "CandidateRequest", tables: "CandidateTables"
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.float64]]:
        """Return keys and scores, checked, each of shape (n,).

        Raises:
            SourceError: the query fails, or returns something else.
        """
        where = f"{FILE}, source {self.name}"
        try:
            query_result = self.query(request, tables)
        except Exception as error:
            raise SourceError(
                f"its query failed: {type(error).__name__}: {error}", where=where, fix="mend it"
            ) from error
        try:
            keys, scores = query_result
            keys = np.asarray(keys)
            scores = np.asarray(scores, np.float64)
        except (TypeError, ValueError):
            raise SourceError(
                f"its query returned {type(query_result).__name__}",
                where=where,
                fix="return keys, scores",
            ) from None
        if not len(keys):
            keys = keys.astype(np.uint64)
        if keys.dtype != np.uint64 or keys.ndim != 1 or keys.shape != scores.shape:
            raise SourceError(
                f"its query returned keys {keys.dtype}{keys.shape} and scores {scores.shape}",
                where=where,
                fix="return uint64 keys and as many scores; item_keys(ids) makes keys",
            )
        if not np.isfinite(scores).all() or len(np.unique(keys)) < len(keys):
            raise SourceError(
                "its query returned an item twice, or a score that is not finite",
                where=where,
                fix="return each item once, with a number",
            )
        return keys, scores

    def __repr__(self) -> str:
        return f"OwnSource({self.name!r}, reads={self.reads!r})"


def source(
    name: str, *, reads: Group = "", boards: Sequence[str] = ()
) -> Callable[[Query], OwnSource]:
    """Register a function as a candidate source of the project.

    Args:
        name: by which slots name it.
        reads: the group of tables that its query reads: `boards`, `neighbours` or `sessions`.
        boards: leaderboards that it needs, such as `popular:24h:category`.
    """
    if not name.isidentifier():
        raise DeclarationError(f"{name!r} is no name of a source", fix="such as category_hits")
    if reads not in TABLE_GROUPS:
        fix = f"use one of {', '.join(TABLE_GROUPS[1:])}"
        raise DeclarationError(f"source {name} reads {reads!r}", fix=fix)
    if boards and reads != "boards":
        raise DeclarationError(
            f"source {name} names leaderboards and does not read them", fix='add reads="boards"'
        )
    return lambda query: OwnSource(name, query, reads, tuple(boards))


@dataclass
class _SourceRegistry:
    sources: Mapping[str, OwnSource]
    file: Path | None = None


_registry = _SourceRegistry({})


def use_sources(file: Path | None, built_in: Collection[str] = ()) -> None:
    """Register the sources of a file in place of earlier ones; None or a missing file has none.

    Raises:
        DeclarationError: the file does not run, repeats a name, or takes that of a built-in source.
    """
    sources: dict[str, OwnSource] = {}
    for value in run_file(file).values() if file is not None and file.exists() else ():
        if not isinstance(value, OwnSource):
            continue
        if value.name in built_in:
            raise DeclarationError(
                f"{value.name!r} is a built-in source", where=str(file), fix="give it another name"
            )
        if value.name in sources and sources[value.name] is not value:
            raise DeclarationError(f"two sources are named {value.name!r}", where=str(file))
        sources[value.name] = value
    register_sources(sources.values())
    _registry.file = file


def sources_file() -> Path | None:
    """Return the file that own sources come from."""
    return _registry.file


def register_sources(sources: Iterable[OwnSource]) -> None:
    """Take these as the sources of the opened project, in place of earlier ones."""
    _registry.sources = {own.name: own for own in sources}


def own_source(name: str) -> OwnSource | None:
    """Return the source of the project with this name."""
    return _registry.sources.get(name)


def own_sources() -> tuple[OwnSource, ...]:
    """Return all sources of the project."""
    return tuple(_registry.sources.values())
