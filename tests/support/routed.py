"""Small routed tables for tests: rows as dictionaries, everything else null or plain."""

from typing import Any

import pyarrow as pa

from tailorbird.events import ROUTED


def table(*rows: dict[str, Any]) -> pa.Table:
    routed_rows = []
    for log_position, row in enumerate(rows, 1):
        event = dict.fromkeys(ROUTED.names)
        event |= {
            "p": log_position,
            "event_id": f"e{log_position}",
            "counts": True,
            "timeless": False,
            "agent": "person",
            "raw_partition": "t",
            "raw_offset": log_position,
            "raw_row": 0,
        }
        event |= row
        event.setdefault("received_at", event["ts"])
        event["user_id"] = event["user_id"] or event["person"]
        routed_rows.append(event)
    return pa.Table.from_pylist(routed_rows, schema=ROUTED)


def answer(
    t: int, person: str | None, items: list[str], request: str, slot: str = "home", **more: Any
) -> dict[str, Any]:
    return {
        "type": "answer",
        "ts": t,
        "person": person,
        "items": items,
        "request_id": request,
        "slot": slot,
        "propensities": [1.0] * len(items),
        **more,
    }


def event(
    type_: str,
    t: int,
    person: str | None,
    item: str | None,
    request: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    return {
        "type": type_,
        "ts": t,
        "person": person,
        "item_id": item,
        "request_id": request,
        **more,
    }
