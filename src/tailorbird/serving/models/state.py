"""The features of a request from the worker's state, which is reopened after it was removed.

A server may start before the worker has written anything, and keeps running if the state is
deleted, damaged or replaced: each read then raises NotReadyError at once, and the answer is made
without features. `features.online.read` defines what is read.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tailorbird.errors import NotReadyError, StorageError
from tailorbird.features import FeatureSet, ReadRequest, Rows
from tailorbird.features.online.read import Reader, make_breaker
from tailorbird.features.state.key_partition import all_parts
from tailorbird.store import CopyTarget, read_inode
from tailorbird.store.breaker import CircuitBreaker

# Between attempts to open the state, and between checks whether the folder was replaced.
RETRY_S = 1.0


@dataclass
class _OpenReader:
    """An open reader with its number of users; the last of them closes it, because LMDB maps its
    file.
    """

    reader: Reader
    inodes: tuple[int, ...]
    use_count: int = 0
    is_retired: bool = False


class StateReader:
    """Reads features from the folder `state`, or from its copies in a Valkey. Thread-safe.

    Args:
        breaker: of the Valkey, which all schemas share.
        workers: how many share the entities.
    Attributes:
        published_at: when the copies that were last read were known to be current, in microseconds;
            0 where there are none.
    """

    def __init__(
        self,
        state: Path,
        features: FeatureSet,
        *,
        copies: CopyTarget | None = None,
        breaker: CircuitBreaker | None = None,
        workers: int = 1,
        retry_s: float = RETRY_S,
    ) -> None:
        self._state_folder = state
        self._features = features
        self._copies = copies
        self._retry_s = retry_s
        self._breaker = None if copies is None else breaker or make_breaker(workers)
        self.published_at = 0
        self._workers = workers
        self._folders = [
            key_partition.folder(state) / features.schema_hash
            for key_partition in all_parts(workers)
        ]
        self._open_reader: _OpenReader | None = None
        self._next_check_at = 0.0
        self._problem = "there is no state yet"
        self._lock = threading.Lock()

    def read(
        self,
        request: ReadRequest,
        items: Sequence[str],
        item_keys: npt.NDArray[np.uint64] | None = None,
    ) -> Rows:
        """Read the features of items, see `features.online.read.Reader.read`.

        Raises:
            NotReadyError: there is no state, it is being built, or it could not be read within the
                last second.
        """
        return self._read_with(lambda reader: reader.read(request, items, item_keys=item_keys))

    def person(self, request: ReadRequest) -> Rows:
        """Read the features of a person, see `features.online.read.Reader.person`. Raises as
        `read`.
        """
        return self._read_with(lambda reader: reader.read_person(request))

    def _read_with(self, read: Callable[[Reader], Rows]) -> Rows:
        open_reader = self._acquire()
        try:
            rows = read(open_reader.reader)
            self.published_at = max(self.published_at, rows.published_at)
            return rows
        except NotReadyError:
            raise
        # The store's errors have no common base class; after any of them it is reopened later.
        except Exception as error:
            self._discard_if_broken(open_reader, error)
            raise NotReadyError(
                f"the features cannot be read: {error}",
                where=str(self._state_folder),
                fix="tailorbird run worker",
            ) from error
        finally:
            self._release(open_reader)

    def ready(self) -> bool:
        """Return whether features can be read now; open the state if necessary."""
        try:
            self.position()
        except NotReadyError:
            return False
        return True

    def position(self) -> int:
        """Return the position that the state has reached. Raises NotReadyError as `read`."""
        open_reader = self._acquire()
        try:
            position = open_reader.reader.position()
        except Exception as error:  # as above
            self._discard_if_broken(open_reader, error)
            raise NotReadyError(
                f"the features cannot be read: {error}", where=str(self._state_folder)
            ) from error
        finally:
            self._release(open_reader)
        if not position.is_ready:
            raise NotReadyError("the state is still being built", where=str(self._state_folder))
        return position.log_position

    def close(self) -> None:
        with self._lock:
            self._drop("closed")
            self._next_check_at = float("inf")

    def _acquire(self) -> _OpenReader:
        with self._lock:
            now = time.monotonic()
            if now >= self._next_check_at:
                self._next_check_at = now + self._retry_s
                self._reopen_if_changed()
            if self._open_reader is None:
                raise NotReadyError(
                    self._problem, where=str(self._state_folder), fix="tailorbird run worker"
                )
            self._open_reader.use_count += 1
            return self._open_reader

    def _reopen_if_changed(self) -> None:
        """Open the state if it is closed, and drop it if its folder was deleted or replaced.

        A memory mapping would not notice that.
        """
        inodes = self._read_inodes()
        if self._open_reader is not None and self._open_reader.inodes != inodes:
            self._drop("the state was removed")
        if self._open_reader is None and all(inodes):
            try:
                self._open_reader = _OpenReader(
                    Reader(
                        self._state_folder,
                        self._features,
                        copies=self._copies,
                        breaker=self._breaker,
                        workers=self._workers,
                    ),
                    inodes,
                )
            except Exception as error:  # as above
                self._problem = f"the state cannot be opened: {error}"

    def _read_inodes(self) -> tuple[int, ...]:
        return (1,) if self._copies is not None else tuple(map(read_inode, self._folders))

    def _discard_if_broken(self, open_reader: _OpenReader, error: Exception) -> None:
        """Drop a reader that failed, to be reopened later.

        A server that did not answer is left to the breaker instead.
        """
        if self._copies is None or not isinstance(error, StorageError):
            self._drop_if_current(open_reader, f"{type(error).__name__}: {error}")

    def _drop_if_current(self, open_reader: _OpenReader, problem: str) -> None:
        with self._lock:
            if self._open_reader is open_reader:
                self._drop(problem)

    def _drop(self, problem: str) -> None:
        """Close the current reader once its last user is done; `problem` says why."""
        open_reader = self._open_reader
        self._open_reader = None
        self._problem = problem
        if open_reader is not None:
            open_reader.is_retired = True
            if not open_reader.use_count:
                open_reader.reader.close()

    def _release(self, open_reader: _OpenReader) -> None:
        with self._lock:
            open_reader.use_count -= 1
            if open_reader.is_retired and not open_reader.use_count:
                open_reader.reader.close()
