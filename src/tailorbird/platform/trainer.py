"""Training as the command, the demo and the trainer role do it; and the role: train anew on a
schedule, and when live figures fall.

Every `train.every` a model of the same recipe is trained for `train.slot` on what has come since:
the gate lets it take the incumbent's place if it is not worse by more than the margin, so that what
serves stays fresh.

The role looks at each slot that runs an experiment with an arm `model` against a control, every
`train.check_every`. The reference is the first `REFERENCE_US` from the champion's first answer on;
see `monitoring.retrain` for the rule. When it was promoted is no such moment: `train --as-of`
promotes at a simulated time, long before the model answers anybody.

A training whose model the gate refused is tried again when there is enough more to learn from, not
at each look. When the last one was stands in the registry's audit log, so a restart changes
nothing.
"""

import logging
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.config import Project
from tailorbird.config.schemas import applied
from tailorbird.errors import NotReadyError, TailorbirdError
from tailorbird.events import DAY, HOUR, Clock, micros, parse_duration
from tailorbird.experiments.counts import COLUMNS
from tailorbird.lake import Lake
from tailorbird.loops import PeriodicTask
from tailorbird.monitoring import Trigger, decide_retrain
from tailorbird.platform.canary import advance_canary_safely
from tailorbird.platform.progress import Progress, no_progress
from tailorbird.ranking import Slot
from tailorbird.registry import Registry
from tailorbird.training.baseline import ensure_champion
from tailorbird.training.train import TrainReport, TrainSettings, train
from tailorbird.training.tune.tuned import FILE, apply_tuned

REFERENCE_US = 2 * DAY  # of live traffic after a promotion, before falls are looked for
RETRAIN_US = 2 * DAY  # at least this much traffic since the fall began is learned from
CANARY_S = 10.0  # between looks at a canary
RETRY_US = DAY  # after a model that the gate refused,
RETRY_SHARE = (
    0.25  # or when this much more traffic than it had learned from has come, if that is sooner
)
BY = "trainer"  # how this role signs in the registry
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
    progress: Progress = no_progress,
) -> TrainOutcome:
    """Train a model for a slot on what the lake holds; promote it if it passes the gate.

    Args:
        since: learn only from answers after this moment, where older ones mislead: after tastes
            have shifted. Labels that come more than an hour late are then missed rather than waited
            for.
    """
    retrieval = "tables" if quick else project.settings.train.retrieval
    window, lateness = parse_duration(project.settings.train.window), project.plan.lateness_us
    if since is not None:
        window, lateness = clock.now() - since, HOUR
    settings = TrainSettings(
        window_us=window,
        lateness_us=lateness,
        quick=quick,
        retrieval=retrieval,
        meaning=project.meaning,
    )
    settings = apply_tuned(settings, slot, project.root / FILE)
    return outcome_of(
        run_train(project, clock, project.slots[slot], settings, by=by, progress=progress)
    )


def run_train(
    project: Project,
    clock: Clock,
    slot: Slot,
    settings: TrainSettings,
    *,
    by: str,
    progress: Progress,
) -> TrainReport:
    """`training.train` on a project's folders."""
    paths = project.paths
    ensure_champion(
        project.features,
        lake=paths.lake,
        registry=paths.registry,
        clock=clock,
        by=by,
        owner=project.settings.project.owner,
        meaning=project.meaning,
    )
    return train(
        project.features,
        slot,
        lake=paths.lake,
        registry=paths.registry,
        reports=paths.reports,
        clock=clock,
        settings=settings,
        by=by,
        owner=project.settings.project.owner,
        heads=[head for other in project.slots.values() for head in other.objective],
        progress=progress,
    )


def outcome_of(report: TrainReport) -> TrainOutcome:
    plain = report.evaluation.to_dict()
    offline = plain["results"]
    # Probabilities are judged by head; those of the first one stand beside the model's own figures.
    offline[report.evaluation.model] |= next(iter(plain["heads"].values()), {})
    return TrainOutcome(
        report.version,
        report.incumbent,
        report.promoted,
        report.decision.reason,
        report.report,
        offline,
    )


def watch(project: Project, clock: Clock, stop: threading.Event) -> None:
    """The trainer role: look every `train.check_every` until told to stop, and at a canary every
    ten seconds meanwhile.

    A training that fails is logged and tried again.
    """
    canary = PeriodicTask(
        "canary", partial(advance_canary_safely, project, clock), interval_s=CANARY_S
    )
    canary.start()
    try:
        _watch_slots(project, clock, stop)
    finally:
        canary.stop()


def _watch_slots(project: Project, clock: Clock, stop: threading.Event) -> None:
    while not stop.wait(parse_duration(project.settings.train.check_every) / 1e6):
        project = applied(project)
        for slot in project.slots.values():
            try:
                if look(project, clock, slot) is None and slot.name == project.settings.train.slot:
                    renew(project, clock, slot)
            except NotReadyError as error:
                log.info("slot %s: %s", slot.name, error.message)
            except TailorbirdError as error:
                log.error("slot %s: %s", slot.name, error)


