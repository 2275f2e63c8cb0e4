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

TABLE_CONFIGURATION: dict[str, str | None] = {
    "delta.enableDeletionVectors": "false",
    "delta.enableExpiredLogCleanup": "false",
    # ours are made and synced by `DurableTable.checkpoint`
    "delta.checkpointInterval": "1000000000",
}


def create_table(table_path: StoragePath, spec: TableSpec, ledger: Ledger, clock: Clock) -> None:
    """Create an empty table durably."""
    durable.make_folder(table_path)
    with durable.translate_disk_errors(table_path):
        DeltaTable.create(
            str(table_path),
            spec.schema,
            partition_by=[spec.partition_column] if spec.partition_column else None,
            configuration={
                **TABLE_CONFIGURATION,
                "delta.dataSkippingStatsColumns": ",".join(spec.statistics_columns),
            },
            storage_options=storage_at(table_path).delta_options(),
        )
    faults.fire_if_armed("lake.after_create")
    record_commit(table_path, spec.name, 0, ledger, written_at=clock.now())


def missing_columns(delta: DeltaTable, spec: TableSpec, table_path: StoragePath) -> list[Field]:
    """Return the columns that an older release did not have.

    Raises:
        DamageError: the table has deletion vectors, or columns that this version does not write.
    """
    actual_types = {field.name: str(field.type) for field in delta.schema().fields}
    expected_fields = {field.name: field for field in Schema.from_arrow(spec.schema).fields}
    conflicting_fields = sorted(
        name
        for name, type_name in actual_types.items()
        if name not in expected_fields or str(expected_fields[name].type) != type_name
    )
    if conflicting_fields:
        raise DamageError(
            "the table's columns are not those of this version; they differ in: "
            f"{', '.join(conflicting_fields)}",
            where=str(table_path),
            fix="use the version that wrote it",
        )
    if "deletionVectors" in (delta.protocol().reader_features or []):
        raise DamageError(
            "the table has deletion vectors, which not all readers honour",
            where=str(table_path),
            fix="purge and rewrite it",
        )
    return [field for name, field in expected_fields.items() if name not in actual_types]
