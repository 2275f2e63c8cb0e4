"""A real Valkey for tests, alone or as a cluster of one; none where none is installed."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.network.ports import free_port

BINARY = shutil.which("valkey-server") or shutil.which("redis-server")
needs_valkey = pytest.mark.skipif(
    BINARY is None, reason="no valkey-server here (Debian: apt-get install valkey-server)"
)


class ValkeyServer:
    """A server in a folder of its own, that can be killed and started again on the same port."""

    def __init__(self, folder: Path, *arguments: str, cluster: bool = False) -> None:
        self.folder, self._arguments, self._cluster = folder, arguments, cluster
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._process: subprocess.Popen | None = None
        self.start()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def url(self) -> str:
        return f"valkey{'+cluster' if self._cluster else ''}://127.0.0.1:{self.port}"

    def start(self) -> None:
        assert BINARY is not None
        options = [
            "--port",
            str(self.port),
            "--dir",
            str(self.folder),
            "--save",
            "",
            "--appendonly",
            "no",
            *self._arguments,
        ]
        if self._cluster:
            options += ["--cluster-enabled", "yes", "--cluster-require-full-coverage", "no"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen([BINARY, *options], stdout=log, stderr=log)
        self._wait_for_reply("PING", b"PONG", b"NOAUTH")
        if self._cluster:
            self.ask("CLUSTER ADDSLOTSRANGE 0 16383")
            self._wait_for_reply("CLUSTER INFO", b"cluster_state:ok")

    def ask(self, command: str) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.sendall(command.encode() + b"\r\n")
            return connection.recv(65_536)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _wait_for_reply(self, command: str, *expected: bytes) -> None:
        deadline = time.monotonic() + 20
        while True:
            try:
                answer = self.ask(command)
                if any(one in answer for one in expected):
                    return
            except OSError:
                pass
            assert time.monotonic() < deadline, (self.folder / "log").read_text()[-2000:]
            time.sleep(0.02)


@contextmanager
def start_server(folder: Path, *arguments: str, cluster: bool = False) -> Iterator[ValkeyServer]:
    server = ValkeyServer(folder, *arguments, cluster=cluster)
    try:
        yield server
    finally:
        server.kill()
