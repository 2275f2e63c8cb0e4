"""Measure the cost of reading one request's features beside the bare reads of the store.

A request has one user, one session, 500 items and their crosses, with the forty features.

    python -m benchmarks.features_read [--small] [--json] [--items N] [--events N] [--rounds N]

    floor     the same keys from the same snapshot, one after another, joined to bytes:
              nothing decoded, nothing computed

Seconds are CPU time. The ratio is the floor's time over ours: 0.5 is twice the floor.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from benchmarks.features_stream import CLOCK, append_bodies, route_plan
from benchmarks.forty import forty_features
from benchmarks.site import START, Site
from tailorbird.events.keys import hash64s
from tailorbird.features import ReadRequest
from tailorbird.features.online.read import Reader
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.features.state.state import open_state
from tailorbird.router import Router
from tailorbird.store.embedded import EmbeddedSnapshot
from tailorbird.stream import routed_path


def record_keys(read: Callable[[], object]) -> list[list[bytes]]:
    """Return the keys that a call requests from the store, one list per request."""
    requested_keys: list[list[bytes]] = []
    get_many_, sized, one = (
        EmbeddedSnapshot.get_many,
        EmbeddedSnapshot.get_many_with_sizes,
        EmbeddedSnapshot.get,
    )

    def get_many(self, keys, *, default):
        requested_keys.append(list(keys))
        return get_many_(self, keys, default=default)

    def get_many_with_sizes(self, keys):
        requested_keys.append(list(keys))
        return sized(self, keys)

    def get(self, key):
        requested_keys.append([key])
        return one(self, key)

    EmbeddedSnapshot.get_many, EmbeddedSnapshot.get_many_with_sizes, EmbeddedSnapshot.get = (
        get_many,
        get_many_with_sizes,
        get,
    )
    try:
        read()
    finally:
        EmbeddedSnapshot.get_many, EmbeddedSnapshot.get_many_with_sizes, EmbeddedSnapshot.get = (
            get_many_,
            sized,
            one,
        )
    return requested_keys


def time_calls(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict]:
    """Return CPU milliseconds of each call, taken in turns so that noise affects all alike."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.process_time()
            call()
            taken[name].append((time.process_time() - started) * 1000)
    return {
        name: {
            "median_ms": round(statistics.median(milliseconds), 3),
            "min_ms": round(min(milliseconds), 3),
            "p99_ms": round(sorted(milliseconds)[int(len(milliseconds) * 0.99)], 3),
        }
        for name, milliseconds in taken.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--small", action="store_true", help="a tenth of the events and of the rounds"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=1_000)
    arguments = parser.parse_args()
    share = 10 if arguments.small else 1
    events, rounds = arguments.events // share, arguments.rounds // share
    features, site = forty_features(), Site.draw(events, people=20_000 // share)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        append_bodies(folder, site.profiles())
        with Router(folder, route_plan(features), clock=CLOCK) as router:
            while router.step().rows:
                pass
            append_bodies(folder, site.records())
            while router.step().rows:
                pass
        with FeatureWorker(routed_path(folder), folder / "state", features, clock=CLOCK) as worker:
            while worker.step().rows:
                pass
            worker.refresh()  # as the role does each second
        reader, store = Reader(folder / "state", features), open_state(folder / "state", features)
        items = [f"i{item:05}" for item in range(0, site.items, site.items // arguments.items)][
            : arguments.items
        ]
        keys, person = hash64s(items), f"u{int(site.person[-1]):06}"
        request = ReadRequest(
            person=person, session_id="s1", device="phone", country="NO", now=START
        )

        def read() -> object:
            return reader.read(request, items, item_keys=keys)

        requested_keys = record_keys(read)

        def read_keys() -> int:
            with store.snapshot() as snapshot:
                return sum(len(snapshot.get_many(keys_, default=b"")) for keys_ in requested_keys)

        stale = reader.read(request, items, item_keys=keys).stale_rows
        results = time_calls({"tailorbird": read, "floor": read_keys}, rounds)
        size = read_keys()
        reader.close()
        store.close()
    report = {
        "results": results,
        "ratios": {
            "floor": round(results["floor"]["median_ms"] / results["tailorbird"]["median_ms"], 2)
        },
        "sizes": {
            "items": len(items),
            "features": len(features.features),
            "keys": sum(map(len, requested_keys)),
            "bytes": size,
            "stale": stale,
        },
        "bytes_by_kind": {
            layout.entity.name: {
                "reading": layout.reading_bytes,
                "state_unpacked": layout.state_bytes,
            }
            for layout in features.layout.entities
        },
        "versions": {name: version(name) for name in ("lmdb", "numpy")}
        | {"python": platform.python_version()},
        "cpu": platform.processor() or platform.machine(),
        "load": [round(layout, 1) for layout in os.getloadavg()],
    }
    json.dump(report, sys.stdout, indent=None if arguments.json else 2)
    print()


if __name__ == "__main__":
    main()
