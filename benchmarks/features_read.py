"""What a request's features cost: one user, one session, 500 items and their crosses, the forty
features; beside the bare reads.

    python -m benchmarks.features_read [--small] [--json] [--items N] [--events N] [--rounds N]

    floor     the same keys from the same snapshot, one after another, joined to bytes: nothing decoded, nothing computed

Seconds are of the processor. The ratio is the floor's time over ours: 0.5 is twice the floor.
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

from benchmarks.features_stream import CLOCK, append, plan_of
from benchmarks.forty import forty
from benchmarks.site import START, Site
from tailorbird.events.keys import hash64s
from tailorbird.features import ReadRequest
from tailorbird.features.read import Reader
from tailorbird.features.state import open_state
from tailorbird.features.worker import FeatureWorker
from tailorbird.router import Router
from tailorbird.store.embedded import EmbeddedSnapshot
from tailorbird.stream import routed_path


def keys_read(read: Callable[[], object]) -> list[list[bytes]]:
    """The keys that a call asks the store for, a list for each time that it asks."""
    asked: list[list[bytes]] = []
    many, sized, one = EmbeddedSnapshot.get_many, EmbeddedSnapshot.get_sized, EmbeddedSnapshot.get

    def get_many(self, keys, *, default):
        asked.append(list(keys))
        return many(self, keys, default=default)

    def get_sized(self, keys):
        asked.append(list(keys))
        return sized(self, keys)

    def get(self, key):
        asked.append([key])
        return one(self, key)

    EmbeddedSnapshot.get_many, EmbeddedSnapshot.get_sized, EmbeddedSnapshot.get = (
        get_many,
        get_sized,
        get,
    )
    try:
        read()
    finally:
        EmbeddedSnapshot.get_many, EmbeddedSnapshot.get_sized, EmbeddedSnapshot.get = (
            many,
            sized,
            one,
        )
    return asked


def measured(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict]:
    """CPU milliseconds of each call, in turns, so that whatever disturbs one disturbs the other."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.process_time()
            call()
            taken[name].append((time.process_time() - began) * 1000)
    return {
        name: {
            "median_ms": round(statistics.median(some), 3),
            "min_ms": round(min(some), 3),
            "p99_ms": round(sorted(some)[int(len(some) * 0.99)], 3),
        }
        for name, some in taken.items()
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
    features, site = forty(), Site.draw(events, people=20_000 // share)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        append(folder, site.profiles())
        with Router(folder, plan_of(features), clock=CLOCK) as router:
            while router.step().rows:
                pass
            append(folder, site.records())
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

        asked = keys_read(read)

        def bare() -> int:
            with store.snapshot() as snapshot:
                return sum(len(snapshot.get_many(some, default=b"")) for some in asked)

        stale = reader.read(request, items, item_keys=keys).stale
        results = measured({"tailorbird": read, "floor": bare}, rounds)
        size = bare()
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
            "keys": sum(map(len, asked)),
            "bytes": size,
            "stale": stale,
        },
        "bytes_by_kind": {
            one.entity.name: {"reading": one.reading_bytes, "state_unpacked": one.state_bytes}
            for one in features.layout.entities
        },
        "versions": {name: version(name) for name in ("lmdb", "numpy")}
        | {"python": platform.python_version()},
        "cpu": platform.processor() or platform.machine(),
        "load": [round(one, 1) for one in os.getloadavg()],
    }
    json.dump(report, sys.stdout, indent=None if arguments.json else 2)
    print()


if __name__ == "__main__":
    main()
