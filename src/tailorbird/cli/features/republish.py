"""`tailorbird features republish`: copy all feature records to the Valkey again."""

import threading
from typing import TYPE_CHECKING

from tailorbird.cli.output import Json, Report, console, print_json, progress_bars
from tailorbird.errors import LockedError, UsageError

if TYPE_CHECKING:
    from tailorbird.config import Project
    from tailorbird.features import FeatureSet
    from tailorbird.features.state.key_partition import KeyPart


def republish(*, json: Json = False) -> None:
    """Copy all records of the state to the Valkey of `store.url` again.

    A lost state is rebuilt first, from the lake and the log. The worker does both by itself when it
    finds that the server lost data. Run this command to fill a new server before it is read, after
    keys were deleted, or after a change of their prefix (`store.prefix`). Readers see no records
    until the copy is complete, so answers are less personal meanwhile. An interrupted run starts
    from the beginning.

    Example:  tailorbird -C shop features republish
    """
    from tailorbird.config import open_project
    from tailorbird.config.schemas import active_schemas

    project = open_project(applied=True)
    if not project.settings.store.url:
        raise UsageError(
            "there is nowhere to copy to",
            where="store.url",
            fix="set it to valkey://host:6379; without it servers read the state",
        )
    done: dict[str, dict[str, int]] = {}
    with progress_bars(quiet=json) as progress:
        for features in active_schemas(project):
            done[features.schema_hash] = _republish(project, features, progress)
    if json:
        print_json({"schemas": done})
        return
    for schema, counts in done.items():
        console().print(
            f"schema {schema}: {counts['records']:,} records, as of position {counts['p']:,}"
        )


def _republish(project: "Project", features: "FeatureSet", progress: Report) -> dict[str, int]:
    """Copy all parts of a schema's state, one after the other."""
    from tailorbird.features.state.key_partition import all_parts

    done = [
        _republish_part(project, features, part, progress) for part in all_parts(project.workers)
    ]
    return {"records": sum(part["records"] for part in done), "p": min(part["p"] for part in done)}


def _republish_part(
    project: "Project", features: "FeatureSet", part: "KeyPart", progress: Report
) -> dict[str, int]:
    from tailorbird.events import SystemClock
    from tailorbird.features.migration.bootstrap import build_from_lake, catch_up, is_lake_ahead
    from tailorbird.features.online.worker import FeatureWorker
    from tailorbird.lake import Lake

    paths, settings = project.paths, project.settings
    entities_max = settings.features.entities_max
    try:
        worker = FeatureWorker(
            project.routed,
            paths.state,
            features,
            clock=SystemClock(),
            copies=project.copy_target(),
            entities_max=entities_max,
            part=part,
        )
    except LockedError as error:
        fix = "it copies what the server lost by itself; stop it to have all copied anew"
        raise LockedError(
            f"the worker of schema {features.schema_hash} is running", where=error.where, fix=fix
        ) from error
    with worker:
        lake = Lake(paths.lake)
        if worker.needs_history() and is_lake_ahead(worker, lake):
            build_from_lake(
                worker,
                lake,
                threading.Event(),
                progress=lambda rows, total: progress("from the lake", rows, total),
            )
        if lake.exists("events"):
            catch_up(worker, lake, progress=lambda stage, p: progress(stage, p, None))
        records = worker.republish(lambda copied: progress("copied", copied, None))
        return {"records": records, "p": worker.position.p}
