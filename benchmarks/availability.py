"""Ask a running project for answers while its parts die, and count what was not answered.

    python -m benchmarks.availability [--small] [--seconds 300] [--scenario NAME …] [--json]
    [--out benchmarks/figures/availability.json]

The project is a simulated shop with two models, run by `tailorbird up` with two servers. One client
process outside, this one, asks for 50 lists a second, with a deadline of 2 s and no retry, and sends
500 events a second, again under their ids until they are acknowledged. Meanwhile:

    kills     every 5 s a random role is killed, servers included: 1 in 10 by SIGSTOP, and 1 in 20
              is `up` itself, which is started again a second later
    server    every 5 s one server is killed
    swap      every 10 s the other model is promoted
    index     every 2 s the titles and prices of 20 items change, which both servers index anew
    replace   every 30 s `tailorbird up --replace` takes the place of the one that runs
    busy      another process takes a whole core
    restart   both servers are killed while nobody else asks; the time until the next request,
              which waits in the backlog, is answered
    overload  first as fast as eight at a time are answered, which is the capacity, then at fixed
              times 3 and 10 times as many (no events are sent)

Of overload, `goodput` is answers a second over the capacity by the clock, and `goodput_per_cpu` the
same for each second of the servers' CPU, since the client and others share the machine.

`results` has for each the share that was answered, the times of answers, and what failed; and, of
all events of the run, how many acknowledged ones are not in the lake (lost) and how many are in it
more than once (doubled); and how many feature values and candidate lists differ from what the lake's
events make of them (unequal), by `tailorbird features verify`. `load_1min` is how many processes wanted a core at its end.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from tests.support.network.ports import free_port
from tests.support.proc import read_cpu_s

import tailorbird as tb
from benchmarks.availability_load import (
    DEADLINE_S,
    ITEMS,
    Connections,
    Outcomes,
    Sender,
    ask_at_rate,
    question,
)
from benchmarks.quality.running import revision

ANSWERS_PER_S, EVENTS_PER_S = 50, 500
KILL_S, SWAP_S, REPLACE_S, RESTART_UP_S = 5.0, 10.0, 30.0, 1.0
INDEX_S, CHANGED_ITEMS = 2.0, 20
STOP_ONE_IN, UP_ONE_IN = 10, 20
ROLES = ("serve", "serve", "router", "worker", "candidates", "lake")
COMMAND = [sys.executable, "-m", "tailorbird"]
OVERLOADS = (3, 10)
CLOSED_LOOP = 8
RESTARTS, RESTARTED_S = 10, 20.0
RESTART_PAUSE_S = 15.0  # more often would be a storm, which is damped
LAKE_S = 300.0
Disturb = Callable[["Shop", Callable[[], bool]], Awaitable[dict[str, Any]]]


class Shop:
    """A project and the `up` that runs it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.log = folder / "up.log"
        self.up: subprocess.Popen[bytes] | None = None

    def make(self) -> None:
        """Create the project, with a history and two models."""
        self.command("init", str(self.folder))
        history = str(self.folder / "history.jsonl")
        size = ["--days", "6", "--users", "300", "--items", "120", "--out", history]
        self.command("-C", str(self.folder), "simulate", *size)
        self.command("-C", str(self.folder), "import", "tailorbird", history)
        for _ in range(2):
            trained = self.command("-C", str(self.folder), "train", "--quick", "--json")
            self.promote(json.loads(trained)["version"])

    def promote(self, version: str) -> None:
        words = ["models", "promote", version, "--why", "the benchmark swaps models"]
        self.command("-C", str(self.folder), *words)

    def versions(self) -> list[str]:
        listed = self.command("-C", str(self.folder), "models", "list", "--json")
        rows = json.loads(listed)
        rows = rows if isinstance(rows, list) else rows["versions"]
        return [row["version"] for row in rows][-2:]

    def command(self, *words: str) -> str:
        done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)}: {done.stderr}")
        return done.stdout

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        words = ["-C", str(self.folder), "up", "--port", str(self.port), "--no-train", *options]
        with self.log.open("ab") as log:
            self.up = subprocess.Popen([*COMMAND, *words], stdout=log, stderr=subprocess.STDOUT)
        return self.up

    def wait(self) -> float:
        """Wait until it answers; return the seconds that this took."""
        started = time.monotonic()
        while time.monotonic() - started < 120:
            with suppress(OSError), urllib.request.urlopen(self.url("/readyz"), timeout=2):
                return time.monotonic() - started
            time.sleep(0.02)
        raise SystemExit(f"no answer; see {self.log}")

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def pids(self, role: str) -> list[int]:
        """Return the processes of a role."""
        words = [b"-C", os.fsencode(self.folder), b"run", role.encode()]
        return [
            int(folder.name)
            for folder in Path("/proc").glob("[0-9]*")
            if _arguments(folder)[3:7] == words
        ]

    def server_cpu_s(self) -> float:
        """Return the CPU seconds that the servers have used."""
        return sum(read_cpu_s(pid) for pid in self.pids("serve"))

    def stop(self) -> None:
        """End everything, orphans included."""
        if self.up is not None and self.up.poll() is None:
            self.up.terminate()
            self.up.wait(120)
        for role in set(ROLES):
            for pid in self.pids(role):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


