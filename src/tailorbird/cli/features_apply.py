"""`tailorbird features plan|apply|prune`: a change of the declarations, looked at, made, and tidied
up after.
"""

import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from tailorbird.cli.output import (
    Json,
    Report,
    console,
    print_json,
    print_table,
    progress_bars,
    this_command,
)
from tailorbird.errors import LockedError, NotReadyError, UsageError

if TYPE_CHECKING:
    from tailorbird.config import Project
    from tailorbird.features import FeatureSet
    from tailorbird.features.idle import Tally
    from tailorbird.features.keypart import KeyPart
    from tailorbird.features.plan import Comparison, Measured, RecordChange

POLL_S = 0.2
WITHOUT_WORKER_S = 60.0  # of waiting for a worker that does not run
CHANGES = 2  # exit status of a plan that has something to do


def plan(*, measure: bool = True, json: Json = False) -> None:
    """Show what a changed features.py comes to, before it is applied; exit status 0 if there is
    nothing to do, 2 if there is.

    Columns that are added, changed and removed, each with its line; the bytes of each entity's
    records before and after, at most and as they are now and in a sample, and of all entities that
    there are now; the proof that no sum overflows; how long the new state takes to build, by a
    sample of the lake that is taken in right now; what has to be trained anew.

    Example:  tailorbird -C shop features plan

    Parameters
    ----------
    measure:
        also take a sample of the lake in, to tell how long it takes
    """
    from tailorbird.config import open_project
    from tailorbird.features import plan as planning
    from tailorbird.lake import Lake

    project = open_project()
    before = _applied(project)
    found = planning.compare_sets(before, project.features)
    same = found.before == found.after
    counted = (
        planning.read_tallies(project.paths.state, before, project.workers)
        if before is not None
        else None
    )
    measured = (
        planning.measure(project.features, Lake(project.paths.lake))
        if measure and not same
        else None
    )
    retrain = _to_retrain(project)
    if json:
        print_json(_plain(found, counted, measured, retrain))
    else:
        _tell(found, counted, measured, retrain)
    raise SystemExit(0 if same else CHANGES)


def apply(*, yes: bool = False, back: bool = False, wait: bool = True, json: Json = False) -> None:
    """Apply a changed features.py without stopping the service, and wait until the new state has
    caught up.

    A running `up` starts a worker that builds the new state beside the old one: from the lake, then
    from the log at the exact position. Answers go on with the schema of the model that serves,
    until one of the new schema is promoted. Without a running `up` this builds the state itself.
    Interrupted, it goes on where it was when it is given again.

    Example:  tailorbird -C shop features apply --yes

    Example:  tailorbird -C shop features apply --back --yes

    Parameters
    ----------
    yes:
        do not ask; needed where this is no terminal
    back:
        apply the schema before the applied one again, whatever features.py declares
    wait:
        wait until the state has caught up
    """
    from tailorbird.config import open_project
    from tailorbird.config.schemas import find_schema, is_running
    from tailorbird.events import SystemClock
    from tailorbird.features import schemas
    from tailorbird.features.plan import compare_sets

    project = open_project(applied=back)
    before = schemas.read_applied(project.paths.state).schema
    if back:
        _agree(yes, f"Go back from schema {before or 'none'} to the one before it?")
        features = find_schema(project, schemas.revert(project.paths.state, at=SystemClock().now()))
    else:
        features = project.features
        if features.schema_hash != before and not json:
            _tell_changes(compare_sets(_applied(project), features))
        if features.schema_hash != before:
            _agree(yes, f"Apply schema {features.schema_hash}?")
        schemas.apply(project.paths.state, features, at=SystemClock().now())
    took, p = None, 0
    if wait:
        start = time.monotonic()
        with progress_bars(quiet=json) as progress:
            p = (
                _follow(project, features, progress)
                if is_running(project)
                else _build(project, features, progress)
            )
        took = round(time.monotonic() - start, 1)
    if json:
        told = {
            "schema": features.schema_hash,
            "before": before,
            "changed": features.schema_hash != before,
            "ready": wait,
            "seconds": took,
        }
        print_json(told)
        return
    out = console()
    if took is not None:
        out.print(
            f"Schema {features.schema_hash} is applied, and its state knows everything up to "
            f"row {p:,} ({took} s)."
        )
    else:
        out.print(f"Schema {features.schema_hash} is applied; its state is being built.")
    for line in _to_retrain_told(_to_retrain(project, features.schema_hash)):
        out.print(line)
    if back and _declared(project) != features.schema_hash:
        out.print(
            "features.py still declares another schema; it stays unapplied until you apply it."
        )


