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
from tailorbird.features.schemas import prune_states as prune_states
from tailorbird.features.schemas import state_folders
from tailorbird.pages.notebook import text_html
from tailorbird.registry import Registry, read_experiments
from tailorbird.training.fit.resume import UNFINISHED_FOLDER

ACTOR = "retention"  # The author of these changes in the registry.
TRAINING_FOLDER = "training"  # folder of checkpoints and logs of nets
_VERSION_PAGE_NAME = re.compile(r"(churn-.+-)?v\d{4,}\.html")  # of one version, with its figures
_VERSION_PATTERN = re.compile(r"\bv\d{4,}\b")
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
    policy = project.settings.registry
    now = clock.now()
    if not policy.days:
        return PruneResult(dry_run, [], {})
    remove_before = now - policy.days * DAY
    removed_files = []
    reason_by_retained_version = {}
    folder_by_prefix = {"": project.paths.registry}
    folder_by_prefix |= {f"{name} ": project.paths.churn(name) for name in project.churn}
    for prefix, folder in folder_by_prefix.items():
        registry = Registry(folder, clock=clock)
        for version, reason in _old_versions(project, registry, policy.keep, remove_before).items():
            if reason:
                reason_by_retained_version[prefix + version] = reason
                continue
            removed_files.append(
                RemovedFile("version", prefix + version, _folder_size(folder / version))
            )
            if not dry_run:
                cause = f"unused for {policy.days} days, and beyond the newest {policy.keep}"
                registry.remove(version, by=ACTOR, why=cause)
    # Files have the time of this machine, whatever clock the project has.
    remove_files_before_s = time.time() - policy.days * DAY / 1e6
    removed_files += _prune_checkpoints(
        project.paths.data / TRAINING_FOLDER, remove_files_before_s, dry_run
    )
    removed_files += _prune_states(project, remove_files_before_s, dry_run)
    return PruneResult(dry_run, removed_files, reason_by_retained_version)


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
    project: Project, registry: Registry, retained_count: int, remove_before: int
) -> dict[str, str]:
    """Return versions beyond the newest that were not used since, and what refers to them or ""."""
    old_versions = registry.versions()[:-retained_count]
    used_at_by_version = {info.version: info.created_at for info in old_versions}
    for entry in registry.audit():
        if entry.version in used_at_by_version:
            used_at_by_version[entry.version] = max(used_at_by_version[entry.version], entry.at)
    if not any(used_at < remove_before for used_at in used_at_by_version.values()):
        return {}
    reference_by_version = _find_references(project, registry, used_at_by_version)
    return {
        name: reference_by_version.get(name, "")
        for name, used_at in used_at_by_version.items()
        if used_at < remove_before
    }


def _find_references(
    project: Project, registry: Registry, used_at_by_version: Mapping[str, int]
) -> dict[str, str]:
    reference_by_version: dict[str, str] = {}
    for report_file in sorted(project.paths.reports.rglob("*")):
        if report_file.suffix in (".html", ".json") and not _VERSION_PAGE_NAME.fullmatch(
            report_file.name
        ):
            versions = set(_VERSION_PATTERN.findall(report_file.read_text(errors="replace")))
            reference_by_version |= dict.fromkeys(versions, f"in the report {report_file.name}")
    for experiment in read_experiments(registry.path).experiments:
        if experiment.state == "decided":
            continue
        versions = set(_VERSION_PATTERN.findall(str(experiment.declaration)))
        versions |= {
            name for name, used_at in used_at_by_version.items() if used_at >= experiment.started_at
        }
        reference_by_version |= dict.fromkeys(versions, f"in the experiment {experiment.name}")
    aliases = registry.aliases()
    reference_by_version |= dict.fromkeys(aliases.history, "an earlier champion, to roll back to")
    return reference_by_version | {
        name: f"it is {', '.join(alias_names)}"
        for name in used_at_by_version
        if (alias_names := aliases.aliases_of(name))
    }


def _prune_checkpoints(folder: Path, remove_before_s: float, dry_run: bool) -> list[RemovedFile]:
    """Remove unfinished trainings and logs by epoch that nothing wrote to since."""
    removed_files = []
    for parent_folder in (folder / UNFINISHED_FOLDER, folder / "logs"):
        for run_folder in sorted(parent_folder.iterdir()) if parent_folder.is_dir() else []:
            if _written_at(run_folder) >= remove_before_s:
                continue
            removed_files.append(
                RemovedFile(
                    "checkpoint",
                    f"{parent_folder.name}/{run_folder.name}",
                    _folder_size(run_folder),
                )
            )
            if not dry_run:
                shutil.rmtree(run_folder)
    return removed_files


def _prune_states(project: Project, remove_before_s: float, dry_run: bool) -> list[RemovedFile]:
    """Remove states that no served version and no applied declaration needs, and nothing writes."""
    state_folder = project.paths.state
    stored_schemas = state_folders(state_folder)
    recent_schemas = {
        schema for schema in stored_schemas if _written_at(state_folder / schema) >= remove_before_s
    }
    if not set(stored_schemas) - recent_schemas:
        return []
    retained_schemas = {
        features.schema_hash for features in active_schemas(project)
    } | recent_schemas
    if dry_run:
        return [
            RemovedFile("state", schema, _folder_size(state_folder / schema))
            for schema in stored_schemas
            if schema not in retained_schemas
        ]
    size_by_schema = prune_states(state_folder, retained_schemas, workers=project.workers)
    return [RemovedFile("state", schema, size) for schema, size in size_by_schema.items()]


def _written_at(folder: Path) -> float:
    """Return the newest time of change in a folder, seconds since 1970."""
    return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))


def _folder_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
