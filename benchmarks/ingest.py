"""Measure how fast events enter: collector, router, feature worker and lake, in turn.

Each stage is compared with its bare counterpart.

    python -m benchmarks.ingest [--small] [--json] [--events N] [--runs N]

    raw          appends to the raw log alone: the same bodies in as many commits, each synced,
                 without a check or a queue
    raw_single   the same with one sender, so that each body is a commit in both
    rules        from body to lake without the project's rules, beside the same with six of them
                 for each event, in collector and router
    parquet      pyarrow writes the routed events, a file a day, synced; no ACID, no archive, no
                 ledger, nothing read back

Ratios are the bare part's time over ours: the share of its speed that remains. `cpu_ratios` are the
same for CPU time.
"""

import argparse
import io
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tailorbird.events import DAY, Receipt, RoutePlan, SimulatedClock
from tailorbird.events.contract.columnwise import Contract
from tailorbird.events.contract.rules import Rule
from tailorbird.features import FeatureSet, count, entity, mean, ratio, sequence, time_since
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.lake import Lake, LakeRole
from tailorbird.periodic import exit_process
from tailorbird.router import Router
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.stream import Block, open_reader, open_writer, raw_path, routed_path

START = 1_764_072_000_000_000
SPAN = 3 * DAY
BODY_ROWS = 100
SENDERS = 16
PLAN = RoutePlan(item_attributes=("category", "price"))
RULES = (
    Rule("price", required=True, kind="number", low=0.0, high=10_000),
    Rule("quantity", kind="integer", low=1, high=100),
    Rule("currency", one_of=("EUR", "NOK")),
    Rule("dwell_ms", kind="number"),
    Rule("order_id", kind="text"),
    Rule("gift", kind="boolean"),
)
RULED = msgspec.structs.replace(
    PLAN, rules=dict.fromkeys(("view", "click", "cart", "purchase"), RULES)
)
RECEIPT = msgspec.json.encode(Receipt(START))


def make_bodies(events: int) -> list[bytes]:
    """Return bodies of `BODY_ROWS` events, each about 230 bytes.

    They are of 20,000 users and 5,000 items.
    """
    rng = np.random.default_rng(20261125)
    people, items = (
        rng.integers(0, 20_000, events).tolist(),
        (5_000 * rng.random(events) ** 3).astype(int).tolist(),
    )
    types = rng.choice(
        ["view", "click", "cart", "purchase"], events, p=[0.6, 0.3, 0.07, 0.03]
    ).tolist()
    ts = (START - SPAN + np.sort(rng.integers(0, SPAN, events))).tolist()
    context = {
        "device": "phone",
        "country": "NO",
        "page": "/front",
        "referrer": "https://example.org/",
    }
    rows = [
        {
            "event_id": f"e{number:08}",
            "type": types[number],
            "ts": ts[number],
            "user_id": f"u{people[number]:05}",
            "item_id": f"i{items[number]:04}",
            "context": context,
            "properties": {"price": 19.9, "quantity": 1},
        }
        for number in range(events)
    ]
    return [
        msgspec.json.encode(rows[start : start + BODY_ROWS])
        for start in range(0, events, BODY_ROWS)
    ]


def make_features() -> FeatureSet:
    """Return thirteen columns of the usual kinds."""
    user, item, category, user_category = (
        entity("user"),
        entity("item"),
        entity("item.category"),
        entity("user", "item.category"),
    )
    return FeatureSet.from_declarations(
        [
            *(
                count(f"item_views_{window}", item, "view", window=window)
                for window in ("1h", "1d", "7d")
            ),
            *(
                count(f"user_clicks_{window}", user, "click", window=window)
                for window in ("1h", "1d", "7d")
            ),
            ratio("item_ctr", item, "click", "view", window="7d", prior=category, weight=20),
            mean("user_price", user, "purchase", of="price", unit=0.01, max=10_000, window="30d"),
            count("mine", user_category, "click", window="30d"),
            time_since("since", user, "click"),
            sequence("recent", user, ["click", "cart", "purchase"], length=64),
        ]
    )


class Stopwatch:
    """Wall and CPU seconds of each named stage, one value per run.

    Other load on the machine affects CPU seconds less.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.cpu_seconds: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Time the block under a name."""
        started, started_cpu = time.perf_counter(), time.process_time()
        yield
        self.seconds[name].append(time.perf_counter() - started)
        self.cpu_seconds[name].append(time.process_time() - started_cpu)

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def results(self, rows: dict[str, int]) -> dict[str, dict]:
        return {
            name: {
                "median_s": round(self.median(name), 4),
                "min_s": round(min(taken), 4),
                "max_s": round(max(taken), 4),
                "events_per_s": round(rows[name] / self.median(name)),
                **(
                    {"median_cpu_s": round(statistics.median(self.cpu_seconds[name]), 4)}
                    if name in self.cpu_seconds
                    else {}
                ),
            }
            for name, taken in self.seconds.items()
        }

    def ratio(self, bare: str, ours: str) -> float:
        return round(self.median(bare) / self.median(ours), 3)

    def cpu_ratio(self, bare: str, ours: str) -> float:
        return round(
            statistics.median(self.cpu_seconds[bare]) / statistics.median(self.cpu_seconds[ours]), 3
        )


