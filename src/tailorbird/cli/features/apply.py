"""`tailorbird features plan|apply|prune`: preview, apply and clean up a change of declarations."""

import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from tailorbird.cli.features.plan_output import (
    describe_retraining,
    format_bytes,
    plan_to_dict,
    print_changes,
    print_plan,
)
from tailorbird.cli.output import Json, Report, console, print_json, progress_bars, this_command
from tailorbird.errors import LockedError, NotReadyError, UsageError

if TYPE_CHECKING:
    from tailorbird.config import Project
    from tailorbird.features import FeatureSet
    from tailorbird.features.state.key_partition import KeyPart

POLL_S = 0.2
WORKER_TIMEOUT_S = 60.0  # How long to wait for a worker that does not run.
EXIT_CHANGES = 2  # Exit status of a plan that has something to do.


def plan(*, measure: bool = True, json: Json = False) -> None:
    """Show what a changed features.py would do, before it is applied.

    The plan lists added, changed and removed columns with their lines, and the size of each
    entity's records before and after: the maximum, the present mean, and the mean in a sample. It
    proves that no sum overflows, estimates from a sample of the lake how long the new state takes
    to build, and tells which models need retraining. The exit status is 0 if there is nothing to
    do, and 2 otherwise.

    Example:  tailorbird -C shop features plan

    Parameters
    ----------
    measure:
        also process a sample of the lake, to estimate the build time
    """
    from tailorbird.config import open_project
    from tailorbird.features.migration import plan as planning
    from tailorbird.lake import Lake

    project = open_project()
    applied = _load_applied(project)
    comparison = planning.compare_sets(applied, project.features)
    is_unchanged = comparison.before == comparison.after
    tallies = (
        planning.read_tallies(project.paths.state, applied, project.workers)
        if applied is not None
        else None
    )
    measured = (
        planning.measure(project.features, Lake(project.paths.lake))
        if measure and not is_unchanged
        else None
    )
    retrain = _retraining_need(project)
    if json:
        print_json(plan_to_dict(comparison, tallies, measured, retrain))
    else:
        print_plan(comparison, tallies, measured, retrain)
    raise SystemExit(0 if is_unchanged else EXIT_CHANGES)


def apply(*, yes: bool = False, back: bool = False, wait: bool = True, json: Json = False) -> None:
    """Apply a changed features.py without downtime, and wait until the new state has caught up.

    A running `up` starts a worker that builds the new state next to the old one: from the lake,
    then from the log at the exact position. Answers use the schema of the live model until a model
    of the new schema is promoted. Without a running `up` this command builds the state itself. If
    it is interrupted, run it again to continue.

    Example:  tailorbird -C shop features apply --yes

    Example:  tailorbird -C shop features apply --back --yes

    Parameters
    ----------
    yes:
        do not ask for confirmation; required without a terminal
    back:
        apply the previously applied schema again, whatever features.py declares
    wait:
        wait until the state has caught up
    """
    from tailorbird.config import open_project
    from tailorbird.config.schemas import find_schema, is_running
    from tailorbird.events import SystemClock
    from tailorbird.features import schemas
    from tailorbird.features.migration.plan import compare_sets

    project = open_project(applied=back)
    before = schemas.read_applied(project.paths.state).schema
    if back:
        _confirm(yes, f"Go back from schema {before or 'none'} to the one before it?")
        features = find_schema(project, schemas.revert(project.paths.state, at=SystemClock().now()))
    else:
        features = project.features
        if features.schema_hash != before and not json:
            print_changes(compare_sets(_load_applied(project), features))
        if features.schema_hash != before:
            _confirm(yes, f"Apply schema {features.schema_hash}?")
        schemas.apply(project.paths.state, features, at=SystemClock().now())
    duration_s, p = None, 0
    if wait:
        start = time.monotonic()
        with progress_bars(quiet=json) as progress:
            p = (
                _wait_for_workers(project, features, progress)
                if is_running(project)
                else _build(project, features, progress)
            )
        duration_s = round(time.monotonic() - start, 1)
    if json:
        summary = {
            "schema": features.schema_hash,
            "before": before,
            "changed": features.schema_hash != before,
            "ready": wait,
            "seconds": duration_s,
        }
        print_json(summary)
        return
    out = console()
    if duration_s is not None:
        out.print(
            f"Schema {features.schema_hash} is applied, and its state knows everything up to "
            f"row {p:,} ({duration_s} s)."
        )
    else:
        out.print(f"Schema {features.schema_hash} is applied; its state is being built.")
    for line in describe_retraining(_retraining_need(project, features.schema_hash)):
        out.print(line)
    if back and _declared_schema(project) != features.schema_hash:
        out.print(
            "features.py still declares another schema; it stays unapplied until you apply it."
        )


