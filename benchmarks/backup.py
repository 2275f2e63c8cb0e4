"""Measure backup and restore of a project that takes in 500 events per second.

    python -m benchmarks.backup [--gb 0.2] [--seconds 15] [--json]

A project of about `--gb` is made: clicks with a text that cannot be compressed, imported. Then `up`
runs, and one process outside sends 500 events/s in batches of 5, on a schedule that does not wait
for responses: latency counts from the scheduled time. Windows without a backup (`before`) and full
backups to an empty folder (`during`) alternate, so that both see the same load of the machine. One
more backup follows, which writes only what is new. The last full one is restored by its time, and
rows of its logs are routed. Each event that was acknowledged before it began must be in the lake
once, and none that was sent after it ended. `features verify` compares the rebuilt state with the
lake.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import tailorbird as tb
from benchmarks.quality.product.report import describe_provenance
from tailorbird.config import open_project
from tailorbird.events import SystemClock, to_iso
from tailorbird.lake import Lake, verify
from tailorbird.platform.runtime.roles import drain

WANTED = {
    "lost": 0,
    "doubled": 0,
    "later": 0,
    "unequal": 0,
    "p99_ratio": 2.0,
    "restore_mb_per_s": 50.0,
}
EVENTS_PER_S, BATCH = 500, 5
USERS, ITEMS, NOTE_BYTES = 2_000, 500, 1_000
BYTES_PER_EVENT = 3_300  # in raw log, routed log, archive and lake together; measured
WARM_UP_S = 5.0
ROUNDS = 3
Window = tuple[float, float]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.backup", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--gb", type=float, default=0.2, help="size of the project")
    parser.add_argument(
        "--seconds", type=float, default=15, help="length of a window without a backup"
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON object on stdout and nothing else"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tailorbird-backup-") as folder:
        results = measure(Path(folder), arguments.gb, arguments.seconds)
    report = {
        "benchmark": "backup",
        "results": results,
        "wanted": WANTED,
        "load_average": [round(load, 1) for load in os.getloadavg()],
        **describe_provenance("python -m benchmarks.backup " + " ".join(sys.argv[1:])),
    }
    print(json.dumps(report, indent=1) if arguments.json else _table(results))


@dataclass
class Sender:
    """Sends events on a schedule until `stop`; keeps when each was due and acknowledged."""

    client: tb.Client
    acknowledged: dict[str, Window] = field(default_factory=dict)
    latencies: list[tuple[float, float]] = field(default_factory=list)
    failed: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        start, number = time.monotonic(), 0
        with ThreadPoolExecutor(16) as pool:
            while not self._stop.is_set():
                due = start + number * BATCH / EVENTS_PER_S
                time.sleep(max(0.0, due - time.monotonic()))
                pool.submit(self._send, number, due)
                number += 1

    def stop(self) -> None:
        self._stop.set()

    def _send(self, number: int, due: float) -> None:
        events = [make_event(f"live-{number}-{position}", number) for position in range(BATCH)]
        try:
            self.client.send(events)
        except tb.TailorbirdError:
            self.failed += 1
            return
        now = time.monotonic()
        self.latencies.append((due, now - due))
        self.acknowledged.update((event["event_id"], (due, now)) for event in events)

    def p99_ms(self, windows: Sequence[Window]) -> float:
        """Return the 99th percentile of the requests that were due in the windows."""
        late = [
            late
            for due, late in self.latencies
            if any(start <= due < stop for start, stop in windows)
        ]
        return float(np.percentile(late, 99) * 1e3)


def measure(folder: Path, gb: float, window_s: float) -> dict[str, Any]:
    """Make a project, back it up under load, restore it, and check the copy."""
    shop = make_project(folder, max(1_000, int(gb * 1e9 / BYTES_PER_EVENT)))
    reports: list[dict[str, Any]] = []
    before: list[Window] = []
    during: list[Window] = []
    with shop.local_server() as client:
        sender = Sender(client)
        thread = threading.Thread(target=sender.run)
        thread.start()
        started = time.monotonic()
        try:
            time.sleep(WARM_UP_S)
            for number in range(ROUNDS):
                vault = folder / f"vault-{number}"
                quiet = time.monotonic()
                time.sleep(window_s)
                began = time.monotonic()
                reports.append(back_up(shop, vault))
                ended = time.monotonic()
                before.append((quiet, began))
                during.append((began, ended))
            second = back_up(shop, vault)
        finally:
            sender.stop()
            thread.join()
            sent_s = time.monotonic() - started
    must_have = {event for event, (_, at) in sender.acknowledged.items() if at < began}
    must_lack = {event for event, (due, _) in sender.acknowledged.items() if due > ended}
    restored = tb.restore(vault, folder / "back", at=reports[-1]["taken_at"])
    p99_before, p99_during = sender.p99_ms(before), sender.p99_ms(during)
    return {
        "project_mb": round(reports[-1]["size_bytes"] / 1e6, 1),
        "backups": len(reports),
        "backup_s": round(float(np.median([report["seconds"] for report in reports])), 2),
        "backup_mb_per_s": round(reports[-1]["size_bytes"] / 1e6 / reports[-1]["seconds"], 1),
        "second_backup_written_mb": round(second["written_bytes"] / 1e6, 2),
        "events_per_s": round(len(sender.acknowledged) / sent_s),
        "failed_requests": sender.failed,
        "ingest_p99_before_ms": round(p99_before, 1),
        "ingest_p99_during_ms": round(p99_during, 1),
        "p99_ratio": round(p99_during / p99_before, 2),
        "newest_backup": second["taken_at"],
        "restored_to": to_iso(restored.taken_at),
        "restore_s": round(restored.seconds, 2),
        "restore_mb_per_s": round(restored.mb_per_s, 1),
        "acknowledged_before": len(must_have),
        "sent_after": len(must_lack),
        **check(folder / "back", must_have, must_lack),
    }


def back_up(shop: tb.Project, vault: Path) -> dict[str, Any]:
    """Back up in a process of its own, as the command does, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "tailorbird", "-C", shop.root, "backup", vault, "--json"],
        capture_output=True,
        text=True,
        start_new_session=True,  # as cron does
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def check(folder: Path, must_have: set[str], must_lack: set[str]) -> dict[str, int]:
    """Route what waits in the restored logs, and count what is lost, doubled, later or unequal."""
    project = open_project(folder, use_applied=True)
    drain(project, SystemClock(), progress=lambda *_: None)
    ids = Lake(project.paths.lake).events(["event_id"])["event_id"].to_pylist()
    report = verify(project.paths.lake, stream=project.stream)
    done = subprocess.run(
        [sys.executable, "-m", "tailorbird", "-C", folder, "features", "verify", "--json"],
        capture_output=True,
        text=True,
    )
    outcome = json.loads(done.stdout)
    return {
        "lost": len(must_have - set(ids)),
        "doubled": len(ids) - len(set(ids)),
        "later": len(must_lack & set(ids)),
        "lake_faults": len(report.faults),
        "features_compared": outcome["compared"],
        "unequal": outcome["unequal"],
    }


def make_event(event_id: str, number: int) -> dict[str, Any]:
    """Return a click."""
    return {
        "event_id": event_id,
        "type": "click",
        "user_id": f"u{number * 7_919 % USERS}",
        "item_id": f"i{number * 104_729 % ITEMS}",
    }


def make_project(folder: Path, events: int) -> tb.Project:
    """Make a project and import clicks of the last days into it."""
    shop = tb.Project.create(folder / "shop")
    rng = np.random.default_rng(7)
    start = time.time() - 5 * 86_400
    history = folder / "history.jsonl"
    with history.open("w") as out:
        for number in range(events):
            note = rng.bytes(NOTE_BYTES // 2).hex()
            event = {
                **make_event(f"past-{number}", number),
                "ts": int((start + number * 5 * 86_400 / events) * 1e6),
                "properties": {"note": note},
            }
            out.write(json.dumps(event) + "\n")
    shop.import_files(history, "tailorbird")
    history.unlink()
    return shop


def _table(results: dict[str, Any]) -> str:
    return "\n".join(f"{name:<28}{value}" for name, value in results.items())


if __name__ == "__main__":
    main()
