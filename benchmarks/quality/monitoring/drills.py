"""Incident drills: make an incident on a simulated site, and see the alarm that it raises.

    python -m benchmarks.quality.monitoring --drill bots
    python -m benchmarks.quality.monitoring --drill all

A drill passes if the alarm has the right cause and names its page in docs/operate.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tests.support.monitored import draw_visits, write_visits
from tests.support.rollout_child import add_version
from tests.support.shops.leaving_shop import KNOWN_AT, train_champion, write_leaving_shop
from tests.support.shops.ranking_world import make_bundle

from benchmarks.quality.monitoring.drill_sites import (
    BEGIN,
    INCIDENTS,
    NOON,
    NOW,
    copy_site,
    write_incident,
    write_project,
)
from tailorbird.config import Project
from tailorbird.events import DAY, HOUR, SECOND, SimulatedClock
from tailorbird.monitoring.drift.causes import RUNBOOK_PAGES
from tailorbird.platform.drift import figure_store, find_drift
from tailorbird.platform.monitoring import FiguresTask, read_status
from tailorbird.platform.notify import NotifyTask, collect_messages
from tailorbird.platform.rollout import advance_rollout
from tailorbird.platform.runtime.churn import watch_churn
from tailorbird.platform.runtime.trainer import retrain_on_schedule
from tailorbird.ranking.bundle import SKETCHES_FILE
from tailorbird.registry import Registry
from tailorbird.training.sketches import count_numbers, to_bytes

DEAD_RECEIVER = "json://127.0.0.1:9"  # nothing listens on the port of `discard`


@dataclass(frozen=True)
class Alarm:
    """What an incident raised: its title or cause, with the text that names the page."""

    title: str
    text: str


@dataclass(frozen=True)
class Drill:
    """An incident, and the alarm that it has to raise.

    Attributes:
        page: the runbook in docs/operate.
        alarm: in the alarm's title or text.
        play: makes the incident in a project's folder, and returns the alarms.
    """

    page: str
    alarm: str
    play: Callable[[Path, Path], Sequence[Alarm]]

    def run(self, base: Path, folder: Path) -> Alarm | None:
        """Return the right alarm, None if it was not raised.

        Args:
            base: of the quiet site, see `copy_site`.
            folder: a new one for this drill.
        """
        alarms = self.play(base, folder)
        texts = [(alarm, f"{alarm.title}\n{alarm.text}") for alarm in alarms]
        return next(
            (alarm for alarm, text in texts if self.alarm in text and self.page in text), None
        )


def _make_drift_drill(incident: str) -> Callable[[Path, Path], Sequence[Alarm]]:
    def play(base: Path, folder: Path) -> Sequence[Alarm]:
        project, clock = copy_site(base, folder), SimulatedClock(NOW)
        write_incident(project, incident)
        if incident == "model-change":
            _promote_version(project.paths.registry, folder, NOW - DAY)
        return _find_drift_alarms(project, clock)

    return play


def _find_drift_alarms(project: Project, clock: SimulatedClock) -> list[Alarm]:
    """Return the messages on drift that a receiver gets."""
    find_drift(project, clock)
    return _collect_alarms(project, clock)


def _collect_alarms(project: Project, clock: SimulatedClock, figures: Sequence = ()) -> list[Alarm]:
    return [Alarm(each.title, each.body) for each in collect_messages(project, clock, figures)]


def _promote_version(registry: Path, folder: Path, at: int) -> None:
    version = add_version(folder / "made", at, by="ada")
    shutil.copytree(folder / "made" / "registry", registry)
    Registry(registry, clock=SimulatedClock(at)).promote(version, by="ada", why="looks good")


def _play_skew(base: Path, folder: Path) -> Sequence[Alarm]:
    """Let the champion have learned from other values than were ever served."""
    project, clock = copy_site(base, folder), SimulatedClock(NOW - DAY)
    rows = count_numbers(
        "feature", ["clicks_7d"], np.random.default_rng(1).poisson(9.0, (5_000, 1)) + 1.0
    )
    window = {"from": BEGIN, "test_from": NOW - 9 * DAY}
    about = {"slot": "home", "source": "logged answers", "window": window}
    extra_files = {SKETCHES_FILE: to_bytes(rows)}
    make_bundle(folder / "bundle", extra_files=extra_files, metrics={"about": about})
    registry = Registry(project.paths.registry, clock=clock)
    registry.promote(registry.add(folder / "bundle"), by="ada", why="looks good")
    rows_found = find_drift(project, clock, against="training").episodes
    return [Alarm(row.cause, f"{row.evidence}\n{row.runbook}") for row in rows_found]


def _make_small_shop(folder: Path, settings: str = "") -> Project:
    """Return a project with an hour of clicks before noon."""
    project = write_project(folder, settings)
    rng = np.random.default_rng(0)
    visits = draw_visits(rng, NOON - HOUR, 3_000, 1_200, ctr=0.5, assigned_version="v0001")
    write_visits(project.paths.lake, visits)
    return project


def _make_quiet_shop(folder: Path) -> Project:
    """Return such a project with a champion."""
    project = _make_small_shop(folder)
    add_version(folder / "data", NOON - DAY, by="train")
    Registry(project.paths.registry, clock=SimulatedClock(NOON - DAY)).promote(
        "v0001", by="train", why="first"
    )
    figure_store(project).refresh(NOON - DAY, NOON)
    return project


def _play_rollback(base: Path, folder: Path) -> Sequence[Alarm]:
    """Promote a model whose answers fail."""
    project, rng = _make_quiet_shop(folder), np.random.default_rng(2)
    add_version(folder / "data", NOON, by="train")
    Registry(project.paths.registry, clock=SimulatedClock(NOON)).promote(
        "v0002", by="train", why="looked good"
    )
    visits = draw_visits(rng, NOON, 10, 1_000, assigned_version="v0002", failure="error", ctr=0.5)
    write_visits(project.paths.lake, visits)
    clock = SimulatedClock(NOON + 10 * SECOND)
    advance_rollout(project, clock)
    return _collect_alarms(project, clock)


def _play_canary_end(base: Path, folder: Path) -> Sequence[Alarm]:
    """Let a canary get too little traffic to be decided."""
    project = _make_quiet_shop(folder)
    add_version(folder / "data", NOON)
    Registry(project.paths.registry, clock=SimulatedClock(NOON)).set_canary(
        "v0002", 0.2, by="trainer", why="the shadow passed"
    )
    clock = SimulatedClock(NOON + 2 * DAY)
    advance_rollout(project, clock)
    return _collect_alarms(project, clock)


def _play_training(base: Path, folder: Path) -> Sequence[Alarm]:
    """Let a training be due where no model was ever trained."""
    project, clock = _make_small_shop(folder), SimulatedClock(NOON)
    retrain_on_schedule(project, clock, project.slots["home"])
    return _collect_alarms(project, clock)


def _play_errors(base: Path, folder: Path) -> Sequence[Alarm]:
    """Let every tenth answer fail, whatever the version."""
    project, rng = _make_quiet_shop(folder), np.random.default_rng(3)
    for count, failure in ((900, None), (100, "error")):
        visits = draw_visits(
            rng, NOON + count, 3_000, count, assigned_version="v0001", failure=failure, ctr=0.2
        )
        write_visits(project.paths.lake, visits)
    clock = SimulatedClock(NOON + HOUR)
    figures = FiguresTask(project, clock)
    figures.tick()
    return _collect_alarms(project, clock, figures.last_hour_figures())


def _play_receiver(base: Path, folder: Path) -> Sequence[Alarm]:
    """Send messages to a port on which nothing listens."""
    project = _make_small_shop(folder, f'[notify]\nurls = ["{DEAD_RECEIVER}"]\n')
    clock = SimulatedClock(NOON)
    retrain_on_schedule(project, clock, project.slots["home"])  # something to tell
    NotifyTask(project, clock).tick()
    lines = [line for line in read_status(project, clock).lines if "accepts no message" in line]
    return [Alarm("receiver", f"{line}\ndocs/operate/receiver.md") for line in lines]


def _play_churn(base: Path, folder: Path) -> Sequence[Alarm]:
    """Let people who used to stay leave, from some day on."""
    project = write_leaving_shop(folder)
    train_champion(project)
    clock = SimulatedClock(KNOWN_AT)
    watch_churn(project, clock, "churn")
    return _collect_alarms(project, clock)


DRILLS: dict[str, Drill] = {
    **{
        name: Drill(f"docs/operate/{RUNBOOK_PAGES[cause]}", cause, _make_drift_drill(name))
        for name, (cause, _) in INCIDENTS.items()
    },
    "skew": Drill("docs/operate/skew.md", "training-serving skew", _play_skew),
    "churn": Drill("docs/operate/churn.md", "drift, stale churn model", _play_churn),
    "rolled-back": Drill("docs/operate/rolled-back.md", "rolled back to v0001", _play_rollback),
    "canary-ended": Drill("docs/operate/canary-ended.md", "v0002 was refused", _play_canary_end),
    "training": Drill("docs/operate/training.md", "training of home could not run", _play_training),
    "errors": Drill("docs/operate/errors.md", "errors in home", _play_errors),
    "receiver": Drill("docs/operate/receiver.md", "accepts no message", _play_receiver),
}


def play_drills(names: Sequence[str], folder: Path) -> list[str]:
    """Play drills in a folder, print what each raised, and return the names of those that failed."""
    base, failed = folder / "quiet", []
    for name in names:
        drill = DRILLS[name]
        alarm = drill.run(base, folder / name)
        if alarm is None:
            failed.append(name)
            print(f"{name}: NO ALARM with {drill.alarm!r} and {drill.page}")
        else:
            print(f"{name}: {alarm.title}\n  " + alarm.text.replace("\n", "\n  "))
    return failed
