"""Run all roles under a steady load for minutes, and report what grows that should not.

    python -m benchmarks.soak [--minutes 10] [--share 0.7 | --per-s 1500] [--small] [--json]
    [--plot docs/images/soak.png]

The project has `tailorbird run` for each role, and senders outside of them. First the collector is
sent as much as it accepts for a while: events over the time until all roles have processed them are
the capacity. Then `share` of that is sent for `minutes`, at even times however long responses take.
A sample every two seconds holds, for each role: its own memory (anonymous pages, its share of those
it has in common), mapped files (LMDB; the kernel may drop them), open files. For the project: bytes
of logs, of their `-wal`, of states and lake, and the lag of each reader. For the logs also the
bytes in use: a file of SQLite does not shrink, it reuses the room of deleted blocks; and the index
of repeats, which is in the file of the routed log. Growth is reported as a slope over the last two
thirds of the time, by least squares.

`results` has the slopes, `equal` says whether every acknowledged event is in the lake once,
`ratios.memory` is each role's mean memory over that plus the slope times the minutes (1: flat;
below: it grew).
"""

import argparse
import http.client
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import apsw
import msgspec
import numpy as np

from benchmarks.ingest import cpu_name
from tailorbird.cli.init import init
from tailorbird.config import Project, open_project
from tailorbird.features.state.progress import routed_log_offsets
from tailorbird.lake import Lake
from tailorbird.periodic import exit_process
from tailorbird.stream.lag import LagMeter

LOGS = ("raw log", "raw log in use", "routed log", "routed log in use", "index of repeats")
ROLES = ("serve", "router", "worker", "candidates", "lake")
BODY_ROWS = 100
SENDERS = 4
EVERY_S = 2.0
STOP_S = 600  # of a machine that others keep busy
PEOPLE, ITEMS = (
    5_000,
    1_000,
)  # few, so that the states are full of them before half of the time is over
MIB = 1 << 20


@dataclass
class SentCounts:
    """The responses that the senders got, counted together."""

    accepted: int = 0
    refused: int = 0
    pushed_back: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, status: int, rows: int) -> None:
        with self.lock:
            if status == 429 or status == 503:
                self.pushed_back += rows
            elif status in (200, 202):
                self.accepted += rows
            else:
                self.refused += rows


class Roles:
    """One process for each role of a project, and the collector's port."""

    def __init__(self, project: Project, port: int) -> None:
        self.port = port
        self.processes: dict[str, subprocess.Popen] = {}
        for role in ROLES:
            options = ["--port", str(port)] if role == "serve" else []
            command = [
                sys.executable,
                "-m",
                "tailorbird",
                "-C",
                str(project.root),
                "run",
                role,
                *options,
            ]
            with (project.root / f"{role}.log").open("wb") as log:
                self.processes[role] = subprocess.Popen(
                    command, stdout=log, stderr=subprocess.STDOUT
                )

    def wait(self, deadline_s: float = STOP_S) -> None:
        until = time.monotonic() + deadline_s
        while not self._answers():
            assert time.monotonic() < until, "serve does not answer; see serve.log"
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        except OSError:
            return False

    def stop(self) -> None:
        for role, process in self.processes.items():
            assert process.poll() is None, f"{role} died with status {process.returncode}"
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.wait(STOP_S)


def make_body(number: int, rng: np.random.Generator) -> bytes:
    """Return a body of `BODY_ROWS` events dated now."""
    now = time.time_ns() // 1_000
    people, items = (
        rng.integers(0, PEOPLE, BODY_ROWS).tolist(),
        (ITEMS * rng.random(BODY_ROWS) ** 3).astype(int).tolist(),
    )
    types = rng.choice(
        ["view", "click", "cart", "purchase"], BODY_ROWS, p=[0.6, 0.3, 0.07, 0.03]
    ).tolist()
    return msgspec.json.encode(
        [
            {
                "event_id": f"s{number}-{row}",
                "type": types[row],
                "ts": now,
                "user_id": f"u{people[row]}",
                "item_id": f"i{items[row]}",
                "context": {"device": "phone", "country": "NO"},
                "properties": {"price": 19.9, "quantity": 1},
            }
            for row in range(BODY_ROWS)
        ]
    )


