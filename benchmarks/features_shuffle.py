"""Measure what several feature workers gain over one, for the forty features.

Workers read either the routed log or the logs that a shuffle writes for them.

    python -m benchmarks.features_shuffle [--small] [--json] [--events N] [--runs N]

    one            one worker reads the routed log
    direct K       each of K workers reads the routed log and keeps its part of the entities;
                   the slowest of them
    shuffled K     each reads the log that the shuffle wrote for it; the slowest of them
    shuffle K      the shuffle itself; `rows_share` is the share of events that the largest part
                   gets

Speed is events of the routed log per CPU second, so that other load on the machine counts little. A
ratio is the CPU time of one worker over that of the slowest of K: how many times as many events K
workers on as many cores process. All states together are compared with that of one worker, to the
bit. Exits with status 1 if any differs.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from benchmarks.features_stream import CLOCK, Stage, run_router_stage
from benchmarks.forty import forty_features
from benchmarks.site import Site
from tailorbird.features import FeatureSet
from tailorbird.features.online.shuffle import Shuffle
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.features.state.key_partition import ALL_KEYS, KeyPart, all_parts
from tailorbird.features.state.state import open_state
from tailorbird.stream import routed_path

COUNTS = (2, 4, 8)


def run_worker(
    log: Path, state: Path, features: FeatureSet, part: KeyPart, profiles: int, stage: Stage
) -> dict[bytes, bytes]:
    """Read the log and return the records of the state; only the time after the profiles counts."""
    with FeatureWorker(log, state, features, clock=CLOCK, part=part) as worker:
        while worker.position.log_position < profiles:
            worker.step(rows_max=1)
        with stage:
            while worker.step().rows:
                pass
    store = open_state(state, features, part)
    with store.snapshot() as snapshot:
        records = {key: value for tag in (b"s", b"a") for key, value in snapshot.scan(tag)}
    store.close()
    return records


def run_shuffle(
    routed: Path, logs: list[Path], features: FeatureSet, profiles: int, stage: Stage
) -> list[int]:
    """Split the log and return the events of each part; timed as in `run_worker`."""
    with Shuffle(routed, logs, features) as role:
        while role.step(rows_max=1).end <= profiles:
            pass
        events = [0] * len(logs)
        with stage:
            while (report := role.step()).rows:
                events = [sum(pair) for pair in zip(events, report.events, strict=True)]
    return events


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="a tenth of the events")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    share = 10 if arguments.small else 1
    events, people, items = arguments.events // share, 20_000 // share, 5_000 // share
    features, site, one = forty_features(), Site.draw(events, people=people, items=items), Stage()
    stages: dict[str, list[Stage]] = {}
    shares: dict[int, float] = {}
    equal = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run_router_stage(folder, features, site, 0, Stage())
        routed, profiles = routed_path(folder), people + items
        for run in range(arguments.runs):
            expected = run_worker(routed, folder / f"one-{run}", features, ALL_KEYS, profiles, one)
            for count in COUNTS:
                logs = [folder / f"shuffled-{run}-{count}-{number}.db" for number in range(count)]
                cutting = stages.setdefault(f"shuffle {count}", [Stage()])[0]
                shares[count] = max(run_shuffle(routed, logs, features, profiles, cutting)) / events
                for mode, sources in (("direct", [routed] * count), ("shuffled", logs)):
                    timed = stages.setdefault(f"{mode} {count}", [Stage() for _ in range(count)])
                    state, merged = folder / f"{mode}-{run}-{count}", dict[bytes, bytes]()
                    for part, log, stage in zip(all_parts(count), sources, timed, strict=True):
                        merged |= run_worker(log, state, features, part, profiles, stage)
                    equal &= merged == expected
    slowest = {
        name: max(candidates, key=lambda stage: statistics.median(stage.cpu))
        for name, candidates in stages.items()
    }
    results: dict[str, dict] = {"one": one.result(events)} | {
        name: stage.result(events) for name, stage in slowest.items()
    }
    for count, part in shares.items():
        results[f"shuffle {count}"]["rows_share"] = round(part, 3)
    base = statistics.median(one.cpu)
    report = {
        "results": results,
        "ratios": {
            name: round(base / statistics.median(stage.cpu), 2) for name, stage in slowest.items()
        },
        "equal": equal,
        "sizes": {"events": events, "people": people, "items": items, "runs": arguments.runs},
        "versions": {name: version(name) for name in ("apsw", "lmdb", "numpy", "pyarrow")}
        | {"python": platform.python_version()},
        "cpu": platform.processor() or platform.machine(),
        "load": [round(one, 1) for one in os.getloadavg()],
    }
    json.dump(report, sys.stdout, indent=None if arguments.json else 2)
    print()
    sys.exit(0 if equal else 1)


if __name__ == "__main__":
    main()
