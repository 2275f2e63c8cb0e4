"""What a store promises, whoever implements it. `store.embedded` does it in LMDB; `store.valkey`
for readers elsewhere.

Keys and values are bytes; a key has at most 511. What stands in them is for those who use the store
to say.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from tailorbird.errors import StorageError

T = TypeVar("T")


class MovedError(StorageError):
    """What a snapshot should show is no longer kept: begin another. Only stores that keep few
    versions raise it.
    """

    code = "moved"


class Snapshot(Protocol):
    """The store as it was at one commit, whatever is written meanwhile. Held for a request, not
    longer.
    """

    def get(self, key: bytes) -> bytes | None: ...

    def get_many(self, keys: Sequence[bytes], *, default: bytes) -> bytes:
        """The values of the keys, one after another; `default` stands in for each that is not
        there.
        """
        ...

    def get_sized(self, keys: Sequence[bytes]) -> tuple[bytes, list[int]]:
        """The values of the keys, one after another, and the length of each; 0 for one that is not
        there.
        """
        ...

    def scan(self, prefix: bytes, *, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """All records whose key begins with `prefix`, in order of their keys; only those behind the
        key `after`, if given.
        """
        ...


class Transaction(Snapshot, Protocol):
    """A snapshot that sees its own writes; they become readable together, at the commit, or not at
    all.
    """

    def put_many(self, records: Iterable[tuple[bytes, bytes]]) -> None: ...

    def delete_many(self, keys: Iterable[bytes]) -> None: ...


class Store(Protocol):
    """Records by key, with one writer at a time and any number of readers.

    Promised: what `write` returned from survives the death of the process and of the power; a
    reader sees all of a commit or none. A store is not used after a fork.
    """

    def snapshot(self) -> AbstractContextManager[Snapshot]: ...

    def write(self, change: Callable[[Transaction], T]) -> T:
        """Run `change` in a transaction and commit. It may be run again from the start, so it must
        depend on nothing that it changed outside the transaction.

        Raises:
            StorageError: the disk refused; nothing of the change is there.
        """
        ...

    def close(self) -> None: ...
