"""Schema of a table: create it with its columns, and find those that an older one lacks."""

from deltalake import DeltaTable, Field, Schema

from tailorbird import faults
from tailorbird.errors import DamageError
from tailorbird.events.clock import Clock
from tailorbird.lake.delta.commits import record_commit
from tailorbird.lake.files import durable
from tailorbird.lake.files.ledger import Ledger
from tailorbird.lake.tables import TableSpec
from tailorbird.storage import storage_at
from tailorbird.storage_paths import StoragePath

CONFIGURATION: dict[str, str | None] = {
    "delta.enableDeletionVectors": "false",
    "delta.enableExpiredLogCleanup": "false",
    # ours are made and synced by `DurableTable.checkpoint`
    "delta.checkpointInterval": "1000000000",
}


def create_table(path: StoragePath, spec: TableSpec, ledger: Ledger, clock: Clock) -> None:
    """Create an empty table durably."""
    durable.make_folder(path)
    with durable.disk_errors(path):
        DeltaTable.create(
            str(path),
            spec.schema,
            partition_by=[spec.partition] if spec.partition else None,
            configuration={
                **CONFIGURATION,
                "delta.dataSkippingStatsColumns": ",".join(spec.statistics),
            },
            storage_options=storage_at(path).delta_options(),
        )
    faults.at("lake.after_create")
    record_commit(path, spec.name, 0, ledger, written_at=clock.now())


def missing_columns(delta: DeltaTable, spec: TableSpec, path: StoragePath) -> list[Field]:
    """Return the columns that an older release did not have.

    Raises:
        DamageError: the table has deletion vectors, or columns that this version does not write.
    """
    actual_types = {field.name: str(field.type) for field in delta.schema().fields}
    expected = {field.name: field for field in Schema.from_arrow(spec.schema).fields}
    conflicting_fields = sorted(
        name
        for name, kind in actual_types.items()
        if name not in expected or str(expected[name].type) != kind
    )
    if conflicting_fields:
        raise DamageError(
            "the table's columns are not those of this version; they differ in: "
            f"{', '.join(conflicting_fields)}",
            where=str(path),
            fix="use the version that wrote it",
        )
    if "deletionVectors" in (delta.protocol().reader_features or []):
        raise DamageError(
            "the table has deletion vectors, which not all readers honour",
            where=str(path),
            fix="purge and rewrite it",
        )
    return [field for name, field in expected.items() if name not in actual_types]
