"""Measure how fast events pass through router and feature worker until they can be read.

The forty features are compared with other libraries.

    python -m benchmarks.features_stream [--small] [--json] [--events N] [--index N]
    [--peer-python PATH]

    router, worker   the two stages, one after the other, each in one thread; the router has an
                     index of past event ids
    latency          both as processes at half of their capacity: from an accepted body of 100
                     events to the commit that a reader sees
    river, quix,     every window of the same set (all sums and counts behind windows, ratios and
    python           composites; no decays, distinct counts, sequences, profiles), on decoded
                     events, see `benchmarks.stream_peers`

The events of the peers are run through our stages once more, and every window that holds all events
is compared (`compared`). Shorter ones are not, since each library cuts time differently. Exits with
status 1 if any differs, or if no peer ran. Speed is events per CPU second, so that other load on
the machine counts little; disk waits are in `wall`. A peer's ratio is its CPU time per event over
that of our slower stage, `…_both` over that of both together. Peers that are not installed under
--peer-python are named as missing.
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks.forty import forty_features
from benchmarks.site import SPAN, START, TYPES, Site, to_blocks
from tailorbird.events import DAY, RoutePlan, SimulatedClock
from tailorbird.features import FeatureSet
from tailorbird.features.layout.layout import PEAK_MEASURES
from tailorbird.features.online.read import Reader
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.features.state.eviction import read_all_counts
from tailorbird.features.state.state import all_records, open_state
from tailorbird.router import Router
from tailorbird.router import run_router as run_router
from tailorbird.router.decide.dedup import ENTRY_DTYPE
from tailorbird.stream import open_writer, raw_path, routed_path

CLOCK = SimulatedClock(START)
COUNTRIES = ("NO", "SE", "DK", "FI")
PEERS = ("river", "quix", "python")
BODIES_A_STEP = 200


class Stage:
    """CPU and wall seconds of one stage, one pair per run."""

    def __init__(self) -> None:
        self.cpu: list[float] = []
        self.wall: list[float] = []

    def __enter__(self) -> "Stage":
        self._started = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *exc: object) -> None:
        self.cpu.append(time.process_time() - self._started[0])
        self.wall.append(time.perf_counter() - self._started[1])

    def result(self, events: int) -> dict:
        cpu, wall = statistics.median(self.cpu), statistics.median(self.wall)
        spread = {"cpu_s_min": round(min(self.cpu), 3), "cpu_s_max": round(max(self.cpu), 3)}
        return {
            "events_per_cpu_s": round(events / cpu),
            "events_per_wall_s": round(events / wall),
            "cpu_s": round(cpu, 3),
            **spread,
        }


def route_plan(features: FeatureSet) -> RoutePlan:
    return RoutePlan(
        user_attributes=features.user_attributes, item_attributes=features.item_attributes
    )


def append_bodies(folder: Path, records: list[dict]) -> None:
    with open_writer(raw_path(folder, "collector"), partition="collector") as writer:
        bodies = to_blocks(records)
        for start in range(0, len(bodies), BODIES_A_STEP):
            writer.append(bodies[start : start + BODIES_A_STEP])


def fill_index(router: Router, entries: int) -> None:
    """Add event ids of the last days, so that the router searches a full index."""
    rng, dedup_index, connection = (
        np.random.default_rng(1),
        router._memory.dedup_index,
        router._log.connection,
    )
    for start in range(0, entries, 1 << 18):
        entries_ = np.zeros(min(1 << 18, entries - start), ENTRY_DTYPE)
        entries_["key"], entries_["fingerprint_rest"] = (
            rng.integers(0, 2**64 - 1, len(entries_), np.uint64) for _ in range(2)
        )
        entries_["received_at"] = START - DAY * 2 + start
        entries_["producer"] = 1
        dedup_index.add(entries_)
        with router._log.transaction():
            dedup_index.save(connection)


def run_router_stage(
    folder: Path, features: FeatureSet, site: Site, index: int, stage: Stage
) -> dict:
    append_bodies(folder, site.profiles())
    rss_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Router(folder, route_plan(features), clock=CLOCK) as router:
        while router.step().rows:
            pass
        fill_index(router, index)
        append_bodies(folder, site.records())
        routed = 0
        with stage:
            while report := router.step().rows:
                routed += report
    assert routed == len(site)
    rss_growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - rss_before
    return {
        "entries": index,
        "memory_mb": round(rss_growth / 1024),
        "disk_mb": round(routed_path(folder).stat().st_size / 1e6),
    }


def run_worker_stage(
    routed: Path, state: Path, features: FeatureSet, site: Site, stage: Stage
) -> None:
    profiles = site.people + site.items
    with FeatureWorker(routed, state, features, clock=CLOCK) as worker:
        while worker.position.applied_rows < profiles:
            worker.step(rows_max=1)  # a block at a time: the next begins with the events
        assert worker.position.applied_rows == profiles
        with stage:
            while worker.step().rows:
                pass
        assert worker.position.applied_rows == profiles + len(site)


def describe_windows(features: FeatureSet) -> list[dict]:
    """Describe every window of the set that is a sum or a count, in the form that peers read."""
    windows = []
    for layout in features.layout.entities:
        for window in layout.windows:
            ring = layout.rings[window.ring]
            if ring.measure in PEAK_MEASURES or "square" in ring.measure:
                continue
            size = {"length": window.tiles * ring.hop, "hop": ring.hop}
            reading = {"entity": layout.index, "lane": window.reading_lane}
            windows.append(
                {
                    "fields": list(layout.entity.fields),
                    "types": list(ring.source.types),
                    "measure": ring.measure,
                    **size,
                    **reading,
                }
            )
    return windows


def read_totals(state: Path, features: FeatureSet, windows: list[dict]) -> list[float]:
    """Return the sum of each window over all entities, from the reading records."""
    store, totals = open_state(state, features), []
    records = all_records(features.layout)
    with store.snapshot() as snapshot:
        for window in windows:
            prefix = b"s" + window["entity"].to_bytes(2, "big")
            keys = np.array(
                [int.from_bytes(key[3:], "big") for key, _ in snapshot.scan(prefix)], np.uint64
            )
            readings = records[window["entity"]].readings(snapshot, keys)
            totals.append(float(readings[:, window["lane"]].sum()))
    store.close()
    return totals


def compute_totals(
    folder: Path, features: FeatureSet, site: Site, windows: list[dict]
) -> list[float]:
    """Run the peers' events through our stages and return the sum of each window."""
    folder.mkdir()
    run_router_stage(folder, features, site, 0, Stage())
    run_worker_stage(routed_path(folder), folder / "state", features, site, Stage())
    return read_totals(folder / "state", features, windows)


