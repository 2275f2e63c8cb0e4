"""The contract of candidate sources: the tables that a project maintains, named by its slots.

Bundles name a contract, not contents.

    sources={"trending": 100, "popular:24h": 100, "popular:7d:category": 60, "item_knn": 150}

    popular[:WINDOW][:SEGMENT]    most events in the window (default 7d); SEGMENT is category,
                                  country, device or referrer
    trending[:SEGMENT]            the same over 1h
    item_knn[:LAST]               neighbours of about so many of the user's last items (default 5)
    session_knn, stan             continuations of similar sessions (V-SkNN, STAN)
    repeat                        the user's past items, most frequent first
    new_items                     recently added items, with or without a profile
    sequence, clusters, search, editorial:NAME
                                  from indexes and files, see docs/how-to/retrieval.md
    NAME                          of the project's sources.py, see `candidates.own`
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Literal

import msgspec

from tailorbird.candidates.own import OWN_KIND, Group, own_source, own_sources
from tailorbird.errors import DeclarationError, UsageError, suggest_name
from tailorbird.events.clock import DAY, HOUR, MINUTE, SESSION_GAP, parse_duration

VERSION = 1  # version of the folds; a change rebuilds all tables
INTEREST_EVENT_TYPES = ("click", "view", "cart", "purchase", "rating", "like", "share")
CATEGORY_ATTRIBUTE = "category"  # of items
SEGMENTS = (CATEGORY_ATTRIBUTE, "country", "device", "referrer")


class SourceKind(msgspec.Struct, frozen=True):
    """A kind of candidate source: its name in slots, and the reason that its items get.

    Attributes:
        reason: code of the reason; "" if the source itself gives none.
        text: sentence for users; "" if it depends on the request, see `ranking.reasons`.
        reads: what its list is made of at the request's time: published tables, or the request
            alone; "" if it comes from an index or a file.
    """

    name: str
    reason: str = ""
    text: str = ""
    reads: Literal["", "boards", "neighbours", "sessions", "request"] = ""

    @property
    def is_personal(self) -> bool:
        """Return whether its list follows from the person's own events."""
        return self.reads not in ("", "boards")


SOURCE_KINDS = {
    kind.name: kind
    for kind in (
        SourceKind("popular", "popular", reads="boards"),
        SourceKind("trending", "popular", reads="boards"),
        SourceKind("item_knn", "related", "Goes with what you looked at", "neighbours"),
        SourceKind("session_knn", "related", "Where others went on to from here", "sessions"),
        SourceKind("stan", "related", "Where others went on to from here", "sessions"),
        SourceKind("repeat", "again", "You chose it before", "request"),
        SourceKind("new_items", "new", "New", "boards"),
        SourceKind("sequence"),
        SourceKind("clusters"),
        SourceKind("search", "search"),
        SourceKind("editorial", "editorial", "Selected by hand"),
    )
}
KIND_NAMES = tuple(SOURCE_KINDS)
# Those that are read at the request's time.
SERVED_KINDS = frozenset((*(kind.name for kind in SOURCE_KINDS.values() if kind.reads), OWN_KIND))
# defaults
POPULAR_WINDOW_US = 7 * DAY
TRENDING_WINDOW_US = HOUR
# number of a user's items, in `item_knn`
DEFAULT_LAST_ITEMS = 5
LAST_ITEMS_MAX = 10
WINDOW_MIN_US = 5 * MINUTE
WINDOW_MAX_US = 3_650 * DAY
_LIST_NAME = re.compile(r"[\w.-]{1,60}")


class Board(msgspec.Struct, frozen=True, order=True):
    """A leaderboard: items by their events in a window, overall or per value of a segment."""

    window_us: int
    segment: str = ""

    @property
    def name(self) -> str:
        """The name in columns and metrics, such as `popular_1h_device`."""
        return (
            f"popular_{format_window(self.window_us)}{f'_{self.segment}' if self.segment else ''}"
        )


