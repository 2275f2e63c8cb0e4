"""Judge the canary by the log, and advance, promote or end it."""

import logging

import msgspec

from tailorbird.config import Project
from tailorbird.errors import NotReadyError
from tailorbird.events import Clock, parse_duration
from tailorbird.lake import Lake
from tailorbird.monitoring.canary import EVENT_COLUMNS as EVENT_COLUMNS
from tailorbird.monitoring.canary import (
    RESPONSE_COLUMNS,
    CanaryVerdict,
    GuardRails,
    decide_canary,
    measure_latency,
    measure_version,
)
from tailorbird.registry import Registry

ACTOR = "canary"  # The author of these changes in the registry.
log = logging.getLogger(__name__)


def advance_canary(project: Project, clock: Clock, *, may_promote: bool = True) -> str:
    """Judge the canary by the log, and act on it. Return what was done: `wait`, `advance`,
    `promote`, `end`, or "" without a canary.

    Args:
        may_promote: False returns `propose` in place of promoting it.
    """
    registry = Registry(project.paths.registry, clock=clock)
    aliases = registry.aliases()
    if not aliases.canary or not aliases.automatic:
        return ""
    verdict = judge_canary(project, registry)
    log.info(
        "canary %s at %g: %s, %s", aliases.canary, aliases.share, verdict.action, verdict.reason
    )
    if registry.aliases() != aliases:
        return "wait"  # Somebody changed the aliases in the meantime.
    if verdict.action == "end":
        registry.end_canary(by=ACTOR, why=verdict.reason)
        log.error("canary %s was ended: %s", aliases.canary, verdict.reason)
    elif verdict.action == "advance":
        registry.set_canary(aliases.canary, verdict.share, by=ACTOR, why=verdict.reason)
    elif verdict.action == "promote" and not may_promote:
        return "propose"
    elif verdict.action == "promote":
        registry.promote(aliases.canary, by=ACTOR, why=verdict.reason)
    return verdict.action


def share_since(registry: Registry) -> int:
    """Return the time at which the canary got its present share, in microseconds.

    Earlier traffic is not compared, see `monitoring.canary`.
    """
    aliases = registry.aliases()
    change_times = (
        entry.at
        for entry in reversed(registry.audit())
        if (entry.action, entry.version) == ("canary", aliases.canary)
    )
    return next(change_times, aliases.canary_at)


def judge_canary(project: Project, registry: Registry) -> CanaryVerdict:
    """Compare the canary with the champion on the log since its present share.

    Raises:
        NotReadyError: there is no canary.
    """
    aliases = registry.aliases()
    if not aliases.canary:
        raise NotReadyError(
            "there is no canary", fix='tailorbird models canary VERSION --share 0.05 --why "…"'
        )
    lake = Lake(project.paths.lake)
    since = share_since(registry)
    events = lake.events(columns=EVENT_COLUMNS, ts_from=since)
    responses = lake.responses(columns=RESPONSE_COLUMNS, ts_from=since)
    denominator_by_slot = {name: slot.denominator for name, slot in project.slots.items()}
    attribution_us_by_slot = {
        name: parse_duration(slot.attribution) for name, slot in project.slots.items()
    }
    canary_figures, champion_figures = (
        measure_version(
            events,
            responses,
            version,
            denominator_by_slot=denominator_by_slot,
            attribution_by_slot=attribution_us_by_slot,
        )
        for version in (aliases.canary, aliases.champion)
    )
    return decide_canary(
        canary_figures,
        champion_figures,
        aliases.share,
        GuardRails(**msgspec.structs.asdict(project.settings.canary)),
        measure_latency(responses, aliases.canary, aliases.champion),
    )
