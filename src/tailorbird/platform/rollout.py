"""Lead a model from the gate to the champion, watch the champion, and roll it back.

The trainer role calls `advance_rollout` every few seconds. Each step is one atomic change of the
registry with its reason in the audit log; `monitoring.decisions.chain` derives what is next from
there, so a killed trainer goes on where it was.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.config import Project
from tailorbird.errors import NotReadyError, TailorbirdError
from tailorbird.events import DAY, HOUR, MINUTE, SECOND, Clock, parse_duration, to_iso_minute
from tailorbird.experiments.outcomes import COLUMNS as EVENT_COLUMNS
from tailorbird.experiments.statistics import Moments
from tailorbird.lake import Lake
from tailorbird.monitoring.canary import CANARY_SHARES
from tailorbird.monitoring.canary_plan import plan_canary
from tailorbird.monitoring.decisions import (
    ChampionVerdict,
    RolloutLimits,
    RolloutStep,
    judge_champion,
    judge_shadow,
    next_step,
)
from tailorbird.monitoring.decisions.chain import ROLLOUT_ACTIONS, cooling_until, last_step
from tailorbird.monitoring.decisions.champion import (
    CLICK_HORIZON_US,
    WINDOW_US,
    ClickRate,
    ServiceStats,
    dispersion_of,
)
from tailorbird.monitoring.decisions.clicks import NO_CLICKS, clicks_per_person
from tailorbird.monitoring.decisions.shadow import RESPONSE_COLUMNS as SHADOW_COLUMNS
from tailorbird.monitoring.versions import CHAMPION_CHANGES
from tailorbird.platform.drift import figure_store
from tailorbird.platform.models.churn_figures import churn_registry
from tailorbird.platform.runtime.canary import ACTOR as CANARY
from tailorbird.platform.runtime.canary import advance_canary
from tailorbird.registry import AuditEntry, Registry

ACTOR = "trainer"  # The author of these changes in the registry.
AUTHORS = (ACTOR, CANARY)
ROLLOUT_INTERVAL_S = 5.0
REFERENCE_WINDOW_US = 20 * MINUTE  # of the previous version, that a new champion is compared with
CLICK_COMPARISON_US = HOUR  # after a promotion, in which clicks are compared with those before it
LONG_RUN_INTERVAL_US = 5 * MINUTE  # between comparisons over all time since the promotion
NEWEST_VERSIONS = 5  # versions among which one may be on its way
SETTLED_US = 30 * SECOND  # after which no more rows of the time before a promotion arrive
RESPONSE_COLUMNS = ("request_id", "ts", "person", "assigned_version", "failure", "items")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WaitingStep:
    """A step of the ranker, or a churn model, that waits for a person; `since` is microseconds."""

    action: str
    version: str
    since: int
    why: str
    churn: str = ""

    def describe(self) -> str:
        """Return a sentence for the status."""
        name, option = (f"{self.churn} ", f" --churn {self.churn}") if self.churn else ("", "")
        return (
            f"{self.action.replace('_', ' ')} of {name}{self.version} waits for you since "
            f'{to_iso_minute(self.since)}: tailorbird monitor approve{option} --why "…"'
        )


def advance_rollout(project: Project, clock: Clock) -> str:
    """Take the next step, if it is due. Return it: `start`, `shadow`, `canary`, `promote`, `end`,
    `roll_back`, `propose`, `wait`, or "" if there is nothing to do.
    """
    registry = Registry(project.paths.registry, clock=clock)
    if _roll_back_if_worse(project, registry, clock.now()):
        return "roll_back"
    step = _next_step(project, registry, clock.now())
    if step.action == "canary":
        return _advance_canary(project, registry, clock, step)
    if step.action == "shadow":
        return _judge_shadow(project, registry, step, clock.now())
    if step.action == "start":
        return _start_rollout(project, registry, clock.now(), step.version)
    return "wait" if step.action == "champion" else ""


def _roll_back_if_worse(project: Project, registry: Registry, now: int) -> bool:
    """Roll back a champion that is worse; return whether that was done.

    After an automatic roll-back there is no other for a while: if the previous version is bad too,
    the cause is not the model.
    """
    aliases = registry.aliases()
    audit = registry.audit()
    champion = aliases.champion
    promotions = [e for e in audit if e.action in CHAMPION_CHANGES and e.version == champion]
    if not aliases.previous or not promotions:
        return False
    newest_promotion = promotions[-1]
    is_recent = now < newest_promotion.at + _rollout_limits(project).cooldown_us
    if newest_promotion.action == "rollback" and newest_promotion.by in AUTHORS and is_recent:
        return False
    verdict = watch_champion(project, registry, now, newest_promotion.at)
    if verdict.action != "roll_back":
        return False
    action = _take_step(project, registry, "roll_back", champion, why=verdict.reason)
    return action == "roll_back"


def advance_rollout_safely(project: Project, clock: Clock) -> None:
    """Call `advance_rollout`, and log its errors instead of raising them."""
    try:
        advance_rollout(project, clock)
    except NotReadyError as error:
        log.info("no decision on models: %s", error.message)
    except TailorbirdError as error:
        log.error("no decision on models: %s", error)


def is_cooling(project: Project, registry: Registry, now: int) -> bool:
    """Return whether no new model is to be trained: one is on its way, or failed lately."""
    limits = _rollout_limits(project)
    audit = registry.audit()
    if now < cooling_until(audit, AUTHORS, limits):
        return True
    return _next_step(project, registry, now).action in ("start", "shadow", "canary")


def waiting_steps(audit: Sequence[AuditEntry], churn: str = "") -> list[WaitingStep]:
    """Return the steps that wait for a person; `approve` takes the first, a roll-back.

    A step waits until its version takes another one, the champion changes, or a person changes
    models.
    """
    step_by_action: dict[str, WaitingStep] = {}
    for entry in audit:
        if entry.action.startswith("propose "):
            action = entry.action.removeprefix("propose ")
            waiting_step = WaitingStep(action, entry.version, entry.at, entry.why, churn)
            step_by_action[action] = waiting_step
        elif entry.action in CHAMPION_CHANGES:
            step_by_action.clear()
        elif entry.action in ROLLOUT_ACTIONS:
            is_by_trainer = entry.by in AUTHORS
            for action, step in list(step_by_action.items()):
                if not is_by_trainer or step.version == entry.version:
                    del step_by_action[action]
    return sorted(
        step_by_action.values(), key=lambda step: (step.action != "roll_back", -step.since)
    )


def churn_waiting_steps(project: Project, clock: Clock) -> list[WaitingStep]:
    """Return the steps of churn models that wait for a person."""
    return [
        step
        for name in project.churn
        for step in waiting_steps(churn_registry(project, clock, name).audit(), name)
    ]


def approve(
    project: Project, clock: Clock, *, by: str, why: str, churn: str = ""
) -> tuple[str, str]:
    """Take the step that waits for a person: one of the ranker comes before one of a churn model.

    Args:
        churn: only a step of this churn model.

    Returns:
        The step and its version.

    Raises:
        NotReadyError: none waits.
    """
    if churn:
        project.churn_model(churn)
    ranker = Registry(project.paths.registry, clock=clock)
    steps = [*waiting_steps(ranker.audit()), *churn_waiting_steps(project, clock)]
    waiting_step = next((step for step in steps if churn in ("", step.churn)), None)
    if waiting_step is None:
        raise NotReadyError("no step waits for a person", fix="tailorbird monitor status")
    action = waiting_step.action
    version = waiting_step.version
    registry = churn_registry(project, clock, waiting_step.churn) if waiting_step.churn else ranker
    registry.record(f"approve {action}", version, by=by, why=why)
    _apply_step(project, registry, action, version, why=f"approved by {by}: {why}", now=clock.now())
    return action, f"{waiting_step.churn} {version}".lstrip()


def watch_champion(
    project: Project, registry: Registry, now: int, promoted_at: int
) -> ChampionVerdict:
    """Compare the champion with the previous version, which answers a holdout of the people."""
    aliases = registry.aliases()
    lake = Lake(project.paths.lake)
    window_from = max(promoted_at, now - WINDOW_US)
    new_responses = lake.responses(RESPONSE_COLUMNS, window_from, now)
    should_compare_clicks = now - promoted_at < CLICK_COMPARISON_US
    new_events = lake.events(EVENT_COLUMNS, window_from, now) if should_compare_clicks else None
    champion_service = _measure_service(project, new_responses, new_events, aliases.champion, now)
    holdout_service = _measure_service(project, new_responses, None, aliases.previous, now)
    service_before = _service_before(project, aliases.previous, promoted_at, now)
    champion_long_run, holdout_long_run = _read_long_runs(
        project, aliases.champion, aliases.previous, promoted_at, now
    )
    return judge_champion(
        champion_service,
        service_before,
        holdout_service,
        champion_long_run=champion_long_run,
        holdout_long_run=holdout_long_run,
        compare_clicks=should_compare_clicks,
        false_rollback=project.settings.rollout.false_rollback,
    )


LongRuns = tuple[ClickRate | None, ClickRate | None]  # of champion and holdout, since a promotion
_long_runs_by_registry: dict[str, tuple[tuple[str, str, int], LongRuns]] = {}
_service_before_by_registry: dict[str, tuple[tuple[str, int], ServiceStats]] = {}


def _service_before(project: Project, version: str, promoted_at: int, now: int) -> ServiceStats:
    """Return the responses of a version before a promotion, read once they are complete."""
    registry_path = str(project.paths.registry)
    promotion = (version, promoted_at)
    if registry_path in _service_before_by_registry:
        cached_promotion, service = _service_before_by_registry[registry_path]
        if cached_promotion == promotion:
            return service
    lake = Lake(project.paths.lake)
    start = promoted_at - REFERENCE_WINDOW_US
    responses = lake.responses(RESPONSE_COLUMNS, start, promoted_at)
    events = lake.events(EVENT_COLUMNS, start, promoted_at)
    service = _measure_service(project, responses, events, version, promoted_at)
    if now > promoted_at + SETTLED_US:
        _service_before_by_registry[registry_path] = promotion, service
    return service


def _measure_service(
    project: Project, responses: pa.Table, events: pa.Table | None, version: str, now: int
) -> ServiceStats:
    version_responses = responses.filter(
        pc.fill_null(pc.equal(responses["assigned_version"], version), False)
    )
    failures = version_responses["failure"]
    failed_counts = {
        name: int(pc.sum(pc.fill_null(pc.equal(failures, name), False)).as_py() or 0)
        for name in ("error", "not_finite", "breaker_open")
    }
    is_empty = pc.equal(pc.fill_null(pc.list_value_length(version_responses["items"]), 0), 0)
    has_answered = pc.is_null(failures)
    empty_count = int(pc.sum(pc.and_(is_empty, has_answered)).as_py() or 0)
    clicks = NO_CLICKS
    if events is not None:
        requests = version_responses.filter(
            pc.less(pc.cast(version_responses["ts"], pa.int64()), now - CLICK_HORIZON_US)
        )["request_id"]
        denominator_by_slot = {name: slot.denominator for name, slot in project.slots.items()}
        clicks = clicks_per_person(events, requests, denominator_by_slot, CLICK_HORIZON_US)
    return ServiceStats(version_responses.num_rows, {**failed_counts, "empty": empty_count}, clicks)


def _read_long_runs(
    project: Project, champion: str, previous: str, promoted_at: int, now: int
) -> LongRuns:
    """Return clicks of champion and holdout since the promotion, from the stored figures."""
    registry_path = str(project.paths.registry)
    cache_key = (champion, previous, now // LONG_RUN_INTERVAL_US)
    if registry_path in _long_runs_by_registry:
        cached_key, long_runs = _long_runs_by_registry[registry_path]
        if cached_key == cache_key:
            return long_runs
    cells = figure_store(project).read(promoted_at, now, ("minute", "version", "clicks", "seen"))
    champion_rate = _click_rate_of(cells.filter(pc.equal(cells["version"], champion)))
    previous_rate = _click_rate_of(cells.filter(pc.equal(cells["version"], previous)))
    has_clicks = min(champion_rate.clicks, previous_rate.clicks) > 0
    long_runs = (champion_rate, previous_rate) if has_clicks else (None, None)
    _long_runs_by_registry[registry_path] = cache_key, long_runs
    return long_runs


def _click_rate_of(cells: pa.Table) -> ClickRate:
    clicks = cells["clicks"].to_numpy()
    seen = cells["seen"].to_numpy()
    is_seen = seen > 0
    cell_moments = Moments.from_totals(clicks[is_seen], seen[is_seen])
    return ClickRate(float(clicks.sum()), float(seen.sum()), dispersion_of(cell_moments))


def _start_rollout(project: Project, registry: Registry, now: int, version: str) -> str:
    last_action = last_step(registry.audit(), version)
    if last_action in ("canary", "promote"):
        why = "a step that was cut short"
        return _take_step(project, registry, last_action, version, why=why, now=now)
    share, why = first_canary_share(project, now)
    if not registry.aliases().champion or not share:
        return _take_step(project, registry, "promote", version, why=why, now=now)
    return _take_step(project, registry, "shadow", version, why="the gate accepted it", now=now)


def first_canary_share(project: Project, now: int) -> tuple[float, str]:
    """Return the share that a canary starts with, and why it is none if it is 0."""
    cells = figure_store(project).read(now - DAY, now, ("minute", "requests", "clicks"))
    requests = pc.sum(cells["requests"]).as_py() or 0
    clicks = pc.sum(cells["clicks"]).as_py() or 0
    settings = project.settings
    plan = plan_canary(
        settings.canary.margin,
        parse_duration(settings.rollout.limit) / DAY,
        clicks_a_day=clicks,
        answers_a_day=requests,
        answers_min=settings.canary.answers_min,
    )
    if plan is None:
        reason = (
            f"the gate accepted it; {clicks:,.0f} clicks and {requests:,.0f} answers a day are too "
            f"few for a canary that excludes a fall by {settings.canary.margin:.0%} within "
            f"rollout.limit, {settings.rollout.limit}"
        )
        return 0.0, reason
    return plan.share, ""


def _judge_shadow(project: Project, registry: Registry, step: RolloutStep, now: int) -> str:
    responses = Lake(project.paths.lake).responses((*SHADOW_COLUMNS, "ts"), step.since)
    verdict = judge_shadow(
        responses,
        step.version,
        is_overdue=step.is_overdue,
        scored_min=project.settings.canary.answers_min,
        latency_factor=project.settings.canary.latency,
    )
    log.info("shadow %s: %s, %s", step.version, verdict.action, verdict.reason)
    if verdict.action == "wait":
        return "wait"
    if verdict.action == "pass":
        return _take_step(project, registry, "canary", step.version, why=verdict.reason, now=now)
    # In this order: a crash between leaves a shadow that is judged, and ended, once more.
    registry.record("reject", step.version, by=ACTOR, why=verdict.reason)
    registry.set_shadow("", by=ACTOR, why=verdict.reason)
    return "end"


def _advance_canary(project: Project, registry: Registry, clock: Clock, step: RolloutStep) -> str:
    aliases = registry.aliases()
    if aliases.shadow == aliases.canary:
        registry.set_shadow("", by=ACTOR, why="it is a canary now")
    if aliases.automatic and step.is_overdue:
        limit = project.settings.rollout.limit
        why = f"inconclusive within {limit}; nothing is tried for a while"
        registry.end_canary(by=ACTOR, why=why)
        return "end"
    may_promote = "promote" not in project.settings.rollout.approval
    action = advance_canary(project, clock, may_promote=may_promote)
    if action == "propose":
        why = "the canary passed every share"
        return _take_step(project, registry, "promote", aliases.canary, why=why)
    return action


def _take_step(
    project: Project, registry: Registry, action: str, version: str, *, why: str, now: int = 0
) -> str:
    """Take a step, or propose it once if it waits for a person."""
    if action in project.settings.rollout.approval:
        proposed_steps = [(step.action, step.version) for step in waiting_steps(registry.audit())]
        if (action, version) not in proposed_steps:
            registry.record(f"propose {action}", version, by=ACTOR, why=why)
            log.warning("%s of %s waits for a person: %s", action, version, why)
        return "propose"
    _apply_step(project, registry, action, version, why=why, now=now)
    log.warning("%s %s: %s", action, version, why)
    return action


def _apply_step(
    project: Project, registry: Registry, action: str, version: str, *, why: str, now: int
) -> None:
    if action == "shadow":
        registry.set_shadow(version, by=ACTOR, why=why)
    elif action == "canary":
        share = first_canary_share(project, now)[0] if now else 0.0
        registry.set_canary(version, share or CANARY_SHARES[0], by=ACTOR, why=why)
        if registry.aliases().shadow == version:
            registry.set_shadow("", by=ACTOR, why="it is a canary now")
    elif action == "promote":
        registry.promote(version, by=ACTOR, why=why)
    elif registry.aliases().champion == version:
        registry.rollback(by=ACTOR, why=why)


def _rollout_limits(project: Project) -> RolloutLimits:
    settings = project.settings.rollout
    return RolloutLimits(parse_duration(settings.limit), parse_duration(settings.cooldown))


def _next_step(project: Project, registry: Registry, now: int) -> RolloutStep:
    newest_versions = registry.newest(NEWEST_VERSIONS) if project.settings.rollout.staged else []
    accepted_versions = [
        info.version for info in reversed(newest_versions) if info.metrics.get("accepted")
    ]
    aliases = registry.aliases()
    audit = registry.audit()
    limits = _rollout_limits(project)
    return next_step(aliases, audit, accepted_versions, now, limits, authors=AUTHORS)
