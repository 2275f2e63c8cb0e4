"""`tailorbird features republish`: copy all feature records to the Valkey again."""

from tailorbird.cli.output import Json, console, print_json, progress_bars


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
    from tailorbird.platform.features.republish import republish as republish_records

    with progress_bars(quiet=json) as progress:
        counts_by_schema = republish_records(open_project(use_applied=True), progress)
    if json:
        print_json({"schemas": counts_by_schema})
        return
    for schema, counts in counts_by_schema.items():
        console().print(
            f"schema {schema}: {counts['records']:,} records, as of position {counts['p']:,}"
        )
