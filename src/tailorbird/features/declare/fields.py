"""Fields of events, entities and requests that declarations may name."""

from collections.abc import Mapping
from typing import Literal

# Columns of an event that expressions may name; `item.x`, `user.x` and `properties.x` come on top.
EVENT_FIELDS: Mapping[str, Literal["number", "text"]] = {
    "type": "text",
    "user": "text",
    "item": "text",
    "session": "text",
    "agent": "text",
    "device": "text",
    "country": "text",
    "page": "text",
    "referrer": "text",
    "query": "text",
    "slot": "text",
    "experiment": "text",
    "arm": "text",
    "model": "text",
    "answer_query": "text",
    "local_hour": "number",
    "weekday": "number",
    "dwell_ms": "number",
    "price": "number",
    "quantity": "number",
    "rating": "number",
    "position": "number",
    "propensity": "number",
}
ENTITY_FIELDS = (
    "user",
    "item",
    "session",
    "device",
    "country",
    "query",
    "local_hour",
    "weekday",
    "position",
)
INTEGER_FIELDS = ("local_hour", "weekday", "position")  # numbers that are used as categories

ContextField = Literal["device", "country", "query", "local_hour", "weekday"]
CONTEXT_FIELDS = {
    "device": "categorical",
    "country": "categorical",
    "query": "categorical",
    "local_hour": "numeric",
    "weekday": "numeric",
}
