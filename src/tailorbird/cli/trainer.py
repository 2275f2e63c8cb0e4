"""Training as the command, the demo and the trainer role do it; and the role: watch live figures, train anew when they fall.

The role looks at each slot that runs an experiment with an arm `model` against a control, every `train.check_every`. The
reference is the time since the champion went live, up to a quarter of the watch; see `monitoring.retrain` for the rule.
"""

import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tailorbird.cli.output import Report
from tailorbird.config import Project
from tailorbird.errors import NotReadyError, TailorbirdError
from tailorbird.events import DAY, HOUR, Clock, duration
from tailorbird.lake import Lake
from tailorbird.monitoring import Decision, Trigger, decide
from tailorbird.ranking import Slot
from tailorbird.registry import Registry
from tailorbird.training.baseline import ensure_champion
from tailorbird.training.train import TrainReport, TrainSettings, train

REFERENCE_US = 2 * DAY  # of live traffic after a promotion, before falls are looked for
RETRAIN_US = 2 * DAY  # at least this much traffic since the fall began is learned from
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainOutcome:
    """What a training came to, as the demo tells it."""

    version: str
    incumbent: str
    promoted: bool
    reason: str
    report: Path | None
    offline: dict[str, Any]


def train_once(
    project: Project,
    clock: Clock,
    slot: str,
    *,
    since: int | None = None,
    quick: bool = False,
    by: str = "train",
    progress: Report = lambda stage, done, total: None,
) -> TrainOutcome:
    """Train a model for a slot on what the lake holds; promote it if it passes the gate.

    Args:
        since: learn only from answers after this moment, where older ones mislead: after tastes have shifted. Labels that
            come more than an hour late are then missed rather than waited for.
    """
    settings = TrainSettings(window_us=duration(project.settings.train.window), lateness_us=project.plan.lateness_us, quick=quick)
    if since is not None:
        settings = TrainSettings(window_us=clock.now() - since, lateness_us=HOUR, quick=quick)
    return outcome_of(run_train(project, clock, project.slots[slot], settings, by=by, progress=progress))


def run_train(project: Project, clock: Clock, slot: Slot, settings: TrainSettings, *, by: str, progress: Report) -> TrainReport:
    """`training.train` on a project's folders."""
    paths = project.paths
    ensure_champion(project.features, lake=paths.lake, registry=paths.registry, clock=clock, by=by)
    return train(
        project.features,
        slot,
        lake=paths.lake,
        registry=paths.registry,
        reports=paths.reports,
        clock=clock,
        settings=settings,
        by=by,
        progress=progress,
    )


def outcome_of(report: TrainReport) -> TrainOutcome:
    plain = report.evaluation.plain()
    offline = plain["results"]
    # Probabilities are judged by head; those of the first one stand beside the model's own figures.
    offline[report.evaluation.model] |= next(iter(plain["heads"].values()), {})
    return TrainOutcome(report.version, report.incumbent, report.promoted, report.decision.reason, report.report, offline)


def watch(project: Project, clock: Clock, stop: threading.Event) -> None:
    """The trainer role: look every `train.check_every` until told to stop. A training that fails is logged and tried again."""
    while not stop.wait(duration(project.settings.train.check_every) / 1e6):
        for slot in project.slots.values():
            try:
                look(project, clock, slot)
            except NotReadyError as error:
                log.info("slot %s: %s", slot.name, error.message)
            except TailorbirdError as error:
                log.error("slot %s: %s", slot.name, error)


def look(project: Project, clock: Clock, slot: Slot) -> TrainOutcome | None:
    """Judge a slot's live figures; train anew if they have fallen. None if there was no call for it."""
    experiment = slot.experiment
    arm = next((name for name in experiment.arms if experiment.policy_of(name) == "model"), None) if experiment else None
    promoted = _promoted_at(project, clock)
    if experiment is None or arm is None or arm == experiment.control_arm or promoted is None:
        return None
    trigger = Trigger(slot=slot.name, arm=arm, control=experiment.control_arm, experiment=experiment.name)
    now = clock.now()
    if now < promoted + REFERENCE_US:
        return None
    events = Lake(project.paths.lake).events(ts_from=promoted)
    decision = decide(
        events, trigger, reference_from=promoted, reference_to=promoted + REFERENCE_US, until=now, denominator=slot.denominator
    )
    log.info("slot %s: %s", slot.name, decision.reason)
    if not decision.retrain:
        return None
    return _train_after(project, clock, slot, decision)


def _train_after(project: Project, clock: Clock, slot: Slot, decision: Decision) -> TrainOutcome | None:
    assert decision.since is not None
    if clock.now() < decision.since + RETRAIN_US:
        log.info("slot %s: waiting until there are %d days of traffic since the fall", slot.name, RETRAIN_US // DAY)
        return None
    outcome = train_once(project, clock, slot.name, since=decision.since, by="trainer")
    log.info("slot %s: %s %s: %s", slot.name, outcome.version, "promoted" if outcome.promoted else "kept", outcome.reason)
    return outcome


def _promoted_at(project: Project, clock: Clock) -> int | None:
    """When the champion went live."""
    changes = [entry.at for entry in Registry(project.paths.registry, clock=clock).audit() if entry.action in ("promote", "rollback")]
    return max(changes, default=None)