@contextmanager
def send_load(
    port: int, sent: SentCounts, numbers: Iterator[int], per_s: float | None
) -> Iterator[None]:
    """Send from several threads: `per_s` events a second at even times, or as fast as possible."""
    stop, guard, started = threading.Event(), threading.Lock(), time.monotonic()
    slots = iter(range(1 << 60))

    def send() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while not stop.is_set():
            with guard:
                number, slot = next(numbers), next(slots)
            if per_s is not None:
                stop.wait(max(0.0, started + slot * BODY_ROWS / per_s - time.monotonic()))
                if stop.is_set():
                    return
            connection.request(
                "POST",
                "/v1/events",
                make_body(number, np.random.default_rng(number)),
                {"Content-Type": "application/json"},
            )
            response = connection.getresponse()
            response.read()
            sent.count(response.status, BODY_ROWS)
            if response.status in (429, 503):
                stop.wait(0.2)

    threads = [threading.Thread(target=send) for _ in range(SENDERS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


class Watch:
    """Samples of all metrics, one row each."""

    def __init__(self, project: Project, roles: Roles) -> None:
        self._project, self._roles = project, roles
        self.rows: list[dict[str, float]] = []

    def measure_lags(self) -> dict[str, int]:
        paths = self._project.paths
        with LagMeter(
            self._project.stream, paths.lake, lambda: routed_log_offsets(paths.state)
        ) as meter:
            rows_by_reader: dict[str, int] = {}
            for lag in meter.measure():
                name = (
                    f"{lag.reader.split()[0]} of {'raw' if lag.log.startswith('raw') else lag.log}"
                )
                rows_by_reader[name] = max(lag.rows, rows_by_reader.get(name, 0))
        return {
            name: rows
            for name, rows in rows_by_reader.items()
            if name in ("router of raw", "worker of routed", "lake of routed")
        }

    def sample(self, started: float, sent: SentCounts) -> None:
        row: dict[str, float] = {"s": time.monotonic() - started, "accepted": sent.accepted}
        for role, process in self._roles.processes.items():
            memory = _memory(process.pid)
            row |= {
                f"{role} own": memory["Pss_Anon"],
                f"{role} mapped": memory["Pss_File"],
                f"{role} files": _files(process.pid),
            }
        data = self._project.paths.data
        row["logs"] = _disk_bytes(data / "stream", ".db")
        for name in ("raw", "routed"):
            row[f"{name} log"], row[f"{name} log in use"] = _pages(data / "stream", name)
        row["index of repeats"] = _dedup_bytes(data / "stream" / "routed.db")
        row["wal"] = _disk_bytes(data / "stream", "-wal")
        row["state"] = _disk_bytes(data / "state", "")
        row["lake"] = _disk_bytes(data / "lake", "")
        row |= {f"behind: {name}": rows for name, rows in self.measure_lags().items()}
        self.rows.append(row)

    def column(self, name: str) -> np.ndarray:
        return np.array([row.get(name, np.nan) for row in self.rows])

    def slope_per_min(self, name: str) -> float:
        """Return the least-squares slope over the last two thirds of the samples."""
        seconds, values = self.column("s"), self.column(name)
        late = (seconds >= seconds[-1] / 3) & np.isfinite(values)
        return float(np.polyfit(seconds[late] / 60, values[late], 1)[0]) if late.sum() > 2 else 0.0

    def mean(self, name: str) -> float:
        return float(np.nanmean(self.column(name)))


def _memory(pid: int) -> dict[str, float]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {
        name: int(value.split()[0]) * 1_024
        for name, _, value in (line.partition(":") for line in lines)
    }


def _files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _pages(folder: Path, name: str) -> tuple[float, float]:
    """Return bytes of the files of a kind of log, and of the pages in them that are not free."""
    file_bytes = used_bytes = 0
    for path in folder.glob(f"{name}*.db"):
        with suppress(apsw.Error):  # it is just being made
            connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
            size, pages, free = (
                connection.pragma(pragma)
                for pragma in ("page_size", "page_count", "freelist_count")
            )
            connection.close()
            file_bytes, used_bytes = file_bytes + size * pages, used_bytes + size * (pages - free)
    return file_bytes, used_bytes


def _dedup_bytes(file: Path) -> float:
    """Return bytes of the router's dedup index (`events.dedup`), which is in its log's file."""
    total = 0
    with suppress(apsw.Error):
        connection = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)
        for table in ("dedup_run", "dedup_page"):
            total += connection.execute(
                f"SELECT coalesce(sum(length(entries)), 0) FROM {table}"
            ).get
        connection.close()
    return total


def _disk_bytes(folder: Path, suffix: str) -> int:
    total = 0
    for path in folder.rglob(f"*{suffix}") if folder.is_dir() else ():
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        total += status.st_blocks * 512 if path.is_file() else 0
    return total


def measure_capacity(
    watch: Watch, roles: Roles, sent: SentCounts, numbers: Iterator[int], seconds: float
) -> dict[str, float]:
    """Return the events a second that the collector accepts, and that all roles process.

    Sends as much as is accepted, then waits until all roles have caught up.
    """
    started = time.monotonic()
    with send_load(roles.port, sent, numbers, None):
        time.sleep(seconds)
    taken = sent.accepted / (time.monotonic() - started)
    assert wait_until_caught_up(watch, STOP_S), "the roles do not catch up"
    return {
        "collector": round(taken),
        "all roles": round(sent.accepted / (time.monotonic() - started)),
    }


def wait_until_caught_up(watch: Watch, deadline_s: float) -> bool:
    until = time.monotonic() + deadline_s
    while any(watch.measure_lags().values()):
        if time.monotonic() > until:
            return False
        time.sleep(0.5)
    return True


def plot(watch: Watch, path: Path, per_s: float) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    minutes = watch.column("s") / 60
    figure, axes = pyplot.subplots(2, 2, figsize=(11, 7), sharex=True, layout="constrained")
    for number, role in enumerate(ROLES):
        axes[0, 0].plot(minutes, watch.column(f"{role} own") / MIB, color=f"C{number}", label=role)
        axes[0, 0].plot(
            minutes,
            watch.column(f"{role} mapped") / MIB,
            color=f"C{number}",
            linestyle=":",
            linewidth=1,
        )
        axes[0, 1].plot(minutes, watch.column(f"{role} files"), color=f"C{number}", label=role)
    for name in (
        "logs",
        "raw log in use",
        "routed log in use",
        "index of repeats",
        "wal",
        "state",
        "lake",
    ):
        axes[1, 0].plot(minutes, watch.column(name) / MIB, label=name)
    for name in sorted({name for row in watch.rows for name in row if name.startswith("behind")}):
        axes[1, 1].plot(minutes, watch.column(name), label=name.removeprefix("behind: "))
    titles = (
        "memory, MiB (dotted: files that it maps)",
        "open files",
        "on the disk, MiB",
        "events behind",
    )
    for axis, title in zip(axes.flat, titles, strict=True):
        axis.set_title(title, fontsize=10)
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=8)
    for axis in axes[1]:
        axis.set_xlabel("minutes")
    figure.suptitle(f"All roles at {per_s:,.0f} events a second", fontsize=11)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--share", type=float, default=0.7, help="of the capacity")
    parser.add_argument(
        "--per-s",
        type=float,
        default=0.0,
        help="so many events a second, without looking for the capacity",
    )
    parser.add_argument("--small", action="store_true", help="half a minute")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--samples", type=Path, help="write each sample there, a line of JSON")
    arguments = parser.parse_args()
    minutes, probe_s = (0.4, 8.0) if arguments.small else (arguments.minutes, 30.0)
    with tempfile.TemporaryDirectory() as folder:
        init(Path(folder) / "soak", json=True) if not arguments.json else _quietly(
            lambda: init(Path(folder) / "soak", json=True)
        )
        project = open_project(Path(folder) / "soak")
        roles, sent, numbers = Roles(project, _free_port()), SentCounts(), iter(range(1 << 60))
        roles.wait()
        watch = Watch(project, roles)
        rates = {} if arguments.per_s else measure_capacity(watch, roles, sent, numbers, probe_s)
        per_s = arguments.per_s or arguments.share * min(rates.values())
        before, started = sent.accepted, time.monotonic()
        with send_load(roles.port, sent, numbers, per_s):
            while time.monotonic() - started < minutes * 60:
                watch.sample(started, sent)
                time.sleep(EVERY_S)
            taken = (sent.accepted - before) / (time.monotonic() - started)
        if arguments.plot:
            plot(watch, arguments.plot, taken)
        caught_up = wait_until_caught_up(watch, STOP_S)
        roles.stop()
        in_lake = Lake(project.paths.lake).count("events")
        if arguments.samples:
            arguments.samples.write_bytes(b"\n".join(map(msgspec.json.encode, watch.rows)))
        report = _report(watch, rates, sent, taken, in_lake, caught_up, minutes)
    json.dump(report, sys.stdout, indent=None if arguments.json else 2)
    print()
    exit_process(0 if all(report["equal"].values()) else 1)