async def kill_at_random(shop: Shop, is_over: Callable[[], bool]) -> dict[str, Any]:
    """Kill roles, and sometimes `up`, at random."""
    draw, counts = random.Random(20), {"killed": 0, "stopped": 0, "up": 0}
    while await _pause(KILL_S, is_over):
        if draw.random() < 1 / UP_ONE_IN:
            assert shop.up is not None
            shop.up.kill()
            shop.up.wait()
            counts["up"] += 1
            await asyncio.sleep(RESTART_UP_S)
            shop.start()
            continue
        pids = shop.pids(draw.choice(ROLES))
        if not pids:
            continue
        is_stop = draw.random() < 1 / STOP_ONE_IN
        with suppress(ProcessLookupError):
            os.kill(draw.choice(pids), signal.SIGSTOP if is_stop else signal.SIGKILL)
        counts["stopped" if is_stop else "killed"] += 1
    return counts


async def kill_server(shop: Shop, is_over: Callable[[], bool]) -> dict[str, Any]:
    """Kill one server again and again; measure how long it takes until it serves again."""
    draw, restarts = random.Random(21), []
    while await _pause(KILL_S, is_over):
        before = shop.pids("serve")
        if not before:
            continue
        files = _address_files(shop)
        os.kill(draw.choice(before), signal.SIGKILL)
        killed_at = time.time()
        while _address_files(shop) == files and not is_over():
            await asyncio.sleep(0.02)
        if not is_over():
            restarts.append(time.time() - killed_at)
    return {"killed": len(restarts), "restart_s": _quantiles(restarts)}


async def restart(shop: Shop) -> dict[str, Any]:
    """Kill all servers while nothing else goes on; measure the time to the first answer.

    The listening socket outlives them, so that the request waits in its backlog.
    """
    seconds = []
    for number in range(RESTARTS):
        await asyncio.sleep(RESTART_PAUSE_S)
        killed = shop.pids("serve")
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        killed_at = time.monotonic()
        connections = Connections(shop.port)
        async with asyncio.timeout(RESTARTED_S):
            status, _ = await connections.post("/v1/recommend", question(number))
            while status != 200:
                status, _ = await connections.post("/v1/recommend", question(number))
        seconds.append(time.monotonic() - killed_at)
        connections.close()
    return {"killed": RESTARTS, "first_answer_s": _quantiles(seconds)}


async def swap(shop: Shop, is_over: Callable[[], bool]) -> dict[str, Any]:
    """Promote one model after the other."""
    versions, count = await asyncio.to_thread(shop.versions), 0
    while await _pause(SWAP_S, is_over):
        await asyncio.to_thread(shop.promote, versions[count % 2])
        count += 1
    return {"swaps": count}


async def change_items(shop: Shop, is_over: Callable[[], bool]) -> dict[str, Any]:
    """Change items of the catalogue, so that the index of each server changes."""
    connections, count = Connections(shop.port), 0
    while await _pause(INDEX_S, is_over):
        body = json.dumps([_item_event(count, row) for row in range(CHANGED_ITEMS)]).encode()
        with suppress(OSError, asyncio.IncompleteReadError):
            status, _ = await connections.post("/v1/events", body)
            count += status in (200, 202)
    connections.close()
    return {"changes": count}


def _item_event(change: int, row: int) -> dict[str, Any]:
    properties = {"title": f"oak table {change}", "price": 10.0 + (change + row) % 50}
    item = f"i{(change * CHANGED_ITEMS + row) % ITEMS:05}"
    event_id = f"index{time.time_ns()}-{row}"
    return {"event_id": event_id, "type": "item", "item_id": item, "properties": properties}


