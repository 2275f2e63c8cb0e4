"""Measure the first hour with your own data: from `init --from` to a list, in seconds.

    python -m benchmarks.first_hour [--events 200000 2000000] [--demo] [--small] [--json]

The log is a shop's, in the layout of REES46's "eCommerce behaviour data" on Kaggle. It is generated
here: people with tastes, sessions, a catalogue that changes. The commands are those that `init`
prints, unedited. `page` is the first response of the server that `up` starts, counted from its
start. `--demo` also measures how soon the shop of `tailorbird demo` opens while another process
keeps one core busy, and how long its roles live after a SIGTERM. `cpu` is processor time of `train`
with its children; machines are shared, so the wall clock says less.
"""

import argparse
import json
import os
import re
import resource
import shlex
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from benchmarks.quality.product.report import describe_provenance

LIMITS_S = {200_000: 240, 2_000_000: 900}  # from init to a personalised list, on two idle cores
DEMO_LIMITS_S = {"first_page": 60, "ended": 5}
BEGIN = datetime(2024, 9, 1, tzinfo=UTC).timestamp()
DAYS = 45
EVENTS_A_PERSON, EVENTS_AN_ITEM, SESSION = 12, 40, 5
CATEGORIES, BRANDS = 24, 60


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.first_hour", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--events",
        type=int,
        nargs="+",
        default=[200_000, 2_000_000],
        help="how many events the files have",
    )
    parser.add_argument(
        "--demo", action="store_true", help="measure the demo's first page too, with one core busy"
    )
    parser.add_argument("--small", action="store_true", help="one file of 20,000 events")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object on stdout and nothing else"
    )
    arguments = parser.parse_args()
    sizes = [20_000] if arguments.small else arguments.events
    results = {f"{size}": measure(size) for size in sizes}
    if arguments.demo:
        results["demo"] = measure_demo()
    report = {
        "benchmark": "first_hour",
        "small": arguments.small,
        "results": results,
        "wanted_s": {
            **{f"{size}": LIMITS_S[size] for size in sizes if size in LIMITS_S},
            **({"demo": DEMO_LIMITS_S} if arguments.demo else {}),
        },
        **describe_provenance("python -m benchmarks.first_hour " + " ".join(sys.argv[1:])),
    }
    print(json.dumps(report, indent=1) if arguments.json else _table(results))


def measure(events: int) -> dict[str, float]:
    """Take a file from `init --from` to a list and a page; return seconds of each step."""
    with tempfile.TemporaryDirectory(prefix="tailorbird-first-hour-") as scratch:
        folder = Path(scratch)
        write_log(folder / "2024-Sep.csv", events)
        seconds: dict[str, float] = {}
        output, seconds["init"] = _run_timed(
            [
                sys.executable,
                "-m",
                "tailorbird",
                "init",
                "shop",
                "--from",
                "2024-Sep.csv",
                "--json",
            ],
            folder,
        )
        steps = [shlex.split(step)[1:] for step in json.loads(output)["next"]]
        for arguments in steps[:-1]:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            _, seconds[arguments[2]] = _run_timed(
                [sys.executable, "-m", "tailorbird", *arguments], folder
            )
            if arguments[2] == "train":
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                seconds["train_cpu"] = (
                    after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                )
        seconds["to_list"] = sum(seconds[step] for step in ("init", "import", "train", "recommend"))
        seconds["page"] = _wait_for_page(folder / "shop")
    return {name: round(value, 1) for name, value in seconds.items()}


def measure_demo() -> dict[str, float]:
    """Start the demo beside a busy process and time it.

    Returns the seconds to its page, and from a SIGTERM to the end of its last process.
    """
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    with tempfile.TemporaryDirectory(prefix="tailorbird-demo-") as scratch:
        folder = Path(scratch) / "demo"
        started = time.monotonic()
        command = [sys.executable, "-m", "tailorbird", "demo", "--folder", str(folder)]
        demo = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        )
        assert demo.stdout is not None
        try:
            address = next(
                (urls[0] for line in demo.stdout if (urls := re.findall(r"http://\S+/shop", line))),
                "",
            )
            with urllib.request.urlopen(address, timeout=10) as response:
                response.read()
            first_page = time.monotonic() - started
        finally:
            busy.kill()
            busy.wait()
            demo.terminate()
        ended = time.monotonic()
        while any(processes_of(folder)) and time.monotonic() - ended < 60:
            time.sleep(0.02)
        seconds = time.monotonic() - ended
        demo.wait()
    return {"first_page": round(first_page, 1), "ended": round(seconds, 1)}


