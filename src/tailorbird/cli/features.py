"""`tailorbird features list`; the other commands of the group are in modules of their own, and only
named here.
"""

from typing import TYPE_CHECKING

from tailorbird.cli.features_apply import apply, plan, prune
from tailorbird.cli.features_backfill import backfill
from tailorbird.cli.features_show import show
from tailorbird.cli.features_verify import verify
from tailorbird.cli.output import Json, console, print_json, print_table

if TYPE_CHECKING:
    from tailorbird.config import Project

__all__ = ["apply", "backfill", "list_", "plan", "prune", "show", "verify"]


def list_(*, bytes: bool = False, json: Json = False) -> None:
    """List the features that the project declares: what each is, of what entity, and what its
    entity's records take.

    With `--bytes` it lists what the state holds instead: how many entities of each kind, what their
    records take, and how many were let go because they were idle, or because there were too many.
    Below it says how many anonymous ids are known to be somebody: who a person is, is kept for
    good.

    Example:  tailorbird -C shop features list

    Example:  tailorbird -C shop features list --bytes

    Parameters
    ----------
    bytes:
        list entities and bytes by kind
    """
    from tailorbird.config import open_project

    project = open_project()
    features = project.features
    if bytes:
        _list_bytes(project, json)
        return
    columns = [
        (column.name, column.kind, column.entity, column.description) for column in features.columns
    ]
    if json:
        keys = ("name", "kind", "entity", "description")
        print_json(
            {
                "schema_hash": features.schema_hash,
                "features": [dict(zip(keys, row, strict=True)) for row in columns],
            }
        )
        return
    print_table(f"Schema {features.schema_hash}", ["feature", "kind", "of", "what it is"], columns)


def _list_bytes(project: "Project", json: bool) -> None:
    from tailorbird.features.idle import merge_tallies, tallies
    from tailorbird.features.keypart import all_parts
    from tailorbird.features.state import count_aliases, open_state

    parts, aliases, alias_bytes, disk = [], 0, 0, 0
    for part in all_parts(project.workers):
        store = open_state(project.paths.state, project.features, part)
        try:
            with store.snapshot() as snapshot:
                parts.append(tallies(snapshot, project.features.layout))
                count, size = count_aliases(snapshot)
            aliases, alias_bytes, disk = (
                aliases + count,
                alias_bytes + size,
                disk + store.size_bytes(),
            )
        finally:
            store.close()
    found = merge_tallies(parts)
    widths = {one.entity.name: one.reading_bytes for one in project.features.layout.entities}
    kinds = [
        {
            "entity": name,
            "entities": tally.entities,
            "state_bytes_each": round(tally.state_bytes / max(1, tally.entities)),
            "reading_bytes_each": widths[name],
            "bytes": tally.state_bytes + widths[name] * tally.entities,
            "expired": tally.expired,
            "dropped": tally.dropped,
        }
        for name, tally in found.items()
    ]
    if json:
        print_json(
            {
                "schema_hash": project.features.schema_hash,
                "disk_bytes": disk,
                "entities_max": project.settings.features.entities_max,
                "kinds": kinds,
                "aliases": {"count": aliases, "bytes": alias_bytes},
            }
        )
        return
    headings = [
        "kind",
        "entities",
        "state bytes each",
        "reading bytes each",
        "bytes",
        "expired",
        "dropped",
    ]
    rows = [
        tuple(one if isinstance(one, str) else f"{one:,}" for one in kind.values())
        for kind in kinds
    ]
    print_table(
        f"Schema {project.features.schema_hash}: {disk:,} bytes on disk, free pages included",
        headings,
        rows,
    )
    console().print(
        f"{aliases:,} anonymous ids are known to be somebody, in {alias_bytes:,} bytes."
    )
