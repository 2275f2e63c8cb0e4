"""Transactions that record the changed keys, and the records of them in the local store."""

from collections.abc import Iterable, Iterator, Sequence

from tailorbird.store.protocol import Snapshot, Transaction

OWN_PREFIX = b"\xff"  # prefix of the keys of `store.published` in the local store
COMMIT_KEY = OWN_PREFIX + b"n"  # key of the epoch and sequence of the newest commit
_CHANGED_PREFIX = OWN_PREFIX + b"k"


class PublicSnapshot:
    """A snapshot without the records of `store.published`."""

    published_at = 0

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def get(self, key: bytes) -> bytes | None:
        return self._snapshot.get(key)

    def get_many(self, keys: Sequence[bytes], *, default: bytes) -> bytes:
        return self._snapshot.get_many(keys, default=default)

    def get_many_with_sizes(self, keys: Sequence[bytes]) -> tuple[bytes, list[int]]:
        return self._snapshot.get_many_with_sizes(keys)

    def scan(self, prefix: bytes, *, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        return (
            (key, value)
            for key, value in self._snapshot.scan(prefix, after=after)
            if not key.startswith(OWN_PREFIX)
        )


class RecordingTransaction(PublicSnapshot):
    """A transaction that records the old values of the records it changes."""

    def __init__(self, transaction: Transaction, skipped_prefixes: tuple[bytes, ...]) -> None:
        super().__init__(transaction)
        self._transaction = transaction
        self._skipped_prefixes = skipped_prefixes
        self.old_values: dict[bytes, bytes | None] = {}

    def put_many(self, records: Iterable[tuple[bytes, bytes]]) -> None:
        record_list = list(records)
        self._record_old_values(key for key, _ in record_list)
        self._transaction.put_many(record_list)

    def delete_many(self, keys: Iterable[bytes]) -> None:
        key_list = list(keys)
        self._record_old_values(key_list)
        self._transaction.delete_many(key_list)

    def _record_old_values(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            if key not in self.old_values and not key.startswith(self._skipped_prefixes):
                self.old_values[key] = self._transaction.get(key)


def pack_keys(keys: Iterable[bytes]) -> bytes:
    """Pack keys, each after its length."""
    return b"".join(len(key).to_bytes(2, "big") + key for key in keys)


def changed_key(sequence: int) -> bytes:
    """Return the key under which the changed keys of a commit are stored."""
    return _CHANGED_PREFIX + sequence.to_bytes(8, "big")


def unpack_keys(packed_keys: bytes) -> Iterator[bytes]:
    """Yield the keys that `pack_keys` packed."""
    start = 0
    while start < len(packed_keys):
        length = int.from_bytes(packed_keys[start : start + 2], "big")
        yield packed_keys[start + 2 : start + 2 + length]
        start += 2 + length
