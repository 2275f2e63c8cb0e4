"""`tailorbird features list`."""

from typing import TYPE_CHECKING

from tailorbird.cli.output import Json, console, print_json, print_table

if TYPE_CHECKING:
    from tailorbird.config import Project


def list_(*, bytes: bool = False, json: Json = False) -> None:
    """List the declared features with their entity and description.

    With `--bytes` it lists what the state holds instead: the number of entities of each kind, the
    size of their records, and how many were evicted because they were idle or because there were
    too many. It also prints the number of anonymous ids that are linked to a user, since such links
    are stored permanently.

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
    column_rows = [
        (column.name, column.kind, column.entity, column.description) for column in features.columns
    ]
    if json:
        keys = ("name", "kind", "entity", "description")
        print_json(
            {
                "schema_hash": features.schema_hash,
                "features": [dict(zip(keys, row, strict=True)) for row in column_rows],
            }
        )
        return
    print_table(
        f"Schema {features.schema_hash}", ["feature", "kind", "of", "what it is"], column_rows
    )


def _list_bytes(project: "Project", json: bool) -> None:
    """Print the bytes of each kind of entity, over the parts of the state that workers own.

    An entity has a state record, which events update, and a reading record, which servers read.
    """
    from tailorbird.features.state.eviction import merge_entity_counts, read_all_counts
    from tailorbird.features.state.key_partition import all_parts
    from tailorbird.features.state.state import count_aliases, open_state

    counts_of_parts = []
    alias_count = 0
    alias_bytes = 0
    disk_bytes = 0
    for part in all_parts(project.workers):
        state = open_state(project.paths.state, project.features, part)
        try:
            with state.snapshot() as snapshot:
                counts_of_parts.append(read_all_counts(snapshot, project.features.layout))
                count, size = count_aliases(snapshot)
            alias_count = alias_count + count
            alias_bytes = alias_bytes + size
            disk_bytes = disk_bytes + state.size_bytes()
        finally:
            state.close()
    counts_by_entity = merge_entity_counts(counts_of_parts)
    reading_bytes_by_entity = {
        entry.entity.name: entry.reading_bytes for entry in project.features.layout.entities
    }
    kind_rows = [
        {
            "entity": name,
            "entities": counts.entities,
            "state_bytes_each": round(counts.state_bytes / max(1, counts.entities)),
            "reading_bytes_each": reading_bytes_by_entity[name],
            "bytes": counts.state_bytes + reading_bytes_by_entity[name] * counts.entities,
            "expired": counts.expired,
            "dropped": counts.dropped,
        }
        for name, counts in counts_by_entity.items()
    ]
    if json:
        print_json(
            {
                "schema_hash": project.features.schema_hash,
                "disk_bytes": disk_bytes,
                "entities_max": project.settings.features.entities_max,
                "kinds": kind_rows,
                "aliases": {"count": alias_count, "bytes": alias_bytes},
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
        tuple(cell if isinstance(cell, str) else f"{cell:,}" for cell in kind_row.values())
        for kind_row in kind_rows
    ]
    print_table(
        f"Schema {project.features.schema_hash}: {disk_bytes:,} bytes on disk, free pages included",
        headings,
        rows,
    )
    console().print(
        f"{alias_count:,} anonymous ids are linked to a user, in {alias_bytes:,} bytes."
    )
