"""Which schemas of a project are active: the applied one, and those of champions and the ones
before them, to which one may roll back.

Each active schema has a worker of its own, side by side; the routed log is pruned behind all of
them, and the router keeps the attributes that any of them names. When `features.py` is applied by
itself, and when it is not, is decided by `settle`.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from tailorbird.candidates.folder import CURRENT
from tailorbird.config.project import Project, compile_plan
from tailorbird.errors import DeclarationError, LockedError, NotReadyError, TailorbirdError
from tailorbird.events import Clock, RoutePlan, SystemClock
from tailorbird.features import FeatureSet
from tailorbird.features.codec import FILE, read_features
from tailorbird.features.figures import read_score_offset
from tailorbird.features.keypart import KeyPart, all_parts
from tailorbird.features.read import read_copy_position
from tailorbird.features.schemas import (
    APPLIED,
    applied_features,
    apply,
    load_declarations,
    read_applied,
)
from tailorbird.features.state import Position, read_local_position
from tailorbird.lock import FileLock
from tailorbird.registry import Registry
from tailorbird.stream import Address, read_released
from tailorbird.whole import FileStamp, file_stamp

if TYPE_CHECKING:
    from tailorbird.stream.kafka import KafkaLog

SERVED = ("champion", "previous", "canary", "shadow")  # names of the versions that answer or may
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settled:
    """What became of `features.py` when roles started.

    Attributes:
        project: with the applied features.
        said: what a user should know; "" where there is nothing to say.
    """

    project: Project
    notice: str


def apply_declared(project: Project, clock: Clock) -> Settled:
    """Apply what `features.py` declares, where roles are about to start and nobody has gone back
    from it.

    Args:
        project: with the features of `features.py`.
    """
    declared, now = project.features.schema_hash, read_applied(project.paths.state)
    if declared == now.schema:
        apply(
            project.paths.state, project.features, at=clock.now()
        )  # for what is no part of the schema
        return Settled(project, "")
    if declared in now.left:
        said = (
            f"features.py declares schema {declared}, which was gone back from; schema "
            f"{now.schema} stays applied. "
        )
        return Settled(
            applied(project), said + "To apply it nevertheless: tailorbird features apply"
        )
    apply(project.paths.state, project.features, at=clock.now())
    if not now.schema:
        return Settled(project, "")
    said = f"features.py has changed: schema {declared} is applied and built beside {now.schema}; "
    return Settled(
        project,
        said + "answers are read from the champion's until a model of the new one is promoted",
    )


def applied(project: Project) -> Project:
    """The project with the features that are applied; with those of `features.py` before any were,
    or after an upgrade of the engine.
    """
    try:
        features = applied_features(project.paths.state)
    except (DeclarationError, NotReadyError) as error:
        log.warning("%s", error)
        return project
    if (
        features is None or features.schema_hash == project.features.schema_hash
    ):  # transforms may differ, and ours are newer
        return project
    return replace(project, features=features)


def differs(project: Project) -> str:
    """What to tell whoever relies on `features.py` while another schema is applied; "" where it is
    the applied one.

    Args:
        project: with the features of `features.py`.
    """
    now = read_applied(project.paths.state).schema
    if not now or now == project.features.schema_hash:
        return ""
    return (
        f"features.py differs from the applied schema {now}, which is used; see tailorbird "
        "features plan"
    )


def for_training(project: Project, clock: Clock) -> Settled:
    """The project with the features to train on: the applied ones while `up` runs, else what
    `features.py` declares, applied by this.

    Args:
        project: with the features of `features.py`.
    """
    return (
        Settled(applied(project), differs(project))
        if is_running(project)
        else apply_declared(project, clock)
    )


def is_running(project: Project) -> bool:
    """Whether `tailorbird up` runs on the project."""
    if not project.paths.run.is_dir():
        return False
    try:
        FileLock(project.paths.run / "up").release()
    except LockedError:
        return True
    return False


def active_schemas(project: Project) -> list[FeatureSet]:
    """The active schemas, the applied one first. One whose declarations cannot be had is left out,
    and logged.
    """
    newest = applied(project).features
    found = {newest.schema_hash: newest}
    for registry, version in _answering_versions(project):
        info = registry.info(version)
        if info.schema_hash and info.schema_hash not in found:
            try:
                found[info.schema_hash] = _features_of(project, info.schema_hash, info.path)
            except (TailorbirdError, FileNotFoundError) as error:
                log.warning("the features of %s are not kept up: %s", version, error)
    return list(found.values())


def _registries(project: Project) -> list[Path]:
    return [project.paths.registry, *(project.paths.churn(name) for name in project.churn)]


def _answering_versions(project: Project) -> list[tuple[Registry, str]]:
    """The versions that servers load, of the ranker and of each churn model."""
    found = []
    for path in _registries(project):
        registry = Registry(path, clock=SystemClock())
        aliases = registry.aliases()
        found += [(registry, version) for version in map(aliases.version_named, SERVED) if version]
    return found


def champion_features(project: Project) -> FeatureSet:
    """The schema that answers are read with: the champion's; the applied one without a champion, or
    where its declarations are not here.
    """
    newest = applied(project).features
    try:
        registry = Registry(project.paths.registry, clock=SystemClock())
        champion = registry.aliases().champion
        info = registry.info(champion) if champion else None
        if info is None or info.schema_hash in ("", newest.schema_hash):
            return newest
        return _features_of(project, info.schema_hash, info.path)
    except (TailorbirdError, FileNotFoundError) as error:
        log.warning("the features of the champion cannot be had: %s", error)
        return newest


def find_schema(project: Project, schema: str) -> FeatureSet:
    """The declarations of an active or kept schema by its hash. Raises NotReadyError."""
    known = {
        features.schema_hash: features for features in (*active_schemas(project), project.features)
    }
    return known[schema] if schema in known else load_declarations(project.paths.state, schema)


def route_plan_for(project: Project, schemas: list[FeatureSet]) -> RoutePlan:
    """What the router needs to know: the attributes that any of the schemas names."""
    plan = compile_plan(project.settings, project.features, project.slots, project.declared)
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
    """Below which row neither the lake, nor a worker of an active schema, nor the score role needs
    the routed log.
    """
    marks = [read_released(project.paths.lake).routed_position()]
    for features in active_schemas(project):
        marks += required_offsets(project, features)  # a shuffle is before its workers
    if project.scores:
        marks += [
            scored for scored in [read_score_offset(project.paths.state)] if scored is not None
        ]
    return min(marks)


def shuffled_logs(project: Project, features: FeatureSet) -> "tuple[KafkaLog, ...]":
    """The logs that a shuffle writes for the workers of a schema; none where they read the routed
    log themselves.

    That is so where the logs are files, since all workers are on one machine then and share its
    cache.
    """
    if project.workers == 1 or isinstance(project.stream, Path):
        return ()
    return project.stream.shuffled(features.schema_hash, project.workers)


def worker_log(project: Project, features: FeatureSet, part: KeyPart) -> Address:
    """What the worker of a part reads."""
    logs = shuffled_logs(project, features)
    return logs[part.number] if logs else project.routed


def required_offsets(project: Project, features: FeatureSet) -> list[int]:
    """From which row on the worker of each part needs its log, as its state here says, or the copy
    of it.

    0, all of it, where neither is there, and while a state is being built.
    """
    return [_needed_by(project, features, part) for part in all_parts(project.workers)]


def _needed_by(project: Project, features: FeatureSet, part: KeyPart) -> int:
    try:
        position = read_local_position(project.paths.state, features, part)
    except NotReadyError:
        copies = project.copy_target()
        try:
            position = (
                Position()
                if copies is None
                else read_copy_position(copies, features.schema_hash, part)
            )
        except TailorbirdError as error:
            log.warning(
                "how far the worker%s of schema %s is, is not known: %s",
                part.name and f" {part.name}",
                features.schema_hash,
                error,
            )
            position = Position()
    return position.offset if position.ready else 0


class ActiveWatch:
    """Notices that the active schemas or candidate tables may have changed, by the files that say
    so: what is applied, which tables are current, and who is champion.
    """

    def __init__(self, project: Project) -> None:
        files = (path / "aliases.json" for path in _registries(project))
        self._files = (project.paths.state / APPLIED, project.paths.candidates / CURRENT, *files)
        self._seen: list[FileStamp | None] = []

    def changed(self) -> bool:
        """Whether any file is another than at the last call; yes at the first."""
        seen = [file_stamp(file) for file in self._files]
        self._seen, before = seen, self._seen
        return seen != before


def _features_of(project: Project, schema: str, bundle: Path) -> FeatureSet:
    try:
        return load_declarations(project.paths.state, schema)
    except NotReadyError:
        if project.features.schema_hash == schema:
            return project.features
        return read_features(bundle / FILE, expect=schema)
