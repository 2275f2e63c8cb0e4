"""A server of S3's protocol for tests (moto's), and between it and us a proxy that can lose
replies.
"""

import http.client
import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.support.network.ports import free_port

from tailorbird.storage_paths import StoragePath

BUCKET = "shop-lake"
SECRET = "canary-7c0b2f4e9a31"
_VARIABLES = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION")


class Home:
    """Paths of a test: `home / "lake"` is a folder or a prefix of a bucket, the rest is on disk."""

    def __init__(self, path: Path, lake: StoragePath) -> None:
        self.path, self.lake = path, lake

    def __truediv__(self, name: str) -> StoragePath:
        return self.lake if name == "lake" else self.path / name


@contextmanager
def s3_server() -> Iterator[str]:
    """Starts a server with one bucket; its address. The environment names it meanwhile, for this
    process and its children.

    A process of its own: DataFusion keeps Python's lock while it waits for an answer.
    """
    if importlib.util.find_spec("moto") is None:
        pytest.skip("no moto here (pip install 'moto[server,s3]')")
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    environment_before = {name: os.environ.get(name) for name in _VARIABLES}
    os.environ.update(
        zip(_VARIABLES, (f"http://127.0.0.1:{port}", "writer", SECRET, "us-east-1"), strict=True)
    )
    try:
        _make_bucket(port)
        yield os.environ["AWS_ENDPOINT_URL"]
    finally:
        process.kill()
        process.wait()
        for name, value in environment_before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _make_bucket(port: int) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            headers = {
                "Authorization": "AWS4-HMAC-SHA256 Credential=writer/20260101/us-east-1/s3/x"
            }
            connection.request("PUT", f"/{BUCKET}", headers=headers)
            assert connection.getresponse().status == 200
            return
        except OSError:
            assert time.monotonic() < deadline, "the S3 server does not start"
            time.sleep(0.1)


class Proxy:
    """Forwards requests to a server.

    Attributes:
        lose: return whether to drop the reply of a request: the connection is cut, the work done.
        hold: return whether to forward a request only at `release_held`; its sender is cut off.
        lost: paths of the requests whose reply was dropped.
    """

    def __init__(self, target: str) -> None:
        self.lose: Callable[[str, str], bool] = lambda method, path: False
        self.hold: Callable[[str, str], bool] = lambda method, path: False
        self.lost: list[str] = []
        self.unconditional = (
            False  # forwards writes without their conditions, as storage would that knows none
        )
        self._held_requests: list[Callable[[], int]] = []
        host = target.removeprefix("http://")
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 1 << 16
            disable_nagle_algorithm = True

            def forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = dict(self.headers.items())
                if proxy.unconditional:
                    headers = {
                        name: value
                        for name, value in headers.items()
                        if name.lower() not in ("if-match", "if-none-match")
                    }

                def send() -> http.client.HTTPResponse:
                    connection = http.client.HTTPConnection(host, timeout=30)
                    connection.request(self.command, self.path, body, headers)
                    return connection.getresponse()

                if proxy.hold(self.command, self.path):
                    proxy._held_requests.append(lambda: send().status)
                    self.cut()
                    return
                response = send()
                content = response.read()
                if proxy.lose(self.command, self.path):
                    proxy.lost.append(self.path)
                    self.cut()
                    return
                self.send_response(response.status)
                for name, value in response.getheaders():
                    if name.lower() not in (
                        "content-length",
                        "transfer-encoding",
                        "connection",
                        "date",
                        "server",
                    ):
                        self.send_header(name, value)
                self.send_header(
                    "Content-Length",
                    str(len(content))
                    if self.command != "HEAD"
                    else response.getheader("Content-Length") or "0",
                )
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def cut(self) -> None:
                self.close_connection = True
                self.connection.close()

            def log_message(self, *_: object) -> None:
                pass

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def release_held(self) -> list[int]:
        """Send what was held; with which status each was answered."""
        held_requests, self._held_requests = self._held_requests, []
        return [send() for send in held_requests]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
