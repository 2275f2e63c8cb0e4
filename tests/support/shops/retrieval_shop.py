"""A handful of items and events whose answers one sees at once."""

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from tailorbird.events import DAY, HOUR
from tailorbird.events.contract.schema import TIME_TYPE
from tailorbird.retrieval import Index, build_index

T0 = 1_700_000_000_000_000
AS_OF = T0 + 10 * DAY

PROFILES = {
    "coat": {
        "title": "Rain coat",
        "category": "coats",
        "price": 80,
        "stock": 3,
        "brand": "Nord",
        "tags": ["warm", "red"],
    },
    "parka": {
        "title": "Winter parka",
        "category": "coats",
        "price": 120.5,
        "stock": 0,
        "description": "for the rain",
    },
    "hat": {"title": "Felt hat", "category": "hats", "price": 20},
    "cap": {"title": "Running cap", "category": "hats", "price": 15, "stock": 9},
    "gift": {"title": "Gift card"},
}
FIRST_SEEN = {"coat": T0, "parka": T0 + DAY, "hat": None, "cap": T0 + 5 * DAY, "gift": T0 + 9 * DAY}


def to_timestamps(microseconds: list[int]) -> pa.Array:
    return pa.array(microseconds, pa.int64()).cast(TIME_TYPE)


def make_items_table(later_versions: Iterable[tuple[Any, ...]] = ()) -> pa.Table:
    """`later_versions`: (id, valid_from, attributes)."""
    rows = [
        (name, FIRST_SEEN[name] or 0, attributes, FIRST_SEEN[name] is None)
        for name, attributes in PROFILES.items()
    ]
    rows += [(*each, False) for each in later_versions]
    return pa.table(
        {
            "id": [row[0] for row in rows],
            "valid_from": to_timestamps([row[1] for row in rows]),
            "attributes": [json.dumps(row[2]) for row in rows],
            "timeless": [row[3] for row in rows],
        }
    )


# (person, item, type, hours before AS_OF, agent, counts)
EVENTS = [
    *[(f"u{i}", "coat", "click", 30 + i, "person", True) for i in range(5)],
    *[(f"u{i}", "parka", "view", 29 + i, "person", True) for i in range(4)],
    *[(f"v{i}", "hat", "click", 5, "person", True) for i in range(3)],
    *[("robot", "gift", "click", 1, "bot", True)] * 20,
    *[("late", "gift", "click", 1, "person", False)] * 20,
    *[("w", "gift", "impression", 1, "person", True)] * 20,
    *[("x", "cap", "click", 24 * 9, "person", True)] * 9,
    ("w", "unlisted", "click", 24 * 9, "person", True),
    *[("future", "gift", "click", -1, "person", True)] * 20,
]


def make_events_table(rows: list[Any] = EVENTS) -> pa.Table:
    person, item, kind, hours, agent, counts = (list(column) for column in zip(*rows, strict=True))
    return pa.table(
        {
            "type": kind,
            "ts": to_timestamps([AS_OF - int(hour * HOUR) for hour in hours]),
            "person": person,
            "item_id": item,
            "agent": agent,
            "counts": counts,
        }
    )


def item_ids_at(index: Index, rows: Any) -> list[str]:
    return [index.ids[row] for row in rows.tolist()]


def make_empty_index() -> Index:
    """An index without any item."""
    with tempfile.TemporaryDirectory() as folder:
        build_index(
            Path(folder) / "index",
            make_events_table().slice(0, 0),
            make_items_table().slice(0, 0),
            as_of=AS_OF,
        )
        return Index.open(Path(folder) / "index")
