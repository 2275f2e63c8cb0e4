"""Trains models for the command and the demo, and runs the trainer role.

The role trains on a schedule and when live metrics fall. Every `train.every` it trains a model of
the same recipe for `train.slot` on the newest data. If the gate accepts it, `platform.rollout`
leads it through shadow and canary, so that the live model stays fresh.

Every `train.check_every` the role checks the figures of each slot; `platform.runtime.falls` has
what is watched, and decides whether to calibrate the champion anew, to train, or to hold. The
reference window is the first `REFERENCE_WINDOW_US` after the champion's first live answer; see
`monitoring.retrain` for the rule. The time of the promotion would not do, because `train --as-of`
promotes at a simulated time, long before the model answers anybody.

A training whose model the gate refused is repeated only when enough new data has arrived. The last
attempt is read from the registry's audit log, so a restart changes nothing.
"""

import logging
import threading
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tailorbird.config import Project
from tailorbird.config.schemas import with_applied_features
from tailorbird.errors import NotReadyError, TailorbirdError
from tailorbird.events import DAY, HOUR, Clock, parse_duration, to_iso
from tailorbird.events.schedule import next_run
from tailorbird.lake import Lake
from tailorbird.monitoring import RetrainVerdict
from tailorbird.monitoring.drift import Cause
from tailorbird.monitoring.versions import CHAMPION_CHANGES
from tailorbird.periodic import PeriodicTask
from tailorbird.platform.diagnostics.daily_checks import check_day
from tailorbird.platform.drift import FALL_ACTION, explain_fall, fall_details, find_drift
from tailorbird.platform.monitoring import FIGURES_INTERVAL_S, FiguresTask
from tailorbird.platform.notify import NOTIFY_INTERVAL_S, NotifyTask
from tailorbird.platform.progress import Progress, no_progress
from tailorbird.platform.rollout import (
    ACTOR,
    ROLLOUT_INTERVAL_S,
    advance_rollout_safely,
    is_cooling,
)
from tailorbird.platform.runtime.churn import watch_churn
from tailorbird.platform.runtime.falls import decide_action, has_enough_traffic, look_for_fall
from tailorbird.platform.runtime.overdue import end_overdue, note_overdue, versions_of
from tailorbird.platform.runtime.retention import prune_safely
from tailorbird.platform.runtime.training_kind import INCREMENTAL, choose_kind, record_training
from tailorbird.platform.training import train_slot
from tailorbird.ranking import Slot
from tailorbird.ranking.own_models import own_estimator_classes
from tailorbird.registry import Registry, VersionInfo
from tailorbird.training.recalibrate import publish_recalibrated
from tailorbird.training.settings import TrainReport, TrainSettings
from tailorbird.training.tuning.tuned import TUNED_FILE, apply_tuned

DAYS_EXAMINED = 3  # days of a fall whose data is checked; each takes seconds
FIRST_CHECK_S = 60.0  # after the start, so that restarts hide no training that cannot run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainOutcome:
    """The outcome of a training, for the demo."""

    version: str
    champion: str
    is_promoted: bool
    reason: str
    report_path: Path | None
    results_by_model: dict[str, Any]


def train_once(
    project: Project,
    clock: Clock,
    slot: str,
    *,
    since: int | None = None,
    quick: bool = False,
    promote: bool = True,
    by: str = "train",
    incremental: bool | None = False,
    progress: Progress = no_progress,
) -> TrainOutcome:
    """Train a model for a slot on what the lake holds; promote it if it passes the gate.

    Args:
        since: learn only from answers after this time, for use after a shift of tastes. Labels
            that arrive more than an hour late are then missed.
        promote: promote it at once; False leaves that to `platform.rollout`.
        incremental: go on from the last model; None chooses by what each kind took and brought,
            and logs what this one does.
    """
    retrieval = "tables" if quick else project.settings.train.retrieval
    window_us = parse_duration(project.settings.train.window)
    lateness_us = project.plan.lateness_us
    if since is not None:
        window_us = clock.now() - since
        lateness_us = HOUR
    settings = TrainSettings(
        window_us=window_us,
        lateness_us=lateness_us,
        quick=quick,
        retrieval=retrieval,
        meaning=project.meaning,
        challengers=tuple(own_estimator_classes()),
    )
    settings = apply_tuned(settings, slot, project.root / TUNED_FILE)
    registry = Registry(project.paths.registry, clock=clock)
    why = ""
    if is_kind_chosen := incremental is None:
        kind, why = choose_kind(registry.audit(), slot)
        incremental = kind == INCREMENTAL
    settings = replace(settings, incremental=incremental)
    report = train_slot(
        project,
        clock,
        project.slots[slot],
        settings,
        by=by,
        promote=promote,
        working_folder=project.paths.data / "training",
        progress=progress,
    )
    if is_kind_chosen:
        record_training(registry, slot, report, why, by)
    return to_outcome(report)


