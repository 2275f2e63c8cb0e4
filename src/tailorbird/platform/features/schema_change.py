"""Changes of features.py: what one would do, its application, and removal of old states."""

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from tailorbird.config import Project
from tailorbird.errors import LockedError, NotReadyError, UsageError
from tailorbird.pages.notebook import notebook_repr, text_html
from tailorbird.platform.progress import Progress, no_progress

if TYPE_CHECKING:
    from tailorbird.features import FeatureSet
    from tailorbird.features.migration.plan import SampleMeasurements, SetComparison
    from tailorbird.features.state.eviction import EntityCounts
    from tailorbird.features.state.key_partition import KeyPart

POLL_S = 0.2
WORKER_TIMEOUT_S = 60.0  # How long to wait for a worker that does not run.


@dataclass(frozen=True, repr=False)
class SchemaPlan:
    """What a changed features.py would do.

    Attributes:
        comparison: added, changed and removed columns, and the size of records.
        entity_counts: entities of the applied state by kind; None without one.
        sample_measurements: of the build, from a sample of the lake; None if none was taken.
        retraining_need: the champion, its schema, and whether it needs retraining.
    """

    comparison: "SetComparison"
    entity_counts: "dict[str, EntityCounts] | None"
    sample_measurements: "SampleMeasurements | None"
    retraining_need: dict[str, Any]

    @property
    def is_unchanged(self) -> bool:
        """True if there is nothing to do."""
        return self.comparison.before == self.comparison.after

    def __repr__(self) -> str:
        before = self.comparison.before or "(none)"
        after = self.comparison.after
        lines = [f"schema {after} is applied" if self.is_unchanged else f"{before} → {after}"]
        lines += [
            f"{change.change} {change.name} of {change.entity}, {change.location}: "
            f"{change.changed_fields}"
            for change in self.comparison.changes
        ]
        return "\n".join(lines)

    _repr_html_ = text_html


def plan_change(project: Project, *, should_measure: bool = True) -> SchemaPlan:
    """Compare features.py with what is applied. Changes nothing.

    Args:
        should_measure: also process a sample of the lake, to estimate the build time.
    """
    from tailorbird.features.migration import plan as planning
    from tailorbird.lake import Lake

    applied_features = load_applied_features(project)
    comparison = planning.compare_sets(applied_features, project.features)
    is_unchanged = comparison.before == comparison.after
    entity_counts = (
        planning.read_entity_counts(project.paths.state, applied_features, project.workers)
        if applied_features is not None
        else None
    )
    sample_measurements = (
        planning.measure_sample(project.features, Lake(project.paths.lake))
        if should_measure and not is_unchanged
        else None
    )
    return SchemaPlan(comparison, entity_counts, sample_measurements, find_retraining_need(project))


@notebook_repr
@dataclass(frozen=True)
class AppliedSchema:
    """A schema that was applied.

    Attributes:
        previous_schema: the schema that was applied before, or "".
        log_position: row up to which its state knows everything; None if nobody waited for it.
        duration_s: how long the build took; None as above.
    """

    schema: str
    previous_schema: str
    log_position: int | None = None
    duration_s: float | None = None


def find_next_schema(project: Project, *, back: bool = False) -> "FeatureSet":
    """Return the declarations to apply: those of features.py, or with `back` those before."""
    from tailorbird.config.schemas import find_schema
    from tailorbird.events import SystemClock
    from tailorbird.features import schemas

    if not back:
        return project.features
    return find_schema(project, schemas.revert_schema(project.paths.state, at=SystemClock().now()))


def apply_change(
    project: Project, *, back: bool = False, wait: bool = True, progress: Progress = no_progress
) -> AppliedSchema:
    """Apply features.py without downtime; interrupted, call it again to continue.

    Args:
        project: opened with `use_applied=True` for `back`.
        back: apply the previously applied schema again, whatever features.py declares.
        wait: wait until the new state has caught up.

    Raises:
        NotReadyError: the worker of the new schema does not stay up.
    """
    from tailorbird.config.schemas import is_running
    from tailorbird.events import SystemClock
    from tailorbird.features import schemas

    previous_schema = schemas.read_applied(project.paths.state).schema
    features = find_next_schema(project, back=back)
    if not back:
        schemas.apply_schema(project.paths.state, features, at=SystemClock().now())
    if not wait:
        return AppliedSchema(features.schema_hash, previous_schema)
    start = time.monotonic()
    build_state = _wait_for_workers if is_running(project) else _build_parts
    log_position = build_state(project, features, progress)
    duration_s = round(time.monotonic() - start, 1)
    return AppliedSchema(features.schema_hash, previous_schema, log_position, duration_s)


@notebook_repr
@dataclass(frozen=True)
class PrunedStates:
    """States that were removed.

    Attributes:
        bytes_by_removed_schema: schema → bytes.
        copies_by_removed_schema: schema → records removed from the Valkey.
        retained_schemas: schemas whose states stay.
    """

    bytes_by_removed_schema: dict[str, int]
    copies_by_removed_schema: dict[str, int]
    retained_schemas: list[str]


