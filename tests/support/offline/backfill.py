"""Features, events and requests of a small backfill."""

import numpy as np
import pyarrow as pa

from tailorbird.events.clock import DAY, SECOND
from tailorbird.events.contract.schema import ROUTED
from tailorbird.features import (
    FeatureSet,
    attribute,
    context,
    count,
    derived,
    entity,
    last,
    ratio,
    sequence,
    session,
    time_since,
)
from tailorbird.features.offline.backfill import Requests

START = 1_790_000_000 * SECOND


USER, ITEM, CATEGORY = entity("user"), entity("item"), entity("item.category")


FEATURES = FeatureSet.from_declarations(
    [
        count("clicks", USER, "click", window="1d", where="country == 'NO'"),
        ratio("ctr", ITEM, "click", "impression", window="1d", prior=CATEGORY, weight=2),
        time_since("since", USER, "click"),
        last("last_category", USER, "click", of="item.category", kind="categorical"),
        sequence("recent", USER, ["click", "impression"], length=3),
        session("in_session", "click"),
        attribute("category", ITEM, "category", kind="categorical"),
        attribute("price", ITEM, "price", kind="numeric"),
        context("device"),
        derived("gap", "since / clicks"),
        derived("dear", "gap * price"),
    ]
)


def make_events(n: int = 200, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(n):
        row = dict.fromkeys(ROUTED.names) | {
            "p": index + 1,
            "event_id": f"e{index}",
            "counts": True,
            "timeless": False,
        }
        event_type = ["click", "impression", "item", "cart"][rng.integers(4)]
        row |= {
            "type": event_type,
            "ts": START + int(rng.integers(0, 3 * DAY)),
            "item_id": f"i{rng.integers(4)}",
        }
        if event_type == "item":
            rows.append(
                row
                | {"properties": f'{{"category":"c{rng.integers(2)}","price":{rng.integers(90)}}}'}
            )
            continue
        user = f"u{rng.integers(3)}"
        row |= {
            "user_id": user,
            "person": user,
            "session_id": f"s{rng.integers(3)}",
            "country": ["NO", "SE"][rng.integers(2)],
        }
        rows.append(row | {"item_profile": f'{{"category":"c{rng.integers(2)}"}}'})
    return pa.Table.from_pylist(rows, schema=ROUTED)


def make_requests(request_count: int = 30, items_per_request: int = 3, seed: int = 1) -> Requests:
    rng = np.random.default_rng(seed)
    return Requests(
        t=START + rng.integers(0, 3 * DAY, request_count),
        log_position=rng.integers(0, 200, request_count),
        person=[None if user == 3 else f"u{user}" for user in rng.integers(0, 4, request_count)],
        session_id=[
            None if number == 3 else f"s{number}" for number in rng.integers(0, 4, request_count)
        ],
        device=["phone"] * request_count,
        row_request=np.repeat(np.arange(request_count), items_per_request),
        row_item=[f"i{item}" for item in rng.integers(0, 5, request_count * items_per_request)],
    )
