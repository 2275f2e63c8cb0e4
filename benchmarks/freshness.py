"""Measure how soon a response reflects a click.

The time runs from the collector's acknowledgement until the first response that takes the click
into account has been read.

    python -m benchmarks.freshness [--small] [--json] [--clicks N] [--only embedded|distributed]

    embedded      logs in files, features in LMDB
    distributed   the same over a broker of the Kafka protocol and a Valkey: the broker and the
                  server that the tests start, or a broker that TAILORBIRD_TEST_KAFKA names

The project has the history of a simulated shop and is trained once; each role is a process. A user
gets a list, clicks the first item, and repeats the request without a pause until that item is gone:
the slot hides clicked items. So the time covers the collector's log, the router, the worker, the
server's reads, and the response itself. The limits are 100 ms and 1 s at the 99th percentile. A
ratio is the limit over the measured value.
"""

import argparse
import http.client
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ingest import cpu_name

LIMITS_MS = {"embedded": 100.0, "distributed": 1_000.0}
ROLES = ("router", "worker", "candidates", "lake", "serve")
PAUSE_S = 0.02  # between one person and the next
GIVE_UP_S = 30.0
READY_S = 300.0
SLOTS = """from tailorbird.ranking import Slot

home = Slot("home", size=12, sources={"popular": 200, "item_knn": 100}, hide_seen=("click",))
"""


@dataclass
class Latencies:
    """Latencies of clicks, in milliseconds.

    Attributes:
        unseen: clicks that no response reflected within half a minute.
        degraded: how often responses lacked each part.
    """

    ms: list[float] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    unseen: int = 0
    degraded: dict[str, int] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        percentiles = dict(
            zip(
                ("p50_ms", "p90_ms", "p99_ms"),
                np.percentile(self.ms, [50, 90, 99]).round(1).tolist(),
                strict=True,
            )
        )
        requests_per_click = round(float(np.mean(self.asked)), 1)
        return {
            **percentiles,
            "max_ms": round(max(self.ms), 1),
            "clicks": len(self.ms),
            "unseen": self.unseen,
            "answers_a_click": requests_per_click,
        } | ({"degraded": self.degraded} if self.degraded else {})


class Site:
    """The connection of one browsing client."""

    def __init__(self, port: int) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def post(self, path: str, body: object) -> dict[str, Any]:
        self._http.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = self._http.getresponse()
        data = response.read()
        assert response.status == 200, data[:300]
        return json.loads(data)

    def recommend(self, user: str) -> dict[str, Any]:
        return self.post(
            "/v1/recommend", {"slot": "home", "user_id": user, "session_id": f"of-{user}"}
        )


def make_project(root: Path, extra_settings: str, *, small: bool) -> list[str]:
    """Make a project with a history and a model, and return its user ids."""
    run_command("init", str(root))
    (root / "slots.py").write_text(SLOTS)
    (root / "tailorbird.toml").write_text((root / "tailorbird.toml").read_text() + extra_settings)
    history, size = root / "history.jsonl", ("300", "200") if small else ("2000", "800")
    run_command(
        "simulate",
        "--days",
        "6",
        "--users",
        size[0],
        "--items",
        size[1],
        "--no-dirt",
        "--out",
        str(history),
    )
    run_command("-C", str(root), "import", "tailorbird", str(history))
    run_command("-C", str(root), "train", "--quick")
    lines = history.read_text().splitlines()[-20_000:]
    people = {json.loads(line).get("user_id") for line in lines}
    return sorted(user_id for user_id in people if user_id)


def run_command(*words: str) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "tailorbird", *words], capture_output=True, text=True
    )
    assert process.returncode == 0, f"{' '.join(words)}: {process.stderr[-1_000:]}"


