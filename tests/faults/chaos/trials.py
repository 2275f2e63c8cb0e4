"""One fault at one point of one scene: inject it, let everything recover, and judge.

kill    SIGKILL before the call is carried out
sync    EIO from fsync or fdatasync: the batch is refused, and the sync is not tried again
full    ENOSPC from this write on: acknowledged data stay, and with space all goes on by itself
lost    a write that says "done" and is not: found by a checksum, or harmless, but never
        silently wrong data
power   the power goes just after the call
none    nothing: for a mutant that shows by itself
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from tests.faults.chaos import injection, power, syncs
from tests.faults.chaos.injection import ACK, SYNCS, Child, Injection, Outcome, Point
from tests.faults.chaos.judging import Verdict
from tests.faults.chaos.scenes import SCENES, Scene
from tests.faults.chaos.site import Told


def _change_nothing() -> None:
    """Do nothing."""


_STEP_S = 12  # a step takes half a second; a thread that nobody woke, for ever

KINDS = ("kill", "sync", "full", "lost", "power")
Prelude = Callable[[], None]  # what a mutant changes in the child before its step


@dataclass(frozen=True)
class Trial:
    """One fault to try."""

    kind: str
    scene: str
    point: Point
    seed: int = 1

    @property
    def place(self) -> str:
        return f"{self.point.call} {self.point.number}"


@dataclass
class Result:
    """The result of a trial.

    `hit`: the fault took place; without that a trial counts for nothing. `revision`, `at`: the code
    and date of the trial.
    """

    kind: str
    scene: str
    point: str
    seed: int
    hit: bool = False
    acked: int = 0
    seconds: float = 0.0
    verdict: Verdict = field(default_factory=Verdict)
    revision: str = ""
    at: str = ""

    @property
    def silent(self) -> bool:
        """Return True if something is wrong and nothing reported it."""
        return not self.verdict.is_clean and not self.verdict.told and not self.verdict.named_by


def scene_of(name: str) -> Scene:
    return next(scene for scene in SCENES if scene.name == name)


def base_of(root: Path, scene: str, seed: int) -> Path:
    return root / f"{scene}-{seed}"


def prepare(root: Path, name: str, seed: int) -> list[Point]:
    """Make a scene's folder, as a folder and as a disk, and find the points for faults."""
    scene, base = scene_of(name), base_of(root, name, seed)
    log = root / f"{name}-{seed}.log"
    outcome = injection.run(lambda _: scene.make(base, seed), log)
    if outcome.status != 0:
        raise AssertionError(f"scene {name} cannot be made: {outcome.error}; see {log}")
    trial_folder = root / f"{name}-{seed}.tried"
    shutil.copytree(base, trial_folder)
    try:
        points = injection.points(
            lambda report: scene.run(trial_folder, report),
            log,
            root / f"{name}-{seed}.trace",
            trial_folder,
        )
        _points_file(root, name, seed).write_bytes(msgspec.json.encode(points))
        return points
    finally:
        shutil.rmtree(trial_folder)


def load_points(root: Path, name: str, seed: int) -> list[Point]:
    """Load the points of a prepared scene."""
    return msgspec.json.decode(_points_file(root, name, seed).read_bytes(), type=list[Point])


def _points_file(root: Path, name: str, seed: int) -> Path:
    return root / f"{name}-{seed}.points"


def trials_of(kind: str, scene: str, points: list[Point], seed: int) -> list[Trial]:
    """Return all faults of a kind that can be put into a scene."""
    if kind == "none":
        return [Trial(kind, scene, Point("none", 0), seed)]
    conditions: dict[str, Callable[[Point], bool]] = {
        "kill": lambda point: point.call != ACK,
        "sync": lambda point: point.call in SYNCS,
        "full": lambda point: point.call in ("write", "pwrite64", "writev"),
        "lost": lambda point: point.call in ("write", "pwrite64") and point.result > 8,
        "power": lambda point: point.call in (*SYNCS, "rename", ACK),
    }
    return [Trial(kind, scene, point, seed) for point in points if conditions[kind](point)]


def attempt(
    root: Path, trial: Trial, room: Path, prelude: Prelude = _change_nothing, judged: bool = False
) -> Result:
    """Carry a trial out in the folder `room`, which is this caller's own.

    Args:
        prelude: changes the process that plays the step, and with `judged` the one that recovers
            and judges.
    """
    started = time.monotonic()
    result = Result(trial.kind, trial.scene, trial.place, trial.seed)
    shutil.rmtree(room, ignore_errors=True)
    room.mkdir(parents=True)
    base = base_of(root, trial.scene, trial.seed)
    if trial.kind == "power":
        _cut_power(base, trial, room, (prelude, judged), result)
    else:
        shutil.copytree(base, room / "site")
        outcome = _run_step(trial, room, prelude)
        ledger = Told.read(room / "site" / "ledger.json")
        ledger.take(outcome.reports)
        result.acked = len(outcome.reports)
        result.hit = {"kill": outcome.killed, "none": True}.get(trial.kind, _has_hit(outcome, room))
        if result.hit:
            _judge(
                trial,
                room / "site",
                ledger,
                room,
                result,
                prelude if judged else _change_nothing,
                outcome.alarms,
            )
            _check_syncs(root, trial, outcome, room, result)
        if trial.kind == "none" and outcome.status != 0:
            result.verdict.unequal += 1
            result.verdict.notes.insert(0, f"the step failed: {outcome.error}")
    result.seconds = time.monotonic() - started
    return result


