"""A log of purchases, and the churn model declared on it."""

from typing import Any

import numpy as np
import pyarrow as pa

from tailorbird.events import DAY, ROUTED
from tailorbird.ranking import Churn

BEGIN = 20_000 * DAY


CHURN = Churn(window="28d", period="7d", recency="since", frequency="bought", age="age")


def make_purchase_log(
    people: int = 400, days: int = 200, seed: int = 0, profiles: Any = ()
) -> pa.Table:
    """Purchases at each person's own rate until they leave, with chance, after each; sorted by
    time.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(people):
        rate, days_since_begin, leaving_rate = (
            rng.gamma(1.5, 0.05),
            float(rng.uniform(0, days / 2)),
            rng.beta(1.0, 6.0),
        )
        while days_since_begin < days:
            rows.append(
                {
                    "type": "purchase",
                    "ts": BEGIN + int(days_since_begin * DAY),
                    "person": f"u{number}",
                    "item_id": "i",
                    "price": 2.0,
                    "quantity": 1.0,
                }
            )
            if rng.random() < leaving_rate:
                break
            days_since_begin += rng.exponential(1 / max(rate, 1e-3)) + 1
    rows += profiles
    rows.sort(key=lambda row: row["ts"])
    return _to_routed(rows)


def _to_routed(rows: list[dict[str, Any]]) -> pa.Table:
    """Return rows as the router writes them: received when they happened, by their person."""
    routed_rows = []
    for log_position, row in enumerate(rows, 1):
        event = (
            dict.fromkeys(ROUTED.names)
            | {
                "p": log_position,
                "event_id": f"e{log_position}",
                "counts": True,
                "timeless": False,
                "agent": "person",
            }
            | row
        )
        event["received_at"] = event["received_at"] or event["ts"]
        event["user_id"] = event["user_id"] or event["person"]
        routed_rows.append(event)
    return pa.Table.from_pylist(routed_rows, schema=ROUTED)


def make_purchases(*days: float, person: str | None = "u", **more: Any) -> pa.Table:
    rows = [
        {
            "type": "purchase",
            "ts": BEGIN + round(day * DAY),
            "person": person,
            "item_id": "i",
            **more,
        }
        for day in days
    ]
    return _to_routed(rows)


def day_start(day: float) -> int:
    return BEGIN + round(day * DAY)
