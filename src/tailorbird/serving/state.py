"""The features of a request, from the worker's state; opened when it is there, and opened anew when it went away.

A server may start before the worker has written anything, and goes on when the state is gone: each read then raises
NotReadyError at once, and the answer is made without features. What is read is `features.read`.
"""

import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tailorbird.errors import NotReadyError
from tailorbird.features import FeatureSet, ReadRequest, Rows
from tailorbird.features.read import Reader

RETRY_S = 1.0


class StateReader:
    """Reads features from the folder `state`. Safe to call from several threads."""

    def __init__(self, state: Path, features: FeatureSet, *, retry_s: float = RETRY_S) -> None:
        self._state, self._features, self._retry_s = state, features, retry_s
        self._reader: Reader | None = None
        self._retry_at = 0.0
        self._problem = ""
        self._opening = threading.Lock()

    def read(self, request: ReadRequest, items: Sequence[str]) -> Rows:
        """As `features.read.Reader.read`.

        Raises:
            NotReadyError: there is no state, or it could not be opened within the last second.
        """
        reader = self._reader or self._open()
        try:
            return reader.read(request, list(items))
        except Exception as error:  # the store's own errors have no common base; whatever it is, it is opened anew later
            with self._opening:
                if self._reader is reader:
                    self._drop(str(error))
            raise NotReadyError(f"the features cannot be read: {error}", where=str(self._state), fix="tailorbird run worker") from error

    def ready(self) -> bool:
        """Whether features can be read, as far as is known; tries to open them if they are not."""
        try:
            return (self._reader or self._open()) is not None
        except NotReadyError:
            return False

    def close(self) -> None:
        with self._opening:
            if self._reader is not None:
                self._reader.close()
                self._reader = None

    def _open(self) -> Reader:
        with self._opening:
            if self._reader is not None:
                return self._reader
            if time.monotonic() < self._retry_at:
                raise NotReadyError(self._problem, where=str(self._state), fix="tailorbird run worker")
            try:
                self._reader = Reader(self._state, self._features)
            except Exception as error:
                self._retry_at, self._problem = time.monotonic() + self._retry_s, f"there are no features yet: {error}"
                raise NotReadyError(self._problem, where=str(self._state), fix="tailorbird run worker") from error
            return self._reader

    def _drop(self, problem: str) -> None:
        """Forget a reader that failed. Not closed: another thread may be inside it; it goes with its last user."""
        self._reader = None
        self._retry_at, self._problem = time.monotonic() + self._retry_s, problem
