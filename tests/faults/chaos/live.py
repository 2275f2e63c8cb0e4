"""Drills with the real processes under load: killed at random, without power, without space.

Processes run as `tailorbird up` starts them. The load is `tests.support.oracle.Load`, whose ledger
is synced before anything is sent. A drill ends when everything acknowledged has reached the lake by
itself; then it is judged as the scenes are.
"""

import json
import os
import random
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout, suppress
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from tests.faults.chaos import injection, overloaded, power
from tests.faults.chaos.judging import LedgerSets, Verdict, count
from tests.faults.chaos.site import CLOCK
from tests.support.network.brokers import MISSING_REASON, broker, on_kafka
from tests.support.network.stores import BINARY, start_server
from tests.support.oracle import Ledger, Load, count_lake_events
from tests.support.overload import ROWS_PER_BODY
from tests.support.roles import Up, make_project, until

from tailorbird.config import Project, open_project
from tailorbird.platform.runtime.roles import drain

ROLES = ("serve", "router", "worker", "lake")
DISK_BYTES = 96 << 20
OVERLOAD_S = 3.0  # a phase; a million events at most come of it, which all have to be judged


@dataclass(frozen=True)
class Drill:
    """A disturbance of the running processes, and its share of the remaining kills."""

    name: str
    share: float
    run: Callable[[Path, int], dict[str, Any]]
    why_not: Callable[[], str] = lambda: ""

    def play(self, folder: Path, kills: int) -> dict[str, Any]:
        counts = {"kills": 0, "acked": 0, "lost": 0, "doubled": 0, "unequal": 0}
        result = {"name": self.name, "what": "", "notes": [], "skipped": self.why_not(), **counts}
        started = time.monotonic()
        if not result["skipped"]:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                result |= self.run(folder, kills)
            except AssertionError as error:
                result |= {"unequal": 1, "notes": [f"the drill did not end well: {error}"]}
        return {**result, "seconds": round(time.monotonic() - started)}


def kills_under_load(folder: Path, kills: int) -> dict[str, Any]:
    """Kill each role again and again, at any moment."""
    project = _make_project(folder / "shop")
    return _kill_under_load(project, folder, kills)


def kafka_and_valkey(folder: Path, kills: int) -> dict[str, Any]:
    """Kill roles with logs in a broker and records in a Valkey, which is killed as well."""
    with ExitStack() as stack:
        servers = stack.enter_context(broker(folder))
        valkey = stack.enter_context(start_server(folder / "valkey"))
        project = on_kafka(_make_project(folder / "shop"), servers)
        with (project.root / "tailorbird.toml").open("a") as file:
            file.write(f'\n[store]\nurl = "{valkey.url}"\n')
        project = open_project(project.root)

        def kill_valkey() -> None:
            valkey.kill()
            valkey.start()

        return _kill_under_load(project, folder, kills, kill_valkey)


def _kill_under_load(
    project: Project, folder: Path, kills: int, kill_other: Callable[[], None] | None = None
) -> dict[str, Any]:
    ledger, rng = Ledger(folder / "ledger.jsonl"), random.Random(kills)
    up = Up(project).wait()
    load = Load(up.port, ledger)
    slowest = 0.0
    try:
        load.start()
        for number in range(kills):
            before = len(ledger.acked)
            time.sleep(rng.uniform(0, 0.4))  # a random moment, not a wait for something
            if kill_other is not None and number % 5 == 4:
                kill_other()
                continue
            started = time.monotonic()
            up.kill(ROLES[number % len(ROLES)])
            until(
                lambda seen=before: len(ledger.acked) > seen + 5,
                90,
                f"nothing is acknowledged any more; see {up.log}",
            )
            slowest = max(slowest, time.monotonic() - started)
        load.stop()
        until(
            lambda: _is_all_in_lake(project, ledger),
            180,
            "what was acknowledged did not reach the lake by itself",
        )
    finally:
        up.stop()
    return _judge_in_child(
        project,
        count,
        ledger,
        kills,
        f"random kills; acknowledging again after at most {slowest:.1f} s",
        acked=len(ledger.acked),
    )


def _is_all_in_lake(project: Project, ledger: LedgerSets) -> bool:
    """Return True if all acknowledged ids are in the lake.

    Runs in a child, since the parent of later forks must not open a lake.
    """
    outcome = injection.run(
        lambda report: report(there=ledger.acked <= count_lake_events(project).keys()),
        project.root / "asked.log",
    )
    return bool(outcome.reports) and outcome.reports[0]["there"]


