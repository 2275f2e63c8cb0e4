"""What the calls of both clients take, so that an editor and a type checker know it: `AsyncClient`
and `Client` name the same.

What is sent is checked by the server's own message (`serving.messages`), whose fields these are; a
test holds them together.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from tailorbird.events import Clock, Context

Scalar = str | int | float | bool


class Range(TypedDict, total=False):
    """Of a number: the least and the most that is allowed, both included."""

    min: float
    max: float


Filter = Scalar | Sequence[Scalar] | Range
"""The value that an attribute must have, the values that it may have, or their range."""


class ContextFields(TypedDict, total=False):
    """Where somebody is, as `Context` has it."""

    device: str | None
    country: str | None
    page: str | None
    referrer: str | None
    user_agent: str | None
    utc_offset_min: int | None


class QueryOptions(TypedDict, total=False):
    """Who asks, and what may be shown. None stands for "not said".

    Attributes:
        user_id, anonymous_id, session_id: who asks; without the first two the answer is for a
        stranger.
        size: how many items; the slot's own size unless said.
        context: where they are.
        exclude: items that are not to be shown.
        filters: attribute → what it must be.
        attributes: which attributes of items the answer shall have.
        explain: whether the answer says what stood behind each score.
    """

    user_id: str | None
    anonymous_id: str | None
    session_id: str | None
    size: int | None
    context: Context | ContextFields | None
    exclude: Sequence[str]
    filters: Mapping[str, Filter]
    attributes: Sequence[str]
    explain: bool


class SearchOptions(QueryOptions, total=False):
    """What a search takes more: the slot whose rules hold, and attributes by which all hits are
    counted.
    """

    slot: str | None
    facets: Sequence[str]


class EventFields(TypedDict, total=False):
    """An event without its type. What has no `event_id` gets one, what has no `ts` the time of now
    (microseconds UTC, or ISO 8601).
    """

    event_id: str
    ts: int | str
    sent_at: int | str
    user_id: str | None
    anonymous_id: str | None
    session_id: str | None
    item_id: str | None
    items: Sequence[str] | None
    request_id: str | None
    context: Context | ContextFields | None
    properties: Mapping[str, Any] | None
    timeless: bool


class ClientSettings(TypedDict, total=False):
    """How a client behaves, see `AsyncClient`."""

    key: str
    timeout_s: float
    attempts: int
    connections: int
    batch_max: int
    gather_s: float
    held_max: int
    spool: Path | None
    clock: Clock | None
