"""How soon does an answer know of a click? From the door's acknowledgement to having read the first
answer that takes it into account.

    python -m benchmarks.freshness [--small] [--json] [--clicks N] [--only embedded|distributed]

    embedded      logs in files, features in LMDB
    distributed   the same over a broker of the Kafka protocol and a Valkey: the broker and the server that the tests start, or a broker
                  that TAILORBIRD_TEST_KAFKA names

A project of its own over the history of a simulated shop, trained once; a process for each role.
Somebody is answered, clicks the first item, and asks again without a pause until it is not shown
any more: the slot hides what was clicked. So the time holds the door's log, router, worker, what a
server reads, and the answer itself. Wanted are 100 ms and 1 s at the 99th percentile; a ratio is
what was wanted over what was found.
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

from benchmarks.ingest import cpu

WANTED_MS = {"embedded": 100.0, "distributed": 1_000.0}
ROLES = ("router", "worker", "candidates", "lake", "serve")
PAUSE_S = 0.02  # between one person and the next
GIVE_UP_S = 30.0
READY_S = 300.0
SLOTS = """from tailorbird.ranking import Slot

home = Slot("home", size=12, sources={"popular": 200, "item_knn": 100}, hide_seen=("click",))
"""


@dataclass
class Found:
    """Milliseconds of each click; `unseen` were not in any answer within half a minute; `degraded`:
    what answers lacked, and how often.
    """

    ms: list[float] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    unseen: int = 0
    degraded: dict[str, int] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        at = dict(
            zip(
                ("p50_ms", "p90_ms", "p99_ms"),
                np.percentile(self.ms, [50, 90, 99]).round(1).tolist(),
                strict=True,
            )
        )
        asked = round(float(np.mean(self.asked)), 1)
        return {
            **at,
            "max_ms": round(max(self.ms), 1),
            "clicks": len(self.ms),
            "unseen": self.unseen,
            "answers_a_click": asked,
        } | ({"degraded": self.degraded} if self.degraded else {})


class Site:
    """The connection of somebody who browses."""

    def __init__(self, port: int) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def post(self, path: str, body: object) -> dict[str, Any]:
        self._http.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = self._http.getresponse()
        data = answer.read()
        assert answer.status == 200, data[:300]
        return json.loads(data)

    def shown(self, user: str) -> dict[str, Any]:
        return self.post(
            "/v1/recommend", {"slot": "home", "user_id": user, "session_id": f"of-{user}"}
        )


def make(root: Path, more: str, *, small: bool) -> list[str]:
    """A project with a past and a model; its people."""
    command("init", str(root))
    (root / "slots.py").write_text(SLOTS)
    (root / "tailorbird.toml").write_text((root / "tailorbird.toml").read_text() + more)
    history, size = root / "history.jsonl", ("300", "200") if small else ("2000", "800")
    command(
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
    command("-C", str(root), "import", "tailorbird", str(history))
    command("-C", str(root), "train", "--quick")
    lines = history.read_text().splitlines()[-20_000:]
    people = {json.loads(line).get("user_id") for line in lines}
    return sorted(one for one in people if one)


def command(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tailorbird", *words], capture_output=True, text=True
    )
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr[-1_000:]}"


@contextmanager
def running(root: Path) -> Iterator[int]:
    """Each role as a process, by the port of the server once it answers with everything."""
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
        while not _whole(port):
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


def _whole(port: int) -> bool:
    try:
        answer = Site(port).shown("nobody")
    except (OSError, AssertionError, http.client.HTTPException):
        return False
    return bool(answer["items"]) and not {"features", "model", "freshness", "candidates"} & set(
        answer["degraded"]
    )


def clicked(port: int, people: Sequence[str], clicks: int) -> Found:
    """Let people click, one after the other, and wait for each."""
    site, found = Site(port), Found()
    for number in range(clicks):
        user = people[number % len(people)]
        answer = site.shown(user)
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
        accepted, asked = time.perf_counter(), 0
        while time.perf_counter() - accepted < GIVE_UP_S:
            after = site.shown(user)
            asked += 1
            for what in after["degraded"]:
                found.degraded[what] = found.degraded.get(what, 0) + 1
            if (
                item not in [one["item_id"] for one in after["items"]]
                and "features" not in after["degraded"]
            ):
                found.ms.append((time.perf_counter() - accepted) * 1_000)
                found.asked.append(asked)
                break
        else:
            found.unseen += 1
        time.sleep(PAUSE_S)
    return found


@contextmanager
def settings(kind: str, folder: Path) -> Iterator[str]:
    """What stands in tailorbird.toml. Raises LookupError where a server is not here."""
    if kind == "embedded":
        yield ""
        return
    try:
        from tests.store.servers import BINARY
        from tests.store.servers import running as valkey
        from tests.stream.brokers import OPTIONS, WHY_NOT, broker
    except ImportError as error:
        raise LookupError(f"{error}: pip install -e '.[dev]'") from None
    if WHY_NOT or BINARY is None:
        raise LookupError(WHY_NOT or "no valkey-server here")
    with broker(folder) as servers, valkey(folder / "valkey") as store:
        client = json.dumps([f"{name}={value}" for name, value in OPTIONS.items()])
        stream = f'\n[stream]\nurl = "kafka://{servers}/fresh-{os.getpid()}"\nclient = {client}\n'
        yield f'{stream}\n[store]\nurl = "{store.url}"\nprefix = "fresh"\n'


def measured(kind: str, clicks: int, *, small: bool) -> Found:
    """Raises LookupError where a server is not here."""
    with tempfile.TemporaryDirectory(prefix="tailorbird-freshness-") as name, ExitStack() as stack:
        folder = Path(name)
        more = stack.enter_context(settings(kind, folder))
        people = make(folder / "shop", more, small=small)
        port = stack.enter_context(running(folder / "shop"))
        clicked(port, people[-20:], 20)  # for warming up
        return clicked(port, people[:-20], clicks)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="a small shop, few clicks")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--clicks", type=int, help="500 unless told otherwise, 50 of a small shop")
    parser.add_argument("--only", choices=sorted(WANTED_MS), help="this one alone")
    given = parser.parse_args()
    results, missing = {}, {}
    for kind in [given.only] if given.only else WANTED_MS:
        print(f"{kind} …", file=sys.stderr, flush=True)
        try:
            results[kind] = measured(
                kind, given.clicks or (50 if given.small else 500), small=given.small
            ).plain()
        except LookupError as error:
            missing[kind] = str(error)
    report = {
        "results": results,
        "ratios": {
            kind: round(WANTED_MS[kind] / each["p99_ms"], 2) for kind, each in results.items()
        },
        "missing": missing,
        "versions": {"python": platform.python_version()},
        "cpu": cpu(),
        "load": [round(one, 1) for one in os.getloadavg()],
    }
    json.dump(report, sys.stdout, indent=None if given.json else 2)
    print()


if __name__ == "__main__":
    main()
