"""A store whose commits are copied to Valkey in the background, for readers on other machines.

    write ──► the local store, with the changed keys of commit n in the same transaction
                  └──► thread ──► copies: records as of n, and as of the head before ──► head n

The local store is the source of truth: nothing waits for the server, and only its head is read
back. A head that is behind catches up by the changed keys of the commits since. If these are no
longer known, or the server's process is another and may have lost data, everything is copied again
under a new epoch. A claim with an expiry keeps two publishers of one name apart. The head also has
the time at which it was last known to be newest, renewed without writes too, so that readers notice
a dead publisher.
"""

import logging
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from tailorbird import faults
from tailorbird.errors import StorageError
from tailorbird.store.copies import CHUNK_RECORDS, Copies
from tailorbird.store.protocol import Snapshot, Store, Transaction
from tailorbird.store.recording import (
    COMMIT_KEY,
    OWN_PREFIX,
    PublicSnapshot,
    RecordingTransaction,
    changed_key,
    pack_keys,
    unpack_keys,
)
from tailorbird.store.versions import Change, CommitHead

log = logging.getLogger(__name__)

T = TypeVar("T")
Progress = Callable[[int], None]

_COMMIT_FORMAT = struct.Struct("<2Q")  # epoch, sequence
COMMITS_RETAINED = 1_000
CHANGED_KEYS_MAX = 200_000  # of a commit, or pending; beyond it everything is copied
OLD_VALUES_BYTES_MAX = 64 << 20
CLAIM_MS = 10_000
RETRY_S = 1.0
RENEW_S = 1.0


@dataclass(frozen=True)
class PublishStatus:
    """The state of publishing.

    Attributes:
        at: time at which the copies were last known to be current, else of the start, in
            microseconds.
        commits, records: number by which the copies are behind; `records` is 0 where all are to be
            copied.
        problem: why they are not renewed; "" if they are.
    """

    at: int
    commits: int
    records: int
    problem: str


@dataclass
class _PendingChanges:
    """Keys changed since the head, and old values where known; `copies_all` copies everything."""

    old_values: dict[bytes, tuple[bool, bytes | None]]
    old_bytes: int = 0
    copies_all: bool = False

    def add(self, key: bytes, has_old: bool, old_value: bytes | None) -> None:
        if self.copies_all or key in self.old_values:
            return
        has_old = has_old and self.old_bytes < OLD_VALUES_BYTES_MAX
        self.old_values[key] = has_old, old_value if has_old else None
        self.old_bytes += len(old_value or b"") if has_old else 0
        if len(self.old_values) > CHANGED_KEYS_MAX:
            self.old_values = {}
            self.copies_all = True


