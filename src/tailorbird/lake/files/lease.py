"""A lake has one writer: a lock on a local file, or a lease on an object.

A lease names its holder and its end, and is written by compare-and-swap. It makes a second start
fail at once. What protects the data are the conditional writes of ledger and commits
(`lake.files.append_only`, `lake.delta.table`). The lease of a dead process of this machine is taken
over at once, that of another machine when it ends.
"""

import os
import socket
import uuid
from contextlib import suppress
from typing import Protocol

import msgspec

from tailorbird.errors import ConfigError, LockedError
from tailorbird.events.clock import SECOND, Clock
from tailorbird.file_lock import FileLock
from tailorbird.lake.files import durable
from tailorbird.storage import storage_at
from tailorbird.storage_paths import ObjectPath, StaleError, StoragePath

LEASE_US = 60 * SECOND


class WriterLock(Protocol):
    """The lock of a lake's only writer; renewed at every step."""

    def renew(self) -> None: ...
    def release(self) -> None: ...


class _LeaseRecord(msgspec.Struct):
    token: str
    host: str
    pid: int
    until: int


def acquire_writer_lock(path: StoragePath, clock: Clock) -> WriterLock:
    """Become the only writer of the lake with its ledger at `path`. Raises LockedError."""
    storage = storage_at(path)
    if storage.conditional_object is not None:
        return Lease(storage.conditional_object.with_name(path.name + ".lease"), clock)
    return _LocalLock(FileLock(storage.local_path))


class _LocalLock:
    def __init__(self, lock: FileLock) -> None:
        self._lock = lock

    def renew(self) -> None:
        pass

    def release(self) -> None:
        self._lock.release()


class Lease:
    """A lease from construction to `release`; call `renew` at every step."""

    def __init__(self, path: ObjectPath, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._token = uuid.uuid4().hex
        self._until = 0
        self._etag = ""
        with durable.translate_disk_errors(path):
            try:
                data, self._etag = path.read_tagged()
                holder = msgspec.json.decode(data, type=_LeaseRecord)
            except (FileNotFoundError, msgspec.MsgspecError):
                holder = None
            if holder is not None and clock.now() < holder.until and not _is_dead(holder):
                seconds = (holder.until - clock.now()) // SECOND + 1
                raise LockedError(
                    f"another process writes to this lake: {holder.pid} on {holder.host}",
                    where=str(path),
                    fix=f"stop it; if it died, its lease ends in {seconds} s",
                )
            self._write_record(clock.now() + LEASE_US)
            self._check_conditions()

    def _check_conditions(self) -> None:
        """Raise ConfigError if the storage ignores the conditions of conditional writes."""
        for write_conditionally in (
            self._path.put_new,
            lambda data: self._path.put_if(data, '"of-no-object"'),
        ):
            try:
                write_conditionally(self._encode(self._until))
            except (FileExistsError, StaleError):
                continue
            raise ConfigError(
                "this storage does not honour conditional writes (If-None-Match, If-Match), "
                "so two writers would overwrite each other",
                where=str(self._path.parent),
                fix="use storage that does: AWS, MinIO, Cloudflare R2",
            )

    def renew(self) -> None:
        """Extend the lease. Raises LockedError if another process has taken over."""
        now = self._clock.now()
        if (
            not self._until - LEASE_US <= now < self._until - LEASE_US // 2
        ):  # Renew also if the clock was set back.
            with durable.translate_disk_errors(self._path):
                self._write_record(now + LEASE_US)

    def release(self) -> None:
        """Release the lease; harmless when already released or taken over."""
        if self._until == 0:
            return
        with suppress(OSError):  # It expires by itself.
            self._path.put_if(self._encode(0), self._etag)
        self._until = 0

    def _write_record(self, until: int) -> None:
        data = self._encode(until)
        try:
            self._etag = (
                self._path.put_if(data, self._etag) if self._etag else self._path.put_new(data)
            )
        except (StaleError, FileExistsError) as error:
            stored_data, stored_etag = self._path.read_tagged()
            if stored_data != data:  # else it was put, and only the reply was lost
                raise LockedError(
                    "another process writes to this lake by now",
                    where=str(self._path),
                    fix="run one lake role",
                ) from error
            self._etag = stored_etag
        self._until = until

    def _encode(self, until: int) -> bytes:
        return msgspec.json.encode(
            _LeaseRecord(self._token, socket.gethostname(), os.getpid(), until)
        )


def _is_dead(holder: _LeaseRecord) -> bool:
    if holder.host != socket.gethostname():
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
