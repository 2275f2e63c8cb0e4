"""What an application talks to a Tailorbird server with: `Client` for threads, `AsyncClient` for an
event loop.

    with Client("http://127.0.0.1:8642", key=KEY) as client:
        answer = client.recommend("home", user_id="42")
        client.track("click", user_id="42", item_id="i93", request_id=answer.request_id)

Both are safe to try again: an event has its `event_id` before it is first sent, so it counts once
however often it is. `parameters` has the types of what calls take, `talking` sends and tries again,
`patience` says when, `outbox` gathers what is tracked and keeps on a disk what could not be sent.
"""

from tailorbird.client.asynchronous import AsyncClient
from tailorbird.client.blocking import Client
from tailorbird.client.outbox import OutboxFullError
from tailorbird.client.parameters import (
    QueryOptions,
    ContextFields,
    EventFields,
    Filter,
    Range,
    SearchOptions,
    ClientSettings,
)
from tailorbird.client.talking import ClosedError, RefusedError, UnreachableError
from tailorbird.errors import UsageError
from tailorbird.events import Context
from tailorbird.serving.messages import (
    Answer,
    ChurnAnswer,
    ChurnWhy,
    EventDecision,
    Explanation,
    FacetTold,
    Item,
    Receipts,
    Shown,
    Similar,
)

__all__ = [
    "Answer",
    "QueryOptions",
    "AsyncClient",
    "ChurnAnswer",
    "ChurnWhy",
    "Client",
    "ClosedError",
    "Context",
    "ContextFields",
    "EventDecision",
    "EventFields",
    "Explanation",
    "FacetTold",
    "Filter",
    "Item",
    "OutboxFullError",
    "Range",
    "Receipts",
    "RefusedError",
    "SearchOptions",
    "ClientSettings",
    "Shown",
    "Similar",
    "UnreachableError",
    "UsageError",
]
