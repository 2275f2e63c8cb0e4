"""Copies of records on a server, for readers on other machines: the protocol of a remote store, and
reading as of one commit over it.

`store.published` writes copies, and `store.opening` opens them by URL. `store.valkey` implements
the protocol.
"""

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from tailorbird.errors import NotReadyError
from tailorbird.store.protocol import SnapshotExpiredError
from tailorbird.store.versions import Change, CommitHead, version_at

READ_TIMEOUT_S = 0.05
WRITE_TIMEOUT_S = 5.0
SNAPSHOT_LIFETIME_S = 30.0  # lifetime of a snapshot; tombstones live longer
CHUNK_RECORDS = 1_000  # records in one round trip


class Copies(Protocol):
    """The copies of one store under a name.

    Guarantees: readers see the records of a commit after `set_head`, all of them. Each record is
    stored in two versions, see `store.versions`. A tombstone outlives every snapshot.

    Attributes:
        where: address of the server, for errors.

    Raises, as all its methods:
        StorageError: the server cannot be reached, or refuses.
    """

    where: str

    def head(self) -> CommitHead | None:
        """Return the newest complete commit; None if there is none."""
        ...

    def read(self, keys: Sequence[bytes], head: CommitHead | None = None) -> list[bytes | None]:
        """Return the stored versions of each key.

        With a `head`, a replica that has it may serve a hedged read.
        """
        ...

    def all_keys(self, prefix: bytes) -> list[bytes]:
        """Return the sorted keys that begin with `prefix`. Slow, for tools only."""
        ...

    def publish(
        self, changes: Sequence[Change], epoch: int, sequence: int, previous_sequence: int
    ) -> None:
        """Write records in chunks; readers see them after `set_head`."""
        ...

    def set_head(self, head: CommitHead) -> None: ...

    def drop_head(self) -> None:
        """Delete the head, so that readers see no records until there is one again."""
        ...

    def drop_other_epochs(self, epoch: int) -> int:
        """Delete the records of other epochs and return their number."""
        ...

    def wipe(self) -> int:
        """Delete head and records under this name, and return their number.

        No publisher may run.
        """
        ...

    def prune(
        self, project: str, kept_schemas: Collection[str], *, include_unnamed: bool
    ) -> dict[str, int]:
        """Delete copies that are not kept by scanning the server's keys, see `CopyTarget.prune`."""
        ...

    def schema_names(self, project: str) -> list[str]:
        """Return the names with keys of a project: its schemas, or their parts."""
        ...

    def claim(self, token: bytes, lifetime_ms: int) -> bool:
        """Become the publisher for a time; return False if another one is."""
        ...

    def release(self, token: bytes) -> None: ...

    def is_claimed(self) -> bool:
        """Return whether a publisher has these records."""
        ...

    def server_ids(self) -> tuple[str, ...]:
        """Return the process id of each server, since a restarted one may have lost data."""
        ...

    def check_eviction_policy(self) -> None:
        """Raise StorageError if a server silently evicts records when it is full."""
        ...

    def close(self) -> None: ...


class CopiedSnapshot:
    """A `store.Snapshot` over copies, as of one head.

    Raises, on top of what `Copies` does:
        SnapshotExpiredError: a record was written twice since the snapshot began; begin another.
    """

    def __init__(self, copies: Copies, head: CommitHead) -> None:
        self._copies = copies
        self._head = head
        self.published_at = head.current_at
        self._deadline = time.monotonic() + SNAPSHOT_LIFETIME_S

    def get(self, key: bytes) -> bytes | None:
        return self._read_versions([key])[0]

    def get_many(self, keys: Sequence[bytes], *, default: bytes) -> bytes:
        return b"".join(
            [default if version is None else version for version in self._read_versions(keys)]
        )

    def get_many_with_sizes(self, keys: Sequence[bytes]) -> tuple[bytes, list[int]]:
        values = [version or b"" for version in self._read_versions(keys)]
        return b"".join(values), [len(value) for value in values]

    def scan(self, prefix: bytes, *, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Scan all keys of the server. Slow, for tools only."""
        keys = [key for key in self._copies.all_keys(prefix) if key > after]
        for start in range(0, len(keys), CHUNK_RECORDS):
            chunk = keys[start : start + CHUNK_RECORDS]
            for key, value in zip(chunk, self._read_versions(chunk), strict=True):
                if value is not None:
                    yield key, value

    def _read_versions(self, keys: Sequence[bytes]) -> list[bytes | None]:
        if time.monotonic() > self._deadline:
            raise SnapshotExpiredError(f"a snapshot is good for {SNAPSHOT_LIFETIME_S:g} s")
        head = self._head
        return [
            None if stored is None else version_at(stored, head)
            for stored in self._copies.read(keys, head)
        ]


class CopiedStore:
    """The reading half of `store.Store` over copies; see `store.opening.open_copies`."""

    def __init__(self, copies: Copies) -> None:
        self._copies = copies

    @contextmanager
    def snapshot(self) -> Iterator[CopiedSnapshot]:
        head = self._copies.head()
        if head is None:
            raise NotReadyError(
                "no records have been published",
                where=self._copies.where,
                fix="tailorbird run worker",
            )
        yield CopiedSnapshot(self._copies, head)

    def close(self) -> None:
        self._copies.close()
