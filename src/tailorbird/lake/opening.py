"""Opening a Delta table by its place, for reading and for writing."""

from deltalake import DeltaTable

from tailorbird.places import ObjectPath, Place, client_options


def delta_table(path: Place, version: int | None = None) -> DeltaTable:
    """The table at `path`, as of a version or now."""
    if isinstance(path, ObjectPath):
        return DeltaTable(str(path), version=version, storage_options=client_options())
    return DeltaTable(path, version=version)