def to_outcome(report: TrainReport) -> TrainOutcome:
    """Return what the demo needs of the report of a training."""
    figures = report.evaluation.to_dict()
    results_by_model = figures["results"]
    # Probability metrics belong to heads; those of the first head are added to the model's figures.
    results_by_model[report.evaluation.model_name] |= next(iter(figures["heads"].values()), {})
    return TrainOutcome(
        report.version,
        report.champion,
        report.promoted,
        report.decision.reason,
        report.page_path,
        results_by_model,
    )


def run_trainer(
    project: Project,
    clock: Clock,
    stop_event: threading.Event,
    figures_task: FiguresTask | None = None,
    notify_task: NotifyTask | None = None,
) -> None:
    """Run the trainer role until `stop_event` is set.

    It checks slots every `train.check_every`, and champion, canary and shadow every few seconds.
    A failed training is logged and tried again.
    """
    rollout_task = PeriodicTask(
        "rollout", partial(advance_rollout_safely, project, clock), interval_s=ROLLOUT_INTERVAL_S
    )
    figures_task = figures_task or FiguresTask(project, clock)
    notify_task = notify_task or NotifyTask(project, clock, figures_task.last_hour_figures)
    tasks = [
        rollout_task,
        PeriodicTask("figures", figures_task.tick, interval_s=FIGURES_INTERVAL_S),
        PeriodicTask("notify", notify_task.tick, interval_s=NOTIFY_INTERVAL_S),
    ]
    for task in tasks:
        task.start()
    try:
        _check_slots_until_stopped(project, clock, stop_event)
    finally:
        for task in tasks:
            task.stop()


def _check_slots_until_stopped(project: Project, clock: Clock, stop_event: threading.Event) -> None:
    wait_s = min(FIRST_CHECK_S, _seconds_to_check(project, clock))
    while not stop_event.wait(wait_s):
        project = with_applied_features(project)
        prune_safely(project, clock)
        for slot in project.slots.values():
            try:
                if (
                    retrain_on_fall(project, clock, slot) is None
                    and slot.name == project.settings.train.slot
                ):
                    retrain_on_schedule(project, clock, slot)
            except NotReadyError as error:
                log.info("slot %s: %s", slot.name, error.message)
            except TailorbirdError as error:
                log.error("slot %s: %s", slot.name, error)
        for name in project.churn:
            try:
                watch_churn(project, clock, name)
            except TailorbirdError as error:
                log.log(_log_level_of(error), "churn %s: %s", name, error)
        wait_s = _seconds_to_check(project, clock)


def _seconds_to_check(project: Project, clock: Clock) -> float:
    """Return the time until the next check: `train.check_every`, or sooner if a training is due."""
    settings = project.settings.train
    check_s = parse_duration(settings.check_every) / 1e6
    newest_version = _newest_trained_version(
        Registry(project.paths.registry, clock=clock), settings.slot
    )
    if not settings.every or newest_version is None:
        return check_s
    due_s = (next_run(settings.every, newest_version.created_at) - clock.now()) / 1e6
    return min(check_s, due_s) if due_s > 0 else check_s


def _newest_trained_version(registry: Registry, slot: str) -> VersionInfo | None:
    trained_versions = [
        info for info in versions_of(registry, slot) if "recalibrated" not in info.metrics["about"]
    ]
    return max(trained_versions, key=lambda info: info.created_at, default=None)


def _log_level_of(error: TailorbirdError) -> int:
    return logging.INFO if isinstance(error, NotReadyError) else logging.ERROR


def retrain_on_schedule(project: Project, clock: Clock, slot: Slot) -> TrainOutcome | None:
    """Train if `train.every` is over since the last training, and new events arrived.

    Returns None if there is nothing to do.
    """
    schedule = project.settings.train.every
    if not schedule:
        end_overdue(project, slot.name)
        return None
    registry = Registry(project.paths.registry, clock=clock)
    now = clock.now()
    newest_version = _newest_trained_version(registry, slot.name)
    lake = Lake(project.paths.lake)
    if newest_version is None:
        if lake.exists("events"):
            note_overdue(project, clock, slot.name, now, _no_first_model_error(slot.name))
        return None
    due_at = next_run(schedule, newest_version.created_at)
    if now < due_at:
        end_overdue(project, slot.name)
        return None
    if not lake.events(columns=("ts",), ts_from=newest_version.created_at).num_rows:
        log.info("slot %s: nothing came since %s was trained", slot.name, newest_version.version)
        return None
    if _is_other_model_pending(project, registry, slot.name, now):
        return None
    log.info(
        "slot %s: %s is from before the last time of train.every, %s",
        slot.name,
        newest_version.version,
        schedule,
    )
    return _train(project, clock, slot.name, due_at=due_at)


