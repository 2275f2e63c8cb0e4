"""The events of a synthetic site for the stream benchmarks.

They come as bodies for the raw log, and as plain records for peers. Items are drawn with a skew,
people evenly. Every item and person has a profile, which comes first. The events carry what
`benchmarks.forty` reads.
"""

from dataclasses import dataclass

import msgspec
import numpy as np

from tailorbird.events import DAY, MINUTE, SECOND, Receipt
from tailorbird.stream import Block

START = 1_764_072_000_000_000
SPAN = 3 * DAY
BODY_ROWS = 100
TYPES = ("impression", "view", "click", "purchase")


@dataclass(frozen=True)
class Site:
    """Events in order of time, as arrays of shape (events,), with counts of people and items."""

    person: np.ndarray
    item: np.ndarray
    type: np.ndarray
    ts: np.ndarray
    cents: np.ndarray
    people: int
    items: int

    @classmethod
    def draw(
        cls, events: int, *, people: int = 20_000, items: int = 5_000, seed: int = 20261125
    ) -> "Site":
        rng = np.random.default_rng(seed)
        ts = START - SPAN + np.sort(rng.integers(0, SPAN, events))
        type = rng.choice(len(TYPES), events, p=[0.45, 0.3, 0.22, 0.03])
        item = (items * rng.random(events) ** 3).astype(np.int64)
        return cls(
            rng.integers(0, people, events),
            item,
            type,
            ts,
            rng.integers(100, 10_000, events),
            people,
            items,
        )

    def __len__(self) -> int:
        return len(self.ts)

    def records(self) -> list[dict]:
        """Return each event in the form in which it is sent."""
        columns = (
            self.person.tolist(),
            self.item.tolist(),
            self.type.tolist(),
            self.ts.tolist(),
            self.cents.tolist(),
        )
        context = [
            {"device": device, "country": country}
            for device in ("phone", "desktop")
            for country in ("NO", "SE", "DK", "FI")
        ]
        return [
            {
                "event_id": f"e{row:09}",
                "type": TYPES[type],
                "ts": ts,
                "user_id": f"u{person:06}",
                "session_id": f"s{person:06}-{ts // (20 * MINUTE)}",
                "item_id": f"i{item:05}",
                "context": context[person % len(context)],
                "properties": {"price": cents / 100, "quantity": 1},
            }
            for row, (person, item, type, ts, cents) in enumerate(zip(*columns, strict=True))
        ]

    def profiles(self) -> list[dict]:
        """Return a profile of each item and person, dated before the first event."""
        begin = START - SPAN - DAY
        items = [
            {
                "event_id": f"i{row}",
                "type": "item",
                "ts": begin,
                "item_id": f"i{row:05}",
                "properties": {
                    "category": f"c{row % 50}",
                    "brand": f"b{row % 300}",
                    "price": 1 + row % 97,
                },
            }
            for row in range(self.items)
        ]
        people = [
            {
                "event_id": f"u{row}",
                "type": "user",
                "ts": begin,
                "user_id": f"u{row:06}",
                "properties": {
                    "plan": ("free", "paid")[row % 2],
                    "age": 18 + row % 70,
                    "segment": f"g{row % 12}",
                },
            }
            for row in range(self.people)
        ]
        return items + people


def to_blocks(records: list[dict]) -> list[Block]:
    """Return bodies of `BODY_ROWS` for a raw log, each received just after its newest event."""
    bodies = []
    for start in range(0, len(records), BODY_ROWS):
        body_records = records[start : start + BODY_ROWS]
        receipt = msgspec.json.encode(Receipt(body_records[-1]["ts"] + SECOND))
        bodies.append(Block("body", len(body_records), msgspec.json.encode(body_records), receipt))
    return bodies
