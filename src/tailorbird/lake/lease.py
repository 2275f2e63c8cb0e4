"""One writer of a lake: a lock on a file of this machine, or a lease on an object.

A lease says who holds it and until when, and is put on condition that it is still the one that was
read. It is what makes a second start say so at once; what keeps two writers from each other is that
ledger and commits are put on condition too (`lake.tails`, `lake.delta`). A holder that died on this
machine is overtaken at once, one on another machine when its lease is over.
"""

import os
import socket
import uuid
from contextlib import suppress
from typing import Protocol

import msgspec

from tailorbird.errors import ConfigError, LockedError
from tailorbird.events.clock import SECOND, Clock
from tailorbird.lake import durable
from tailorbird.lock import FileLock
from tailorbird.places import ObjectPath, Place, StaleError

LEASE_US = 60 * SECOND


class Held(Protocol):
    def renew(self) -> None: ...
    def release(self) -> None: ...


class _Holder(msgspec.Struct):
    token: str
    host: str
    pid: int
    until: int


def hold(path: Place, clock: Clock) -> Held:
    """Become the only writer of the lake whose ledger is at `path`. Raises LockedError."""
    if isinstance(path, ObjectPath):
        return Lease(path.with_name(path.name + ".lease"), clock)
    return _Lock(FileLock(path))


class _Lock:
    def __init__(self, lock: FileLock) -> None:
        self._lock = lock

    def renew(self) -> None:
        pass

    def release(self) -> None:
        self._lock.release()


class Lease:
    """Held from here to `release`; `renew` it at every step."""

    def __init__(self, path: ObjectPath, clock: Clock) -> None:
        self._path, self._clock = path, clock
        self._token = uuid.uuid4().hex
        self._until = 0
        self._tag = ""
        with durable.disk_errors(path):
            try:
                data, self._tag = path.read_tagged()
                holder = msgspec.json.decode(data, type=_Holder)
            except (FileNotFoundError, msgspec.MsgspecError):
                holder = None
            if holder is not None and clock.now() < holder.until and not _dead(holder):
                seconds = (holder.until - clock.now()) // SECOND + 1
                raise LockedError(
                    f"another process writes to this lake: {holder.pid} on {holder.host}",
                    where=str(path),
                    fix=f"stop it; if it died, its lease is over in {seconds} s",
                )
            self._put(clock.now() + LEASE_US)
            self._check_conditions()

    def _check_conditions(self) -> None:
        """Some storage takes conditional writes and overwrites all the same; no lake can be kept
        there.
        """
        for attempt in (self._path.put_new, lambda data: self._path.put_if(data, '"of-no-object"')):
            try:
                attempt(self._encoded(self._until))
            except (FileExistsError, StaleError):
                continue
            raise ConfigError(
                "this storage does not honour conditional writes (If-None-Match, If-Match), "
                "so two writers would overwrite each other",
                where=str(self._path.parent),
                fix="use storage that does: AWS, MinIO, Cloudflare R2",
            )

    def renew(self) -> None:
        """Hold on. Raises LockedError if somebody else has taken over."""
        now = self._clock.now()
        if (
            not self._until - LEASE_US <= now < self._until - LEASE_US // 2
        ):  # also where the clock was set back: nobody waits that long
            with durable.disk_errors(self._path):
                self._put(now + LEASE_US)

    def release(self) -> None:
        """Let go, so that the next one need not wait; harmless when already done, or when somebody
        else has it by now.
        """
        if self._until == 0:
            return
        with suppress(OSError):  # it runs out by itself
            self._path.put_if(self._encoded(0), self._tag)
        self._until = 0

    def _put(self, until: int) -> None:
        data = self._encoded(until)
        try:
            self._tag = (
                self._path.put_if(data, self._tag) if self._tag else self._path.put_new(data)
            )
        except (StaleError, FileExistsError) as error:
            found, tag = self._path.read_tagged()
            if found != data:  # else it was put, and only the reply was lost
                raise LockedError(
                    "another process writes to this lake by now",
                    where=str(self._path),
                    fix="run one lake role",
                ) from error
            self._tag = tag
        self._until = until

    def _encoded(self, until: int) -> bytes:
        return msgspec.json.encode(_Holder(self._token, socket.gethostname(), os.getpid(), until))


def _dead(holder: _Holder) -> bool:
    if holder.host != socket.gethostname():
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