def processes_of(folder: Path) -> Iterator[int]:
    """Yield the processes whose command line names a folder."""
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and str(folder).encode() in (entry / "cmdline").read_bytes():
                yield int(entry.name)


def write_log(path: Path, events: int) -> None:
    """Write a shop's log: people with tastes who return in sessions, and new items over time."""
    rng = np.random.default_rng(7)
    people, items = events // EVENTS_A_PERSON, max(200, events // EVENTS_AN_ITEM)
    sessions = events // SESSION
    begin = np.sort(rng.uniform(0, DAYS * 86_400, sessions))
    person = rng.zipf(1.4, sessions) * 7_919 % people
    taste = rng.integers(0, CATEGORIES, people)
    category = np.where(
        rng.random(sessions) < 0.7, taste[person], rng.integers(0, CATEGORIES, sessions)
    )
    session = np.repeat(np.arange(sessions), SESSION)
    catalogue_share = 0.5 + 0.5 * np.repeat(begin, SESSION) / (
        DAYS * 86_400
    )  # the catalogue grows to twice its size
    rank = np.minimum(rng.zipf(1.2, len(session)) - 1, items // CATEGORIES - 1) * catalogue_share
    item = rank.astype(np.int64) * CATEGORIES + category[session]
    ts = (BEGIN + np.repeat(begin, SESSION) + np.tile(np.arange(SESSION) * 40.0, sessions)).astype(
        np.int64
    )
    kind = np.asarray(["view", "cart", "purchase"])[
        np.searchsorted([0.9, 0.97], rng.random(len(session)))
    ]
    order = np.argsort(ts, kind="stable")
    stamp = np.char.add(
        np.char.replace(np.datetime_as_string(ts.astype("datetime64[s]")), "T", " "), " UTC"
    )
    of_session = category[session][order]
    table = pa.table(
        {
            "event_time": stamp[order],
            "event_type": kind[order],
            "product_id": 1_000_000 + item[order],
            "category_id": 2_053_013_555 + of_session,
            "category_code": np.char.add("shop.kind", of_session.astype(str)),
            "brand": np.char.add("brand", (item % BRANDS).astype(str))[order],
            "price": np.round(5 + item % 97 * 1.5, 2)[order],
            "user_id": 512_000_000 + person[session][order],
            "user_session": np.char.add("s", session.astype(str))[order],
        }
    )
    pacsv.write_csv(table, path)


def _run_timed(command: list[str], folder: Path) -> tuple[str, float]:
    started = time.monotonic()
    process = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}\n{process.stdout}\n{process.stderr}")
    return process.stdout, time.monotonic() - started


def _wait_for_page(shop: Path) -> float:
    """Return how long `up` takes until its server answers."""
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "tailorbird", "-C", str(shop), "up", "--no-train"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        env={**os.environ, "TAILORBIRD_SERVE__PORT": "0"},
    )
    try:
        for url in _urls(shop):
            with suppress(OSError), urllib.request.urlopen(f"{url}/readyz", timeout=2) as response:
                if response.status == 200:
                    return time.monotonic() - started
        raise SystemExit("the server did not answer within two minutes")
    finally:
        process.terminate()
        process.wait(60)


def _urls(shop: Path) -> Iterator[str]:
    for _ in range(1_200):
        for path in (shop / "data" / "run").glob("serve*.json"):
            with suppress(OSError, ValueError, KeyError):
                yield json.loads(path.read_text())["url"]
        time.sleep(0.1)


def _table(results: dict[str, Any]) -> str:
    lines = []
    for what, row in results.items():
        lines += [
            f"{what:<12}" + "".join(f"{name:>12}" for name in row),
            " " * 12 + "".join(f"{value:>12}" for value in row.values()),
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
