"""A network line that can be cut or fall silent, as a broken network looks from both ends.

open      bytes go through
silent    connections stand and are accepted, and nothing comes through; once the line is open
          again it does, as TCP resends
cut       connections are reset, and so is each new one
"""

import selectors
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: closed at once, with a reset


class Line:
    """Forwards each connection to a port of its own to `target`, a port of this machine."""

    def __init__(self, target: int = 0, *, port: int = 0) -> None:
        self.target = target
        self._listener = socket.create_server(("127.0.0.1", port), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self.refused = 0
        self.delayed = 0
        self._is_open, self._is_cut = threading.Event(), threading.Event()
        self._is_open.set()
        self._ends: set[socket.socket] = set()  # both sockets of each connection
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def open(self) -> None:
        self._is_cut.clear()
        self._is_open.set()

    def silence(self) -> None:
        self._is_open.clear()

    def cut(self) -> None:
        self._is_cut.set()
        with self._lock:
            ends, self._ends = self._ends, set()
        for end in ends:
            _reset(end)
        self._is_open.set()  # waiting connections are reset

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        if self._is_cut.is_set():
            self.refused += 1
            _reset(client)
            return
        self._wait_until_open()
        try:
            server = socket.create_connection(("127.0.0.1", self.target), 10)
        except OSError:
            _reset(client)
            return
        with self._lock:
            self._ends |= {client, server}
        with suppress(OSError, ValueError), selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            while True:
                for key, _ in selector.select():
                    data = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
                    if not data:
                        return self._close_ends(client, server)
                    self._wait_until_open()
                    key.data.sendall(data)
        self._close_ends(client, server)

    def _wait_until_open(self) -> None:
        if not self._is_open.is_set():
            self.delayed += 1
            self._is_open.wait()

    def _close_ends(self, *ends: socket.socket) -> None:
        with self._lock:
            self._ends -= set(ends)
        for end in ends:
            with suppress(OSError):
                end.close()


def _reset(end: socket.socket) -> None:
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        end.shutdown(socket.SHUT_RDWR)
    with suppress(OSError):
        end.close()


@contextmanager
def open_line(target: int = 0, *, port: int = 0) -> Iterator[Line]:
    line = Line(target, port=port)
    try:
        yield line
    finally:
        line.close()
