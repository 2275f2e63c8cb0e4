"""What an application talks to a Tailorbird server with: `Client` for threads, `AsyncClient` for an event loop.

    with Client("http://127.0.0.1:8642", key=KEY) as client:
        answer = client.recommend("home", user_id="42")
        client.track("click", user_id="42", item_id="i93", request_id=answer.request_id)

Both are safe to try again: an event has its `event_id` before it is first sent, so it counts once however often it is. `talking` sends
and tries again, `patience` says when, `outbox` gathers what is tracked and keeps on a disk what could not be sent.
"""

from tailorbird.client.asynchronous import AsyncClient
from tailorbird.client.blocking import Client
from tailorbird.client.outbox import OutboxFullError
from tailorbird.client.talking import RefusedError, UnreachableError
from tailorbird.serving.messages import Answer, ChurnAnswer, EventDecision, Item, Receipts, Shown, Similar

__all__ = [
    "Answer",
    "AsyncClient",
    "ChurnAnswer",
    "Client",
    "EventDecision",
    "Item",
    "OutboxFullError",
    "Receipts",
    "RefusedError",
    "Shown",
    "Similar",
    "UnreachableError",
]
