"""Writing of a commit of the worker: changed records, entity counts, aliases and its position."""

from collections.abc import Sequence

from tailorbird.features.online.aliases import Alias, newer_alias_records
from tailorbird.features.online.apply import AppliedChange, EntityBatch, apply_batch
from tailorbird.features.state.eviction import read_counts
from tailorbird.features.state.state import Position, Records, commit_record, expired_commit_keys
from tailorbird.store import Transaction


def write_commit(
    transaction: Transaction,
    all_records: Sequence[Records],
    batches: Sequence[EntityBatch],
    aliases: dict[bytes, Alias],
    position: Position,
    written_at: int,
) -> list[AppliedChange]:
    """Apply a batch to each kind of records, and return their changes."""
    changes = [
        apply_batch(transaction, *records_and_batch, position.commit)
        for records_and_batch in zip(all_records, batches, strict=True)
    ]
    for records, change in zip(all_records, changes, strict=True):
        if change.new_keys or change.added_bytes:
            counts = read_counts(transaction, records.layout).with_added(
                change.new_keys, change.added_bytes
            )
            transaction.put_many([counts.encode(records.layout)])
    transaction.put_many(newer_alias_records(transaction, aliases))
    transaction.put_many([position.encode(), commit_record(position, written_at)])
    transaction.delete_many(expired_commit_keys(position))
    return changes