async def replace(shop: Shop, is_over: Callable[[], bool]) -> dict[str, Any]:
    """Have another `up` take over."""
    count = 0
    while await _pause(REPLACE_S, is_over):
        previous = shop.up
        shop.start("--replace")
        assert previous is not None
        status = await asyncio.to_thread(previous.wait, 120)
        count += status == 0
    return {"replaced": count}


async def be_busy(shop: Shop, is_over: Callable[[], bool]) -> dict[str, Any]:
    """Run a process that takes a core."""
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    while await _pause(1.0, is_over):
        pass
    busy.kill()
    busy.wait()
    return {}


SCENARIOS: dict[str, Disturb] = {
    "kills": kill_at_random,
    "server": kill_server,
    "swap": swap,
    "index": change_items,
    "replace": replace,
    "busy": be_busy,
}


async def play(shop: Shop, name: str, seconds: float) -> dict[str, Any]:
    """Ask and send for so long while the scenario goes on."""
    stop_at = time.monotonic() + seconds

    def is_over() -> bool:
        return time.monotonic() >= stop_at

    outcomes, connections = Outcomes(), Connections(shop.port)
    sender = Sender(Connections(shop.port), f"{name}{int(time.time())}")
    _, _, disturbed = await asyncio.gather(
        ask_at_rate(connections, ANSWERS_PER_S, is_over, outcomes),
        sender.send_at_rate(EVENTS_PER_S, is_over),
        SCENARIOS[name](shop, is_over),
    )
    connections.close()
    lost, doubled = await asyncio.to_thread(_compare, shop, sender)
    return {
        "seconds": seconds,
        **disturbed,
        **_figures(outcomes),
        "events": len(sender.acknowledged),
        "bodies_repeated": sender.attempts - sender.bodies,
        "event_ms": _quantiles(sender.seconds, 1e3),
        "lost": lost,
        "doubled": doubled,
        **await asyncio.to_thread(_verify, shop),
    }


def overload(shop: Shop, seconds: float) -> dict[str, Any]:
    """Measure the capacity, and what is left of it beyond."""
    capacity = _flood(shop, seconds, "--at-once", str(CLOSED_LOOP))
    per_s = capacity["answered"] / seconds
    per_cpu_s = capacity["answered"] / capacity["cpu_s"]
    results: dict[str, Any] = {"capacity_per_s": round(per_s, 1), **capacity}
    for factor in OVERLOADS:
        figures = _flood(shop, seconds, "--rate", str(factor * per_s))
        time.sleep(1.0)
        after = asyncio.run(_ask_afterwards(shop))
        results[f"{factor}x"] = {
            "goodput": round(figures["answered"] / seconds / per_s, 3),
            "goodput_per_cpu": round(figures["answered"] / figures["cpu_s"] / per_cpu_s, 3),
            "offered_per_s": round(figures["asked"] / seconds, 1),
            **figures,
            "after": after,
        }
    return results


def _flood(shop: Shop, seconds: float, *load: str) -> dict[str, Any]:
    """Send as much as `load` says from a process of its own; return what became of it."""
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        command = [
            sys.executable,
            "-m",
            "tests.faults.drills.flood",
            f"http://127.0.0.1:{shop.port}",
        ]
        command += ["--seconds", str(seconds), *load, "--user-id", "u{:06}", "--out", out.name]
        subprocess.run([*command, "--pid", *map(str, shop.pids("serve"))], check=True)
        tally = json.loads(Path(out.name).read_bytes())
    ms, status = np.array(tally["ms"]), np.array(tally["status"])
    is_answered = (status == 200) & (ms <= DEADLINE_S * 1e3)
    is_refused = np.isin(status, (429, 503))
    return {
        "asked": len(status) + tally["unsent"],
        "answered": int(is_answered.sum()),
        "ms": _quantiles(ms[is_answered]),
        "refused": int(is_refused.sum()),
        "refusal_ms": _quantiles(ms[is_refused]),
        "late": int(((status == 200) & ~is_answered).sum()),
        "failed": int((~is_refused & (status != 200)).sum()),
        "unsent": tally["unsent"],
        "cpu_s": round(tally["cpu_s"], 1),
    }


async def _ask_afterwards(shop: Shop) -> dict[str, Any]:
    connections, outcomes = Connections(shop.port), Outcomes()
    await ask_at_rate(connections, ANSWERS_PER_S, _timer(10.0), outcomes)
    connections.close()
    return _figures(outcomes)


def _timer(seconds: float) -> Callable[[], bool]:
    stop_at = time.monotonic() + seconds
    return lambda: time.monotonic() >= stop_at


