"""Which logs a project has in a cluster: a topic for each door, for its answers, and for what the router decided.

    raw.PRODUCER   routed          as many partitions as the project has, each a log of its own: raw-PRODUCER.2, routed.2
    answers.PRODUCER   order       one partition; `order` only where the others have several, see `stream.kafka.merged`

Imports and replays keep their own books beside their bodies, in files; they run where the routers run, and each router takes of
them what belongs to its partition.
"""

import re
import socket
import time
from pathlib import Path

from tailorbird.stream.kafka.cluster import Cluster, KafkaLog, topics
from tailorbird.stream.kafka.keyed import KeyedLog
from tailorbird.stream.kafka.merged import MergedLog
from tailorbird.stream.partitions import PAST, checked, raw_logs

_LOOK_S = 1.0  # between looks at which topics there are
_INDEX = "routed-index"


class KafkaStream:
    """The logs of a project in a cluster.

    Attributes:
        folder: where this machine keeps locks, the routers' indexes, and the files of imports and replays.
        host: this machine's name, with which its producers' names begin.
        count: how many partitions there are.
    """

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.count = cluster.partitions
        self.host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname()).strip("-")[:40] or "host"
        self._found: dict[str, tuple[float, list[str]]] = {}

    def raw(self, producer: str) -> KafkaLog | KeyedLog:
        """Where `producer` writes the bodies that it takes."""
        parts = self.raw_parts(producer)
        return parts[0] if self.count == 1 else KeyedLog(parts)

    def raw_parts(self, producer: str) -> tuple[KafkaLog, ...]:
        """The partitions of what `producer` writes."""
        return self._parts(f"raw.{checked(producer)}", producer, self.folder)

    def answers(self, producer: str) -> KafkaLog:
        """Where the serve process `producer` writes what its answers read."""
        return KafkaLog(self.cluster, f"answers.{checked(producer)}", producer, self.folder)

    @property
    def routed(self) -> KafkaLog | MergedLog:
        """What the routers wrote, in the order that all read it in."""
        parts = self._parts("routed", "routed", self.folder)
        return parts[0] if self.count == 1 else MergedLog(self.order(None), parts)

    def order(self, folder: Path | None) -> KafkaLog:
        """The log that says in which order the partitions of `routed` are read; `folder` is where its writer holds a lock."""
        return KafkaLog(self.cluster, "order", "order", folder)

    def raw_logs(self) -> dict[str, KafkaLog | Path]:
        """The raw logs there are, each partition by itself, by name, in the order of their names."""
        found: dict[str, KafkaLog | Path] = {log.partition: log for name in self._producers("raw") for log in self.raw_parts(name)}
        return dict(sorted({**found, **self._past()}.items()))

    def answer_logs(self) -> dict[str, KafkaLog]:
        """The answer logs there are, by producer, in the order of their names."""
        return {producer: self.answers(producer) for producer in self._producers("answers")}

    def share(self, number: int, folder: Path) -> "KafkaShare":
        """One partition of all, as its router sees it; `folder` holds the index, and is locked by whoever runs the router."""
        return KafkaShare(self, number, folder)

    def index_paths(self) -> list[Path]:
        """Where routers on this machine keep their tables."""
        if self.count == 1:
            return [self.folder / f"{_INDEX}.db"]
        return sorted((self.folder / "routers").glob(f"*/{_INDEX}.*.db"))

    def partitions_of(self, topic: str) -> int:
        """How many partitions a topic should have; its name is given without the prefix."""
        return self.count if topic == "routed" or topic.startswith("raw.") else 1

    def _parts(self, topic: str, name: str, folder: Path | None) -> tuple[KafkaLog, ...]:
        if self.count == 1:
            return (KafkaLog(self.cluster, topic, name, folder),)
        return tuple(KafkaLog(self.cluster, topic, f"{name}.{number}", folder, number, self.count) for number in range(self.count))

    def _past(self) -> dict[str, Path]:
        return {producer: path for producer, path in raw_logs(self.folder).items() if producer in PAST}

    def _producers(self, kind: str) -> list[str]:
        looked, found = self._found.get(kind, (0.0, []))
        if not looked or time.monotonic() - looked >= _LOOK_S:
            found = topics(self.cluster, kind)
            self._found[kind] = (time.monotonic(), found)
        return found

    def __str__(self) -> str:
        return f"kafka://{self.cluster.servers}/{self.cluster.prefix}"


class KafkaShare:
    """What the router of one partition reads and writes, as `KafkaStream` is to the router of all.

    Attributes:
        number, count: which partition, and out of how many.
        index: the file of the router's tables.
    """

    def __init__(self, whole: KafkaStream, number: int, folder: Path) -> None:
        self._whole, self.number, self.count = whole, number, whole.count
        self.folder = folder
        self.index = folder / (f"{_INDEX}.db" if whole.count == 1 else f"{_INDEX}.{number}.db")

    @property
    def routed(self) -> KafkaLog:
        """Where this router writes."""
        return self._whole._parts("routed", "routed", self.folder)[self.number]

    @property
    def profiles(self) -> tuple[KafkaLog, KafkaLog]:
        """Where the profiles of users and items are routed, and the order up to which they may be taken from there."""
        return self._whole._parts("routed", "routed", None)[0], self._whole.order(None)

    def raw_logs(self) -> dict[str, KafkaLog | Path]:
        """The raw logs of this partition, by name, in the order of their names."""
        found: dict[str, KafkaLog | Path] = {}
        for producer in self._whole._producers("raw"):
            log = self._whole.raw_parts(producer)[self.number]
            found[log.partition] = log
        return dict(sorted({**found, **self._whole._past()}.items()))

    def __str__(self) -> str:
        return f"{self._whole}[{self.number}]"
