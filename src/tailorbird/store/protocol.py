"""Protocols of a store. `store.embedded` implements them in LMDB, and `store.copies` for
readers on other machines.

Keys and values are opaque bytes; a key has at most 511.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from tailorbird.errors import StorageError

T = TypeVar("T")


class SnapshotExpiredError(StorageError):
    """The version of a snapshot is no longer kept; begin another snapshot.

    Only stores that keep few versions raise it.
    """

    code = "moved"


class Snapshot(Protocol):
    """The store as of one commit, held for the duration of a request."""

    @property
    def published_at(self) -> int:
        """Time at which a copy was last known to be current, in microseconds; 0 if it is none."""
        ...

    def get(self, key: bytes) -> bytes | None: ...

    def get_many(self, keys: Sequence[bytes], *, default: bytes) -> bytes:
        """Return the concatenated values of the keys, with `default` for missing ones."""
        ...

    def get_many_with_sizes(self, keys: Sequence[bytes]) -> tuple[bytes, list[int]]:
        """Return the concatenated values of the keys and their lengths, 0 for missing ones."""
        ...

    def scan(self, prefix: bytes, *, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Yield the records whose key begins with `prefix`, in key order, after the key `after`."""
        ...


class Transaction(Snapshot, Protocol):
    """A snapshot that sees its own writes, which become visible together at the commit."""

    def put_many(self, records: Iterable[tuple[bytes, bytes]]) -> None: ...

    def delete_many(self, keys: Iterable[bytes]) -> None: ...


class Store(Protocol):
    """Records by key, with one writer at a time and any number of readers.

    Guarantees: a commit survives a crash of the process and a power loss once `write` returns, and
    a reader sees all of it or none. A store is not used after a fork.
    """

    def snapshot(self) -> AbstractContextManager[Snapshot]: ...

    def write(self, change: Callable[[Transaction], T]) -> T:
        """Run `change` in a transaction and commit.

        It may be run again from the start, so it must not change anything outside the transaction
        that it depends on.

        Raises:
            StorageError: the disk refused; nothing of the change is there.
        """
        ...

    def close(self) -> None: ...