async def _pause(seconds: float, is_over: Callable[[], bool]) -> bool:
    """Wait; return whether the scenario goes on."""
    await asyncio.sleep(seconds)
    return not is_over()


def _figures(outcomes: Outcomes) -> dict[str, Any]:
    return {
        "asked": outcomes.asked,
        "answered": round(outcomes.answered / max(1, outcomes.asked), 6),
        "ms": _quantiles(outcomes.seconds, 1e3),
        "refused": len(outcomes.refused_seconds),
        "failed": outcomes.failed,
        "unconnected": outcomes.unconnected,
        "broken": outcomes.broken,
        "late": outcomes.late,
        "other": outcomes.other,
        "failures": [
            f"{time.strftime('%H:%M:%S', time.localtime(at))} {what}"
            for at, what in outcomes.failures[:20]
        ],
    }


def _quantiles(values: Sequence[float] | np.ndarray, factor: float = 1.0) -> dict[str, float]:
    if not len(values):
        return {}
    p50, p99, last = np.quantile(values, (0.5, 0.99, 1.0)) * factor
    return {"p50": round(p50, 2), "p99": round(p99, 2), "max": round(last, 2)}


def _compare(shop: Shop, sender: Sender) -> tuple[int, int]:
    """Wait until the lake has what was acknowledged; return how much is lost and doubled."""
    expected = set(sender.acknowledged)
    project, give_up = tb.Project.open(shop.folder), time.monotonic() + LAKE_S
    while True:
        table = project.lake.sql("SELECT event_id, count(*) AS n FROM events GROUP BY event_id")
        counts = dict(zip(*(column.to_pylist() for column in table.arrow.columns), strict=True))
        lost = len(expected - counts.keys())
        if not lost or time.monotonic() > give_up:
            return lost, sum(counts[each] > 1 for each in expected if each in counts)
        time.sleep(2.0)


def _verify(shop: Shop) -> dict[str, int]:
    """Compare features and candidate lists with the lake; return how many were, and differ."""
    words = [*COMMAND, "-C", str(shop.folder), "features", "verify", "--json"]
    give_up = time.monotonic() + LAKE_S
    while True:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.stdout.startswith("{"):
            found = json.loads(done.stdout)
            return {
                "compared": found["compared"] + found["lists"]["lists"],
                "unequal": found["unequal"] + sum(found["lists"]["unequal"].values()),
            }
        if time.monotonic() > give_up:
            raise SystemExit(f"features verify: {done.stderr}")
        time.sleep(2.0)


def _address_files(shop: Shop) -> set[tuple[str, int]]:
    files = (shop.folder / "data" / "run").glob("serve-*.json")
    found = set()
    for path in files:
        with suppress(OSError):
            found.add((path.name, path.stat().st_mtime_ns))
    return found


def _arguments(folder: Path) -> list[bytes]:
    try:
        return (folder / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*SCENARIOS, "restart", "overload"]
    parser.add_argument("--scenario", nargs="+", choices=names, default=names)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--small", action="store_true", help="20 seconds of each")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, help="file whose scenarios are replaced")
    parser.add_argument("--shop", type=Path, help="folder of a project that was made before")
    arguments = parser.parse_args()
    seconds = 20.0 if arguments.small else arguments.seconds
    with tempfile.TemporaryDirectory() as scratch:
        shop = Shop(arguments.shop or Path(scratch) / "shop")
        if not (shop.folder / "tailorbird.toml").exists():
            shop.make()
        results = _run(shop, arguments.scenario, seconds)
    report = {
        "benchmark": "availability",
        "small": arguments.small,
        "results": results,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "revision": revision(),
    }
    if arguments.out is not None:
        known = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
        report["results"] = {**known.get("results", {}), **results}
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=None if arguments.json else 1))


def _run(shop: Shop, scenarios: list[str], seconds: float) -> dict[str, Any]:
    results: dict[str, Any] = {}
    try:
        shop.start()
        start_s = shop.wait()
        results["start"] = {"first_answer_s": round(start_s, 2)}
        for name in scenarios:
            print(f"{time.strftime('%H:%M:%S')} {name}", file=sys.stderr)
            if name == "overload":
                results[name] = overload(shop, seconds)
            elif name == "restart":
                results[name] = asyncio.run(restart(shop))
            else:
                results[name] = asyncio.run(play(shop, name, seconds))
            results[name]["load_1min"] = round(os.getloadavg()[0], 1)
            results[name]["revision"] = revision()
    finally:
        shop.stop()
    return results


if __name__ == "__main__":
    main()
