"""A table that a command writes where its user says: it says of itself which command made it, so
that an erasure knows it again.
"""

import pyarrow as pa

MADE = b"tailorbird.made"  # the key, in the metadata of the Parquet file


def made(table: pa.Table, command: str) -> pa.Table:
    """The table, with the command that made it."""
    return table.replace_schema_metadata({**(table.schema.metadata or {}), MADE: command.encode()})
