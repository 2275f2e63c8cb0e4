"""Train churn models by schedule and when they fell, and roll back one that is worse.

A churn model has no canary: whether its scores were right is known once its window is over. So a
new champion is compared with the one before it on the same people then, and the schedule leaves it
alone until its first outcomes are known. After a model that the gate refused it waits longer.
"""

import logging
import math
from datetime import datetime

from tailorbird.config import Project
from tailorbird.events import DAY, Clock
from tailorbird.monitoring.churn import ChurnWeek, explain_fall, explain_loss
from tailorbird.monitoring.drift import Cause
from tailorbird.monitoring.drift.causes import CHURN_FALL
from tailorbird.platform.drift import FALL_ACTION, fall_details
from tailorbird.platform.models.churn_figures import (
    champion_since,
    churn_registry,
    last_activity_time,
    outcome_delay_us,
    refresh_churn,
    schedule_training,
)
from tailorbird.platform.rollout import ACTOR, churn_waiting_steps, waiting_steps
from tailorbird.platform.runtime.overdue import end_overdue, note_overdue
from tailorbird.platform.train_options import TrainOptions
from tailorbird.platform.training import train_churn_model
from tailorbird.ranking import Churn
from tailorbird.registry import Registry

log = logging.getLogger(__name__)


def watch_churn(project: Project, clock: Clock, name: str) -> str:
    """Judge a churn model, and take the step that is due.

    Returns:
        `roll_back`, `propose`, `train`, or "" if there is nothing to do.
    """
    registry = churn_registry(project, clock, name)
    now = clock.now()
    churn = project.churn[name]
    versions = registry.versions()
    if not versions:
        return ""
    aliases = registry.aliases()
    churn_record = refresh_churn(project, clock, name)
    weeks = churn_record.weeks_of_version(aliases.champion)
    false_rollback = project.settings.rollout.false_rollback
    if aliases.previous and (why := explain_loss(weeks, aliases.previous, false_rollback)):
        return _take_step(project, registry, "roll_back", aliases.champion, why)
    last_trained_at = versions[-1].created_at
    if (
        weeks
        and weeks[-1].known_at > last_trained_at
        and (why := _find_fall(registry, weeks[-1], churn))
    ):
        _record_fall(registry, weeks[-1], why)
        return _train(project, clock, name, due_at=now)
    schedule = project.settings.train.every
    if not schedule or now < (due_at := schedule_training(schedule, versions).due_at):
        end_overdue(project, name)
        return ""
    if (not weeks and _awaits_first_outcome(registry, now, outcome_delay_us(project, churn))) or (
        last_activity_time(project, churn) <= last_trained_at
    ):
        return ""
    return _train(project, clock, name, due_at=due_at)


def _find_fall(registry: Registry, week: ChurnWeek, churn: Churn) -> str:
    """Return why a champion fell in a week, or ""."""
    metrics = registry.info(week.version).metrics
    figures = metrics["results"]["tailorbird"]
    training_details = metrics["about"]
    last_origin = int(datetime.fromisoformat(training_details["origins"][-1]).timestamp() * 1e6)
    # With a short history the gate judged a shorter window, whose AUC is another figure.
    if last_origin + churn.gap_us + churn.window_us > training_details["window"]["to"]:
        return explain_fall(week, math.nan, math.nan)
    auc, low, high = (
        math.nan if figures[key] is None else figures[key] for key in ("auc", "auc_low", "auc_high")
    )
    # A 95 % interval is 2 * 1.96 standard errors wide.
    return explain_fall(week, auc, (high - low) / 3.92)


def _record_fall(registry: Registry, week: ChurnWeek, why: str) -> None:
    """Log a fall of the champion, once."""
    champion = week.version
    if any(entry.action == FALL_ACTION and entry.version == champion for entry in registry.audit()):
        return
    details = fall_details(week.week, why, Cause(CHURN_FALL, week.describe()))
    registry.record(FALL_ACTION, champion, by=ACTOR, why=why, details=details)
    log.warning("fall of %s: %s", champion, why)


def _awaits_first_outcome(registry: Registry, now: int, delay_us: int) -> bool:
    """Return whether the outcome of the champion's first week is not known yet."""
    return (
        changed_at := champion_since(registry.audit())
    ) > 0 and now < changed_at + 7 * DAY + delay_us


def _train(project: Project, clock: Clock, name: str, *, due_at: int) -> str:
    """Train, and promote what the gate accepts; a failure is stored for the status, and raised."""
    may_promote = "promote" not in project.settings.rollout.approval
    try:
        report = train_churn_model(
            project, name, TrainOptions(), clock, promote=may_promote, by=ACTOR
        )
    except Exception as error:
        note_overdue(project, clock, name, due_at, error)
        raise
    end_overdue(project, name)
    log.info("churn %s: %s %s", name, report.version, report.decision.reason)
    if report.decision.is_accepted and not may_promote:
        registry = churn_registry(project, clock, name)
        why = report.decision.reason
        return _take_step(project, registry, "promote", report.version, why)
    return "train"


def _take_step(project: Project, registry: Registry, action: str, version: str, why: str) -> str:
    """Roll back or promote, or propose it once if it waits for a person."""
    if action in project.settings.rollout.approval:
        proposed_steps = [
            (waiting_step.action, waiting_step.version)
            for waiting_step in waiting_steps(registry.audit())
        ]
        if (action, version) not in proposed_steps:
            registry.record(f"propose {action}", version, by=ACTOR, why=why)
        return "propose"
    if action == "promote":
        registry.promote(version, by=ACTOR, why=why)
    else:
        registry.rollback(by=ACTOR, why=why)
    log.warning("churn: %s %s: %s", action, version, why)
    return action


def describe_waiting_steps(project: Project, clock: Clock) -> list[str]:
    """Return a sentence for each step of a churn model that waits for a person."""
    return [step.describe() for step in churn_waiting_steps(project, clock)]
