"""Events of each type as senders write them."""

from typing import Any

from hypothesis import strategies as st

NOW = 1_764_072_000_000_000  # 2025-11-25T12:00:00Z


CLICK = {"event_id": "e1", "type": "click", "user_id": "42", "item_id": "i1"}


ANSWER = {
    "event_id": "a1",
    "type": "answer",
    "user_id": "42",
    "request_id": "r1",
    "items": ["i1", "i2"],
    "answer": {"slot": "home", "propensities": [1.0, 0.5]},
}


def make_click(**fields: Any) -> dict[str, Any]:
    event = CLICK | fields
    return {name: value for name, value in event.items() if value is not ...}


def nest_lists(levels: int) -> Any:
    value = 1
    for _ in range(levels):
        value = [value]
    return value


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


FIELDS = [
    *list(CLICK | ANSWER),
    "ts",
    "sent_at",
    "context",
    "properties",
    "timeless",
    "received_at",
    "anonymous_id",
    "session_id",
]


EVENTS = st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=5).map(
    lambda fields: CLICK | fields
)