def prune(*, unnamed: bool = False, json: Json = False) -> None:
    """Remove the states of schemas that nothing needs: neither applied, nor the champion's, nor the
    previous champion's.

    They can be built again from the lake. What a Valkey holds of such schemas goes too, unless a
    worker still publishes it.

    Example:  tailorbird -C shop features prune

    Parameters
    ----------
    unnamed:
        also remove from the Valkey what earlier versions wrote, whose keys name no project: that of
            all projects on the server
    """
    from tailorbird.candidates.folder import copy_name
    from tailorbird.config import open_project
    from tailorbird.config.candidates import kept_contracts
    from tailorbird.config.schemas import active_schemas
    from tailorbird.features import schemas
    from tailorbird.features.keypart import all_parts

    project = open_project(applied=True)
    wanted = {features.schema_hash for features in active_schemas(project)}
    copies = project.copy_target()
    if copies is None and unnamed:
        raise UsageError(
            "no records are copied",
            where="store.url",
            fix="leave --unnamed out, or set store.url to the Valkey",
        )
    removed = schemas.prune(project.paths.state, wanted, workers=project.workers)
    kept = {
        part.copies(schema)
        for schema in (*wanted, *schemas.state_folders(project.paths.state))
        for part in all_parts(project.workers)
    }
    kept |= {copy_name(contract) for contract in kept_contracts(project)}
    copied = {} if copies is None else copies.prune(kept, unnamed=unnamed)
    if json:
        print_json(
            {
                "removed": removed,
                "copies_removed": copied,
                "kept": schemas.state_folders(project.paths.state),
            }
        )
        return
    for schema, size in removed.items():
        console().print(f"schema {schema}: removed, {_bytes(size)}")
    for schema, records in copied.items():
        console().print(
            f"schema {schema.removeprefix('tb:')}: {records:,} records removed from the Valkey"
        )
    kept = ", ".join(schemas.state_folders(project.paths.state)) or "none"
    console().print(f"{'' if removed or copied else 'Nothing to remove. '}Kept: {kept}")


def _applied(project: "Project") -> "FeatureSet | None":
    """The applied declarations; None before the first, and where an older engine made them, so that
    all is new.
    """
    from tailorbird.errors import DeclarationError
    from tailorbird.features.schemas import applied_features

    try:
        return applied_features(project.paths.state)
    except (DeclarationError, NotReadyError):
        return None


def _declared(project: "Project") -> str:
    from tailorbird.features import load_features

    return load_features(
        project.root / "features.py", event_types=project.plan.event_types
    ).schema_hash


def _agree(yes: bool, question: str) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(
            "this changes what is applied, and nobody can be asked here", fix="add --yes"
        )
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise SystemExit(1)


def _build(project: "Project", features: "FeatureSet", progress: Report) -> int:
    """Build the state here, since no `up` does it, part after part; the p that it has reached."""
    from tailorbird.features.keypart import all_parts

    return min(
        _build_part(project, features, part, progress) for part in all_parts(project.workers)
    )


def _build_part(
    project: "Project", features: "FeatureSet", part: "KeyPart", progress: Report
) -> int:
    from tailorbird.events import SystemClock
    from tailorbird.features.bootstrap import build_from_lake, catch_up, is_lake_ahead
    from tailorbird.features.worker import FeatureWorker
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
    except LockedError:  # a worker of its own runs without `up`
        return _follow(project, features, progress)
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


