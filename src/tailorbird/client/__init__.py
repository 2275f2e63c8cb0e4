"""Clients of a Tailorbird server: `Client` for threads, `AsyncClient` for an event loop.

    with Client("http://127.0.0.1:8642", key=KEY) as client:
        answer = client.recommend("home", user_id="42")
        client.track("click", user_id="42", item_id="i93", request_id=answer.request_id)

Both retry safely: an event has its `event_id` before it is first sent, so it counts once however
often it is sent. `parameters` has the types of parameters, `transport` sends and retries, `retries`
decides when, and `outbox` batches tracked events and keeps on a disk what could not be sent.
"""

from tailorbird.client.asynchronous import AsyncClient
from tailorbird.client.blocking import Client
from tailorbird.client.outbox import OutboxFullError
from tailorbird.client.parameters import (
    ClientSettings,
    ContextFields,
    EventFields,
    Filter,
    QueryOptions,
    Range,
    SearchOptions,
)
from tailorbird.client.transport import ClosedError, RefusedError, UnreachableError
from tailorbird.errors import UsageError
from tailorbird.events import Context
from tailorbird.serving.messages import (
    ChurnReason,
    ChurnResponse,
    EventDecision,
    Explanation,
    FacetCounts,
    Item,
    Receipts,
    RecommendResponse,
    ShownItem,
    Similar,
)

__all__ = [
    "AsyncClient",
    "ChurnReason",
    "ChurnResponse",
    "Client",
    "ClientSettings",
    "ClosedError",
    "Context",
    "ContextFields",
    "EventDecision",
    "EventFields",
    "Explanation",
    "FacetCounts",
    "Filter",
    "Item",
    "OutboxFullError",
    "QueryOptions",
    "Range",
    "Receipts",
    "RecommendResponse",
    "RefusedError",
    "SearchOptions",
    "ShownItem",
    "Similar",
    "UnreachableError",
    "UsageError",
]
