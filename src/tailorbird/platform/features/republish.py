"""A new copy of all feature records on the Valkey of `store.url`."""

from functools import partial
from typing import TYPE_CHECKING

from tailorbird.config import Project
from tailorbird.errors import LockedError, UsageError
from tailorbird.platform.progress import Progress, no_progress

if TYPE_CHECKING:
    from tailorbird.features import FeatureSet
    from tailorbird.features.state.key_partition import KeyPart


def republish(project: Project, progress: Progress = no_progress) -> dict[str, dict[str, int]]:
    """Copy all records of the state again; a lost state is rebuilt first.

    Returns:
        Schema → number of `records`, and the position `p` that they are as of.

    Raises:
        UsageError: `store.url` is not set.
        LockedError: the worker is running; it copies what the server lost by itself.
    """
    from tailorbird.config.schemas import active_schemas

    if not project.settings.store.url:
        raise UsageError(
            "there is nowhere to copy to",
            where="store.url",
            fix="set it to valkey://host:6379; without it servers read the state",
        )
    return {
        features.schema_hash: _republish_schema(project, features, progress)
        for features in active_schemas(project)
    }


def _republish_schema(
    project: Project, features: "FeatureSet", progress: Progress
) -> dict[str, int]:
    """Copy all parts of a schema's state, one after the other."""
    from tailorbird.features.state.key_partition import all_parts

    counts_by_part = [
        _republish_part(project, features, key_part, progress)
        for key_part in all_parts(project.workers)
    ]
    return {
        "records": sum(counts["records"] for counts in counts_by_part),
        "p": min(counts["p"] for counts in counts_by_part),
    }


def _republish_part(
    project: Project, features: "FeatureSet", part: "KeyPart", progress: Progress
) -> dict[str, int]:
    from tailorbird.events import SystemClock
    from tailorbird.features.migration.bootstrap import build_if_needed, catch_up
    from tailorbird.features.online.worker import FeatureWorker
    from tailorbird.lake import Lake

    paths = project.paths
    settings = project.settings
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
        build_if_needed(worker, lake, progress=partial(progress, "from the lake"))
        if lake.exists("events"):
            catch_up(
                worker,
                lake,
                progress=lambda stage, log_position: progress(stage, log_position, None),
            )
        record_count = worker.republish(lambda copied: progress("copied", copied, None))
        return {"records": record_count, "p": worker.position.log_position}