def _no_first_model_error(slot: str) -> NotReadyError:
    return NotReadyError(
        "train.every renews a model, and none was trained yet", fix=f"tailorbird train {slot}"
    )


def retrain_on_fall(project: Project, clock: Clock, slot: Slot) -> TrainOutcome | None:
    """Check a slot's live figures; if one has fallen, recalibrate, retrain or hold.

    Returns None if nothing was trained.
    """
    champion_fall = look_for_fall(project, clock, slot)
    if champion_fall is None:
        return None
    registry = Registry(project.paths.registry, clock=clock)
    now = clock.now()
    fall = champion_fall.fall
    record_fall(project, clock, fall.decision, reference_from=champion_fall.live_since)
    if not has_enough_traffic(
        slot.name,
        champion_fall.response_times,
        fall.since,
        champion_fall.champion.last_attempt_at,
        now,
    ):
        return None
    if _is_other_model_pending(project, registry, slot.name, now):
        return None
    verdict = decide_action(project, clock, slot, champion_fall)
    champion = champion_fall.champion.version
    registry.record(verdict.action, champion, by=ACTOR, why=verdict.reason)
    log.warning("slot %s: %s %s: %s", slot.name, verdict.action, champion, verdict.reason)
    if verdict.action == "recalibrate":
        version = publish_recalibrated(registry, champion, verdict, now=now, by=ACTOR)
        if not project.settings.rollout.staged:
            registry.promote(version, by=ACTOR, why=verdict.reason)
        return None
    if verdict.action == "hold":
        return None
    return _train(project, clock, slot.name, since=fall.since, due_at=now)


def record_fall(
    project: Project, clock: Clock, decision: RetrainVerdict, *, reference_from: int
) -> Cause | None:
    """Log a fall of the champion with its likely cause, once; return the cause if it is new."""
    registry = Registry(project.paths.registry, clock=clock)
    champion = registry.aliases().champion
    last_action = next(
        (
            entry.action
            for entry in reversed(registry.audit())
            if entry.version == champion and entry.action in (*CHAMPION_CHANGES, FALL_ACTION)
        ),
        "",
    )
    if decision.since is None or last_action == FALL_ACTION:
        return None
    cause = explain_fall(project, clock, decision, reference_from)
    why = f"{decision.reason}. Likely cause: {cause.name}, {cause.evidence}"
    details = fall_details(decision.since, decision.reason, cause)
    registry.record(FALL_ACTION, champion, by=ACTOR, why=why, details=details)
    log.warning("fall of %s: %s", champion, why)
    _examine_days(project, clock, decision.since)
    return cause


def _examine_days(project: Project, clock: Clock, since: int) -> None:
    """Judge drift, and check the days of a fall, so that the status can say what else is known."""
    now = clock.now()
    today = now // DAY  # which is not over
    first_day = min(max(since // DAY, today - DAYS_EXAMINED), today - 1)
    try:
        for day_number in range(first_day, today):
            check_day(project, to_iso(day_number * DAY)[:10], now=now)
        find_drift(project, clock)
    except TailorbirdError as error:
        log.info("the days of the fall: %s", error)


def _is_other_model_pending(project: Project, registry: Registry, slot: str, now: int) -> bool:
    if not is_cooling(project, registry, now):
        return False
    log.info("slot %s: a model is on its way, or failed lately", slot)
    return True


def _train(
    project: Project, clock: Clock, slot: str, *, due_at: int, since: int | None = None
) -> TrainOutcome:
    """Train, and promote at once where no shadow and canary come first.

    A failure is stored for the status, messages and metrics, and raised.
    """
    is_staged = project.settings.rollout.staged
    try:
        outcome = train_once(
            project,
            clock,
            slot,
            since=since,
            promote=not is_staged,
            by=ACTOR,
            # After a fall the rows since then are few, and the old model is not to be gone on from.
            incremental=None if since is None else False,
        )
    except Exception as error:
        note_overdue(project, clock, slot, due_at, error)
        raise
    end_overdue(project, slot)
    log.info(
        "slot %s: %s %s: %s",
        slot,
        outcome.version,
        "promoted" if outcome.is_promoted else "kept",
        outcome.reason,
    )
    return outcome
