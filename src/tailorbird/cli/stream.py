"""`tailorbird.stream.kafka.retire`: topics of servers that are gone.
`tailorbird.config.lost_topics`: topics that were lost.
"""

from typing import TYPE_CHECKING

from tailorbird.cli.output import Json, console, print_json
from tailorbird.errors import UsageError

if TYPE_CHECKING:
    from tailorbird.stream.kafka.retire import Retired


def retire(*producers: str, idle: str = "1d", dry_run: bool = False, json: Json = False) -> None:
    """Delete the topics of servers that are gone, once everything in them was routed, archived and
    loaded.

    A server's name is used up by this: one that comes under the same name takes the next number.
    Without names, those go that nobody has written to for `idle`, and what a shuffle wrote for a
    number of workers or a schema that is no longer in use. What is not drained yet stays, and is
    told; a server that lives, and says nothing for as long, refuses events from then on until it is
    started again.

    Example:  tailorbird -C shop stream retire --idle 7d

    Parameters
    ----------
    producers:
        the servers, as `tailorbird doctor` names their topics behind `raw.`: host-serve-1
    idle:
        for how long nobody may have written to their topics
    dry_run:
        say what would go, and change nothing
    """
    from pathlib import Path

    from tailorbird.config import open_project
    from tailorbird.config.schemas import active_schemas
    from tailorbird.events import SystemClock, duration
    from tailorbird.stream import read_released

    project = open_project(applied=True)
    stream = project.stream
    if isinstance(stream, Path):
        raise UsageError(
            "logs that are files are pruned by the lake role, and are no burden",
            where="stream.url",
            fix="nothing to do",
        )
    from tailorbird.stream.kafka import retire as topics

    released, now, idle_us = read_released(project.paths.lake), SystemClock().now(), duration(idle)
    found = topics.retire(
        stream, released, now, producers=producers, idle_us=idle_us, dry_run=dry_run
    )
    if not producers:
        wanted = {
            (features.schema_hash, project.workers)
            for features in active_schemas(project)
            if project.workers > 1
        }
        found += topics.retire_shuffled(stream, wanted, now, idle_us=idle_us, dry_run=dry_run)
    if json:
        print_json(
            {
                "producers": [
                    {"producer": one.producer, "gone": one.gone, "why": one.why} for one in found
                ],
                "dry_run": dry_run,
            }
        )
        return
    for one in found:
        console().print(f"{one.producer}: {_told(one, dry_run=dry_run)}")
    if not found:
        console().print("There are no topics of servers, and none of shuffles that nobody reads.")


def _told(one: "Retired", *, dry_run: bool) -> str:
    if not one.gone:
        return f"stays, {one.why}"
    return "would go" if dry_run else "its topics are deleted"


def begin_anew(*, yes: bool = False, json: Json = False) -> None:
    """Begin topics anew that were lost for good, behind what router and lake hold of them; without
    --yes, say which.

    For a broker that came back without its disk, or with an older copy of it: then doors take
    nothing, since positions would be given out twice. What had been acknowledged and nobody had
    read yet is lost with the broker, and cannot be counted. Run it where the router ran, which has
    tables that no topic has any more; roles on other machines go on by themselves. Cut short, it
    goes on when it is run again.

    Example:  tailorbird -C shop stream begin-anew --yes

    Parameters
    ----------
    yes:
        do it
    """
    from pathlib import Path

    from tailorbird.config import open_project
    from tailorbird.events import SystemClock

    project = open_project(applied=True)
    if isinstance(project.stream, Path):
        raise UsageError(
            "a log in a file that was lost is begun anew by its door itself",
            where="stream.url",
            fix="nothing to do: start the door",
        )
    from tailorbird.config.lost_topics import begin_lost_anew, find_lost

    found = begin_lost_anew(project, SystemClock()) if yes else find_lost(project)
    behind = 0 if found.routed is None else found.routed.behind
    if json:
        told = [
            {"topic": one.was.topic, "ends": one.ends, "begins": one.was.ends} for one in found.all
        ]
        print_json({"topics": told, "routed_rows_not_in_lake": behind, "done": yes})
        return
    for one in found.all:
        parts = ", ".join(f"{end:,}" for end in one.was.ends)
        console().print(
            f"{one.was.topic}: lacks {one.rows:,} rows that were read; "
            f"{'began' if yes else 'would begin'} anew at {parts}"
        )
    if behind:
        console().print(
            f"{behind:,} routed rows are not in the lake: `tailorbird lake verify` counts "
            "them, `lake repair` routes them again."
        )
    if found.unfinished:
        console().print(f"What was begun before {'is' if yes else 'would be'} brought to its end.")
    elif not found.all:
        console().print("No topic is lost.")
    if not yes and (found.all or found.unfinished):
        console().print("Nothing was changed: --yes does it.")
