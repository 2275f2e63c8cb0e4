"""Sliding-window sums for many past requests: ours against DuckDB's formulations, the same answers, on this machine.

    python -m benchmarks.features_backfill [--small] [--json] [--events N] [--requests N] [--users N] [--skew]

DuckDB is optional: without it only ours is measured. Windows are tiles in all, so that every peer has the same sums, which
are compared to the last unit.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import pyarrow as pa

from benchmarks.forty import TYPES
from tailorbird.events.clock import DAY, HOUR
from tailorbird.events.schema import TIME
from tailorbird.features import FeatureSet, entity, total
from tailorbird.features.backfill import Requests, backfill

START = 1_700_000_000 * 1_000_000 // DAY * DAY
SPAN = 60 * DAY
WINDOWS = {"1h": HOUR, "6h": 6 * HOUR, "1d": DAY, "3d": 3 * DAY, "7d": 7 * DAY, "14d": 14 * DAY, "30d": 30 * DAY, "60d": 60 * DAY}
TILES = 12


@dataclass(frozen=True)
class Workload:
    """Purchases of users, and requests about them; both drawn evenly over 60 days, users evenly or 1 % with half of all."""

    user: np.ndarray
    ts: np.ndarray
    cents: np.ndarray
    asked: np.ndarray
    t: np.ndarray

    @classmethod
    def draw(cls, events: int, requests: int, users: int, skew: bool) -> "Workload":
        rng = np.random.default_rng(20261125)

        def people(count: int) -> np.ndarray:
            even = rng.integers(0, users, count)
            return np.where(skew & (rng.random(count) < 0.5), even % max(1, users // 100), even)

        ts, t = START + np.sort(rng.integers(0, SPAN, events)), START + np.sort(rng.integers(0, SPAN, requests))
        return cls(people(events), ts, rng.integers(1, 10_000, events), people(requests), t)

    def names(self) -> pa.Array:
        """User ids as text, which is what events hold; ours and the peers get them so."""
        return pa.array([f"u{user}" for user in range(int(max(self.user.max(), self.asked.max())) + 1)])


def ours(work: Workload) -> np.ndarray:
    """Shape (requests, windows), in cents."""
    names = work.names()
    n = len(work.ts)
    person = names.take(pa.array(work.user))
    events = {
        "p": pa.array(np.arange(1, n + 1)),
        "event_id": pa.nulls(n, pa.string()),
        "type": pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int8)), ["purchase"]).cast(pa.string()),
        "ts": pa.array(work.ts, TIME),
        "user_id": person,
        "anonymous_id": pa.nulls(n, pa.string()),
        "person": person,
        "item_id": pa.nulls(n, pa.string()),
        "items": pa.nulls(n, pa.list_(pa.string())),
        "counts": pa.array(np.ones(n, np.bool_)),
        "price": pa.array(work.cents.astype(np.float64)),
    }
    user = entity("user")
    features = FeatureSet.from_declarations(
        [total(f"spend_{name}", user, "purchase", of="price", unit=1, max=10_000, window=name) for name in WINDOWS]
    )
    m = len(work.t)
    # Position = order of time, so that what was known is what had happened.
    asked = Requests(work.t, np.full(m, n), names.take(pa.array(work.asked)), np.arange(m), pa.nulls(m, pa.string()))
    table = pa.table(events)
    began = time.perf_counter()
    sums = backfill(features, table, asked).numeric
    seconds.append(time.perf_counter() - began)
    return sums

def mixed(work: Workload) -> tuple[pa.Table, Requests]:
    """The events and requests of the set of forty: the same people and times, each event about one of the items."""
    rng = np.random.default_rng(20261126)
    n, m = len(work.ts), len(work.t)
    items = max(1, len(work.names()) // 20)
    item_names = pa.array([f"i{item}" for item in range(items)])
    # A few items have most of the events, as everywhere.
    chosen = (items * rng.random(n) ** 3).astype(np.int64)
    profiles = pa.array([json.dumps({"category": f"c{item % 50}", "brand": f"b{item % 300}", "price": item % 90}) for item in range(items)])
    type_of = rng.choice(len(TYPES), n, p=[0.55, 0.2, 0.2, 0.05])
    person = work.names().take(pa.array(work.user))
    bought = type_of == TYPES.index("purchase")
    events = {
        "p": pa.array(np.arange(1, n + 1)),
        "event_id": pa.array(np.char.add("e", np.arange(n).astype(str))),
        "type": pa.array(TYPES).take(pa.array(type_of)),
        "ts": pa.array(work.ts, TIME),
        "user_id": person,
        "anonymous_id": pa.nulls(n, pa.string()),
        "person": person,
        "session_id": _sessions(work.user, work.ts),
        "item_id": item_names.take(pa.array(chosen)),
        "items": pa.nulls(n, pa.list_(pa.string())),
        "counts": pa.array(np.ones(n, np.bool_)),
        "price": pa.array(work.cents / 100, mask=~bought),
        "country": pa.array(["NO", "SE", "DK"]).take(pa.array(work.user % 3)),
        "item_profile": profiles.take(pa.array(chosen)),
        "properties": pa.nulls(n, pa.string()),
    }
    described = _described(items, item_names, profiles, work.names())
    table = pa.concat_tables([pa.table({name: described[name].cast(column.type) for name, column in events.items()}), pa.table(events)])
    asked = (items * rng.random(m) ** 3).astype(np.int64)
    who = work.names().take(pa.array(work.asked))
    country = pa.array(["NO", "SE", "DK"]).take(pa.array(work.asked % 3))
    # Position = order of time, so that what was known is what had happened.
    p = np.searchsorted(work.ts, work.t)
    return table, Requests(work.t, p, who, np.arange(m), item_names.take(pa.array(asked)), session_id=_sessions(work.asked, work.t), country=country)


def _sessions(user: np.ndarray, t: np.ndarray) -> pa.Array:
    """One a person and half hour."""
    number = (user * 7_919 + (t - START) // (HOUR // 2)) % 1_000_000
    return pa.array([f"s{one}" for one in range(1_000_000)]).take(pa.array(number))


def _described(items: int, item_names: pa.Array, profiles: pa.Array, names: pa.Array) -> dict[str, pa.Array]:
    """Columns of a profile event of each item and each user, before all others."""
    count = items + len(names)
    plans = [json.dumps({"plan": f"p{user % 3}", "age": user % 80, "segment": f"s{user % 12}"}) for user in range(len(names))]
    nulls = pa.nulls(count, pa.string())
    return {
        "p": pa.array(np.zeros(count, np.int64)),
        "event_id": pa.array([f"d{row}" for row in range(count)]),
        "type": pa.array(["item"] * items + ["user"] * len(names)),
        "ts": pa.array(np.full(count, START - DAY), TIME),
        "user_id": pa.concat_arrays([pa.nulls(items, pa.string()), names]),
        "anonymous_id": nulls,
        "person": pa.concat_arrays([pa.nulls(items, pa.string()), names]),
        "session_id": nulls,
        "item_id": pa.concat_arrays([item_names, pa.nulls(len(names), pa.string())]),
        "items": pa.nulls(count, pa.list_(pa.string())),
        "counts": pa.array(np.ones(count, np.bool_)),
        "price": pa.nulls(count, pa.float64()),
        "country": nulls,
        "item_profile": nulls,
        "properties": pa.concat_arrays([profiles, pa.array(plans)]),
    }


seconds: list[float] = []


def timed(run: Callable[[Workload], np.ndarray], work: Workload, runs: int) -> tuple[np.ndarray, dict]:
    seconds.clear()
    found = [run(work) for _ in range(runs)][-1]
    return found, {"median_s": round(statistics.median(seconds), 3), "min_s": round(min(seconds), 3), "max_s": round(max(seconds), 3)}


def peers() -> dict[str, Callable[[Workload], np.ndarray]]:
    try:
        import duckdb  # noqa: F401
    except ImportError:
        return {}
    return {"duckdb_join": duckdb_join, "duckdb_asof": duckdb_asof}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a tenth of the size, for a minute at most")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--skew", action="store_true", help="1 %% of the users have half of the events")
    for name, default in (("events", 5_000_000), ("requests", 2_000_000), ("users", 200_000), ("runs", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    share = 10 if arguments.small else 1
    sizes = {name: getattr(arguments, name) // share for name in ("events", "requests", "users")}
    work = Workload.draw(**sizes, skew=arguments.skew)
    sums, results = ours(work), {}
    sums, results["tailorbird"] = timed(ours, work, arguments.runs)
    equal = {}
    for name, run in peers().items():
        found, results[name] = timed(run, work, arguments.runs)
        equal[name] = bool(np.array_equal(found.astype(np.float32), sums))
    ratios = {name: round(results[name]["median_s"] / results["tailorbird"]["median_s"], 2) for name in equal}
    if ratios:
        ratios["duckdb_best"] = min(ratios.values())
    about = {
        "sizes": sizes | {"windows": len(WINDOWS), "skew": arguments.skew},
        "versions": {"numpy": version("numpy"), "pyarrow": version("pyarrow"), "python": platform.python_version()},
        "cpu": platform.processor() or platform.machine(),
    }
    report = {"results": results, "ratios": ratios, "equal": equal, **about}
    json.dump(report, sys.stdout, indent=None if arguments.json else 2)
    print()
    sys.exit(0 if all(equal.values()) else 1)


if __name__ == "__main__":
    main()
