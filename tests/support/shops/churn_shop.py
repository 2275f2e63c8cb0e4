"""A shop of purchases whose people may leave."""

import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FEATURES = """
from tailorbird.features import count, entity, time_since, time_since_first

user = entity("user")
since = time_since("since", user, "purchase")
age = time_since_first("age", user, "purchase")
bought = count("bought", user, "purchase")
bought_28d = count("bought_28d", user, "purchase", window="28d", hop="7d")
"""


CHURN = """
from tailorbird.ranking import Churn, Contact

churn = Churn(window="28d", active="84d", period="7d", recency="since", frequency="bought", age="age", contact=Contact(cost=0.5))
"""


MAPPING = """
[[source]]
file = "purchases.parquet"
type = "purchase"
ts = "ts"
user_id = "user"
item_id = "item"
"""


def write_purchases(file: Path, people: int = 600, days: int = 200) -> None:
    """Write purchases of people who buy again or leave; the last of them is today."""
    first_day = time.time() / 86_400 - days
    rng = np.random.default_rng(0)
    rows = []
    for number in range(people):
        day, rate, churn_probability = (
            rng.uniform(0, days / 2),
            rng.gamma(1.5, 0.05),
            rng.beta(1.0, 6.0),
        )
        while day < days:
            rows.append((f"u{number}", int((first_day + day) * 86_400_000_000)))
            if rng.random() < churn_probability:
                break
            day += rng.exponential(1 / max(rate, 1e-3)) + 1
    user, ts = zip(*sorted(rows, key=lambda row: row[1]), strict=True)
    pq.write_table(
        pa.table({"user": user, "item": ["i"] * len(ts), "ts": pa.array(ts, pa.timestamp("us"))}),
        file,
    )