def is_comparable(window: dict) -> bool:
    """Return True if the window holds all events, whatever the alignment of its tiles.

    Libraries cut shorter windows differently.
    """
    return window["length"] - window["hop"] >= SPAN


def describe_window(window: dict) -> str:
    return (
        f"{window['measure']} of {'+'.join(window['types'])} by "
        f"{'+'.join(window['fields']) or 'all'} in {window['length'] // DAY}d"
    )


def run_peer(name: str, python: str, folder: Path, site: Site, windows: list[dict]) -> dict:
    events = folder / "events.jsonl"
    if not events.exists():
        with events.open("w") as file:
            for person, item, type, ts, cents in zip(
                site.person, site.item, site.type, site.ts, site.cents, strict=True
            ):
                row = {
                    "type": TYPES[type],
                    "ts": int(ts),
                    "cents": int(cents),
                    "user": f"u{person}",
                    "item": f"i{item}",
                }
                file.write(
                    json.dumps(
                        row | {"item.category": f"c{item % 50}", "country": COUNTRIES[person % 4]}
                    )
                    + "\n"
                )
        (folder / "windows.json").write_text(json.dumps(windows))
    program = Path(__file__).with_name("stream_peers.py")
    command = [
        python,
        "-W",
        "ignore",
        str(program),
        name,
        str(events),
        str(folder / "windows.json"),
    ]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    return (
        json.loads(process.stdout)
        if process.returncode == 0
        else {"missing": process.stderr.strip().splitlines()[-1:]}
    )


