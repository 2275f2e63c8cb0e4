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
from tailorbird.events import DAY, HOUR, MINUTE, SECOND, Clock, parse_duration, to_minute
from tailorbird.experiments.outcomes import COLUMNS
from tailorbird.experiments.statistics import Moments
from tailorbird.lake import Lake
from tailorbird.monitoring.canary import SHARES
from tailorbird.monitoring.decisions import (
    ChampionVerdict,
    Limits,
    Step,
    judge_champion,
    judge_shadow,
    next_step,
)
from tailorbird.monitoring.decisions.chain import ROLLOUT_ACTIONS, cooling_until, last_step
from tailorbird.monitoring.decisions.champion import (
    HORIZON_US,
    WINDOW_US,
    ClickRate,
    Service,
    dispersion_of,
)
from tailorbird.monitoring.decisions.clicks import NO_CLICKS, clicks_per_person
from tailorbird.monitoring.decisions.shadow import COLUMNS as SHADOW_COLUMNS
from tailorbird.monitoring.versions import CHAMPION_CHANGES
from tailorbird.platform.drift import figure_store
from tailorbird.platform.models.churn_figures import churn_registry
from tailorbird.platform.runtime.canary import ACTOR as CANARY
from tailorbird.platform.runtime.canary import advance_canary
from tailorbird.registry import AuditEntry, Registry