def _follow(project: "Project", features: "FeatureSet", progress: Report) -> int:
    """Wait until the worker of a running `up` has caught up with what is in the log now; the p that
    it has reached.
    """
    from tailorbird.config.schemas import is_running

    end, seen_at = _log_end(project), time.monotonic()
    while True:
        p, ready = _position(project, features)
        progress("build", min(p, end), end)
        if ready and p >= end:
            return p
        running = _worker_runs(project, features)
        seen_at = time.monotonic() if running else seen_at
        again = f"{this_command()} features apply --yes"
        if not running and not is_running(project):
            raise NotReadyError(
                "tailorbird up ended before the state was built",
                where=str(project.root),
                fix=f"{again} goes on",
            )
        if time.monotonic() - seen_at > WITHOUT_WORKER_S:
            message = (
                f"the worker of schema {features.schema_hash} does not stay up; what `up` "
                "prints says why"
            )
            raise NotReadyError(message, where=str(project.root), fix=f"see to it; {again} goes on")
        time.sleep(POLL_S)


def _worker_runs(project: "Project", features: "FeatureSet") -> bool:
    """Whether all workers of a schema do."""
    from tailorbird.features.keypart import all_parts
    from tailorbird.features.state import state_folder
    from tailorbird.lock import FileLock

    for part in all_parts(project.workers):
        try:
            FileLock(state_folder(project.paths.state, features, part) / "worker").release()
        except LockedError:
            continue
        return False
    return True


def _position(project: "Project", features: "FeatureSet") -> tuple[int, bool]:
    """How far all parts of the state are."""
    from tailorbird.features.keypart import all_parts
    from tailorbird.features.state import read_local_position

    try:
        positions = [
            read_local_position(project.paths.state, features, part)
            for part in all_parts(project.workers)
        ]
    except NotReadyError:
        return 0, False
    return min(one.p for one in positions), all(one.ready for one in positions)


def _log_end(project: "Project") -> int:
    """The newest p of the routed log; 0 where there is none."""
    from tailorbird.stream import open_reader

    try:
        with open_reader(project.routed) as reader:
            return max(0, reader.end() - 1)
    except NotReadyError:
        return 0


def _to_retrain(project: "Project", schema: str = "") -> dict[str, Any]:
    """The champion, and whether it reads another schema than the one that is to be applied."""
    from tailorbird.events import SystemClock
    from tailorbird.registry import Registry

    registry = Registry(project.paths.registry, clock=SystemClock())
    champion = registry.aliases().champion
    reads = registry.info(champion).schema_hash if champion else ""
    return {
        "champion": champion,
        "reads": reads,
        "retrain": bool(champion) and reads != (schema or project.features.schema_hash),
    }


def _to_retrain_told(retrain: dict[str, Any]) -> list[str]:
    if not retrain["champion"]:
        return [f"There is no champion yet:  {this_command()} train"]
    if not retrain["retrain"]:
        return []
    told = (
        f"{retrain['champion']} reads schema {retrain['reads']} and goes on answering with it, "
        "its state being kept up beside the new one."
    )
    return [told, f"A model of the new schema:  {this_command()} train"]


def _plain(
    found: "Comparison",
    counted: "dict[str, Tally] | None",
    measured: "Measured | None",
    retrain: dict[str, Any],
) -> dict[str, Any]:
    from dataclasses import asdict

    now, sampled = counted or {}, measured.tallies if measured is not None else {}
    records = [
        {
            **asdict(one),
            "entities": now[one.entity].entities if one.entity in now else None,
            "sampled": sampled[one.entity].entities if one.entity in sampled else None,
            "state_mean": _mean(one.entity, now),
            "state_mean_sampled": _mean(one.entity, sampled),
        }
        for one in found.records
    ]
    built = None
    if measured is not None:
        least, likely, most = measured.seconds
        built = {
            "rows": measured.rows_total,
            "sample": measured.rows,
            "seconds": likely,
            "seconds_least": least,
            "seconds_most": most,
        }
    return {
        "schema": found.after,
        "applied": found.before,
        "changes": [asdict(one) for one in found.changes],
        "records": records,
        "bytes_before": _total(found, counted, "before"),
        "bytes_after": _total(found, counted, "after"),
        "proofs": [asdict(one) for one in found.proofs],
        "attached": list(found.attached),
        "build": built,
        **retrain,
    }