def _judge_in_child(
    project: Project,
    counting: Callable[[Project, Any, Verdict], None],
    ledger: Any,
    kills: int,
    description: str,
    *,
    acked: int,
    deadline_s: int = injection.DEADLINE_S,
) -> dict[str, Any]:
    """Run `counting` in a child with a deadline and return the counts."""

    def judging(report: injection.Tell) -> None:
        verdict = Verdict()
        drain(project, CLOCK, progress=lambda *_: None)
        counting(project, ledger, verdict)
        report(**vars(verdict))

    outcome = injection.run(judging, project.root / "judge.log", deadline_s=deadline_s)
    counts = {"kills": kills, "acked": acked, "what": description}
    if not outcome.reports:
        reason = (
            outcome.error or f"it ended with status {outcome.status}, after at most {deadline_s} s"
        )
        return {**counts, "unequal": 1, "notes": [f"the judge failed: {reason}"]}
    verdict = Verdict(**outcome.reports[0])
    return {
        **counts,
        "lost": verdict.lost,
        "doubled": verdict.doubled,
        "unequal": verdict.unequal,
        "notes": verdict.notes,
    }


def power_cuts(folder: Path, kills: int) -> dict[str, Any]:
    """Cut the power of all processes at random times; acknowledged events must be on the disk."""
    rng, worst = random.Random(kills), Verdict()
    acked, done = 0, 0
    image = power.make_image(folder / "disk-0", None, size=4 * power.IMAGE_BYTES)
    mount_point = folder / "disk"
    ledger = Ledger(folder / "ledger.jsonl")
    for cut in range(kills):
        with power.mounted(image, mount_point):
            project = (
                open_project(mount_point / "shop")
                if cut
                else _sync_project(_make_project(mount_point / "shop"))
            )
            up = Up(project).wait()
            load = Load(up.port, ledger, seed=cut)
            load.start()
            before = len(ledger.acked)
            until(
                lambda seen=before: len(ledger.acked) > seen + 20,
                60,
                f"nothing is acknowledged; see {up.log}",
            )
            time.sleep(rng.uniform(0, 1.5))
            pids = _all_pids(up)
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            ledger_sets = set(ledger.acked), set(ledger.refused), set(ledger.sent)
            image = power.copy_image(image, folder / f"disk-{cut + 1}")
            load.abandon()
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            up.process.wait()
        (folder / f"disk-{cut}").unlink()
        ledger.acked, ledger.refused, _ = (
            ledger_sets  # later acknowledgements were on the lost disk
        )
        done += 1
        with power.mounted(power.copy_image(image, folder / "judged"), mount_point):
            result = _judge_in_child(
                open_project(mount_point / "shop"), count, ledger, done, "", acked=len(ledger.acked)
            )
        worst.lost += result.get("lost", 0)
        worst.doubled += result.get("doubled", 0)
        worst.unequal += result.get("unequal", 0)
        worst.notes += [f"cut {cut}: {note}" for note in result["notes"]]
        acked = len(ledger.acked)
    return {
        "kills": done,
        "acked": acked,
        "lost": worst.lost,
        "doubled": worst.doubled,
        "unequal": worst.unequal,
        "notes": worst.notes,
        "what": "power cuts under all processes, each run going on with what the cut before left "
        "on the disk",
    }


def full_disk(folder: Path, kills: int) -> dict[str, Any]:
    """Fill the disk: the collector refuses first, responses go on, and space restores all."""
    with power.small_disk(folder / "disk", DISK_BYTES):
        project, ledger = (
            _with_data(_make_project(folder / "shop"), folder / "disk" / "data"),
            Ledger(folder / "ledger.jsonl"),
        )
        up = Up(project).wait()
        load = Load(up.port, ledger)
        notes: list[str] = []
        try:
            load.start()
            until(lambda: len(ledger.acked) > 200, 60, "nothing is acknowledged")
            filler = folder / "disk" / "filler"
            _fill(filler)
            until(
                lambda: _status(up.port, "/v1/events", _CLICK) == 507,
                30,
                "the collector goes on as if there were space",
            )
            answered = [_status(up.port, "/v1/recommend", _ASK) for _ in range(100)]
            if set(answered) != {200}:
                notes.append(f"answers on a full disk: {sorted(set(answered))}")
            acknowledged_before = len(ledger.acked)
            filler.unlink()
            started = time.monotonic()
            until(
                lambda: len(ledger.acked) > acknowledged_before + 50,
                60,
                f"it did not go on by itself; see {up.log}",
            )
            recovered_s = time.monotonic() - started
            load.stop()
            until(
                lambda: _is_all_in_lake(project, ledger),
                180,
                "what was acknowledged did not reach the lake by itself",
            )
        finally:
            up.stop()
        what = (
            "507 while it was full, 100 answers of 100 given meanwhile, events taken again "
            f"{recovered_s:.1f} s after"
        )
        result = _judge_in_child(project, count, ledger, 0, what, acked=len(ledger.acked))
        result["notes"] = notes + result["notes"]
        result["unequal"] += len(notes)
        return result


