"""Writing of a commit of the worker: changed records, entity counts, aliases and its position."""

from collections.abc import Sequence

from tailorbird.features.online.aliases import Alias, newer_records
from tailorbird.features.online.apply import Batch, Change, apply
from tailorbird.features.state.eviction import read_counts
from tailorbird.features.state.state import Position, Records, commit_record, expired_commit_keys
from tailorbird.store import Transaction


def write_commit(
    transaction: Transaction,
    all_records: Sequence[Records],
    batches: Sequence[Batch],
    aliases: dict[bytes, Alias],
    committed: Position,
    written_at: int,
) -> list[Change]:
    """Apply a batch to each kind of records, and return their changes."""
    changes = [
        apply(transaction, *pair, committed.commit)
        for pair in zip(all_records, batches, strict=True)
    ]
    for records, change in zip(all_records, changes, strict=True):
        if change.new_keys or change.added_bytes:
            counts = read_counts(transaction, records.layout).adjusted(
                change.new_keys, change.added_bytes
            )
            transaction.put_many([counts.encode(records.layout)])
    transaction.put_many(newer_records(transaction, aliases))
    transaction.put_many([committed.encode(), commit_record(committed, written_at)])
    transaction.delete_many(expired_commit_keys(committed))
    return changes