def _total(found: "Comparison", counted: "dict[str, Tally] | None", when: str) -> int | None:
    """Bytes of the records of all entities that the applied state has, at their full width."""
    if counted is None:
        return None
    return sum(
        getattr(one, when) * counted[one.entity].entities
        for one in found.records
        if one.entity in counted
    )


def _mean(entity: str, tallies: "dict[str, Tally]") -> int | None:
    """What a state record takes, as they were written."""
    return tallies[entity].state_bytes_mean if entity in tallies else None


def _tell(
    found: "Comparison",
    counted: "dict[str, Tally] | None",
    measured: "Measured | None",
    retrain: dict[str, Any],
) -> None:
    out = console()
    if found.before == found.after:
        out.print(f"Nothing to do: schema {found.after} is applied.")
    else:
        _tell_changes(found)
    sampled = measured.tallies if measured is not None else {}
    rows = [_record_row(one, counted or {}, sampled) for one in found.records]
    numbers = [
        "state at most",
        "then",
        "mean now",
        "in the sample",
        "reading now",
        "then ",
        "how many",
    ]
    print_table("\nBytes of an entity's records", ["entity", *numbers], rows, right=numbers)
    if counted is not None:
        was, now = _total(found, counted, "before") or 0, _total(found, counted, "after") or 0
        out.print(
            f"Together at most {_bytes(was)} now, {_bytes(now)} then; empty parts of a "
            "record take no space."
        )
    if found.proofs:
        least = min(found.proofs, key=lambda proof: proof.events)
        out.print(
            f"No sum overflows: each of {len(found.proofs)} holds the largest value "
            f"{least.events:,} times or more "
            f"({least.name}, {least.place}: {least.units_max:,} units)."
        )
    if found.before == found.after:
        return
    if found.attached:
        names = ", ".join(found.attached)
        out.print(
            f"Events routed so far do not carry {names}: it is filled in from the versions "
            "of the profiles, for all history."
        )
    if measured is not None:
        least_s, likely, most = measured.seconds
        told = (
            f"The new state takes about {_seconds(likely)} to build ({_seconds(least_s)} to "
            f"{_seconds(most)}): "
        )
        out.print(
            f"{told}{measured.rows_total:,} rows, by a sample of {measured.rows:,} taken in "
            "just now."
        )
    else:
        out.print(
            "How long the new state takes to build was not measured: the lake has no rows, "
            "or --no-measure."
        )
    for line in _to_retrain_told(retrain):
        out.print(line)
    out.print(f"To apply it without stopping anything:  {this_command()} features apply")


def _tell_changes(found: "Comparison") -> None:
    title = f"Schema {found.before or '(none)'} → {found.after}"
    rows = [(one.change, one.name, one.entity, one.place, one.what) for one in found.changes]
    print_table(title, ["change", "column", "of", "line", "what"], rows)
    if not found.changes:
        console().print(
            "No column changes, but their order or the engine does, and with it the records."
        )


def _record_row(
    one: "RecordChange", counted: "dict[str, Tally]", sampled: "dict[str, Tally]"
) -> tuple[object, ...]:
    means = _mean(one.entity, counted), _mean(one.entity, sampled)
    return (
        one.entity,
        one.state_before,
        one.state_after,
        *means,
        one.reading_before,
        one.reading_after,
        _count(one.entity, counted, sampled),
    )


def _count(entity: str, counted: "dict[str, Tally]", sampled: "dict[str, Tally]") -> str:
    if entity in counted:
        return f"{counted[entity].entities:,}"
    return f"{sampled[entity].entities:,} in the sample" if entity in sampled else ""


def _bytes(size: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"


def _seconds(seconds: float) -> str:
    if seconds >= 90 * 60:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.1f} s"
