"""Run a project's roles as child processes of a notebook or a test."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tailorbird.client import Client
from tailorbird.config import Project
from tailorbird.errors import NotReadyError
from tailorbird.platform.runtime.servers import plain_key

POLL_S = 0.1
LOG_LINES = 20


@contextmanager
def run_server(project: Project, *, train: bool, timeout_s: float) -> Iterator[Client]:
    """Run `tailorbird up` on a free port for the duration of the block and yield a client."""
    port = _free_port()
    command = [sys.executable, "-m", "tailorbird", "-C", str(project.root), "up"]
    command += ["--port", str(port), *([] if train else ["--no-train"])]
    project.paths.run.mkdir(parents=True, exist_ok=True)
    log_file = project.paths.run / "local_server.log"
    with open(log_file, "wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(url, process, log_file, timeout_s)
        with Client(url, key=plain_key(project.settings.serve.write_keys)) as client:
            yield client
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGTERM)
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        return probe_socket.getsockname()[1]


def _wait_until_ready(
    url: str, process: subprocess.Popen[bytes], log_file: Path, timeout_s: float
) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5.0):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(POLL_S)
    last_lines = "\n".join(log_file.read_text(errors="replace").splitlines()[-LOG_LINES:])
    raise NotReadyError(
        f"the server did not answer within {timeout_s:g} s:\n{last_lines}",
        where=url,
        fix="tailorbird doctor says what is missing",
    )