def prune(*, unnamed: bool = False, json: Json = False) -> None:
    """Remove the states of schemas that are neither applied nor used by a champion.

    Such states can be rebuilt from the lake. Their copies in a Valkey are removed too, unless a
    worker still publishes them.

    Example:  tailorbird -C shop features prune

    Parameters
    ----------
    unnamed:
        also remove from the Valkey records of earlier versions, whose keys name no project: those
        of all projects on the server
    """
    from tailorbird.candidates.folder import copy_name
    from tailorbird.config import open_project
    from tailorbird.config.candidates import maintained_contracts
    from tailorbird.config.schemas import active_schemas
    from tailorbird.features import schemas
    from tailorbird.features.state.key_partition import all_parts

    project = open_project(applied=True)
    required = {features.schema_hash for features in active_schemas(project)}
    target = project.copy_target()
    if target is None and unnamed:
        raise UsageError(
            "no records are copied",
            where="store.url",
            fix="leave --unnamed out, or set store.url to the Valkey",
        )
    removed = schemas.prune(project.paths.state, required, workers=project.workers)
    retained_keys = {
        part.copies(schema)
        for schema in (*required, *schemas.state_folders(project.paths.state))
        for part in all_parts(project.workers)
    }
    retained_keys |= {copy_name(contract) for contract in maintained_contracts(project)}
    removed_copies = {} if target is None else target.prune(retained_keys, unnamed=unnamed)
    if json:
        print_json(
            {
                "removed": removed,
                "copies_removed": removed_copies,
                "kept": schemas.state_folders(project.paths.state),
            }
        )
        return
    for schema, size in removed.items():
        console().print(f"schema {schema}: removed, {format_bytes(size)}")
    for schema, records in removed_copies.items():
        console().print(
            f"schema {schema.removeprefix('tb:')}: {records:,} records removed from the Valkey"
        )
    kept_text = ", ".join(schemas.state_folders(project.paths.state)) or "none"
    console().print(
        f"{'' if removed or removed_copies else 'Nothing to remove. '}Kept: {kept_text}"
    )


def _load_applied(project: "Project") -> "FeatureSet | None":
    """Return the applied declarations; None without any, and after an engine upgrade."""
    from tailorbird.errors import DeclarationError
    from tailorbird.features.schemas import applied_features

    try:
        return applied_features(project.paths.state)
    except (DeclarationError, NotReadyError):
        return None


def _declared_schema(project: "Project") -> str:
    from tailorbird.features import load_features

    return load_features(
        project.root / "features.py", event_types=project.plan.event_types
    ).schema_hash


def _confirm(yes: bool, question: str) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(
            "this changes what is applied, and nobody can be asked here", fix="add --yes"
        )
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise SystemExit(1)


def _build(project: "Project", features: "FeatureSet", progress: Report) -> int:
    """Build all parts of the state in this process; return the position it has reached."""
    from tailorbird.features.state.key_partition import all_parts

    return min(
        _build_part(project, features, part, progress) for part in all_parts(project.workers)
    )


def _build_part(
    project: "Project", features: "FeatureSet", part: "KeyPart", progress: Report
) -> int:
    from tailorbird.events import SystemClock
    from tailorbird.features.migration.bootstrap import build_from_lake, catch_up, is_lake_ahead
    from tailorbird.features.online.worker import FeatureWorker
    from tailorbird.lake import Lake

    paths, entities_max = project.paths, project.settings.features.entities_max
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
        if worker.needs_history() and is_lake_ahead(worker, lake):
            build_from_lake(
                worker,
                lake,
                threading.Event(),
                progress=lambda done, total: progress("from the lake", done, total),
            )
        end = _log_end(project)
        catch_up(worker, lake, progress=lambda stage, p: progress(stage, p, max(end, p)))
        worker.sweep_all()
        return worker.position.p


def _wait_for_workers(project: "Project", features: "FeatureSet", progress: Report) -> int:
    """Wait until the worker of a running `up` has caught up with the log; return its position."""
    from tailorbird.config.schemas import is_running

    end, seen_at = _log_end(project), time.monotonic()
    while True:
        p, ready = _position(project, features)
        progress("build", min(p, end), end)
        if ready and p >= end:
            return p
        running = _are_workers_running(project, features)
        seen_at = time.monotonic() if running else seen_at
        retry_command = f"{this_command()} features apply --yes"
        if not running and not is_running(project):
            raise NotReadyError(
                "tailorbird up ended before the state was built",
                where=str(project.root),
                fix=f"{retry_command} goes on",
            )
        if time.monotonic() - seen_at > WORKER_TIMEOUT_S:
            message = (
                f"the worker of schema {features.schema_hash} does not stay up; what `up` "
                "prints says why"
            )
            raise NotReadyError(
                message, where=str(project.root), fix=f"see to it; {retry_command} goes on"
            )
        time.sleep(POLL_S)


def _are_workers_running(project: "Project", features: "FeatureSet") -> bool:
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


def _position(project: "Project", features: "FeatureSet") -> tuple[int, bool]:
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
    return min(position.p for position in positions), all(position.ready for position in positions)


def _log_end(project: "Project") -> int:
    """Return the newest position of the routed log; 0 without a log."""
    from tailorbird.stream import open_reader

    try:
        with open_reader(project.routed) as reader:
            return max(0, reader.end() - 1)
    except NotReadyError:
        return 0


def _retraining_need(project: "Project", schema: str = "") -> dict[str, Any]:
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