def prune_states(project: Project, *, unnamed: bool = False) -> PrunedStates:
    """Remove the states of schemas that are neither applied nor used by a champion.

    Args:
        project: opened with `use_applied=True`.
        unnamed: also remove from the Valkey records of earlier versions, whose keys name no
            project.

    Raises:
        UsageError: `unnamed` without `store.url`.
    """
    from tailorbird.candidates.folder import copy_name
    from tailorbird.config.candidates import maintained_contracts
    from tailorbird.config.schemas import active_schemas
    from tailorbird.features import schemas
    from tailorbird.features.state.key_partition import all_parts

    required_schemas = {features.schema_hash for features in active_schemas(project)}
    copy_target = project.copy_target()
    if copy_target is None and unnamed:
        raise UsageError(
            "no records are copied",
            where="store.url",
            fix="leave --unnamed out, or set store.url to the Valkey",
        )
    bytes_by_removed_schema = schemas.prune_states(
        project.paths.state, required_schemas, workers=project.workers
    )
    retained_copy_names = {
        key_part.copies_name(schema)
        for schema in (*required_schemas, *schemas.state_folders(project.paths.state))
        for key_part in all_parts(project.workers)
    }
    retained_copy_names |= {copy_name(contract) for contract in maintained_contracts(project)}
    copies_by_removed_schema = (
        {}
        if copy_target is None
        else copy_target.prune(retained_copy_names, include_unnamed=unnamed)
    )
    return PrunedStates(
        bytes_by_removed_schema,
        copies_by_removed_schema,
        schemas.state_folders(project.paths.state),
    )


def load_applied_features(project: Project) -> "FeatureSet | None":
    """Return the applied declarations; None without any, and after an engine upgrade."""
    from tailorbird.errors import DeclarationError
    from tailorbird.features.schemas import applied_features

    try:
        return applied_features(project.paths.state)
    except (DeclarationError, NotReadyError):
        return None


def declared_schema_hash(project: Project) -> str:
    """Return the hash of what features.py declares."""
    from tailorbird.features import load_features

    return load_features(
        project.root / "features.py", event_types=project.plan.event_types
    ).schema_hash


def _build_parts(project: Project, features: "FeatureSet", progress: Progress) -> int:
    """Build all parts of the state in this process; return the position it has reached."""
    from tailorbird.features.state.key_partition import all_parts

    return min(
        _build_part(project, features, part, progress) for part in all_parts(project.workers)
    )


def _build_part(
    project: Project, features: "FeatureSet", part: "KeyPart", progress: Progress
) -> int:
    from tailorbird.events import SystemClock
    from tailorbird.features.migration.bootstrap import build_if_needed, catch_up
    from tailorbird.features.online.worker import FeatureWorker
    from tailorbird.lake import Lake

    paths = project.paths
    entities_max = project.settings.features.entities_max
    try:
        worker = FeatureWorker(
            project.routed,
            paths.state,
            features,
            clock=SystemClock(),
            entities_max=entities_max,
            part=part,
        )
    except LockedError:  # A worker runs without `up`.
        return _wait_for_workers(project, features, progress)
    with worker:
        lake = Lake(project.paths.lake)
        build_if_needed(worker, lake, progress=partial(progress, "from the lake"))
        log_end = _read_log_end(project)
        catch_up(
            worker,
            lake,
            progress=lambda stage, log_position: progress(
                stage, log_position, max(log_end, log_position)
            ),
        )
        worker.sweep_all()
        return worker.position.log_position


def _wait_for_workers(project: Project, features: "FeatureSet", progress: Progress) -> int:
    """Wait until the worker of a running `up` has caught up with the log; return its position."""
    from tailorbird.config.schemas import is_running

    log_end = _read_log_end(project)
    last_running_at = time.monotonic()
    while True:
        log_position, is_ready = _read_position(project, features)
        progress("build", min(log_position, log_end), log_end)
        if is_ready and log_position >= log_end:
            return log_position
        are_workers_running = _are_workers_running(project, features)
        last_running_at = time.monotonic() if are_workers_running else last_running_at
        retry_command = "tailorbird features apply --yes"
        if not are_workers_running and not is_running(project):
            raise NotReadyError(
                "tailorbird up ended before the state was built",
                where=str(project.root),
                fix=f"{retry_command} goes on",
            )
        if time.monotonic() - last_running_at > WORKER_TIMEOUT_S:
            message = (
                f"the worker of schema {features.schema_hash} does not stay up; what `up` "
                "prints says why"
            )
            raise NotReadyError(
                message, where=str(project.root), fix=f"see to it; {retry_command} goes on"
            )
        time.sleep(POLL_S)


def _are_workers_running(project: Project, features: "FeatureSet") -> bool:
    """Return whether all workers of a schema run."""
    from tailorbird.features.state.key_partition import all_parts
    from tailorbird.features.state.state import state_folder
    from tailorbird.file_lock import FileLock

    for part in all_parts(project.workers):
        try:
            FileLock(state_folder(project.paths.state, features, part) / "worker").release()
        except LockedError:
            continue
        return False
    return True


def _read_position(project: Project, features: "FeatureSet") -> tuple[int, bool]:
    """Return the position that all parts of the state have reached, and whether all are ready."""
    from tailorbird.features.state.key_partition import all_parts
    from tailorbird.features.state.state import read_local_position

    try:
        positions = [
            read_local_position(project.paths.state, features, part)
            for part in all_parts(project.workers)
        ]
    except NotReadyError:
        return 0, False
    return min(position.log_position for position in positions), all(
        position.is_ready for position in positions
    )


def _read_log_end(project: Project) -> int:
    """Return the newest position of the routed log; 0 without a log."""
    from tailorbird.stream import open_reader

    try:
        with open_reader(project.routed) as reader:
            return max(0, reader.end() - 1)
    except NotReadyError:
        return 0


def find_retraining_need(project: Project, schema: str = "") -> dict[str, Any]:
    """Return the champion, and whether it uses another schema than the one to apply."""
    from tailorbird.events import SystemClock
    from tailorbird.registry import Registry

    registry = Registry(project.paths.registry, clock=SystemClock())
    champion = registry.aliases().champion
    champion_schema = registry.info(champion).schema_hash if champion else ""
    return {
        "champion": champion,
        "reads": champion_schema,
        "retrain": bool(champion) and champion_schema != (schema or project.features.schema_hash),
    }