class ItemKnn(msgspec.Struct, frozen=True):
    """Co-occurrence of items within `distance` events of each other in users' histories.

    Attributes:
        distance: the maximum number of events between two co-occurring items; the weight is 1 /
            steps.
        gap_us: a longer pause cuts a person's sequence.
        backward: weight of preceding items, relative to following ones.
        half_life_us: after which an event counts half; 0: never.
        neighbours: the maximum per item; beyond it the weakest is evicted (Space-Saving).
    """

    distance: int = 10
    gap_us: int = DAY
    backward: float = 0.5
    half_life_us: int = 0
    neighbours: int = 200


class SessionKnn(msgspec.Struct, frozen=True, rename={"sessions_max": "most"}):
    """The newest sessions of all users.

    Attributes:
        gap_us: a longer pause ends a session.
        sessions_max: the maximum number of sessions.
        within_us: the maximum age of a session's last event.
        length: the maximum number of events per session, the newest ones.
    """

    gap_us: int = SESSION_GAP
    sessions_max: int = 100_000
    within_us: int = 28 * DAY
    length: int = 50


class Contract(msgspec.Struct, frozen=True, dict=True):
    """The tables that are maintained, and their settings.

    Attributes:
        boards: sorted.
        item_knn, session_knn: None where no source needs them.
        event_types: which events show interest in an item.
        shown: which event says that an item was shown: `impression` or `answer`.
        new_within_us: how long an item is new.
        items_max, people_max: limits beyond which those idle longest are evicted, and counted.
    """

    boards: tuple[Board, ...]
    item_knn: ItemKnn | None = ItemKnn()
    session_knn: SessionKnn | None = None
    event_types: tuple[str, ...] = INTEREST_EVENT_TYPES
    shown: str = "impression"
    new_within_us: int = 14 * DAY
    items_max: int = 2_000_000
    people_max: int = 5_000_000
    version: int = VERSION

    @cached_property
    def hash(self) -> str:
        """The hash that names the folder of the tables."""
        return blake2b(msgspec.json.encode(self), digest_size=6, person=b"candidates").hexdigest()

    def covers(self, other: "Contract") -> bool:
        """Return whether these tables answer everything that another contract needs."""
        shared_fields = ("event_types", "shown", "new_within_us", "version")
        return (
            set(other.boards) <= set(self.boards)
            and other.item_knn in (None, self.item_knn)
            and other.session_knn in (None, self.session_knn)
            and all(getattr(self, name) == getattr(other, name) for name in shared_fields)
        )

    def union(self, other: "Contract") -> "Contract":
        """Return the union of the boards and sources of both contracts; settings are this one's."""
        boards = tuple(sorted({*self.boards, *other.boards}))
        item_knn = self.item_knn or other.item_knn
        session_knn = self.session_knn or other.session_knn
        return msgspec.structs.replace(
            self, boards=boards, item_knn=item_knn, session_knn=session_knn
        )


@dataclass(frozen=True)
class Source:
    """A source as named by a slot.

    Attributes:
        board: of `popular` and `trending`.
        last_items: of `item_knn`.
        list_name: of `editorial`.
    """

    name: str
    kind: str
    board: Board | None = None
    last_items: int = 0
    list_name: str = ""

    @property
    def column(self) -> str:
        """The prefix of its columns."""
        if self.board is not None:
            return self.board.name
        return self.name.replace(":", "_") if self.kind in ("item_knn", OWN_KIND) else self.kind


BASE_BOARDS = tuple(Board(window) for window in (HOUR, DAY, 7 * DAY))  # of every project