def run_pass(folder: Path, sent: list[bytes], events: int, watch: Stopwatch) -> bool:
    """Pass the bodies through all stages and return True if each of them has every event."""
    clock = SimulatedClock(START)
    stream, state, lake = folder / "stream", folder / "state", folder / "lake"
    with (
        EventCollector(stream, "collector", PLAN, clock) as collector,
        ThreadPoolExecutor(SENDERS) as pool,
    ):
        with watch.of("collector"):
            for decisions in pool.map(collector.submit, sent):
                assert all(decision.accepted for decision in decisions)
        commits = collector.figures().batches
    _time_raw_log(folder / "bare", sent, commits, "raw", watch)
    single_bodies = sent[: max(1, len(sent) // 4)]
    with (
        EventCollector(folder / "single", "collector", PLAN, clock) as collector,
        watch.of("collector_single"),
    ):
        for body in single_bodies:
            collector.submit(body)
    _time_raw_log(folder / "bare-single", single_bodies, len(single_bodies), "raw_single", watch)
    with Router(stream, PLAN, clock=clock) as router, watch.of("router"):
        accepted = 0
        while rows := router.step().accepted:
            accepted += rows
    with (
        FeatureWorker(routed_path(stream), state, make_features(), clock=clock) as worker,
        watch.of("worker"),
    ):
        while worker.step().rows:
            pass
        applied = worker.position.applied_rows
    with LakeRole(stream, lake, clock=clock) as role, watch.of("lake"):
        role.drain()
    _time_check(sent, watch)
    _time_parquet(folder / "parquet", stream, watch)
    return accepted == applied == Lake(lake).count("events") == events


def _time_check(sent: list[bytes], watch: Stopwatch) -> None:
    """Time the contract alone, with and without rules.

    Both take turns body by body, so that other load on the machine affects both.
    """
    contracts = {"check": Contract(PLAN), "check_rules": Contract(RULED)}
    spent = dict.fromkeys(contracts, 0.0)
    receipt = Receipt(START)
    for body in sent:
        for name, contract in contracts.items():
            started = time.thread_time()  # it is arithmetic, and waits for nothing
            refused = contract.check_bodies([(body, receipt)]).refusals
            spent[name] += time.thread_time() - started
            assert not refused
    for name, seconds in spent.items():
        watch.seconds[name].append(seconds)


def _time_raw_log(
    folder: Path, sent: list[bytes], commits: int, name: str, watch: Stopwatch
) -> None:
    """Write the bodies to a log of their own, in `commits` synced transactions of similar size."""
    edges = np.linspace(0, len(sent), commits + 1).astype(int).tolist()
    blocks = [Block("body", BODY_ROWS, body, RECEIPT) for body in sent]
    with open_writer(raw_path(folder, "bare"), partition="bare") as writer, watch.of(name):
        for first, end in pairwise(edges):
            writer.append(blocks[first:end])


def _time_parquet(folder: Path, stream: Path, watch: Stopwatch) -> None:
    """Write the routed log's events as bare files."""
    folder.mkdir()
    with watch.of("parquet"), open_reader(routed_path(stream)) as reader:
        tables, start = [], 0
        while blocks := reader.read(start):
            tables += [
                pa.ipc.open_stream(io.BytesIO(record.block.payload)).read_all()
                for record in blocks
                if record.block.kind == "events"
            ]
            start = blocks[-1].end
        table = pa.concat_tables(tables)
        days = table["ts"].cast(pa.int64()).to_numpy() // DAY
        for day in np.unique(days).tolist():
            path = folder / f"{day}.parquet"
            pq.write_table(
                table.filter(pa.array(days == day)), path, compression="zstd", compression_level=1
            )
            with path.open("rb") as file:
                os.fsync(file.fileno())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--small", action="store_true", help="a tenth of the size, for a minute at most"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    events = max(
        BODY_ROWS, arguments.events // (10 if arguments.small else 1) // BODY_ROWS * BODY_ROWS
    )
    sent, watch, complete = make_bodies(events), Stopwatch(), []
    for _ in range(arguments.runs):
        with tempfile.TemporaryDirectory() as folder:
            complete.append(run_pass(Path(folder), sent, events, watch))
    single = BODY_ROWS * max(1, len(sent) // 4)
    rows = defaultdict(lambda: events, collector_single=single, raw_single=single)
    pairs = {
        "raw": ("raw", "collector"),
        "raw_single": ("raw_single", "collector_single"),
        "parquet": ("parquet", "lake"),
    }
    report = {
        "results": watch.results(rows),
        "ratios": {name: watch.ratio(*pair) for name, pair in pairs.items()}
        | {"rules": _rules_ratio(watch)},
        "cpu_ratios": {name: watch.cpu_ratio(*pair) for name, pair in pairs.items()},
        "equal": {"every part has every event": all(complete)},
        "sizes": {
            "events": events,
            "body_rows": BODY_ROWS,
            "senders": SENDERS,
            "bytes": sum(map(len, sent)),
            "runs": arguments.runs,
        },
        "versions": {
            name: version(name) for name in ("apsw", "deltalake", "lmdb", "numpy", "pyarrow")
        }
        | {"python": platform.python_version()},
        "cpu": cpu_name(),
    }
    json.dump(report, sys.stdout, indent=None if arguments.json else 2)
    print()
    exit_process(
        0 if all(complete) else 1
    )  # deltalake's threads may abort a process that ends in the usual way


def _rules_ratio(watch: Stopwatch) -> float:
    """Return the time from body to lake without rules over that with them.

    Collector and router both check the rules.
    """
    seconds_without = sum(watch.median(name) for name in ("collector", "router", "lake"))
    return round(
        seconds_without
        / (seconds_without + 2 * (watch.median("check_rules") - watch.median("check"))),
        3,
    )


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (
        f"{names[0]}, {len(names)} cores" if names else platform.processor() or platform.machine()
    )


if __name__ == "__main__":
    main()
