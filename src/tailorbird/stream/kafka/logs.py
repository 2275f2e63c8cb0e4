"""Which logs a project has in a cluster: a topic for each door, for its answers, and for what the router decided.

Imports and replays keep their own books beside their bodies, in files; they run where the router runs.
"""

import re
import socket
import time
from pathlib import Path

from tailorbird.stream.kafka.cluster import Cluster, KafkaLog, topics
from tailorbird.stream.partitions import PAST, checked, raw_logs

_LOOK_S = 1.0  # between looks at which topics there are


class KafkaStream:
    """The logs of a project in a cluster.

    Attributes:
        folder: where this machine keeps locks, the router's index, and the files of imports and replays.
        host: this machine's name, with which its producers' names begin.
    """

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname()).strip("-")[:40] or "host"
        self._found: dict[str, tuple[float, list[str]]] = {}

    def raw(self, producer: str) -> KafkaLog:
        """Where `producer` writes the bodies that it takes."""
        return self._log("raw", producer)

    def answers(self, producer: str) -> KafkaLog:
        """Where the serve process `producer` writes what its answers read."""
        return self._log("answers", producer)

    @property
    def routed(self) -> KafkaLog:
        """Where the router writes."""
        return KafkaLog(self.cluster, "routed", "routed", self.folder)

    def raw_logs(self) -> dict[str, KafkaLog | Path]:
        """The raw logs there are, by producer, in the order of their names."""
        found: dict[str, KafkaLog | Path] = {producer: self.raw(producer) for producer in self._producers("raw")}
        found |= {producer: path for producer, path in raw_logs(self.folder).items() if producer in PAST}
        return dict(sorted(found.items()))

    def answer_logs(self) -> dict[str, KafkaLog]:
        """The answer logs there are, by producer, in the order of their names."""
        return {producer: self.answers(producer) for producer in self._producers("answers")}

    def index_paths(self) -> list[Path]:
        """Where routers on this machine keep their tables."""
        return [self.folder / "routed-index.db"]

    def partitions_of(self, topic: str) -> int:
        """How many partitions a topic should have; its name is given without the prefix."""
        return 1

    def _log(self, kind: str, producer: str) -> KafkaLog:
        return KafkaLog(self.cluster, f"{kind}.{checked(producer)}", producer, self.folder)

    def _producers(self, kind: str) -> list[str]:
        looked, found = self._found.get(kind, (0.0, []))
        if not looked or time.monotonic() - looked >= _LOOK_S:
            found = topics(self.cluster, kind)
            self._found[kind] = (time.monotonic(), found)
        return found

    def __str__(self) -> str:
        return f"kafka://{self.cluster.servers}/{self.cluster.prefix}"