def parse_source(name: str) -> Source:
    """Parse the name of a source.

    Raises:
        DeclarationError: there is no such source; names the nearest.
    """
    kind, *parameters = name.split(":")
    if kind not in KIND_NAMES and own_source(name) is not None:
        return Source(name, OWN_KIND)
    if kind not in KIND_NAMES:
        valid_kinds = (*KIND_NAMES, *(project_source.name for project_source in own_sources()))
        fix = suggest_name(kind, valid_kinds, f"use one of {', '.join(valid_kinds)}")
        raise DeclarationError(f"unknown source {name!r}", fix=fix)
    if kind == "editorial":
        if len(parameters) != 1 or not _LIST_NAME.fullmatch(parameters[0]):
            raise DeclarationError(
                f"{name!r} names no list", fix="name one of lists.toml: editorial:NAME"
            )
        return Source(name, kind, list_name=parameters[0])
    if kind in ("popular", "trending"):
        return Source(name, kind, board=_parse_board(name, kind, parameters))
    if kind == "item_knn":
        return Source(name, kind, last_items=_parse_last_items(name, parameters))
    if parameters:
        raise DeclarationError(
            f"{kind} takes nothing after it, got {name!r}", fix=f"write {kind!r}"
        )
    return Source(name, kind)


def table_group_of(source: Source) -> Group:
    """Return the group of published tables that a source reads; "" if none."""
    if source.kind == OWN_KIND:
        project_source = own_source(source.name)
        return project_source.reads if project_source is not None else ""
    reads = SOURCE_KINDS[source.kind].reads
    return "" if reads == "request" else reads


def _parse_last_items(name: str, parameters: list[str]) -> int:
    if not parameters:
        return DEFAULT_LAST_ITEMS
    if (
        len(parameters) > 1
        or not parameters[0].isdecimal()
        or not 1 <= int(parameters[0]) <= LAST_ITEMS_MAX
    ):
        raise DeclarationError(
            f"{name!r}: expected a number of items from 1 to {LAST_ITEMS_MAX}",
            fix="such as item_knn:2",
        )
    return int(parameters[0])


def _parse_board(name: str, kind: str, parameters: list[str]) -> Board:
    window_us = TRENDING_WINDOW_US if kind == "trending" else POPULAR_WINDOW_US
    if parameters and parameters[0] not in SEGMENTS:
        try:
            window_us = parse_duration(parameters.pop(0))
        except UsageError as error:
            raise DeclarationError(
                f"{name!r}: {error.message}", fix=f"such as popular:24h or popular:7d:{SEGMENTS[0]}"
            ) from None
        if not WINDOW_MIN_US <= window_us <= WINDOW_MAX_US:
            raise DeclarationError(
                f"{name!r}: a window is from 5m to 3650d", fix="such as popular:24h"
            )
    segment = parameters.pop(0) if parameters else ""
    if parameters or (segment and segment not in SEGMENTS):
        raise DeclarationError(
            f"{name!r} names no segment",
            fix=f"use one of {', '.join(SEGMENTS)}, such as popular:7d:category",
        )
    return Board(window_us, segment)


def build_contract(source_names: Iterable[str], *, shown: str = "impression") -> Contract:
    """Return the contract for the sources that a project's slots name.

    It holds what every project maintains, and whatever these sources need besides.
    """
    parsed_sources = [parse_source(name) for name in source_names]
    project_sources = [
        own for source in parsed_sources if (own := own_source(source.name)) is not None
    ]
    parsed_sources += [
        parse_source(board) for project_source in project_sources for board in project_source.boards
    ]
    boards = {
        *BASE_BOARDS,
        *(source.board for source in parsed_sources if source.board is not None),
    }
    boards |= {
        Board(board.window_us) for board in boards
    }  # The fallback where a segment is unknown or too small.
    session_settings = (
        SessionKnn()
        if any(table_group_of(source) == "sessions" for source in parsed_sources)
        else None
    )
    return Contract(tuple(sorted(boards)), session_knn=session_settings, shown=shown)


def format_window(window_us: int) -> str:
    """Return a window as it is written in names: `1h`, `24h`, `7d`."""
    for unit, name in ((DAY, "d"), (HOUR, "h"), (MINUTE, "m")):
        if window_us % unit == 0 and not (name == "d" and window_us == DAY):
            return f"{window_us // unit}{name}"
    return f"{window_us}us"