def _report(
    watch: Watch,
    rates: dict[str, float],
    sent: SentCounts,
    taken: float,
    in_lake: int,
    caught_up: bool,
    minutes: float,
) -> dict:
    results: dict[str, dict] = {
        "capacity": rates,
        "soak": {"events_per_s": round(taken), "minutes": round(minutes, 2)},
    }
    memory: dict[str, float] = {}
    for role in ROLES:
        slope, mean = watch.slope_per_min(f"{role} own"), watch.mean(f"{role} own")
        memory[role] = round(mean / (mean + slope * minutes), 3)
        results[role] = {
            "own_mib": round(mean / MIB, 1),
            "own_mib_per_min": round(slope / MIB, 3),
            "files": round(watch.mean(f"{role} files"), 1),
            "mapped_mib": round(watch.mean(f"{role} mapped") / MIB, 1),
            "files_per_min": round(watch.slope_per_min(f"{role} files"), 3),
        }
    for name in ("logs", *LOGS, "wal", "state", "lake"):
        results[f"disk {name}"] = {
            "mib": round(watch.mean(name) / MIB, 1),
            "mib_max": round(float(watch.column(name).max()) / MIB, 1),
            "mib_per_min": round(watch.slope_per_min(name) / MIB, 3),
        }
    lag_columns = sorted({name for row in watch.rows for name in row if name.startswith("behind")})
    results["behind"] = {
        name.removeprefix("behind: "): round(watch.mean(name)) for name in lag_columns
    }
    results["sent"] = {
        "accepted": sent.accepted,
        "refused": sent.refused,
        "pushed_back": sent.pushed_back,
    }
    return {
        "results": results,
        "ratios": {"memory": memory},
        "equal": {
            "every acknowledged event is in the lake once": in_lake == sent.accepted,
            "every reader caught up": caught_up,
        },
        "versions": {
            name: version(name) for name in ("apsw", "deltalake", "lmdb", "numpy", "pyarrow")
        }
        | {"python": platform.python_version()},
        "cpu": cpu_name(),
    }


def _quietly(call) -> None:
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()):
        call()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    main()
