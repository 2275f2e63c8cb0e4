"""Raw logs with random events."""

from tests.support.router.stream import Stream

NOW = 1_764_072_000_000_000


def post_mixed_events(stream: Stream) -> None:
    """Two producers with answers, clicks, profiles, identifies, repeats and rubbish."""
    for number in range(12):
        stream.post(
            {
                "event_id": f"a{number}",
                "type": "answer",
                "user_id": "u1",
                "request_id": f"r{number}",
                "items": ["i1"],
                "answer": {"slot": "s"},
            },
            {
                "event_id": f"p{number}",
                "type": "item",
                "item_id": "i1",
                "ts": NOW + number,
                "properties": {"price": number},
            },
            {
                "event_id": f"n{number}",
                "type": "identify",
                "anonymous_id": "c0",
                "user_id": f"u{number}",
                "ts": NOW + number,
            },
            producer="serve",
            source="server",
        )
        stream.post(
            {
                "event_id": f"c{number}",
                "type": "click",
                "anonymous_id": "c0",
                "item_id": "i1",
                "request_id": f"r{number - 1}",
            },
            {"event_id": f"c{number // 2}", "type": "click", "anonymous_id": "c0", "item_id": "i1"},
            {"event_id": "bad"},
            producer="web",
        )