def measure_latency(features: FeatureSet, site: Site, rate: float, seconds: float) -> dict:
    """Return milliseconds from an accepted body of 100 events to the commit that holds them all.

    Both stages run as processes.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        append_bodies(folder, site.profiles())
        context = multiprocessing.get_context("spawn")
        stop = context.Event()
        roles = [context.Process(target=role, args=(folder, stop)) for role in (_router, _worker)]
        for role in roles:
            role.start()
        profiles = site.people + site.items
        while not (folder / "state" / features.schema_hash / "data.mdb").exists():
            time.sleep(0.05)
        reader = Reader(folder / "state", features)
        while reader.position().applied_rows < profiles:
            time.sleep(0.05)
        bodies = to_blocks(site.records()[: int(rate * seconds) // 100 * 100])
        accepted, readable = [], np.zeros(len(bodies))

        def watch() -> None:
            seen = 0
            while seen < len(bodies):
                rows = (reader.position().applied_rows - profiles) // 100
                if rows > seen:
                    readable[seen:rows] = time.perf_counter()
                    seen = rows
                time.sleep(0.001)

        watcher = threading.Thread(target=watch)
        watcher.start()
        with open_writer(raw_path(folder, "collector"), partition="collector") as writer:
            started = time.perf_counter()
            for number, block in enumerate(bodies):
                time.sleep(max(0.0, started + number * 100 / rate - time.perf_counter()))
                writer.append([block])
                accepted.append(time.perf_counter())
        watcher.join()
        reader.close()
        stop.set()
        for role in roles:
            role.join()
    delays_ms = (readable - np.array(accepted)) * 1000
    p50, p99 = np.percentile(delays_ms, [50, 99])
    return {
        "rate": round(rate),
        "bodies": len(bodies),
        "p50_ms": round(p50, 1),
        "p99_ms": round(p99, 1),
        "max_ms": round(delays_ms.max(), 1),
    }


def _router(folder: Path, stop: threading.Event) -> None:
    run_router(folder, route_plan(forty_features()), CLOCK, stop)


def _worker(folder: Path, stop: threading.Event) -> None:
    state, features = folder / "state", forty_features()
    with FeatureWorker(routed_path(folder), state, features, clock=CLOCK) as worker:
        worker.run(stop)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--small", action="store_true", help="a tenth of the events and a hundredth of the index"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument(
        "--index", type=int, default=50_000_000, help="event ids that the router knows"
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--peer-python", default=sys.executable, help="a Python that has river and quixstreams"
    )
    parser.add_argument(
        "--peer-events",
        type=int,
        default=20_000,
        help="how many of the events peers get: the first",
    )
    arguments = parser.parse_args()
    share = 10 if arguments.small else 1
    events, index = arguments.events // share, arguments.index // share**2
    people, items = 20_000 // share, 5_000 // share
    features, site = forty_features(), Site.draw(events, people=people, items=items)
    windows, router, worker = describe_windows(features), Stage(), Stage()
    results: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seen = run_router_stage(folder, features, site, index, router)
        for run in range(arguments.runs):
            run_worker_stage(routed_path(folder), folder / f"state{run}", features, site, worker)
        state = folder / f"state{arguments.runs - 1}"
        ours = read_totals(state, features, windows)
        results |= {
            "router": router.result(events) | {"index": seen},
            "worker": worker.result(events),
        }
        store = open_state(state, features)
        with store.snapshot() as snapshot:
            results["bytes_by_kind"] = {
                window.entity.name: {
                    "entities": counts.entities,
                    "state_bytes_each": round(counts.state_bytes / max(1, counts.entities)),
                    "state_bytes_unpacked": window.state_bytes,
                    "reading_bytes_each": window.reading_bytes,
                }
                for window, counts in zip(
                    features.layout.entities,
                    read_all_counts(snapshot, features.layout).values(),
                    strict=True,
                )
            }
            results["state_on_disk_mb"] = {"all": round(store.size_bytes() / 1e6, 1)}
        store.close()
        first = slice(arguments.peer_events)
        peer_site = Site(
            site.person[first],
            site.item[first],
            site.type[first],
            site.ts[first],
            site.cents[first],
            people,
            items,
        )
        expected_totals = (
            ours
            if len(peer_site) == events
            else compute_totals(folder / "few", features, peer_site, windows)
        )
        peers = {
            window: run_peer(window, arguments.peer_python, folder, peer_site, windows)
            for window in PEERS
        }
    slower = max(statistics.median(router.cpu), statistics.median(worker.cpu)) / events
    both = (statistics.median(router.cpu) + statistics.median(worker.cpu)) / events
    ratios, equal = {}, {}
    compared = [number for number, window in enumerate(windows) if is_comparable(window)]
    for name, reply in peers.items():
        if "missing" in reply:
            results[name] = reply
            continue
        cpu_per_event = reply["cpu_s"] / reply["events"]
        results[name] = {
            "events_per_cpu_s": round(1 / cpu_per_event),
            "events_per_wall_s": round(reply["events"] / reply["wall_s"]),
        }
        ratios[name], ratios[f"{name}_both"] = (
            round(cpu_per_event / slower, 2),
            round(cpu_per_event / both, 2),
        )
        equal[name] = bool(compared) and all(
            reply["totals"][number] == expected_totals[number] for number in compared
        )
    capacity = 0.5 * min(
        results["router"]["events_per_wall_s"], results["worker"]["events_per_wall_s"]
    )
    results["latency"] = measure_latency(features, site, capacity, 3.0 if arguments.small else 10.0)
    report = {
        "results": results,
        "ratios": ratios,
        "equal": equal,
        "compared": [describe_window(windows[number]) for number in compared] if equal else [],
        "sizes": {
            "events": events,
            "people": people,
            "items": items,
            "windows": len(windows),
            "peer_events": len(peer_site),
        },
        "versions": {name: version(name) for name in ("apsw", "lmdb", "numpy", "pyarrow")}
        | {"python": platform.python_version()},
        "cpu": platform.processor() or platform.machine(),
        "load": [round(window, 1) for window in os.getloadavg()],
    }
    json.dump(report, sys.stdout, indent=None if arguments.json else 2)
    print()
    if not equal:
        print(
            f"nothing was compared: none of {', '.join(PEERS)} ran under {arguments.peer_python}",
            file=sys.stderr,
        )
    sys.exit(0 if equal and all(equal.values()) else 1)


if __name__ == "__main__":
    main()
