"""The event envelope: the wire format of an event, and the one table of its fields.

Both checkers, the decoders, `/openapi.json` and the reference page take names, types, defaults,
bounds and codes from here. `events.contract.schema` stores what is accepted.

    {"event_id": "9f1c…", "type": "click", "ts": "2026-11-25T12:00:00Z", "sent_at":
     "2026-11-25T12:00:01Z", "user_id": "42", "anonymous_id": "c0ffee", "session_id": "s7",
     "item_id": "i93", "request_id": "r55", "context": {"device": "phone", "country": "NO"},
     "properties": {"dwell_ms": 5400}}

A time is RFC 3339 text with a zone, or an integer of microseconds since 1970. Profiles are events
too: `{"type": "item", "item_id": "i93", "properties": {"title": "Rain coat", "price": 80}}`; one
with `"timeless": true` has been valid from the beginning. `answer` and `received_at` are the
server's own: a client that sends them is refused.
"""

import re
from typing import Annotated, Any, TypedDict

import msgspec

from tailorbird.events.contract.fields import (
    Bounds,
    Description,
    Pattern,
    ServerOwned,
    annotations_of,
)
from tailorbird.events.contract.plan import EVENT_TYPES, SERVER_TYPES

ID_BOUNDS = Bounds(low=1, high=256, code="bad_id", unit="characters")  # NUL is refused as well
TEXT_BOUNDS = Bounds(high=2_048, code="too_large", unit="characters")
ITEMS_BOUNDS = Bounds(high=1_000, code="too_large", unit="items")
PROPERTIES_BOUNDS = Bounds(high=65_536, code="too_large", unit="bytes")  # as JSON, encoded anew
# From 1973, since a smaller integer is in seconds or milliseconds, to before the year 9999, which
# text cannot state.
TIME_BOUNDS = Bounds(
    low=100_000_000_000_000, high=253_370_764_799_999_999, code="bad_time", unit=""
)
UTC_OFFSET_BOUNDS = Bounds(low=-14 * 60, high=14 * 60)
COUNTRY_PATTERN = Pattern(re.compile(r"[A-Za-z]{2}\Z"), "bad_country", "a two-letter code")
ANONYMOUS_PREFIX = "anon:"  # no `user_id` may begin with it

Id = Annotated[str, ID_BOUNDS]
Text = Annotated[str, TEXT_BOUNDS]
Time = Annotated[int, TIME_BOUNDS] | str
_TYPES = ", ".join(f"`{name}`" for name in EVENT_TYPES if name not in SERVER_TYPES)


class Context(msgspec.Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True):
    """The circumstances of an event, as far as the client states them."""

    device: Text | None = None
    country: Annotated[str, COUNTRY_PATTERN] | None = None
    page: Text | None = None
    referrer: Text | None = None
    user_agent: Text | None = None
    utc_offset_min: Annotated[int, UTC_OFFSET_BOUNDS] | None = None


class ResponseDetails(msgspec.Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True):
    """The server's record of a response; the items shown are in `Event.items`, best first.

    Attributes:
        slot: the place of the site that asked.
        arm: the arm of the experiment that decided, `""` outside an experiment.
        experiment: its name, `""` outside an experiment.
        model: the version of the bundle that ranked, `"fallback"` without one.
        query: what was searched for, if anything.
        propensities: for each item, in (0, 1], with which probability it was shown at this
            position.
    """

    slot: str
    arm: str = ""
    experiment: str = ""
    model: str = ""
    query: str | None = None
    propensities: list[float] = []


class Event(msgspec.Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True):
    """One event as received, before validation."""

    event_id: Annotated[
        Id,
        Description(
            "required; the idempotency key: the same id of the same person counts once within 7 "
            "days"
        ),
    ]
    type: Annotated[str, Description(f"required; {_TYPES}, or one that `[events] types` declares")]
    ts: Annotated[
        Time | None,
        Description(
            "when it happened: RFC 3339 with a zone, or an integer of **microseconds**; without "
            "it, when it arrived"
        ),
    ] = None
    sent_at: Annotated[
        Time | None,
        Description(
            "when it was sent, by the same clock as `ts`; the difference to our clock is then "
            "subtracted from `ts`. In a file this needs `received_at`, the time of arrival; "
            "otherwise `ts` is used as it is"
        ),
    ] = None
    user_id: Annotated[
        Id | None,
        Description(
            "at least one of them; `identify` ties the second to the first from then on, never "
            "backwards. Two users who are one: [`merge`](#two-users-who-are-one)"
        ),
    ] = None
    anonymous_id: Id | None = None
    session_id: Annotated[Id | None, Description("survives a login")] = None
    item_id: Annotated[
        Id | None, Description("the item; `items` for what an impression showed")
    ] = None
    items: Annotated[list[Id], ITEMS_BOUNDS] | None = None
    request_id: Annotated[
        Id | None,
        Description(
            "of the response that it follows: joins a click to what was shown, where, and with "
            "which propensity"
        ),
    ] = None
    context: Annotated[Context | None, Description("the circumstances:")] = None
    properties: Annotated[
        dict[str, Any] | None,
        PROPERTIES_BOUNDS,
        Description("anything else; these have columns of their own:"),
    ] = None
    timeless: Annotated[bool, Description("of a profile: valid from the beginning")] = False
    received_at: Annotated[Time | None, ServerOwned("only the server sets it; leave it out")] = None
    answer: Annotated[
        ResponseDetails | None,
        ServerOwned("only the server records answers; send an impression instead"),
    ] = None


class Properties(TypedDict, total=False):
    """The properties that mean the same in every event, and have a column of their own."""

    query: str
    dwell_ms: Annotated[float, Bounds(low=0, high=86_400_000)]
    price: Annotated[float, Bounds(low=0, high=10**9)]
    quantity: Annotated[float, Bounds(low=0, high=10**6)]
    rating: Annotated[float, Bounds(low=-(10**6), high=10**6)]


NUMBER_BOUNDS = annotations_of(Properties, Bounds)
PROPERTY_COLUMNS = tuple(Properties.__annotations__)
TEXT_PROPERTIES = tuple(name for name in PROPERTY_COLUMNS if name not in NUMBER_BOUNDS)
