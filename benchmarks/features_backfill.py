"""Sliding-window sums for many past requests: ours against DuckDB's, Polars' and Feast's, the same
answers, on this machine.

    python -m benchmarks.features_backfill [--small] [--json] [--events N] [--requests N] [--users
    N] [--runs N] [--plot FILE]

Eight windows over purchases, once with users drawn evenly and once with 1 % of them having half of
all; then the set of forty mixed features at the price of those eight windows. Windows are tiles in
all, so that every peer has the same sums, which are compared to the last unit. Peers
(`benchmarks.features_backfill_peers`) run in this process, each in turn, `--runs` times or until a
minute is used up; one that is not installed is left out and named. Feast is measured at the size
that it finishes, with ours at that size beside it. `--plot` draws the cost from a million events to
`--plot-events`.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.features_backfill_peers import installed_formulations
from benchmarks.forty import TYPES, forty_features
from tailorbird.events.clock import DAY, HOUR
from tailorbird.events.contract.schema import TIME_TYPE
from tailorbird.features import FeatureSet, entity, total
from tailorbird.features.offline.backfill import Requests, backfill

START = 1_700_000_000 * 1_000_000 // DAY * DAY
SPAN = 60 * DAY
WINDOWS = {
    "1h": HOUR,
    "6h": 6 * HOUR,
    "1d": DAY,
    "3d": 3 * DAY,
    "7d": 7 * DAY,
    "14d": 14 * DAY,
    "30d": 30 * DAY,
    "60d": 60 * DAY,
}


@dataclass(frozen=True)
class Workload:
    """Purchases of users and the requests about them, both drawn evenly over 60 days.

    Users are drawn evenly, or 1 % of them get half of everything.
    """

    user: np.ndarray
    ts: np.ndarray
    cents: np.ndarray
    request_user: np.ndarray
    t: np.ndarray

    @classmethod
    def draw(cls, events: int, requests: int, users: int, skew: bool) -> "Workload":
        rng = np.random.default_rng(20261125)

        def draw_users(count: int) -> np.ndarray:
            even = rng.integers(0, users, count)
            return np.where(skew & (rng.random(count) < 0.5), even % max(1, users // 100), even)

        ts, t = (
            START + np.sort(rng.integers(0, SPAN, events)),
            START + np.sort(rng.integers(0, SPAN, requests)),
        )
        return cls(draw_users(events), ts, rng.integers(1, 10_000, events), draw_users(requests), t)

    def joined(self) -> int:
        """Count pairs of an event and a request about one user."""
        size = len(self.names())
        return int(
            np.bincount(self.user, minlength=size) @ np.bincount(self.request_user, minlength=size)
        )

    def names(self) -> pa.Array:
        """Return user ids as text, the form in which events hold them."""
        return pa.array(
            [f"u{user}" for user in range(int(max(self.user.max(), self.request_user.max())) + 1)]
        )


def sum_windows(work: Workload) -> np.ndarray:
    """Return our window sums, shape (requests, windows), in cents."""
    names = work.names()
    n = len(work.ts)
    person = names.take(pa.array(work.user))
    events = {
        "p": pa.array(np.arange(1, n + 1)),
        "event_id": pa.nulls(n, pa.string()),
        "type": pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int8)), ["purchase"]).cast(
            pa.string()
        ),
        "ts": pa.array(work.ts, TIME_TYPE),
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
        [
            total(f"spend_{name}", user, "purchase", of="price", unit=1, max=10_000, window=name)
            for name in WINDOWS
        ]
    )
    m = len(work.t)
    # Position = order of time, so that what was known is what had happened.
    requests = Requests(
        work.t,
        np.full(m, n),
        names.take(pa.array(work.request_user)),
        np.arange(m),
        pa.nulls(m, pa.string()),
    )
    table = pa.table(events)
    started = time.perf_counter()
    sums = backfill(features, table, requests).numeric
    seconds.append(time.perf_counter() - started)
    return sums


def make_mixed(work: Workload) -> tuple[pa.Table, Requests]:
    """Return events and requests for the set of forty features.

    Users and times are the same, and each event is about one item.
    """
    rng = np.random.default_rng(20261126)
    n, m = len(work.ts), len(work.t)
    items = max(1, len(work.names()) // 20)
    item_names = pa.array([f"i{item}" for item in range(items)])
    # A few items have most of the events, as everywhere.
    chosen = (items * rng.random(n) ** 3).astype(np.int64)
    profiles = pa.array(
        [
            json.dumps({"category": f"c{item % 50}", "brand": f"b{item % 300}", "price": item % 90})
            for item in range(items)
        ]
    )
    type_of = rng.choice(len(TYPES), n, p=[0.55, 0.2, 0.2, 0.05])
    person = work.names().take(pa.array(work.user))
    bought = type_of == TYPES.index("purchase")
    events = {
        "p": pa.array(np.arange(1, n + 1)),
        "event_id": pa.array(np.char.add("e", np.arange(n).astype(str))),
        "type": pa.array(TYPES).take(pa.array(type_of)),
        "ts": pa.array(work.ts, TIME_TYPE),
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
    described = _profile_columns(items, item_names, profiles, work.names())
    table = pa.concat_tables(
        [
            pa.table({name: described[name].cast(column.type) for name, column in events.items()}),
            pa.table(events),
        ]
    )
    request_items = (items * rng.random(m) ** 3).astype(np.int64)
    users = work.names().take(pa.array(work.request_user))
    country = pa.array(["NO", "SE", "DK"]).take(pa.array(work.request_user % 3))
    # Position = order of time, so that what was known is what had happened.
    p = np.searchsorted(work.ts, work.t)
    return table, Requests(
        work.t,
        p,
        users,
        np.arange(m),
        item_names.take(pa.array(request_items)),
        session_id=_sessions(work.request_user, work.t),
        country=country,
    )


def _sessions(user: np.ndarray, t: np.ndarray) -> pa.Array:
    """Return a session id for each user and half hour."""
    number = (user * 7_919 + (t - START) // (HOUR // 2)) % 1_000_000
    return pa.array([f"s{one}" for one in range(1_000_000)]).take(pa.array(number))


def _profile_columns(
    items: int, item_names: pa.Array, profiles: pa.Array, names: pa.Array
) -> dict[str, pa.Array]:
    """Return columns of one profile event per item and user, dated before all other events."""
    count = items + len(names)
    plans = [
        json.dumps({"plan": f"p{user % 3}", "age": user % 80, "segment": f"s{user % 12}"})
        for user in range(len(names))
    ]
    nulls = pa.nulls(count, pa.string())
    return {
        "p": pa.array(np.zeros(count, np.int64)),
        "event_id": pa.array([f"d{row}" for row in range(count)]),
        "type": pa.array(["item"] * items + ["user"] * len(names)),
        "ts": pa.array(np.full(count, START - DAY), TIME_TYPE),
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
ENOUGH_S = 60.0
JOIN_MAX = 400_000_000  # rows of a join that a peer is given memory for
FEAST_EVENTS = 50_000


def time_runs(run: Callable[[], tuple[np.ndarray, float]], runs: int) -> tuple[np.ndarray, dict]:
    taken: list[float] = []
    answer = np.zeros(0)
    while len(taken) < runs and sum(taken) < ENOUGH_S:
        answer, seconds_taken = run()
        taken.append(seconds_taken)
    summary = {"median_s": statistics.median(taken), "min_s": min(taken), "max_s": max(taken)}
    return answer, {name: round(value, 4) for name, value in summary.items()} | {"runs": len(taken)}


def time_ours(work: Workload) -> tuple[np.ndarray, float]:
    seconds.clear()
    answer = sum_windows(work)
    return answer, seconds[-1]


def compare_peers(work: Workload, names: Sequence[str], runs: int) -> dict:
    """Time our engine and these peers on one workload.

    Returns results, equality of the sums, and the peers that were left out with the reason.
    """
    peers = installed_formulations()
    sum_windows(work)  # compiles
    sums, result = time_runs(lambda: time_ours(work), runs)
    results, equal, left_out = {"tailorbird": result}, {}, {}
    for name in names:
        if name not in peers:
            left_out[name] = "not installed"
        elif name == "polars_join" and (rows := work.joined()) > JOIN_MAX:
            left_out[name] = f"its join has {rows:,} rows"
        else:
            answer, results[name] = time_runs(lambda name=name: peers[name](work, WINDOWS), runs)
            equal[name] = bool(np.array_equal(answer.astype(np.float32), sums))
    ratios = {name: round(results[name]["median_s"] / result["median_s"], 2) for name in equal}
    return {"results": results, "ratios": ratios, "equal": equal, "left_out": left_out}


def measure_forty(work: Workload, runs: int) -> dict:
    """Time the set of forty on as many events and requests as the eight windows.

    The result also holds the cost as a multiple of that of the eight windows.
    """
    table, requests = make_mixed(work)
    backfill(forty_features(), table, requests.slice_requests(0, 100, slice(0, 100)))  # compiles

    def run() -> tuple[np.ndarray, float]:
        started = time.perf_counter()
        values = backfill(forty_features(), table, requests).numeric
        return values, time.perf_counter() - started

    _, result = time_runs(run, runs)
    _, eight = time_runs(lambda: time_ours(work), runs)
    return result | {
        "eight_windows_s": eight["median_s"],
        "cost": round(result["median_s"] / eight["median_s"], 2),
    }


def plot_cost(path: Path, events_max: int) -> dict[int, float]:
    """Plot seconds over the number of events, from a million on.

    There are two requests for five events, and 25 events a user.
    """
    from matplotlib.figure import Figure

    seconds_by_events: dict[int, float] = {}
    for millions in (1, 2, 5, 10, 20, 50):
        events = millions * 1_000_000
        if events <= events_max:
            work = Workload.draw(events, events * 2 // 5, events // 25, skew=False)
            seconds_by_events[events] = round(min(time_ours(work)[1] for _ in range(3)), 3)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    sizes = np.array(list(seconds_by_events))
    axes.loglog(sizes, list(seconds_by_events.values()), "o-", label="8 windows")
    first = sizes[0]
    axes.loglog(
        sizes,
        seconds_by_events[int(first)] * sizes * np.log(sizes) / (first * np.log(first)),
        "--",
        color="grey",
        label="n log n",
    )
    axes.set(xlabel="events (and two requests for five)", ylabel="seconds")
    axes.legend()
    figure.savefig(path)
    return seconds_by_events


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--small", action="store_true", help="a twentieth of the size, for a minute at most"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", type=Path, help="write a picture of the cost by size")
    parser.add_argument("--plot-events", type=int, default=50_000_000)
    for name, default in (
        ("events", 5_000_000),
        ("requests", 2_000_000),
        ("users", 200_000),
        ("runs", 3),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    share = 20 if arguments.small else 1
    sizes = {name: getattr(arguments, name) // share for name in ("events", "requests", "users")}
    parts: dict[str, dict] = {}
    for spread in ("even", "skewed"):
        work = Workload.draw(**sizes, skew=spread == "skewed")
        parts[spread] = compare_peers(
            work,
            ("duckdb_join", "duckdb_range", "duckdb_asof", "polars_asof", "polars_join"),
            arguments.runs,
        )
    few = FEAST_EVENTS // (5 if arguments.small else 1)
    parts["feast"] = compare_peers(
        Workload.draw(few, few * 2 // 5, few // 25, skew=False), ("feast",), arguments.runs
    )
    parts["forty"] = measure_forty(Workload.draw(**sizes, skew=False), arguments.runs)
    report: dict[str, Any] = {
        "results": {name: part.get("results", part) for name, part in parts.items()},
        "ratios": _ratios(parts),
        "ratios_by_spread": {name: parts[name]["ratios"] for name in ("even", "skewed", "feast")},
        "equal": {name: parts[name]["equal"] for name in ("even", "skewed", "feast")},
        "left_out": {name: parts[name]["left_out"] for name in ("even", "skewed", "feast")},
        "sizes": sizes | {"windows": len(WINDOWS), "feast_events": few},
        "versions": _versions(),
        "cpu": {
            "model": _cpu(),
            "cores": os.cpu_count(),
            "load": [round(one, 1) for one in os.getloadavg()],
        },
    }
    if arguments.plot:
        report["by_events_s"] = plot_cost(arguments.plot, arguments.plot_events)
    json.dump(report, sys.stdout, indent=None if arguments.json else 2)
    print()
    sys.exit(0 if all(one for part in report["equal"].values() for one in part.values()) else 1)


def _ratios(parts: dict[str, dict]) -> dict[str, float]:
    """Return the smaller ratio over both spreads for each peer's best formulation.

    DuckDB's ASOF form is listed on its own.
    """

    def least(*names: str) -> list[float]:
        best = [
            [one for name, one in parts[spread]["ratios"].items() if name in names]
            for spread in ("even", "skewed")
        ]
        return [min(min(values) for values in best)] if all(best) else []

    ratios = {
        "duckdb_best": least("duckdb_join", "duckdb_range", "duckdb_asof"),
        "duckdb_asof": least("duckdb_asof"),
        "polars": least("polars_asof", "polars_join"),
        "feast": list(parts["feast"]["ratios"].values()),
    }
    return {name: values[0] for name, values in ratios.items() if values}


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("numpy", "pyarrow", "numba", "duckdb", "polars", "feast"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


if __name__ == "__main__":
    main()
