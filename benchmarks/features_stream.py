"""How fast events come through router and feature worker into readable values, for the forty
features; beside other libraries.

    python -m benchmarks.features_stream [--small] [--json] [--events N] [--index N] [--peer-python
    PATH]

    router, worker   the two stages, one after the other, each in one thread; router with an index of past event ids
    latency          both as processes at half of their capacity: from an accepted body of 100 events to the commit that a reader sees
    river, quix,     every window of the same set (all sums and counts behind windows, ratios and composites; no decays,
    python           distinct counts, sequences, profiles), on decoded events, see `benchmarks.stream_peers`

What peers are given is run through ours once more, and every window that holds all events is
compared (`compared`); shorter ones are not, since each library cuts time otherwise. Ends with
status 1 if any differs, or if no peer ran. Speed is events by CPU second, so that what else runs on
the machine counts little; waiting for disks is in `wall`. A peer's ratio is its CPU time an event
over that of our slower stage, `…_both` over that of both together. Peers that are not installed
under --peer-python are named as missing.
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

from benchmarks.forty import forty
from benchmarks.site import SPAN, START, TYPES, Site, blocks
from tailorbird.events import DAY, RoutePlan, SimulatedClock
from tailorbird.features import FeatureSet
from tailorbird.features.idle import tallies
from tailorbird.features.layout import PEAKS
from tailorbird.features.read import Reader
from tailorbird.features.state import all_records, open_state
from tailorbird.features.worker import FeatureWorker
from tailorbird.features.worker import run as run_worker
from tailorbird.router import Router
from tailorbird.router import run as run_router
from tailorbird.router.dedup import ENTRY
from tailorbird.stream import open_writer, raw_path, routed_path

CLOCK = SimulatedClock(START)
COUNTRIES = ("NO", "SE", "DK", "FI")
PEERS = ("river", "quix", "python")
BODIES_A_STEP = 200


class Stage:
    """CPU and wall seconds of one thing, a pair a run."""

    def __init__(self) -> None:
        self.cpu: list[float] = []
        self.wall: list[float] = []

    def __enter__(self) -> "Stage":
        self._began = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *exc: object) -> None:
        self.cpu.append(time.process_time() - self._began[0])
        self.wall.append(time.perf_counter() - self._began[1])

    def result(self, events: int) -> dict:
        cpu, wall = statistics.median(self.cpu), statistics.median(self.wall)
        spread = {"cpu_s_min": round(min(self.cpu), 3), "cpu_s_max": round(max(self.cpu), 3)}
        return {
            "events_per_cpu_s": round(events / cpu),
            "events_per_wall_s": round(events / wall),
            "cpu_s": round(cpu, 3),
            **spread,
        }


def plan_of(features: FeatureSet) -> RoutePlan:
    return RoutePlan(
        user_attributes=features.user_attributes, item_attributes=features.item_attributes
    )


def append(folder: Path, records: list[dict]) -> None:
    with open_writer(raw_path(folder, "door"), partition="door") as writer:
        some = blocks(records)
        for start in range(0, len(some), BODIES_A_STEP):
            writer.append(some[start : start + BODIES_A_STEP])


def fill_index(router: Router, entries: int) -> None:
    """Event ids of the last days, so that each of the site's events is looked for among all of
    them.
    """
    rng, seen, connection = np.random.default_rng(1), router._memory.seen, router._log.connection
    for start in range(0, entries, 1 << 18):
        some = np.zeros(min(1 << 18, entries - start), ENTRY)
        some["key"], some["check"] = (
            rng.integers(0, 2**64 - 1, len(some), np.uint64) for _ in range(2)
        )
        some["received_at"] = START - DAY * 2 + start
        some["producer"] = 1
        seen.add(some)
        with router._log.transaction():
            seen.save(connection)


def route(folder: Path, features: FeatureSet, site: Site, index: int, stage: Stage) -> dict:
    append(folder, site.profiles())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Router(folder, plan_of(features), clock=CLOCK) as router:
        while router.step().rows:
            pass
        fill_index(router, index)
        append(folder, site.records())
        routed = 0
        with stage:
            while report := router.step().rows:
                routed += report
    assert routed == len(site)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "entries": index,
        "memory_mb": round(used / 1024),
        "disk_mb": round(routed_path(folder).stat().st_size / 1e6),
    }


def work(routed: Path, state: Path, features: FeatureSet, site: Site, stage: Stage) -> None:
    profiles = site.people + site.items
    with FeatureWorker(routed, state, features, clock=CLOCK) as worker:
        while worker.position.rows < profiles:
            worker.step(rows_max=1)  # a block at a time: the next begins with the events
        assert worker.position.rows == profiles
        with stage:
            while worker.step().rows:
                pass
        assert worker.position.rows == profiles + len(site)


def windows_of(features: FeatureSet) -> list[dict]:
    """Every window of the set that is a sum or a count, as peers are told of it."""
    found = []
    for layout in features.layout.entities:
        for one in layout.windows:
            ring = layout.rings[one.ring]
            if ring.measure in PEAKS or "square" in ring.measure:
                continue
            size = {"length": one.tiles * ring.hop, "hop": ring.hop}
            place = {"entity": layout.index, "lane": one.reading_lane}
            found.append(
                {
                    "fields": list(layout.entity.fields),
                    "types": list(ring.source.types),
                    "measure": ring.measure,
                    **size,
                    **place,
                }
            )
    return found


def read_totals(state: Path, features: FeatureSet, windows: list[dict]) -> list[float]:
    """The sum over all entities of each window, as it stands in the reading records."""
    store, totals = open_state(state, features), []
    records = all_records(features.layout)
    with store.snapshot() as snapshot:
        for one in windows:
            prefix = b"s" + one["entity"].to_bytes(2, "big")
            keys = np.array(
                [int.from_bytes(key[3:], "big") for key, _ in snapshot.scan(prefix)], np.uint64
            )
            readings = records[one["entity"]].readings(snapshot, keys)
            totals.append(float(readings[:, one["lane"]].sum()))
    store.close()
    return totals


def totals_of(folder: Path, features: FeatureSet, site: Site, windows: list[dict]) -> list[float]:
    """Ours of the events that peers get."""
    folder.mkdir()
    route(folder, features, site, 0, Stage())
    work(routed_path(folder), folder / "state", features, site, Stage())
    return read_totals(folder / "state", features, windows)


def is_comparable(window: dict) -> bool:
    """Whether it holds all events of the site, wherever its tiles begin: shorter ones each library
    cuts otherwise.
    """
    return window["length"] - window["hop"] >= SPAN


def told_window(window: dict) -> str:
    return (
        f"{window['measure']} of {'+'.join(window['types'])} by "
        f"{'+'.join(window['fields']) or 'all'} in {window['length'] // DAY}d"
    )


def ask_peer(name: str, python: str, folder: Path, site: Site, windows: list[dict]) -> dict:
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
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (
        json.loads(done.stdout)
        if done.returncode == 0
        else {"missing": done.stderr.strip().splitlines()[-1:]}
    )


def latency(features: FeatureSet, site: Site, rate: float, seconds: float) -> dict:
    """Milliseconds from an accepted body of 100 events to the commit that holds them all, with both
    stages as processes.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        append(folder, site.profiles())
        context = multiprocessing.get_context("spawn")
        stop = context.Event()
        roles = [context.Process(target=role, args=(folder, stop)) for role in (_router, _worker)]
        for role in roles:
            role.start()
        profiles = site.people + site.items
        while not (folder / "state" / features.schema_hash / "data.mdb").exists():
            time.sleep(0.05)
        reader = Reader(folder / "state", features)
        while reader.position().rows < profiles:
            time.sleep(0.05)
        some = blocks(site.records()[: int(rate * seconds) // 100 * 100])
        accepted, readable = [], np.zeros(len(some))

        def watch() -> None:
            seen = 0
            while seen < len(some):
                rows = (reader.position().rows - profiles) // 100
                if rows > seen:
                    readable[seen:rows] = time.perf_counter()
                    seen = rows
                time.sleep(0.001)

        watcher = threading.Thread(target=watch)
        watcher.start()
        with open_writer(raw_path(folder, "door"), partition="door") as writer:
            began = time.perf_counter()
            for number, block in enumerate(some):
                time.sleep(max(0.0, began + number * 100 / rate - time.perf_counter()))
                writer.append([block])
                accepted.append(time.perf_counter())
        watcher.join()
        reader.close()
        stop.set()
        for role in roles:
            role.join()
    waited = (readable - np.array(accepted)) * 1000
    p50, p99 = np.percentile(waited, [50, 99])
    return {
        "rate": round(rate),
        "bodies": len(some),
        "p50_ms": round(p50, 1),
        "p99_ms": round(p99, 1),
        "max_ms": round(waited.max(), 1),
    }


def _router(folder: Path, stop: threading.Event) -> None:
    run_router(folder, plan_of(forty()), CLOCK, stop)


def _worker(folder: Path, stop: threading.Event) -> None:
    run_worker(routed_path(folder), folder / "state", forty(), clock=CLOCK, stop=stop)


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
    features, site = forty(), Site.draw(events, people=people, items=items)
    windows, router, worker = windows_of(features), Stage(), Stage()
    results: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seen = route(folder, features, site, index, router)
        for run in range(arguments.runs):
            work(routed_path(folder), folder / f"state{run}", features, site, worker)
        state = folder / f"state{arguments.runs - 1}"
        ours = read_totals(state, features, windows)
        results |= {
            "router": router.result(events) | {"index": seen},
            "worker": worker.result(events),
        }
        store = open_state(state, features)
        with store.snapshot() as snapshot:
            results["bytes_by_kind"] = {
                one.entity.name: {
                    "entities": tally.entities,
                    "state_bytes_each": round(tally.state_bytes / max(1, tally.entities)),
                    "state_bytes_unpacked": one.state_bytes,
                    "reading_bytes_each": one.reading_bytes,
                }
                for one, tally in zip(
                    features.layout.entities,
                    tallies(snapshot, features.layout).values(),
                    strict=True,
                )
            }
            results["state_on_disk_mb"] = {"all": round(store.size_bytes() / 1e6, 1)}
        store.close()
        first = slice(arguments.peer_events)
        few = Site(
            site.person[first],
            site.item[first],
            site.type[first],
            site.ts[first],
            site.cents[first],
            people,
            items,
        )
        part = ours if len(few) == events else totals_of(folder / "few", features, few, windows)
        peers = {one: ask_peer(one, arguments.peer_python, folder, few, windows) for one in PEERS}
    slower = max(statistics.median(router.cpu), statistics.median(worker.cpu)) / events
    both = (statistics.median(router.cpu) + statistics.median(worker.cpu)) / events
    ratios, equal = {}, {}
    compared = [number for number, one in enumerate(windows) if is_comparable(one)]
    for name, told in peers.items():
        if "missing" in told:
            results[name] = told
            continue
        each = told["cpu_s"] / told["events"]
        results[name] = {
            "events_per_cpu_s": round(1 / each),
            "events_per_wall_s": round(told["events"] / told["wall_s"]),
        }
        ratios[name], ratios[f"{name}_both"] = round(each / slower, 2), round(each / both, 2)
        equal[name] = bool(compared) and all(
            told["totals"][number] == part[number] for number in compared
        )
    capacity = 0.5 * min(
        results["router"]["events_per_wall_s"], results["worker"]["events_per_wall_s"]
    )
    results["latency"] = latency(features, site, capacity, 3.0 if arguments.small else 10.0)
    report = {
        "results": results,
        "ratios": ratios,
        "equal": equal,
        "compared": [told_window(windows[number]) for number in compared] if equal else [],
        "sizes": {
            "events": events,
            "people": people,
            "items": items,
            "windows": len(windows),
            "peer_events": len(few),
        },
        "versions": {name: version(name) for name in ("apsw", "lmdb", "numpy", "pyarrow")}
        | {"python": platform.python_version()},
        "cpu": platform.processor() or platform.machine(),
        "load": [round(one, 1) for one in os.getloadavg()],
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