class PublishedStore:
    """A `store.Store` that copies the local store.

    Args:
        skipped_prefixes: prefixes of keys that are not copied.
        now: wall clock in seconds, which readers compare with their own.
    """

    def __init__(
        self,
        local: Store,
        copies: Copies,
        *,
        skipped_prefixes: tuple[bytes, ...] = (),
        now: Callable[[], float] = time.time,
    ) -> None:
        self._local = local
        self._copies = copies
        self._skipped_prefixes = (*skipped_prefixes, OWN_PREFIX)
        self._commit_lock = threading.Lock()  # keeps commits and pending changes consistent
        self._wake_event = threading.Event()
        self._stop_requested = threading.Event()
        self._progress_condition = threading.Condition()
        self._rounds_begun = 0
        self._rounds_ended = 0
        self._claim_token = os.urandom(8)
        self._server_ids: tuple[str, ...] = ()
        self._head: CommitHead | None = None
        self._pending_changes = _PendingChanges({}, copies_all=True)
        self.problem = ""
        self._now = now
        self._current_at_s = now()
        with local.snapshot() as snapshot:
            packed_commit = snapshot.get(COMMIT_KEY)
        if packed_commit is None:
            packed_commit = _COMMIT_FORMAT.pack(_new_epoch(), 0)
            local.write(lambda transaction: transaction.put_many([(COMMIT_KEY, packed_commit)]))
        self._epoch, self._sequence = _COMMIT_FORMAT.unpack(packed_commit)
        self._thread = threading.Thread(target=self._run, name="publish", daemon=True)
        self._thread.start()

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        with self._local.snapshot() as snapshot:
            yield PublicSnapshot(snapshot)

    def write(self, change: Callable[[Transaction], T]) -> T:
        with self._commit_lock:

            def write_recorded(transaction: Transaction) -> tuple[T, RecordingTransaction]:
                recording = RecordingTransaction(transaction, self._skipped_prefixes)
                result = change(recording)
                keys = list(recording.old_values)
                sequence = self._sequence + 1
                packed_keys = pack_keys(keys) if len(keys) <= CHANGED_KEYS_MAX else b"*"
                transaction.put_many(
                    [
                        (COMMIT_KEY, _COMMIT_FORMAT.pack(self._epoch, sequence)),
                        (changed_key(sequence), packed_keys),
                    ]
                )
                transaction.delete_many(
                    [changed_key(sequence - COMMITS_RETAINED)]
                    if sequence > COMMITS_RETAINED
                    else []
                )
                return result, recording

            result, recording = self._local.write(write_recorded)
            self._sequence += 1
            for key, old in recording.old_values.items():
                self._pending_changes.add(key, True, old)
        self._wake_event.set()
        return result

    def commits_behind(self) -> int:
        """Return the number of commits that the copies are behind."""
        return self._sequence - (0 if self._head is None else self._head.sequence)

    def status(self) -> PublishStatus:
        """Return the state of publishing, for metrics."""
        return PublishStatus(
            int(self._current_at_s * 1e6),
            self.commits_behind(),
            len(self._pending_changes.old_values),
            self.problem,
        )

    def wait_until_copied(self, timeout_s: float) -> bool:
        """Wait until the copies have everything written so far, and return whether they have.

        Only a round that begins after this call counts, since a server may have lost its records
        after an earlier one.
        """
        target_sequence = self._sequence
        first_round = self._rounds_begun + 1

        def is_copied() -> bool:
            return (
                self._rounds_ended >= first_round
                and self._head is not None
                and self._head.epoch == self._epoch
                and self._head.sequence >= target_sequence
                and not self.problem
            )

        with self._progress_condition:
            self._wake_event.set()
            return self._progress_condition.wait_for(is_copied, timeout_s)

    def republish(self, progress: Progress | None = None) -> int:
        """Copy everything again and return the number of records; `progress` gets it meanwhile.

        Raises:
            StorageError: the server cannot be reached, or another process publishes under this
                name.
        """
        self._stop()
        self._renew_claim()
        with self._commit_lock:
            self._pending_changes = _PendingChanges({}, copies_all=True)
        copied_count = self._copy_all(progress)
        self._stop_requested.clear()
        self._thread = threading.Thread(target=self._run, name="publish", daemon=True)
        self._thread.start()
        return copied_count

    def close(self) -> None:
        self._stop()
        try:
            self._copies.release(self._claim_token)
        except StorageError:  # the claim expires
            self.problem = "closed without letting go of the claim"
        self._copies.close()
        self._local.close()

    def _stop(self) -> None:
        self._stop_requested.set()
        self._wake_event.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop_requested.is_set():
            self._wake_event.wait(RENEW_S)
            self._wake_event.clear()
            if self._stop_requested.is_set():
                return
            self._rounds_begun += 1
            try:
                self._renew_claim()
                self._reconcile()
                self._push_changes()
                self.problem = ""
            # A dead thread would leave copies that look current, so every error is retried.
            except Exception as error:
                if str(error) != self.problem:
                    log.error(
                        "copies are not renewed: %s",
                        error,
                        exc_info=not isinstance(error, StorageError),
                    )
                self.problem = str(error) or type(error).__name__
                self._stop_requested.wait(RETRY_S)
                self._wake_event.set()
            with self._progress_condition:
                self._rounds_ended = self._rounds_begun
                self._progress_condition.notify_all()

    def _renew_claim(self) -> None:
        if not self._copies.claim(self._claim_token, CLAIM_MS):
            raise StorageError(
                "another process publishes under this name",
                where=self._copies.where,
                fix="run one worker a schema",
            )

    def _reconcile(self) -> None:
        """Compare the server's head with the local store and set the pending changes.

        A restarted server may have lost some or all records.
        """
        server_ids = self._copies.server_ids()
        has_restarted = bool(self._server_ids) and server_ids != self._server_ids
        if server_ids != self._server_ids:
            self._copies.check_eviction_policy()
        head = self._copies.head()
        if (
            has_restarted
            or head is None
            or head.epoch != self._epoch
            or head.sequence > self._sequence
        ):
            with self._commit_lock:
                self._pending_changes = _PendingChanges({}, copies_all=True)
                self._head = None
        elif head != self._head:
            with self._commit_lock:
                self._pending_changes = self._changes_since(head.sequence)
                self._head = head
        self._server_ids = server_ids

    def _changes_since(self, sequence: int) -> _PendingChanges:
        """Return the keys changed by the commits after `sequence`, as recorded locally."""
        changes = _PendingChanges({}, copies_all=sequence < self._sequence - COMMITS_RETAINED)
        with self._local.snapshot() as snapshot:
            for changed_sequence in range(sequence + 1, self._sequence + 1):
                packed_keys = snapshot.get(changed_key(changed_sequence))
                if packed_keys is None or packed_keys == b"*":
                    return _PendingChanges({}, copies_all=True)
                for key in unpack_keys(packed_keys):
                    changes.add(key, False, None)
        return changes

    def _push_changes(self) -> None:
        if self._pending_changes.copies_all:
            self._copy_all(None)
            return
        started_at_s = self._now()
        taken_changes, sequence, changes = self._take_pending()
        head = self._head
        if head is not None and sequence == head.sequence:
            if started_at_s - head.current_at / 1e6 >= RENEW_S:
                self._set_head(sequence, started_at_s)
            self._current_at_s = started_at_s
            return
        try:
            faults.fire_if_armed("publish.before_records")
            self._copies.publish(
                changes, self._epoch, sequence, 0 if head is None else head.sequence
            )
            faults.fire_if_armed("publish.before_head")
            self._set_head(sequence, started_at_s)
            self._current_at_s = started_at_s
        except BaseException:
            with self._commit_lock:
                newer_changes = self._pending_changes
                self._pending_changes = taken_changes
                for key, (has_old, old) in newer_changes.old_values.items():
                    self._pending_changes.add(key, has_old, old)
                self._pending_changes.copies_all |= newer_changes.copies_all
            raise

    def _take_pending(self) -> tuple[_PendingChanges, int, list[Change]]:
        """Take the pending changes; return them, their commit, and the records as of it."""
        with self._commit_lock:
            taken_changes = self._pending_changes
            self._pending_changes = _PendingChanges({})
            with self._local.snapshot() as snapshot:
                return (
                    taken_changes,
                    self._sequence,
                    [
                        Change(key, snapshot.get(key), old, has_old)
                        for key, (has_old, old) in taken_changes.old_values.items()
                    ],
                )

    def _copy_all(self, progress: Progress | None) -> int:
        """Copy everything under a new epoch; readers wait until it is complete.

        Records are read in chunks, each as of its own time, so that no snapshot is held for long.
        Records that change meanwhile are copied again at the end, before the head is set.
        """
        epoch = _new_epoch()
        self._copies.drop_head()
        with self._commit_lock:
            self._local.write(
                lambda transaction: transaction.put_many(
                    [(COMMIT_KEY, _COMMIT_FORMAT.pack(epoch, self._sequence))]
                )
            )
            self._epoch = epoch
            self._head = None
            self._pending_changes = _PendingChanges({})
            sequence = self._sequence
        copied_count = 0
        last_key = b""
        try:
            while records := self._read_chunk(last_key):
                last_key = records[-1][0]
                changes = [
                    Change(key, value)
                    for key, value in records
                    if not key.startswith(self._skipped_prefixes)
                ]
                self._renew_claim()
                self._copies.publish(changes, epoch, sequence, 0)
                copied_count += len(changes)
                if progress is not None:
                    progress(copied_count)
            self._push_changes()
        except BaseException:
            with self._commit_lock:
                self._pending_changes = _PendingChanges({}, copies_all=True)
            raise
        self._copies.drop_other_epochs(epoch)
        return copied_count

    def _read_chunk(self, after_key: bytes) -> list[tuple[bytes, bytes]]:
        with self._local.snapshot() as snapshot:
            return list(islice(snapshot.scan(b"", after=after_key), CHUNK_RECORDS))

    def _set_head(self, sequence: int, current_at_s: float) -> None:
        self._renew_claim()
        head = CommitHead(self._epoch, sequence, int(current_at_s * 1e6))
        self._copies.set_head(head)
        self._head = head


def _new_epoch() -> int:
    return int.from_bytes(os.urandom(8), "little")
