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


def duckdb_join(work: Workload) -> np.ndarray:
    """A plain join over the longest window, with one filtered sum for each window."""
    sums = ", ".join(
        f"coalesce(sum(e.cents) FILTER (e.ts >= q.t // {size // TILES} * {size // TILES} - {size}), 0) AS w{index}"
        for index, size in enumerate(WINDOWS.values())
    )
    longest = max(WINDOWS.values())
    return _duckdb(
        work,
        f"SELECT {sums} FROM q LEFT JOIN e ON e.user = q.user AND e.ts < q.t "
        f"AND e.ts >= q.t // {longest // TILES} * {longest // TILES} - {longest} GROUP BY q.row ORDER BY q.row",
    )


def duckdb_asof(work: Workload) -> np.ndarray:
    """One ASOF join over cumulative sums for each edge: now, and where each window begins."""
    edges = ["q.t", *(f"q.t // {size // TILES} * {size // TILES} - {size}" for size in WINDOWS.values())]
    joins = [
        f"LEFT JOIN (SELECT q.row, c.total FROM q ASOF JOIN c ON c.user = q.user AND c.ts < {edge}) j{index} ON j{index}.row = q.row"
        for index, edge in enumerate(edges)
    ]
    sums = ", ".join(f"coalesce(j0.total, 0) - coalesce(j{index + 1}.total, 0)" for index in range(len(WINDOWS)))
    total_of = "CREATE OR REPLACE TEMP TABLE c AS SELECT user, ts, sum(cents) OVER (PARTITION BY user ORDER BY ts) AS total FROM e"
    return _duckdb(work, f"SELECT {sums} FROM q {' '.join(joins)} ORDER BY q.row", total_of)


def _duckdb(work: Workload, query: str, before: str = "SELECT 1") -> np.ndarray:
    import duckdb

    names = work.names()
    e = pa.table({"user": names.take(pa.array(work.user)), "ts": work.ts, "cents": work.cents})
    q = pa.table({"row": np.arange(len(work.t)), "user": names.take(pa.array(work.asked)), "t": work.t})
    with duckdb.connect() as connection:
        connection.register("e", e)
        connection.register("q", q)
        began = time.perf_counter()
        connection.execute(before).fetchall()
        found = connection.sql(query).to_arrow_table()
        seconds.append(time.perf_counter() - began)
    return np.stack([column.cast(pa.float64()).to_numpy() for column in found.columns], axis=1)


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
