"""The event envelope: the wire format of an event.

`events.contract.contract` validates it and `events.contract.schema` stores it.

    {"event_id": "9f1c…", "type": "click", "ts": "2026-11-25T12:00:00Z", "sent_at":
     "2026-11-25T12:00:01Z", "user_id": "42", "anonymous_id": "c0ffee", "session_id": "s7",
     "item_id": "i93", "request_id": "r55", "context": {"device": "phone", "country": "NO"},
     "properties": {"dwell_ms": 5400}}

A time is RFC 3339 text with a zone, or an integer of microseconds since 1970. Profiles are events
too: `{"type": "item", "item_id": "i93", "properties": {"title": "Rain coat", "price": 80}}`; one
with `"timeless": true` has been valid from the beginning. `answer` and `received_at` are the
server's own: a client that sends them is refused.
"""

from typing import Any

import msgspec


class Context(msgspec.Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True):
    """The circumstances of an event, as far as the client states them."""

    device: str | None = None
    country: str | None = None
    page: str | None = None
    referrer: str | None = None
    user_agent: str | None = None
    utc_offset_min: int | None = None


class Answer(msgspec.Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True):
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

    event_id: str
    type: str
    ts: int | str | None = None
    sent_at: int | str | None = None
    user_id: str | None = None
    anonymous_id: str | None = None
    session_id: str | None = None
    item_id: str | None = None
    items: list[str] | None = None
    request_id: str | None = None
    context: Context | None = None
    properties: dict[str, Any] | None = None
    timeless: bool = False
    received_at: int | str | None = None
    answer: Answer | None = None
