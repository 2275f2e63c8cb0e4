"""Valid events."""

VALID_EVENTS = [
    {
        "event_id": "e1",
        "type": "click",
        "ts": "2026-11-25T12:00:00Z",
        "user_id": "u1",
        "item_id": "i1",
        "context": {"country": "NO"},
    },
    {
        "event_id": "e2",
        "type": "search",
        "anonymous_id": "a1",
        "properties": {"query": "rain", "price": 1.5, "deep": [[1], {"x": None}]},
    },
    {
        "event_id": "e3",
        "type": "item",
        "item_id": "i1",
        "properties": {"title": "Coat"},
        "timeless": True,
    },
]
