"""Types of the parameters of both clients, for editors and type checkers.

The server's own messages (`serving.messages`), which have these fields, check what is sent. A test
keeps them in step.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from tailorbird.events import Clock, Context

Id = str | int
Scalar = str | int | float | bool


class Range(TypedDict, total=False):
    """A range of numbers: the least and the most that is allowed, both included."""

    min: float
    max: float


Filter = Scalar | Sequence[Scalar] | Range
"""The value that an attribute must have, the values that it may have, or their range."""


class ContextFields(TypedDict, total=False):
    """The context of a query or an event, with the fields of `Context`."""

    device: str | None
    country: str | None
    page: str | None
    referrer: str | None
    user_agent: str | None
    utc_offset_min: int | None  # minutes


class QueryOptions(TypedDict, total=False):
    """Fields of every query. None stands for "not given".

    Attributes:
        user_id, anonymous_id, session_id: the person; without the first two the answer is for a
            stranger.
        size: how many items; by default the slot's own size.
        context: where they are.
        exclude: items that are not to be shown.
        filters: attribute → the required value.
        attributes: attributes of items to include in the answer.
        explain: whether the answer explains each score.
        arm: an arm of the slot's experiments to test, or `EXPERIMENT:ARM` where several have it; no
            analysis counts the answer.
    """

    user_id: Id | None
    anonymous_id: Id | None
    session_id: Id | None
    size: int | None
    context: Context | ContextFields | None
    exclude: Sequence[Id]
    filters: Mapping[str, Filter]
    attributes: Sequence[str]
    explain: bool
    arm: str | None


class SearchOptions(QueryOptions, total=False):
    """Additional fields of a search: the slot whose rules apply, and attributes by which all
    hits are counted.
    """

    slot: str | None
    facets: Sequence[str]


class EventFields(TypedDict, total=False):
    """An event without its type. `event_id` and `ts` (microseconds UTC, or ISO 8601) default to
    a new id and the current time.
    """

    event_id: str
    ts: int | str
    sent_at: int | str
    user_id: Id | None
    anonymous_id: Id | None
    session_id: Id | None
    item_id: Id | None
    items: Sequence[Id] | None
    request_id: str | None
    context: Context | ContextFields | None
    properties: Mapping[str, Any] | None
    timeless: bool  # a profile that is valid from the beginning


class ClientSettings(TypedDict, total=False):
    """Settings of a client, see `AsyncClient`."""

    key: str
    timeout_s: float
    attempts: int
    connections: int
    batch_max: int
    gather_s: float  # how long queued events wait for others to be sent with
    queue_max: int
    spool: Path | None
    clock: Clock | None
