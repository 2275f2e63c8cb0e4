"""The active feature schemas of a project: the applied one, and those of live or previous models.

Previous champions count because one can roll back to them, and versions that arms of running
experiments name. Each active schema has its own workers.
The routed log is pruned behind all of them, and the router stores the attributes that any of them
names. `apply_declared` decides whether a changed `features.py` is applied at start.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from tailorbird.atomic_write import FileStamp, file_stamp
from tailorbird.candidates.folder import CURRENT_FILE
from tailorbird.config.project import Project, compile_plan
from tailorbird.errors import DeclarationError, LockedError, NotReadyError, TailorbirdError
from tailorbird.events import Clock, RoutePlan, SystemClock
from tailorbird.features import FeatureSet
from tailorbird.features.codec import FEATURES_FILE, read_features
from tailorbird.features.online.read import read_copy_position
from tailorbird.features.schemas import (
    APPLIED_FILE,
    applied_features,
    apply_schema,
    load_declarations,
    read_applied,
)
from tailorbird.features.state.key_partition import KeyPart, all_parts
from tailorbird.features.state.progress import read_score_offset
from tailorbird.features.state.state import Position, read_local_position
from tailorbird.file_lock import FileLock
from tailorbird.registry import Registry, read_experiments
from tailorbird.registry.experiments import EXPERIMENTS_FILE as EXPERIMENTS_FILE
from tailorbird.stream import Address, read_prunable_positions

if TYPE_CHECKING:
    from tailorbird.stream.kafka import KafkaLog

# Aliases of versions that answer now or may answer.
SERVED_ALIASES = ("champion", "previous", "canary", "shadow")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SchemaDecision:
    """The features that roles start with.

    Attributes:
        project: the project with the applied features.
        notice: a sentence for the user; "" if there is nothing to say.
    """

    project: Project
    notice: str


def apply_declared(project: Project, clock: Clock) -> SchemaDecision:
    """Apply the schema of `features.py` when roles start, unless it was rolled back.

    Args:
        project: the project with the features of `features.py`.
    """
    declared_schema = project.features.schema_hash
    applied_state = read_applied(project.paths.state)
    if declared_schema == applied_state.schema:
        # For the parts of a declaration that are not in the schema.
        apply_schema(project.paths.state, project.features, at=clock.now())
        return SchemaDecision(project, "")
    if declared_schema in applied_state.reverted:
        notice = (
            f"features.py declares schema {declared_schema}, which was gone back from; schema "
            f"{applied_state.schema} stays applied. "
        )
        return SchemaDecision(
            with_applied_features(project),
            notice + "To apply it nevertheless: tailorbird features apply",
        )
    apply_schema(project.paths.state, project.features, at=clock.now())
    if not applied_state.schema:
        return SchemaDecision(project, "")
    notice = f"features.py has changed: schema {declared_schema} is applied and built beside {applied_state.schema}; "
    return SchemaDecision(
        project,
        notice + "answers are read from the champion's until a model of the new one is promoted",
    )


def with_applied_features(project: Project) -> Project:
    """Return the project with the applied features.

    Before any are applied, and after an upgrade of the engine, it keeps those of `features.py`.
    """
    try:
        features = applied_features(project.paths.state)
    except (DeclarationError, NotReadyError) as error:
        log.warning("%s", error)
        return project
    # The transforms may differ, and those of `features.py` are newer.
    if features is None or features.schema_hash == project.features.schema_hash:
        return project
    return replace(project, features=features)


def describe_schema_difference(project: Project) -> str:
    """Return a warning if the applied schema is not that of `features.py`, otherwise "".

    Args:
        project: the project with the features of `features.py`.
    """
    applied_schema = read_applied(project.paths.state).schema
    if not applied_schema or applied_schema == project.features.schema_hash:
        return ""
    return (
        f"features.py differs from the applied schema {applied_schema}, which is used; see "
        "tailorbird "
        "features plan"
    )


def resolve_for_training(project: Project, clock: Clock) -> SchemaDecision:
    """Return the project with the features to train on.

    While `up` runs these are the applied ones. Otherwise `features.py` is applied first.

    Args:
        project: the project with the features of `features.py`.
    """
    return (
        SchemaDecision(with_applied_features(project), describe_schema_difference(project))
        if is_running(project)
        else apply_declared(project, clock)
    )


def is_running(project: Project) -> bool:
    """Return whether `tailorbird up` runs on the project."""
    if not project.paths.run.is_dir():
        return False
    try:
        FileLock(project.paths.run / "up").release()
    except LockedError:
        return True
    return False


def active_schemas(project: Project) -> list[FeatureSet]:
    """Return the active schemas, the applied one first.

    A schema whose declarations cannot be loaded is logged and left out.
    """
    applied_set = with_applied_features(project).features
    schema_by_hash = {applied_set.schema_hash: applied_set}
    for registry, version in _served_registry_versions(project):
        info = registry.info(version)
        if info.schema_hash and info.schema_hash not in schema_by_hash:
            try:
                schema_by_hash[info.schema_hash] = _load_features(
                    project, info.schema_hash, info.path
                )
            except (TailorbirdError, FileNotFoundError) as error:
                log.warning("the features of %s are not kept up: %s", version, error)
    return list(schema_by_hash.values())


def _list_registries(project: Project) -> list[Path]:
    return [project.paths.registry, *(project.paths.churn(name) for name in project.churn)]


def _served_registry_versions(project: Project) -> list[tuple[Registry, str]]:
    """Return the versions that servers load, of the ranker and of each churn model."""
    registry_versions = []
    for path in _list_registries(project):
        registry = Registry(path, clock=SystemClock())
        registry_versions += [(registry, version) for version in served_versions(registry)]
    return registry_versions


def served_versions(registry: Registry) -> list[str]:
    """Return the versions of a registry that servers load: of aliases, and of running arms."""
    aliases = registry.aliases()
    arm_versions = read_experiments(registry.path).served_versions
    named_versions = (aliases.version_named(name) for name in SERVED_ALIASES)
    return list(dict.fromkeys([*filter(None, named_versions), *sorted(arm_versions)]))


def champion_features(project: Project) -> FeatureSet:
    """Return the features that requests are answered with: those of the champion.

    They are the applied ones without a champion, or if its declarations are not here.
    """
    applied_set = with_applied_features(project).features
    try:
        registry = Registry(project.paths.registry, clock=SystemClock())
        champion = registry.aliases().champion
        info = registry.info(champion) if champion else None
        if info is None or info.schema_hash in ("", applied_set.schema_hash):
            return applied_set
        return _load_features(project, info.schema_hash, info.path)
    except (TailorbirdError, FileNotFoundError) as error:
        log.warning("the features of the champion cannot be had: %s", error)
        return applied_set


def find_schema(project: Project, schema_hash: str) -> FeatureSet:
    """Return the declarations of an active or stored schema by its hash; raises NotReadyError."""
    schema_by_hash = {
        features.schema_hash: features for features in (*active_schemas(project), project.features)
    }
    return (
        schema_by_hash[schema_hash]
        if schema_hash in schema_by_hash
        else load_declarations(project.paths.state, schema_hash)
    )


def route_plan_for(project: Project, schemas: list[FeatureSet]) -> RoutePlan:
    """Return the route plan with the attributes that any of the schemas names."""
    plan = compile_plan(project.settings, project.features, project.slots, project.event_contract)
    return msgspec.structs.replace(
        plan,
        user_attributes=tuple(
            sorted({name for features in schemas for name in features.user_attributes})
        ),
        item_attributes=tuple(
            sorted({name for features in schemas for name in features.item_attributes})
        ),
    )


def releasable_offset(project: Project) -> int:
    """Return the row of the routed log below which no reader needs it.

    Readers are the lake, the workers of active schemas, the score role and a restored backup.
    """
    offsets = [read_prunable_positions(project.paths.lake).routed_position()]
    for features in active_schemas(project):
        offsets += required_offsets(project, features)  # A shuffle is always ahead of its workers.
    if project.scores:
        offsets += [
            offset for offset in [read_score_offset(project.paths.state)] if offset is not None
        ]
    return min(offsets)


def shuffled_logs(project: Project, features: FeatureSet) -> "tuple[KafkaLog, ...]":
    """Return the logs that a shuffle writes for the workers of a schema.

    There are none if workers read the routed log themselves: with a single worker, and if the logs
    are files, as all workers then share the cache of one machine.
    """
    if project.workers == 1:
        return ()
    return project.stream.shuffled(features.schema_hash, project.workers)


def worker_log(project: Project, features: FeatureSet, part: KeyPart) -> Address:
    """Return the log that the worker of a part of the keys reads."""
    logs = shuffled_logs(project, features)
    return logs[part.number] if logs else project.routed


def required_offsets(project: Project, features: FeatureSet) -> list[int]:
    """Return the first row that the worker of each part still needs from its log.

    It comes from the worker's state here, or from its copy. It is 0, the whole log, if neither
    exists and while a state is being built.
    """
    return [_required_offset(project, features, part) for part in all_parts(project.workers)]


def _required_offset(project: Project, features: FeatureSet, part: KeyPart) -> int:
    try:
        position = read_local_position(project.paths.state, features, part)
    except NotReadyError:
        copy_target = project.copy_target()
        try:
            position = (
                Position()
                if copy_target is None
                else read_copy_position(copy_target, features.schema_hash, part)
            )
        except TailorbirdError as error:
            log.warning(
                "the position of worker%s of schema %s is unknown: %s",
                part.name and f" {part.name}",
                features.schema_hash,
                error,
            )
            position = Position()
    return position.offset if position.is_ready else 0


class ActiveSchemaWatch:
    """Detects changes of the active schemas or candidate tables by the files that define them.

    The files hold the applied schema, the current tables, and the aliases and experiments of each
    registry.
    """

    def __init__(self, project: Project) -> None:
        files = (
            path / name
            for path in _list_registries(project)
            for name in ("aliases.json", EXPERIMENTS_FILE)
        )
        self._files = (
            project.paths.state / APPLIED_FILE,
            project.paths.candidates / CURRENT_FILE,
            *files,
        )
        self._stamps: list[FileStamp | None] = []

    def has_changed(self) -> bool:
        """Return whether a file has changed since the last call; true at the first."""
        stamps = [file_stamp(file) for file in self._files]
        self._stamps, previous = stamps, self._stamps
        return stamps != previous


def _load_features(project: Project, schema_hash: str, bundle_folder: Path) -> FeatureSet:
    try:
        return load_declarations(project.paths.state, schema_hash)
    except NotReadyError:
        if project.features.schema_hash == schema_hash:
            return project.features
        return read_features(bundle_folder / FEATURES_FILE, expected_hash=schema_hash)
