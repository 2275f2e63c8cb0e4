"""A socket in the run folder by which a serve process hands over its listener and its metrics.

    up, started after the last one was killed ── b"l" ──► serve-1.sock ──► descriptor (SCM_RIGHTS)
    serve-2, asked for /metrics               ── b"m" ──► serve-1.sock ──► the families of serve-1

It is answered by a thread, so a server whose event loop hangs still hands its listener over. Only
processes of the same user, or of root, get an answer.
"""

import logging
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tailorbird.errors import StorageError, fix_for_os_error

RESPONSE_TIMEOUT_S = 0.5
_LISTENER_REQUEST = b"l"
_METRICS_REQUEST = b"m"
log = logging.getLogger(__name__)


class HandoverSocket:
    """Answers at `path` until it is stopped.

    Args:
        listener: the listening socket of this server.
        encode_metrics: returns the metrics of this process, encoded.
    """

    def __init__(
        self, path: Path, listener: socket.socket, encode_metrics: Callable[[], bytes]
    ) -> None:
        self._path = path
        self._listener = listener
        self._encode_metrics = encode_metrics
        self._thread = threading.Thread(target=self._run, name="handover", daemon=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            with _short_name(path) as name:
                self._socket.bind(name)
            self._socket.listen(16)
        except OSError as error:
            raise StorageError(
                f"cannot make the socket: {error.strerror}",
                where=str(path),
                fix=fix_for_os_error(error, "put the folder on a local disk"),
            ) from error

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Answer nobody any more."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # It was stopped.
                return
            with connection:
                try:
                    connection.settimeout(RESPONSE_TIMEOUT_S)
                    if _is_same_user(connection):
                        self._respond(connection)
                except OSError as error:
                    log.warning("a request for the listener or the metrics failed: %s", error)

    def _respond(self, connection: socket.socket) -> None:
        request = connection.recv(1)
        if request == _LISTENER_REQUEST:
            socket.send_fds(connection, [_LISTENER_REQUEST], [self._listener.fileno()])
        elif request == _METRICS_REQUEST:
            connection.sendall(self._encode_metrics())


def request_listener(run_folder: Path) -> socket.socket | None:
    """Return the listening socket of a server that runs on this project; None without one."""
    for path in sorted(run_folder.glob("*serve-*.sock")):
        with suppress(OSError), _connect(path) as connection:
            connection.sendall(_LISTENER_REQUEST)
            _, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
            if descriptors:
                listener = socket.socket(fileno=descriptors[0])
                listener.set_inheritable(False)
                return listener
    return None


def request_metrics(run_folder: Path, own_producer: str) -> Iterator[bytes]:
    """Yield the encoded metrics of each other server that runs; `own_producer` is the producer to skip."""
    for path in sorted(run_folder.glob("*serve-*.sock")):
        if path.stem == own_producer:
            continue
        with suppress(OSError), _connect(path) as connection:
            connection.sendall(_METRICS_REQUEST)
            parts = []
            while part := connection.recv(1 << 16):
                parts.append(part)
            yield b"".join(parts)


@contextmanager
def _connect(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(RESPONSE_TIMEOUT_S)
        with _short_name(path) as name:
            connection.connect(name)
        yield connection


@contextmanager
def _short_name(path: Path) -> Iterator[str]:
    """Yield a name of a socket that fits the 108 bytes of its address, however deep it lies."""
    if sys.platform != "linux":
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _is_same_user(connection: socket.socket) -> bool:
    if sys.platform != "linux":
        return True
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return struct.unpack("3i", credentials)[1] in (0, os.getuid())
