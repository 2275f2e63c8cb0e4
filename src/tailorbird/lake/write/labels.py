"""Mark tables that commands write to the user's paths, so that an erasure recognises them."""

import pyarrow as pa

COMMAND_KEY = b"tailorbird.made"  # key in the metadata of the Parquet file


def add_command_metadata(table: pa.Table, command: str) -> pa.Table:
    """Add the name of the command to a table's metadata."""
    return table.replace_schema_metadata(
        {**(table.schema.metadata or {}), COMMAND_KEY: command.encode()}
    )
