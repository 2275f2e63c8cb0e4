"""The application and the servers of `benchmarks.http_edge`, each in a process of its own."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import uvicorn
from starlette.requests import Request
from starlette.types import Receive, Scope, Send
from tests.support.network.ports import free_port
from tests.support.network.smuggling import COMPLETE
from tests.support.proc import read_cpu_s

from tailorbird.serving.auth.limits import Connections, ServerLimits
from tailorbird.serving.http.body import BodyError, read_body
from tailorbird.serving.http.listener import HttpServer

TIMEOUT_S = 1.0  # of each kind, where a server has it
WAIT_S = 5.0  # after which a connection counts as kept
BODY_BYTES_MAX = 1 << 20
MANY = 1_024  # connections where the cap is not measured
NGINX = Path(__file__).parents[2] / "deploy/nginx/tailorbird.conf"
_draining = False


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer `ok`, a text of 64 MiB, or the size of the body."""
    path, headers = scope["path"], [(b"connection", b"close")] if _draining else []
    status, text = 200, b"ok\n"
    if path == "/large":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(1_024):
            await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})
        await send({"type": "http.response.body"})
        return
    if path == "/raw":
        while (await receive()).get("more_body"):
            pass
    elif path == "/v1/events":
        try:
            await read_body(Request(scope, receive), deadline_s=TIMEOUT_S, bytes_max=BODY_BYTES_MAX)
        except BodyError as error:
            status, text, headers = error.status, b"refused\n", [(b"connection", b"close")]
    headers += [(b"content-length", b"%d" % len(text)), (b"x-session", b"%d" % os.getsid(0))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})


def _start_draining() -> None:
    global _draining
    _draining = True


def serve(name: str, listener: socket.socket, cap: int) -> None:
    """Serve in this process, on an inherited listener."""
    if name == "tailorbird":
        limits = {
            "deadline_s": TIMEOUT_S,
            "unread_deadline_s": TIMEOUT_S,
            "connections_max": cap,
            "connection_counts": Connections(ServerLimits(address_connections=MANY)),
        }
        HttpServer(
            application,
            drain=_start_draining,
            drain_s=0.25,
            keep_alive_s=75,
            protocol_attributes=limits,
        ).run([listener])
        return
    config = uvicorn.Config(
        application,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
        limit_concurrency=None if name == "nginx" else cap,
    )
    uvicorn.Server(config).run([listener])


class Edge:
    """One server at one address, in as many processes as it needs, which can be replaced."""

    def __init__(self, name: str, cap: int = MANY) -> None:
        self.name, self.cap, self.folder = name, cap, Path(tempfile.mkdtemp())
        self._stack = contextlib.ExitStack()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=2_048)
        self.port = self._listener.getsockname()[1]
        self.processes: list[subprocess.Popen] = []
        if name == "granian":
            self._listener.close()
        elif name == "nginx":
            backend, self.port = self.port, free_port()
            self._front = self._launch(self._nginx(backend))
        self.start()

    def start(self) -> None:
        """Start one more server process, and wait for an answer of its own."""
        if self.name == "granian":
            options = "--interface asginl --http 1 --no-ws --loop uvloop --no-log --backlog 2048"
            timeout_ms = int(TIMEOUT_S * 1_000)
            options += f" --backpressure {self.cap} --http1-header-read-timeout {timeout_ms}"
            options += " --http1-buffer-size 65536"
            command = [sys.executable, "-m", "granian", *options.split(), "--port", str(self.port)]
            self.processes.append(
                self._launch([*command, "benchmarks.http_edge.servers:application"])
            )
        else:
            number = self._listener.fileno()
            command = [sys.executable, "-m", "benchmarks.http_edge.servers", self.name]
            command += [str(number), str(self.cap)]
            self.processes.append(self._launch(command, number))
        deadline = time.monotonic() + 30
        while b"x-session: %d\r\n" % self.processes[-1].pid not in ask(self.port):
            assert time.monotonic() < deadline, f"{self.name} does not answer"
            time.sleep(0.05)

    def _nginx(self, backend: int) -> list[str]:
        site = re.sub(r"(timeout) \d+s", rf"\1 {TIMEOUT_S:g}s", NGINX.read_text())
        site = site.replace("8642", str(backend)).replace("8080", f"127.0.0.1:{self.port}")
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"{kind}_temp_path {self.folder}/{kind};" for kind in kinds)
        text = f"""daemon off; pid {self.folder}/pid; error_log {self.folder}/error; user root;
            worker_processes 1; events {{ worker_connections {self.cap + 4}; }}
            http {{ access_log off; {temporary}\n{site} }}"""
        path = self.folder / "nginx.conf"
        path.write_text(text)
        return [shutil.which("nginx") or "", "-c", str(path), "-e", f"{self.folder}/error"]

    def _launch(self, command: list[str], *descriptors: int) -> subprocess.Popen:
        # A session of its own, so that children can be found.
        process = subprocess.Popen(
            command, pass_fds=descriptors, stderr=subprocess.DEVNULL, start_new_session=True
        )
        self._stack.callback(kill, process)
        return process

    def cpu_s(self) -> float:
        sessions = {process.pid for process in self.processes}
        if self.name == "nginx":
            sessions.add(self._front.pid)
        pids = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
        return sum(read_cpu_s(pid) for pid in pids if _session(pid) in sessions)

    def __enter__(self) -> "Edge":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._listener.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def kill(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _session(pid: int) -> int:
    with contextlib.suppress(ProcessLookupError):
        return os.getsid(pid)
    return 0


def connect(port: int, receive_bytes: int = 0) -> socket.socket:
    peer = socket.socket()
    if receive_bytes:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    peer.settimeout(WAIT_S)
    peer.connect(("127.0.0.1", port))
    return peer


def ask(port: int) -> bytes:
    """Return the answer on a new connection; nothing if there is none."""
    with contextlib.suppress(OSError), connect(port) as peer:
        peer.sendall(COMPLETE)
        return peer.recv(65_536)
    return b""


if __name__ == "__main__":
    serve(sys.argv[1], socket.socket(fileno=int(sys.argv[2])), int(sys.argv[3]))