ACTOR = "trainer"  # The author of these changes in the registry.
AUTHORS = (ACTOR, CANARY)
TICK_S = 5.0
REFERENCE_US = 20 * MINUTE  # of the previous version, that a new champion is compared with
COMPARE_US = HOUR  # after a promotion, in which clicks are compared with those before it
LONG_RUN_US = 5 * MINUTE  # between comparisons with the holdout, which read everything since then
NEWEST_VERSIONS = 5  # versions among which one may be on its way
SETTLED_US = 30 * SECOND  # after which no more rows of the time before a promotion arrive
CLICKS_MIN = 2_000  # of an arm, below which no canary excludes a fall of a tenth
RESPONSES = ("request_id", "ts", "person", "assigned_version", "failure", "items")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WaitingStep:
    """A step of the ranker, or a churn model, that waits for a person since a time, microseconds."""

    step: str
    version: str
    since: int
    why: str
    churn: str = ""

    def describe(self) -> str:
        """Return a sentence for the status."""
        name, option = (f"{self.churn} ", f" --churn {self.churn}") if self.churn else ("", "")
        return (
            f"{self.step.replace('_', ' ')} of {name}{self.version} waits for you since "
            f'{to_minute(self.since)}: tailorbird monitor approve{option} --why "…"'
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
    names, audit = registry.aliases(), registry.audit()
    changes = [
        entry
        for entry in audit
        if entry.action in CHAMPION_CHANGES and entry.version == names.champion
    ]
    if not names.previous or not changes:
        return False
    newest = changes[-1]
    is_recent = now < newest.at + _rollout_limits(project).cooldown_us
    if newest.action == "rollback" and newest.by in AUTHORS and is_recent:
        return False
    verdict = watch_champion(project, registry, now, newest.at)
    if verdict.action != "roll_back":
        return False
    return _take_step(project, registry, "roll_back", names.champion, verdict.reason) == "roll_back"


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
    limits, audit = _rollout_limits(project), registry.audit()
    if now < cooling_until(audit, AUTHORS, limits):
        return True
    return _next_step(project, registry, now).action in ("start", "shadow", "canary")


def waiting_steps(audit: Sequence[AuditEntry], churn: str = "") -> list[WaitingStep]:
    """Return the steps that wait for a person; `approve` takes the first, a roll-back.

    A step waits until its version takes another one, the champion changes, or a person changes
    models.
    """
    waiting: dict[str, WaitingStep] = {}
    for entry in audit:
        if entry.action.startswith("propose "):
            step = entry.action.removeprefix("propose ")
            waiting[step] = WaitingStep(step, entry.version, entry.at, entry.why, churn)
        elif entry.action in CHAMPION_CHANGES:
            waiting.clear()
        elif entry.action in ROLLOUT_ACTIONS:
            is_own = entry.by in AUTHORS
            for step in [s for s, w in waiting.items() if not is_own or w.version == entry.version]:
                del waiting[step]
    return sorted(waiting.values(), key=lambda each: (each.step != "roll_back", -each.since))


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
    waiting = next((each for each in steps if churn in ("", each.churn)), None)
    if waiting is None:
        raise NotReadyError("no step waits for a person", fix="tailorbird monitor status")
    step, version = waiting.step, waiting.version
    registry = churn_registry(project, clock, waiting.churn) if waiting.churn else ranker
    registry.record(f"approve {step}", version, by=by, why=why)
    _apply_step(project, registry, step, version, why=f"approved by {by}: {why}", now=clock.now())
    return step, f"{waiting.churn} {version}".lstrip()


def watch_champion(
    project: Project, registry: Registry, now: int, promoted_at: int
) -> ChampionVerdict:
    """Compare the champion with the previous version."""
    aliases, lake = registry.aliases(), Lake(project.paths.lake)
    window_from = max(promoted_at, now - WINDOW_US)
    new_responses = lake.responses(RESPONSES, window_from, now)
    compare_clicks = now - promoted_at < COMPARE_US
    new_events = lake.events(COLUMNS, window_from, now) if compare_clicks else None
    champion = _measure_service(project, new_responses, new_events, aliases.champion, now)
    holdout = _measure_service(project, new_responses, None, aliases.previous, now)
    before = _service_before(project, aliases.previous, promoted_at, now)
    champion_all, holdout_all = _long_run(
        project, aliases.champion, aliases.previous, promoted_at, now
    )
    return judge_champion(
        champion,
        before,
        holdout,
        champion_long_run=champion_all,
        holdout_long_run=holdout_all,
        compare_clicks=compare_clicks,
        false_rollback=project.settings.rollout.false_rollback,
    )


LongRuns = tuple[ClickRate | None, ClickRate | None]
_long_runs: dict[str, tuple[tuple[str, str, int], LongRuns]] = {}  # one for each project
_services_before: dict[tuple[str, str, int], Service] = {}  # at most one for each project


def _service_before(project: Project, version: str, promoted_at: int, now: int) -> Service:
    """Return the responses of a version before a promotion, read once they are complete."""
    key = (str(project.paths.registry), version, promoted_at)
    if key in _services_before:
        return _services_before[key]
    lake, start = Lake(project.paths.lake), promoted_at - REFERENCE_US
    responses = lake.responses(RESPONSES, start, promoted_at)
    events = lake.events(COLUMNS, start, promoted_at)
    service = _measure_service(project, responses, events, version, promoted_at)
    if now > promoted_at + SETTLED_US:
        for old in [cache_key for cache_key in _services_before if cache_key[0] == key[0]]:
            del _services_before[old]
        _services_before[key] = service
    return service


def _measure_service(
    project: Project, responses: pa.Table, events: pa.Table | None, version: str, now: int
) -> Service:
    version_responses = responses.filter(
        pc.fill_null(pc.equal(responses["assigned_version"], version), False)
    )
    failure = version_responses["failure"]
    failed_counts = {
        name: int(pc.sum(pc.fill_null(pc.equal(failure, name), False)).as_py() or 0)
        for name in ("error", "not_finite", "breaker_open")
    }
    is_empty = pc.equal(pc.fill_null(pc.list_value_length(version_responses["items"]), 0), 0)
    has_answered = pc.is_null(failure)
    empty_count = int(pc.sum(pc.and_(is_empty, has_answered)).as_py() or 0)
    clicks = NO_CLICKS
    if events is not None:
        requests = version_responses.filter(
            pc.less(pc.cast(version_responses["ts"], pa.int64()), now - HORIZON_US)
        )["request_id"]
        denominators = {name: slot.denominator for name, slot in project.slots.items()}
        clicks = clicks_per_person(events, requests, denominators, HORIZON_US)
    return Service(version_responses.num_rows, {**failed_counts, "empty": empty_count}, clicks)


def _long_run(
    project: Project, champion: str, previous: str, promoted_at: int, now: int
) -> LongRuns:
    """Return clicks of champion and holdout since the promotion, from the stored figures."""
    key = str(project.paths.registry)
    if key in _long_runs and _long_runs[key][0] == (champion, previous, now // LONG_RUN_US):
        return _long_runs[key][1]
    cells = figure_store(project).read(promoted_at, now, ("minute", "version", "clicks", "seen"))
    runs = [
        _run_of(cells.filter(pc.equal(cells["version"], name))) for name in (champion, previous)
    ]
    both = (runs[0], runs[1]) if min(run.clicks for run in runs) > 0 else (None, None)
    _long_runs[key] = (champion, previous, now // LONG_RUN_US), both
    return both


def _run_of(cells: pa.Table) -> ClickRate:
    clicks, seen = cells["clicks"].to_numpy(), cells["seen"].to_numpy()
    is_seen = seen > 0
    by_cell = Moments.from_totals(clicks[is_seen], seen[is_seen])
    return ClickRate(float(clicks.sum()), float(seen.sum()), dispersion_of(by_cell))


def _start_rollout(project: Project, registry: Registry, now: int, version: str) -> str:
    last = last_step(registry.audit(), version)
    if last in ("canary", "promote"):
        return _take_step(project, registry, last, version, "a step that was cut short", now)
    share, why = first_share(project, now)
    if not registry.aliases().champion or not share:
        return _take_step(project, registry, "promote", version, why, now)
    return _take_step(project, registry, "shadow", version, "the gate accepted it", now)


def first_share(project: Project, now: int) -> tuple[float, str]:
    """Return the share that a canary starts with, and why it is none if it is 0."""
    cells = figure_store(project).read(now - DAY, now, ("minute", "requests", "clicks"))
    requests, clicks = pc.sum(cells["requests"]).as_py() or 0, pc.sum(cells["clicks"]).as_py() or 0
    limit_days = parse_duration(project.settings.rollout.limit) / DAY
    if clicks * limit_days / 4 < CLICKS_MIN:
        reason = (
            f"the gate accepted it; {clicks:,.0f} clicks a day are too few for a canary that is "
            f"decided within rollout.limit, {project.settings.rollout.limit}"
        )
        return 0.0, reason
    responses_needed = project.settings.canary.answers_min * 24.0
    return next((share for share in SHARES if requests * share >= responses_needed), SHARES[-1]), ""


def _judge_shadow(project: Project, registry: Registry, step: Step, now: int) -> str:
    responses = Lake(project.paths.lake).responses((*SHADOW_COLUMNS, "ts"), step.since)
    verdict = judge_shadow(
        responses,
        step.version,
        is_overdue=step.is_overdue,
        scored_min=project.settings.canary.answers_min,
        latency=project.settings.canary.latency,
    )
    log.info("shadow %s: %s, %s", step.version, verdict.action, verdict.reason)
    if verdict.action == "wait":
        return "wait"
    if verdict.action == "pass":
        return _take_step(project, registry, "canary", step.version, verdict.reason, now)
    # In this order: a crash between leaves a shadow that is judged, and ended, once more.
    registry.record("reject", step.version, by=ACTOR, why=verdict.reason)
    registry.set_shadow("", by=ACTOR, why=verdict.reason)
    return "end"


def _advance_canary(project: Project, registry: Registry, clock: Clock, step: Step) -> str:
    aliases = registry.aliases()
    if aliases.shadow == aliases.canary:
        registry.set_shadow("", by=ACTOR, why="it is a canary now")
    if aliases.automatic and step.is_overdue:
        limit = project.settings.rollout.limit
        registry.end_canary(
            by=ACTOR, why=f"inconclusive within {limit}; nothing is tried for a while"
        )
        return "end"
    may_promote = "promote" not in project.settings.rollout.approval
    action = advance_canary(project, clock, may_promote=may_promote)
    if action == "propose":
        return _take_step(
            project, registry, "promote", aliases.canary, "the canary passed every share"
        )
    return action


def _take_step(
    project: Project, registry: Registry, step: str, version: str, why: str, now: int = 0
) -> str:
    """Take a step, or propose it once if it waits for a person."""
    if step in project.settings.rollout.approval:
        waiting = waiting_steps(registry.audit())
        if (step, version) not in [(each.step, each.version) for each in waiting]:
            registry.record(f"propose {step}", version, by=ACTOR, why=why)
            log.warning("%s of %s waits for a person: %s", step, version, why)
        return "propose"
    _apply_step(project, registry, step, version, why=why, now=now)
    log.warning("%s %s: %s", step, version, why)
    return step


def _apply_step(
    project: Project, registry: Registry, step: str, version: str, *, why: str, now: int
) -> None:
    if step == "shadow":
        registry.set_shadow(version, by=ACTOR, why=why)
    elif step == "canary":
        share = first_share(project, now)[0] if now else 0.0
        registry.set_canary(version, share or SHARES[0], by=ACTOR, why=why)
        if registry.aliases().shadow == version:
            registry.set_shadow("", by=ACTOR, why="it is a canary now")
    elif step == "promote":
        registry.promote(version, by=ACTOR, why=why)
    elif registry.aliases().champion == version:
        registry.rollback(by=ACTOR, why=why)


def _rollout_limits(project: Project) -> Limits:
    settings = project.settings.rollout
    return Limits(parse_duration(settings.limit), parse_duration(settings.cooldown))


def _next_step(project: Project, registry: Registry, now: int) -> Step:
    newest = registry.newest(NEWEST_VERSIONS) if project.settings.rollout.staged else []
    accepted_versions = [info.version for info in reversed(newest) if info.metrics.get("accepted")]
    return next_step(
        registry.aliases(),
        registry.audit(),
        accepted_versions,
        now,
        _rollout_limits(project),
        authors=AUTHORS,
    )
