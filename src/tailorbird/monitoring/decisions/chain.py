"""The next step of a version on its way to the champion, from aliases and audit log alone.

    accepted by the gate → shadow → canary (`monitoring.canary`) → champion → holdout
                              │         │                             │
                              └── end ──┴── end, or time limit        └── roll back

Nothing else is remembered, so a process that is killed at any moment goes on where it was: a step
is one atomic change of the registry.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tailorbird.events import DAY
from tailorbird.monitoring.versions import CHAMPION_CHANGES, Aliases, AuditEntry

ROLLOUT_ACTIONS = frozenset({"shadow", "canary", "end canary", "reject", "promote", "rollback"})
FAILURE_ACTIONS = frozenset({"end canary", "reject"})


@dataclass(frozen=True)
class RolloutLimits:
    """How long a step may take, and how long nothing is tried after a failure; microseconds."""

    limit_us: int = 2 * DAY
    cooldown_us: int = DAY


@dataclass(frozen=True)
class RolloutStep:
    """What is next: `start` a version, judge the `shadow`, the `canary` or `champion`, or `none`.

    Attributes:
        since: when the present state began, microseconds.
        is_overdue: its time limit has passed.
    """

    action: str
    version: str = ""
    since: int = 0
    is_overdue: bool = False


def next_step(
    aliases: Aliases,
    audit: Sequence[AuditEntry],
    accepted_versions: Sequence[str],
    now: int,
    limits: RolloutLimits,
    *,
    authors: Sequence[str],
) -> RolloutStep:
    """Return what is next.

    Args:
        accepted_versions: versions that the gate accepted, oldest first.
        authors: who trains and decides automatically; others' shadows are left alone.
    """
    if aliases.canary:
        since = started_at(audit, "canary", aliases.canary)
        return RolloutStep("canary", aliases.canary, since, now >= since + limits.limit_us)
    if aliases.shadow and last_author(audit, "shadow", aliases.shadow) in authors:
        since = started_at(audit, "shadow", aliases.shadow)
        return RolloutStep("shadow", aliases.shadow, since, now >= since + limits.limit_us)
    if pending_version := find_pending_version(aliases, audit, accepted_versions, authors):
        return RolloutStep("start", pending_version, now)
    if aliases.champion and aliases.previous:
        return RolloutStep(
            "champion", aliases.champion, started_at(audit, "promote", aliases.champion)
        )
    return RolloutStep("none")


def find_pending_version(
    aliases: Aliases,
    audit: Sequence[AuditEntry],
    accepted_versions: Sequence[str],
    authors: Sequence[str],
) -> str:
    """Return the newest accepted version that is not on its way, or "".

    A change is logged before it is made, so a version may have a logged step without its alias:
    the process was killed in between, and the step is taken again. A person's change of models
    after the version was added ends its way, as does any other promotion.
    """
    added_index_by_version = {
        entry.version: index
        for index, entry in enumerate(audit)
        if entry.action == "add" and entry.by in authors
    }
    for version in reversed(accepted_versions):
        if version not in added_index_by_version or version == aliases.champion:
            continue
        later_entries = audit[added_index_by_version[version] :]
        is_over = any(
            (entry.action in FAILURE_ACTIONS and entry.version == version)
            or (entry.action in CHAMPION_CHANGES and entry.version != version)
            or (entry.action in ROLLOUT_ACTIONS and entry.by not in authors)
            for entry in later_entries
        )
        return "" if is_over else version
    return ""


def last_step(audit: Sequence[AuditEntry], version: str) -> str:
    """Return the last logged step of a version: shadow, canary, promote, or ""."""
    actions = ("shadow", "canary", "promote")
    return next(
        (
            entry.action
            for entry in reversed(audit)
            if entry.version == version and entry.action in actions
        ),
        "",
    )


def cooling_until(
    audit: Sequence[AuditEntry], authors: Sequence[str], limits: RolloutLimits
) -> int:
    """Return until when no new model is tried after one that failed; 0 if none did."""
    failures = [
        entry.at
        for entry in audit
        if (entry.action in FAILURE_ACTIONS or entry.action == "rollback") and entry.by in authors
    ]
    return failures[-1] + limits.cooldown_us if failures else 0


def started_at(audit: Sequence[AuditEntry], action: str, version: str) -> int:
    """Return when a version began the state that it is in, across its shares; 0 if unknown."""
    start = 0
    for entry in reversed(audit):
        if entry.version != version:
            continue
        if entry.action == action:
            start = entry.at
        elif start and entry.action in ROLLOUT_ACTIONS:
            break
    return start


def last_author(audit: Sequence[AuditEntry], action: str, version: str) -> str:
    """Return who last took this step with a version."""
    return next(
        (
            entry.by
            for entry in reversed(audit)
            if entry.action == action and entry.version == version
        ),
        "",
    )