def _has_hit(outcome: Outcome, room: Path) -> bool:
    """Return True if the fault met a file.

    Threads also wake each other by `write`, so the Nth call may be another one this time.
    """
    return any("(INJECTED)" in call and str(room / "site") in call for call in outcome.calls)


def _run_step(trial: Trial, room: Path, prelude: Prelude) -> Outcome:
    scene, point = scene_of(trial.scene), trial.point

    def step(report: injection.Tell) -> None:
        prelude()
        scene.run(room / "site", report)

    if trial.kind == "none":
        return injection.run(step, room / "log")
    what, when = {
        "kill": ("signal=KILL", str(point.number)),
        "sync": ("error=EIO", str(point.number)),
        # Not all writes from then on: threads wake each other by write.
        "full": (
            "error=ENOSPC",
            str(point.number) if point.call == "write" else f"{point.number}+",
        ),
        "lost": (f"retval={point.result}", str(point.number)),
    }[trial.kind]
    trace = None if trial.kind == "kill" else room / "trace"
    calls = () if trace is None else syncs.TRACED if trial.kind == "sync" else (*SYNCS, "openat")
    return injection.run(
        step,
        room / "log",
        Injection(point.call, what, when),
        trace=trace,
        calls=calls,
        deadline_s=_STEP_S,
    )


def _judge(
    trial: Trial,
    site: Path,
    ledger: Told,
    room: Path,
    result: Result,
    prelude: Prelude,
    alarms: list[str] | None = None,
) -> None:
    """Judge in a child of its own, since a parent must not open a lake.

    Args:
        alarms: reports of the step itself about corrupt files.
    """
    scene = scene_of(trial.scene)

    def judging(report: injection.Tell) -> None:
        prelude()
        report(**vars(scene.judge(site, ledger)))

    outcome = injection.run(judging, room / "log")
    if trial.kind == "lost":
        for _ in range(2):  # a supervisor restarts dead processes
            if outcome.status < 0:
                outcome = injection.run(judging, room / "log")
    alarms = [*(alarms or []), *outcome.alarms]
    if outcome.reports:
        result.verdict = Verdict(**outcome.reports[0])
    else:
        result.verdict = Verdict(
            unequal=1, notes=[f"the judge failed with status {outcome.status}: {outcome.error}"]
        )
    if trial.kind == "lost" and alarms and not result.verdict.is_clean and outcome.reports:
        result.verdict.told = result.verdict.told or alarms[0]
    if trial.kind != "lost" and result.verdict.told:
        # Nobody should have to repair anything by hand after a crash or an error.
        result.verdict.unequal += 1
        result.verdict.told = ""


def _check_syncs(root: Path, trial: Trial, outcome: Outcome, room: Path, result: Result) -> None:
    """Check that no later sync was believed for data that a failed sync left in doubt."""
    if trial.kind != "sync":
        return
    base = base_of(root, trial.scene, trial.seed)
    durable_paths = [str(room / "site" / path.relative_to(base)) for path in base.rglob("*")]
    for path in syncs.find_believed_syncs(outcome.calls, str(room / "site"), durable_paths)[:1]:
        result.verdict.unequal += 1
        result.verdict.notes.append(f"a failed sync was tried again: {path}")


def _cut_power(
    base: Path, trial: Trial, room: Path, preludes: tuple[Prelude, bool], result: Result
) -> None:
    scene, point = scene_of(trial.scene), trial.point
    image = power.make_image(room / "disk", base)
    mount_point = room / "site"
    with power.mounted(image, mount_point):

        def step(report: injection.Tell) -> None:
            preludes[0]()
            scene.run(mount_point, report)

        child = Child(step, room / "log")
        child.watch(Injection(point.call, "signal=STOP", str(point.number)), trace=room / "trace")
        child.go()
        give_up = time.monotonic() + injection.DEADLINE_S
        while not (child.ended() or child.stopped(room / "trace")) and time.monotonic() < give_up:
            time.sleep(0.002)
        result.hit = not child.ended()
        messages = list(child.received())
        if result.hit:
            power.copy_image(image, room / "copy")
        child.kill()
        child.wait()
    if not result.hit:
        return
    result.acked = sum("acked" in each for each in messages)
    with power.mounted(room / "copy", mount_point):
        ledger = Told.read(mount_point / "ledger.json")
        ledger.take(messages)
        _judge(
            trial,
            mount_point,
            ledger,
            room,
            result,
            preludes[0] if preludes[1] else _change_nothing,
        )