def renew(project: Project, clock: Clock, slot: Slot) -> TrainOutcome | None:
    """Train anew if the last training was `train.every` ago, and events came since; None if there
    was no call for it.
    """
    every = project.settings.train.every
    if not every:
        return None
    registry, now = Registry(project.paths.registry, clock=clock), clock.now()
    mine = [
        info
        for info in registry.versions()
        if info.metrics.get("about", {}).get("slot") == slot.name
    ]
    newest = max(mine, key=lambda info: info.created_at, default=None)
    if newest is None or now < newest.created_at + parse_duration(every):
        return None
    lake = Lake(project.paths.lake)
    if not lake.events(columns=("ts",), ts_from=newest.created_at).num_rows:
        log.info("slot %s: nothing came since %s was trained", slot.name, newest.version)
        return None
    log.info("slot %s: %s is older than train.every, %s", slot.name, newest.version, every)
    outcome = train_once(project, clock, slot.name, by=BY)
    log.info(
        "slot %s: %s %s: %s",
        slot.name,
        outcome.version,
        "promoted" if outcome.promoted else "kept",
        outcome.reason,
    )
    return outcome


def look(project: Project, clock: Clock, slot: Slot) -> TrainOutcome | None:
    """Judge a slot's live figures; train anew if they have fallen. None if there was no call for
    it, or not yet again.
    """
    experiment = slot.experiment
    arm = (
        next((name for name in experiment.arms if experiment.policy_of(name) == "model"), None)
        if experiment
        else None
    )
    watched = _watched(Registry(project.paths.registry, clock=clock), slot.name)
    if experiment is None or arm is None or arm == experiment.control_arm or watched is None:
        return None
    lake, now, attribution = Lake(project.paths.lake), clock.now(), parse_duration(slot.attribution)
    start = _live_from(lake, slot.name, watched)
    if start is None or now < start + REFERENCE_US:
        return None
    trigger = Trigger(
        slot=slot.name, arm=arm, control=experiment.control_arm, experiment=experiment.name
    )
    events = lake.events(columns=COLUMNS, ts_from=start - attribution)
    decision = decide_retrain(
        events,
        trigger,
        reference_from=start,
        reference_to=start + REFERENCE_US,
        until=now,
        denominator=slot.denominator,
        attribution=attribution,
    )
    log.info("slot %s: %s", slot.name, decision.reason)
    if decision.since is None or not _due(
        slot.name, _answered(events, slot.name), decision.since, watched.tried_at, now
    ):
        return None
    outcome = train_once(project, clock, slot.name, since=decision.since, by=BY)
    log.info(
        "slot %s: %s %s: %s",
        slot.name,
        outcome.version,
        "promoted" if outcome.promoted else "kept",
        outcome.reason,
    )
    return outcome


@dataclass(frozen=True)
class _Watched:
    """The champion, when it was promoted, and when this role last trained for the slot since then
    and was refused.
    """

    version: str
    promoted_at: int
    tried_at: int | None


def _watched(registry: Registry, slot: str) -> _Watched | None:
    champion, audit = registry.aliases().champion, registry.audit()
    # By their order in the log, not by their times, some of which are simulated.
    places = [
        place
        for place, entry in enumerate(audit)
        if entry.action in ("promote", "rollback") and entry.version == champion
    ]
    if not champion or not places:
        return None
    ours = {
        info.version
        for info in registry.versions()
        if info.metrics.get("about", {}).get("slot") == slot
    }
    tries = [
        entry.at
        for entry in audit[places[-1] :]
        if entry.action == "add" and entry.by == BY and entry.version in ours
    ]
    return _Watched(champion, audit[places[-1]].at, tries[-1] if tries else None)


def _live_from(lake: Lake, slot: str, watched: _Watched) -> int | None:
    """When the champion first answered a person in the slot since it was promoted."""
    given = lake.events(
        columns=("type", "ts", "slot", "model", "agent"), ts_from=watched.promoted_at
    )
    answered = _answered(given.filter(pc.equal(given["model"], watched.version)), slot)
    return int(answered.min()) if len(answered) else None


def _answered(events: pa.Table, slot: str) -> npt.NDArray[np.int64]:
    """The times of a slot's answers to people."""
    wanted = pc.and_kleene(pc.equal(events["type"], "answer"), pc.equal(events["slot"], slot))
    wanted = pc.and_kleene(wanted, pc.not_equal(pc.fill_null(events["agent"], "person"), "bot"))
    return micros(events["ts"].filter(wanted))


def _due(
    slot: str, answered: npt.NDArray[np.int64], since: int, tried_at: int | None, now: int
) -> bool:
    """Whether there is enough traffic since the fall to learn from, and enough more than the last
    time.
    """
    if now < since + RETRAIN_US:
        log.info(
            "slot %s: waiting until there are %d days of traffic since the fall",
            slot,
            RETRAIN_US // DAY,
        )
        return False
    if tried_at is None or now >= tried_at + RETRY_US:
        return True
    before = int(np.sum((answered >= since) & (answered < tried_at)))
    more = int(np.sum((answered >= max(since, tried_at)) & (answered < now)))
    if more >= RETRY_SHARE * before:
        return True
    log.info(
        "slot %s: the gate refused the last model; waiting for a day, or a quarter more "
        "traffic, to try again",
        slot,
    )
    return False
