"""A lake with responses and what followed them, for tests of monitoring."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import write_deltalake

from tailorbird.events import SECOND
from tailorbird.events.contract.schema import ROUTED
from tailorbird.lake.tables import RESPONSES_SCHEMA
from tailorbird.storage_paths import StoragePath

ITEMS = list("abcdefgh")
Row = dict[str, Any]


def write_events(lake: StoragePath, rows: list[Row]) -> None:
    columns = {
        field.name: pa.array([row.get(field.name) for row in rows], field.type) for field in ROUTED
    }
    days = pa.array([row["ts"] // 86_400_000_000 for row in rows], pa.int32()).cast(pa.date32())
    table = pa.table(columns).append_column("day", days)
    write_deltalake(lake / "events", table, partition_by=["day"], mode="append")


def write_answers(lake: StoragePath, rows: list[Row]) -> None:
    columns = {
        field.name: pa.array([row.get(field.name) for row in rows], field.type)
        for field in RESPONSES_SCHEMA
    }
    write_deltalake(lake / "answers", pa.table(columns), mode="append")


def make_visit(
    request: str,
    ts: int,
    *,
    assigned_version: str = "v0001",
    person: str = "p",
    clicks: Iterable[int] = (),
    bought_after: int | None = None,
    failure: str | None = None,
    items: list[str] = ITEMS,
    **more: Any,
) -> tuple[list[Row], Row]:
    """Return the events of one response, and its record: all items are seen.

    `clicks` are positions of items from 0, `bought_after` microseconds, `more` further fields of
    the record.
    """
    response_fields = {"person": person, "agent": "person", "slot": "home", "request_id": request}
    response_fields |= {"model": "fallback" if failure else assigned_version, "device": "mobile"}
    events = [response_fields | {"type": "answer", "ts": ts, "items": items}]
    if items:
        events.append(response_fields | {"type": "impression", "ts": ts + SECOND, "items": items})
    for item_index in clicks:
        click = {"type": "click", "ts": ts + 2 * SECOND, "item_id": items[item_index]}
        events.append(response_fields | click | {"position": item_index + 1})
    if bought_after is not None:
        purchase = {"type": "purchase", "ts": ts + bought_after, "item_id": items[0], "price": 10.0}
        events.append(response_fields | purchase | {"position": 1, "quantity": 2.0})
    record = response_fields | {
        "ts": ts,
        "assigned_version": assigned_version,
        "failure": failure,
        "latency_us": 5_000,
        "items": items,
        "scores": [0.125] * len(items),
        "click_probabilities": [] if failure else [0.125] * len(items),
        "degraded": ["model"] if failure else [],
        "values": [0.125] * len(items),
    }
    return events, record | more


def write_visits(lake: StoragePath, visits: Iterable[tuple[list[Row], Row]]) -> None:
    pairs = list(visits)
    write_events(lake, [event for events, _ in pairs for event in events])
    write_answers(lake, [record for _, record in pairs])


def draw_visits(
    rng: np.random.Generator, start: int, seconds: float, count: int, *, ctr: float, **more: Any
) -> list[tuple[list[Row], Row]]:
    """Draw visits of as many people, evenly over a time."""
    return [
        make_visit(
            f"{start}-{more.get('assigned_version', '')}-{index}",
            start + int(seconds * 1e6 * index / count),
            person=f"{start}-{index}",
            clicks=np.flatnonzero(rng.random(len(ITEMS)) < ctr).tolist(),
            **more,
        )
        for index in range(count)
    ]