@contextmanager
def run_roles(root: Path) -> Iterator[int]:
    """Run each role as a process and yield the server's port once its responses are complete."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    roles: dict[str, subprocess.Popen] = {}
    try:
        for role in ROLES:
            words = ["--port", str(port)] if role == "serve" else []
            with (root / f"{role}.log").open("wb") as log:
                roles[role] = subprocess.Popen(
                    [sys.executable, "-m", "tailorbird", "-C", str(root), "run", role, *words],
                    stdout=log,
                    stderr=log,
                )
        until = time.monotonic() + READY_S
        while not _is_ready(port):
            for role, process in roles.items():
                assert process.poll() is None, (
                    f"{role} ended: {(root / f'{role}.log').read_text()[-1_000:]}"
                )
            assert time.monotonic() < until, "the site does not get ready"
            time.sleep(0.2)
        yield port
    finally:
        for process in roles.values():
            process.terminate()
        for process in roles.values():
            process.wait(60)


def _is_ready(port: int) -> bool:
    try:
        response = Site(port).recommend("nobody")
    except (OSError, AssertionError, http.client.HTTPException):
        return False
    return bool(response["items"]) and not {"features", "model", "freshness", "candidates"} & set(
        response["degraded"]
    )


def clicked(port: int, people: Sequence[str], clicks: int) -> Latencies:
    """Send clicks one after the other and time until each is reflected."""
    site, latencies = Site(port), Latencies()
    for number in range(clicks):
        user = people[number % len(people)]
        answer = site.recommend(user)
        item = answer["items"][0]["item_id"]
        click = {
            "event_id": f"click-{number}",
            "type": "click",
            "user_id": user,
            "session_id": f"of-{user}",
            "item_id": item,
        }
        assert (
            site.post("/v1/events", click | {"request_id": answer["request_id"]})["accepted"] == 1
        )
        accepted, requests = time.perf_counter(), 0
        while time.perf_counter() - accepted < GIVE_UP_S:
            response = site.recommend(user)
            requests += 1
            for reason in response["degraded"]:
                latencies.degraded[reason] = latencies.degraded.get(reason, 0) + 1
            if (
                item not in [impression["item_id"] for impression in response["items"]]
                and "features" not in response["degraded"]
            ):
                latencies.ms.append((time.perf_counter() - accepted) * 1_000)
                latencies.asked.append(requests)
                break
        else:
            latencies.unseen += 1
        time.sleep(PAUSE_S)
    return latencies


@contextmanager
def settings(kind: str, folder: Path) -> Iterator[str]:
    """Yield the extra text of tailorbird.toml.

    Raises LookupError if a required server is not installed.
    """
    if kind == "embedded":
        yield ""
        return
    try:
        from tests.support.network.brokers import CLIENT_OPTIONS, MISSING_REASON, broker
        from tests.support.network.stores import BINARY
        from tests.support.network.stores import start_server as valkey
    except ImportError as error:
        raise LookupError(f"{error}: pip install -e '.[dev]'") from None
    if MISSING_REASON or BINARY is None:
        raise LookupError(MISSING_REASON or "no valkey-server here")
    with broker(folder) as servers, valkey(folder / "valkey") as store:
        client = json.dumps([f"{name}={value}" for name, value in CLIENT_OPTIONS.items()])
        stream = f'\n[stream]\nurl = "kafka://{servers}/fresh-{os.getpid()}"\nclient = {client}\n'
        yield f'{stream}\n[store]\nurl = "{store.url}"\nprefix = "fresh"\n'


def measured(kind: str, clicks: int, *, small: bool) -> Latencies:
    """Measure one kind of deployment.

    Raises LookupError if a required server is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="tailorbird-freshness-") as name, ExitStack() as stack:
        folder = Path(name)
        extra_settings = stack.enter_context(settings(kind, folder))
        people = make_project(folder / "shop", extra_settings, small=small)
        port = stack.enter_context(run_roles(folder / "shop"))
        clicked(port, people[-20:], 20)  # for warming up
        return clicked(port, people[:-20], clicks)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="a small shop, few clicks")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--clicks", type=int, help="500 unless told otherwise, 50 of a small shop")
    parser.add_argument("--only", choices=sorted(LIMITS_MS), help="this one alone")
    arguments = parser.parse_args()
    results, missing = {}, {}
    for kind in [arguments.only] if arguments.only else LIMITS_MS:
        print(f"{kind} …", file=sys.stderr, flush=True)
        try:
            results[kind] = measured(
                kind, arguments.clicks or (50 if arguments.small else 500), small=arguments.small
            ).plain()
        except LookupError as error:
            missing[kind] = str(error)
    report = {
        "results": results,
        "ratios": {
            kind: round(LIMITS_MS[kind] / result["p99_ms"], 2) for kind, result in results.items()
        },
        "missing": missing,
        "versions": {"python": platform.python_version()},
        "cpu": cpu_name(),
        "load": [round(one, 1) for one in os.getloadavg()],
    }
    json.dump(report, sys.stdout, indent=None if arguments.json else 2)
    print()


if __name__ == "__main__":
    main()