def overload(folder: Path, kills: int) -> dict[str, Any]:
    """Measure the collector's peak, twice and ten times that, and a thousand endless senders."""
    project, ledger = _make_project(folder / "shop"), overloaded.Ledger()
    up = Up(project).wait()
    phases: list[overloaded.Phase] = []
    try:
        serve = up.pid("serve")
        assert serve is not None
        usual_mb, usual_ms, rate, recovered = 0.0, 0.0, 0.0, 0.0
        for run, (name, factor) in enumerate(
            (("all it can", 0), ("twice that", 2), ("ten times that", 10)), 1
        ):
            phases.append(
                overloaded.load(
                    up.port, folder, ledger, name, run, OVERLOAD_S, factor * rate, serve
                )
            )
            if not factor:
                rate = phases[0].acked_per_s / ROWS_PER_BODY
                usual_mb, usual_ms = (
                    overloaded.memory_mb(serve),
                    sorted(overloaded.measure_response_ms(up.port) for _ in range(50))[25],
                )
            else:
                recovered = max(recovered, overloaded.recovery_s(up.port, max(50.0, 5 * usual_ms)))
            # Later roles still have work, which would otherwise slow the next phase.
            until(
                lambda: _has_caught_up(project),
                300,
                "what was acknowledged did not reach the lake by itself",
            )
        grown = overloaded.memory_mb(serve) - usual_mb
        peers = overloaded.slow_senders(up.port, 1_000)
        p99_ms = sorted(overloaded.measure_response_ms(up.port) for _ in range(100))[98]
        closed = overloaded.count_closed(peers, 30)
        notes = (
            [f"the server grew by {grown:.0f} MB"]
            if grown > overloaded.BOUND_MB or up.pid("serve") != serve
            else []
        )
        notes += [f"{closed} of 1,000 slow senders were closed"] if closed < 1_000 else []
    finally:
        up.stop()
    peak_goodput = phases[0].goodput
    for phase in phases:
        notes += (
            [f"{phase.name}: {phase.without_retry_after} refusals without Retry-After"]
            if phase.without_retry_after
            else []
        )
        notes += (
            [f"{phase.name}: {phase.statuses}"]
            if not set(phase.statuses) <= {"200", "429", "503"}
            else []
        )
    target = f"of at least {overloaded.GOODPUT_MIN} that is wanted"
    missed = [
        f"{phase.name}: {phase.goodput / peak_goodput:.2f} {target}"
        for phase in phases
        if phase.goodput < overloaded.GOODPUT_MIN * peak_goodput
    ]
    descriptions = [
        f"at {phase.name} {phase.goodput / peak_goodput:.2f} of the events for each second of the "
        "server's CPU, "
        f"{phase.acked_per_s / phases[0].acked_per_s:.2f} of those for each second, p99 "
        f"{phase.p99_ms / 1_000:.1f} s"
        for phase in phases[1:]
    ]
    what = (
        f"{'; '.join(descriptions)} (p99 before {phases[0].p99_ms / 1_000:.1f} s; sender, router, "
        "worker and lake are on the same two cores); "
        f"usual again after at most {recovered:.1f} s; {grown:.0f} MB more memory; beside "
        "1,000 slow senders an answer took "
        f"{p99_ms:.0f} ms at p99, {closed:,} of them were closed"
    )
    result = _judge_in_child(
        project,
        overloaded.count,
        ledger,
        0,
        what,
        acked=ROWS_PER_BODY * len(ledger.bodies),
        deadline_s=900,
    )
    result["notes"] = (
        notes + result["notes"] + missed
    )  # a figure, not a promise: nothing is lost, doubled or unequal by it
    result["unequal"] += len(notes)
    return {**result, "phases": [asdict(phase) for phase in phases]}


def _has_caught_up(project: Project) -> bool:
    outcome = injection.run(
        lambda report: report(through=overloaded.has_caught_up(project)), project.root / "asked.log"
    )
    return bool(outcome.reports) and outcome.reports[0]["through"]


_CLICK = {"event_id": "full", "type": "click", "user_id": "u1", "item_id": "i1"}
_ASK = {"user_id": "u1", "slot": "home", "size": 3}


def _make_project(folder: Path) -> Project:
    with redirect_stdout(StringIO()):  # hides the output of `init`
        return make_project(folder)


def _sync_project(project: Project) -> Project:
    """Sync the project's files; the promise begins with the first event."""
    subprocess.run(["sync", "-f", str(project.root)], check=True)
    return project


def _with_data(project: Project, data: Path) -> Project:
    settings = project.root / "tailorbird.toml"
    settings.write_text(settings.read_text().replace("[project]", f'[project]\ndata = "{data}"'))
    return open_project(project.root)


def _fill(path: Path) -> None:
    with path.open("wb") as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
            file.flush()


def _status(port: int, path: str, body: dict[str, Any]) -> int:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def _all_pids(up: Up) -> list[int]:
    """Return `up` and its descendants, the supervisor first, so that it starts nothing."""
    pids = [up.process.pid]
    for pid in pids:
        listed = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False
        )
        pids += [int(child) for child in listed.stdout.split()]
    return pids


def _no_kafka() -> str:
    return MISSING_REASON or (
        "" if BINARY else "no valkey-server here (Debian: apt-get install valkey-server)"
    )


LIVE = (
    Drill("kills under load", 0.6, kills_under_load),
    Drill("Kafka and Valkey", 0.25, kafka_and_valkey, _no_kafka),
    Drill("power cuts under load", 0.15, power_cuts, power.why_not),
    Drill("a full disk", 0.0, full_disk, power.why_not),
    Drill("overload", 0.0, overload),
)
