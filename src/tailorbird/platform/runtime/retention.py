"""Remove old versions, checkpoints and states by the policy of `registry` in tailorbird.toml.

A version goes if it is not among the newest, was neither made nor used lately, and nothing refers
to it: no alias, no earlier champion that a roll-back may return to, no experiment that is not
decided, no page in data/reports. A server loads what an alias names within a second, and keeps
what it has loaded in memory.
"""

import logging
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from tailorbird.config import Project
from tailorbird.config.schemas import active_schemas
from tailorbird.errors import TailorbirdError
from tailorbird.events import DAY, Clock
from tailorbird.features.schemas import prune as prune_states
from tailorbird.features.schemas import state_folders
from tailorbird.pages.notebook import text_html
from tailorbird.registry import Registry, read_experiments
from tailorbird.training.fit.resume import UNFINISHED_FOLDER

ACTOR = "retention"  # The author of these changes in the registry.
TRAINING = "training"  # folder of checkpoints and logs of nets
_OWN_PAGE = re.compile(r"(churn-.+-)?v\d{4,}\.html")  # of one version, with its figures
_VERSION = re.compile(r"\bv\d{4,}\b")
log = logging.getLogger(__name__)


class RemovedFile(msgspec.Struct, frozen=True):
    """What was removed: a `version`, a `checkpoint` or a `state`, with its name and size."""

    kind: str
    name: str
    size_bytes: int


class PruneResult(msgspec.Struct, frozen=True):
    """What was removed, and why old versions stay.

    Attributes:
        dry_run: nothing was removed, it would be.
        retained: version → what refers to it.
    """

    dry_run: bool
    removed: list[RemovedFile]
    retained: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return what `tailorbird models prune --json` prints."""
        return msgspec.to_builtins(self)

    def __repr__(self) -> str:
        verb = "would be removed" if self.dry_run else "removed"
        lines = [
            f"{removed.kind} {removed.name}: {verb}, {removed.size_bytes / 1e6:.1f} MB"
            for removed in self.removed
        ]
        lines += [f"{version} stays: {reason}" for version, reason in self.retained.items()]
        return "\n".join(lines) or "nothing is old enough to be removed"

    _repr_html_ = text_html


def prune_models(project: Project, clock: Clock, *, dry_run: bool = False) -> PruneResult:
    """Remove what the policy names.

    Args:
        dry_run: only say what would be removed.
    """
    policy, now = project.settings.registry, clock.now()
    if not policy.days:
        return PruneResult(dry_run, [], {})
    remove_before = now - policy.days * DAY
    removed, retained = [], {}
    folders = {"": project.paths.registry}
    folders |= {f"{name} ": project.paths.churn(name) for name in project.churn}
    for prefix, folder in folders.items():
        registry = Registry(folder, clock=clock)
        for version, reason in _old_versions(project, registry, policy.keep, remove_before).items():
            if reason:
                retained[prefix + version] = reason
                continue
            removed.append(RemovedFile("version", prefix + version, _folder_size(folder / version)))
            if not dry_run:
                age = f"unused for {policy.days} days, and beyond the newest {policy.keep}"
                registry.remove(version, by=ACTOR, why=age)
    # Files have the time of this machine, whatever clock the project has.
    machine_before = time.time() - policy.days * DAY / 1e6
    removed += _prune_checkpoints(project.paths.data / TRAINING, machine_before, dry_run)
    removed += _prune_states(project, machine_before, dry_run)
    return PruneResult(dry_run, removed, retained)


def prune_safely(project: Project, clock: Clock) -> None:
    """Call `prune_models`, log what it removed, and log its errors instead of raising them."""
    try:
        for removed in prune_models(project, clock).removed:
            log.info(
                "%s %s: removed, %.1f MB", removed.kind, removed.name, removed.size_bytes / 1e6
            )
    except (TailorbirdError, OSError) as error:
        log.error("old versions could not be removed: %s", error)


def _old_versions(
    project: Project, registry: Registry, keep: int, remove_before: int
) -> dict[str, str]:
    """Return versions beyond the newest that were not used since, and what refers to them or ""."""
    old = registry.versions()[:-keep]
    used_at = {info.version: info.created_at for info in old}
    for entry in registry.audit():
        if entry.version in used_at:
            used_at[entry.version] = max(used_at[entry.version], entry.at)
    if not any(used < remove_before for used in used_at.values()):
        return {}
    references = _find_references(project, registry, used_at)
    return {
        name: references.get(name, "") for name, used in used_at.items() if used < remove_before
    }


def _find_references(
    project: Project, registry: Registry, used_at: Mapping[str, int]
) -> dict[str, str]:
    references: dict[str, str] = {}
    for page in sorted(project.paths.reports.rglob("*")):
        if page.suffix in (".html", ".json") and not _OWN_PAGE.fullmatch(page.name):
            names = set(_VERSION.findall(page.read_text(errors="replace")))
            references |= dict.fromkeys(names, f"in the report {page.name}")
    for experiment in read_experiments(registry.path).experiments:
        if experiment.state == "decided":
            continue
        names = set(_VERSION.findall(str(experiment.declaration)))
        names |= {name for name, used in used_at.items() if used >= experiment.started_at}
        references |= dict.fromkeys(names, f"in the experiment {experiment.name}")
    aliases = registry.aliases()
    references |= dict.fromkeys(aliases.history, "an earlier champion, to roll back to")
    return references | {
        name: f"it is {', '.join(names)}" for name in used_at if (names := aliases.names_of(name))
    }


def _prune_checkpoints(folder: Path, remove_before: float, dry_run: bool) -> list[RemovedFile]:
    """Remove unfinished trainings and logs by epoch that nothing wrote to since."""
    removed = []
    for parent in (folder / UNFINISHED_FOLDER, folder / "logs"):
        for run in sorted(parent.iterdir()) if parent.is_dir() else []:
            if _written_at(run) >= remove_before:
                continue
            removed.append(
                RemovedFile("checkpoint", f"{parent.name}/{run.name}", _folder_size(run))
            )
            if not dry_run:
                shutil.rmtree(run)
    return removed


def _prune_states(project: Project, remove_before: float, dry_run: bool) -> list[RemovedFile]:
    """Remove states that no served version and no applied declaration needs, and nothing writes."""
    state = project.paths.state
    folders = state_folders(state)
    recent_schemas = {schema for schema in folders if _written_at(state / schema) >= remove_before}
    if not set(folders) - recent_schemas:
        return []
    retained = {features.schema_hash for features in active_schemas(project)} | recent_schemas
    if dry_run:
        return [
            RemovedFile("state", schema, _folder_size(state / schema))
            for schema in folders
            if schema not in retained
        ]
    sizes = prune_states(state, retained, workers=project.workers)
    return [RemovedFile("state", schema, size) for schema, size in sizes.items()]


def _written_at(folder: Path) -> float:
    """Return the newest time of change in a folder, seconds since 1970."""
    return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))


def _folder_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
