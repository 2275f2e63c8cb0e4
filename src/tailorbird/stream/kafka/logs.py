"""Which logs a project has in a cluster: a topic for each door, for its answers, and for what the
router decided.

    raw.PRODUCER   routed          as many partitions as the project has, each a log of its own: raw-PRODUCER.2, routed.2
    index                          as many, snapshots of the routers' tables, see `stream.kafka.snapshots`
    scores                         one partition: what is scored as events come in, for consumers
    answers.PRODUCER   order       one partition; `order` only where the others have several, see `stream.kafka.merged`
    shuffled.SCHEMA-3              a partition for each worker of a schema, where several share its entities: shuffled-SCHEMA-3.0

Imports and replays keep their own books beside their bodies, in files; they run where the routers
run, and each router takes of them what belongs to its partition.
"""

import re
import socket
import time
from pathlib import Path

from tailorbird.stream.kafka.cluster import Cluster, KafkaLog, list_topic_suffixes
from tailorbird.stream.kafka.keyed import KeyedLog
from tailorbird.stream.kafka.merged import MergedLog
from tailorbird.stream.partitions import PAST, check_producer_name, raw_logs

_REFRESH_S = 1.0  # between looks at which topics there are
_INDEX = "routed-index"
SHUFFLED = "shuffled"
SNAPSHOT_ROWS = 500_000


class KafkaStream:
    """The logs of a project in a cluster.

    Attributes:
        folder: where this machine keeps locks, the routers' indexes, and the files of imports and
            replays.
        host: this machine's name, with which its producers' names begin.
        count: how many partitions there are.
        snapshot_rows: that are routed of a partition until its router puts a snapshot of its tables
            into a topic.
    """

    def __init__(
        self, cluster: Cluster, folder: Path, *, snapshot_rows: int = SNAPSHOT_ROWS
    ) -> None:
        self.cluster, self.folder, self.snapshot_rows = cluster, folder, snapshot_rows
        self.count = cluster.partitions
        self.host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname()).strip("-")[:40] or "host"
        self._listed_producers: dict[str, tuple[float, list[str]]] = {}

    def raw(self, producer: str) -> KafkaLog | KeyedLog:
        """Where `producer` writes the bodies that it takes."""
        parts = self.raw_parts(producer)
        return parts[0] if self.count == 1 else KeyedLog(parts)

    def raw_parts(self, producer: str) -> tuple[KafkaLog, ...]:
        """The partitions of what `producer` writes."""
        return self._parts(f"raw.{check_producer_name(producer)}", producer, self.folder)

    def answers(self, producer: str) -> KafkaLog:
        """Where the serve process `producer` writes what its answers read."""
        return KafkaLog(
            self.cluster, f"answers.{check_producer_name(producer)}", producer, self.folder
        )

    @property
    def routed(self) -> KafkaLog | MergedLog:
        """What the routers wrote, in the order that all read it in."""
        parts = self.routed_parts
        return parts[0] if self.count == 1 else MergedLog(self.order(None), parts)

    @property
    def routed_parts(self) -> tuple[KafkaLog, ...]:
        """Where the routers write, by partition."""
        return self._parts("routed", "routed", self.folder)

    def order(self, folder: Path | None) -> KafkaLog:
        """The log that says in which order the partitions of `routed` are read; `folder` is where
        its writer holds a lock.
        """
        return KafkaLog(self.cluster, "order", "order", folder)

    def shuffled(self, schema: str, count: int) -> tuple[KafkaLog, ...]:
        """What the shuffle of a schema makes of `routed` for so many workers: a partition each, see
        `features.shuffle`.
        """
        topic = f"{SHUFFLED}.{schema}-{count}"
        return tuple(
            KafkaLog(self.cluster, topic, f"shuffled.{number}", self.folder, number, count)
            for number in range(count)
        )

    def shuffled_logs(self) -> list[KafkaLog]:
        """All that shuffles made, of any schema and number of workers."""
        shuffles = [name.rpartition("-") for name in list_topic_suffixes(self.cluster, SHUFFLED)]
        return [
            log
            for schema, _, count in shuffles
            if count.isdigit()
            for log in self.shuffled(schema, int(count))
        ]

    def snapshots(self) -> tuple[KafkaLog, ...]:
        """Where the routers put snapshots of their tables, by partition."""
        return self._parts("index", "index", None)

    @property
    def scores(self) -> KafkaLog:
        """Where the score role writes, for consumers; see `serving.score_log`."""
        return KafkaLog(self.cluster, "scores", "scores", self.folder)

    @property
    def items(self) -> KafkaLog:
        """Where what deleted rows said of items is summed up, see `router.retention`."""
        return items_of(self.routed)

    def producers(self) -> list[str]:
        """Of whom there are topics, looked up now, in order."""
        return sorted(
            {
                *list_topic_suffixes(self.cluster, "raw"),
                *list_topic_suffixes(self.cluster, "answers"),
            }
        )

    def raw_logs(self) -> dict[str, KafkaLog | Path]:
        """The raw logs there are, each partition by itself, by name, in the order of their names."""
        logs: dict[str, KafkaLog | Path] = {
            log.partition: log for name in self._producers("raw") for log in self.raw_parts(name)
        }
        return dict(sorted({**logs, **self._historical_logs()}.items()))

    def answer_logs(self) -> dict[str, KafkaLog]:
        """The answer logs there are, by producer, in the order of their names."""
        return {producer: self.answers(producer) for producer in self._producers("answers")}

    def share(self, number: int, folder: Path) -> "KafkaPartition":
        """One partition of all, as its router sees it; `folder` holds the index, and is locked by
        whoever runs the router.
        """
        return KafkaPartition(self, number, folder)

    def index_paths(self) -> list[Path]:
        """Where routers on this machine keep their tables."""
        if self.count == 1:
            return [self.folder / f"{_INDEX}.db"]
        return sorted((self.folder / "routers").glob(f"*/{_INDEX}.*.db"))

    def partitions_of(self, topic: str) -> int:
        """How many partitions a topic should have; its name is given without the prefix."""
        if topic.startswith(f"{SHUFFLED}."):
            return int(topic.rpartition("-")[2])
        return self.count if topic in ("routed", "index") or topic.startswith("raw.") else 1

    def _parts(self, topic: str, name: str, folder: Path | None) -> tuple[KafkaLog, ...]:
        if self.count == 1:
            return (KafkaLog(self.cluster, topic, name, folder),)
        return tuple(
            KafkaLog(self.cluster, topic, f"{name}.{number}", folder, number, self.count)
            for number in range(self.count)
        )

    def _historical_logs(self) -> dict[str, Path]:
        return {
            producer: path for producer, path in raw_logs(self.folder).items() if producer in PAST
        }

    def _producers(self, kind: str) -> list[str]:
        listed_at, names = self._listed_producers.get(kind, (0.0, []))
        if not listed_at or time.monotonic() - listed_at >= _REFRESH_S:
            names = list_topic_suffixes(self.cluster, kind)
            self._listed_producers[kind] = (time.monotonic(), names)
        return names

    def __str__(self) -> str:
        return f"kafka://{self.cluster.servers}/{self.cluster.prefix}"


def items_of(routed: KafkaLog | MergedLog) -> KafkaLog:
    """Where what was deleted of the routers' log is summed up."""
    cluster = routed.order.cluster if isinstance(routed, MergedLog) else routed.cluster
    return KafkaLog(cluster, "items", "items")


class KafkaPartition:
    """What the router of one partition reads and writes, as `KafkaStream` is to the router of all.

    Attributes:
        number, count: which partition, and out of how many.
        index: the file of the router's tables.
    """

    def __init__(self, whole: KafkaStream, number: int, folder: Path) -> None:
        self._stream, self.number, self.count = whole, number, whole.count
        self.folder, self.snapshot_rows = folder, whole.snapshot_rows
        self.index = folder / (f"{_INDEX}.db" if whole.count == 1 else f"{_INDEX}.{number}.db")

    @property
    def routed(self) -> KafkaLog:
        """Where this router writes."""
        return self._stream._parts("routed", "routed", self.folder)[self.number]

    @property
    def snapshots(self) -> KafkaLog:
        """Where this router puts snapshots of its tables."""
        return self._stream.snapshots()[self.number]

    @property
    def profiles(self) -> tuple[KafkaLog, KafkaLog]:
        """Where the profiles of users and items are routed, and the order up to which they may be
        taken from there.
        """
        return self._stream._parts("routed", "routed", None)[0], self._stream.order(None)

    def raw_logs(self) -> dict[str, KafkaLog | Path]:
        """The raw logs of this partition, by name, in the order of their names."""
        logs: dict[str, KafkaLog | Path] = {}
        for producer in self._stream._producers("raw"):
            log = self._stream.raw_parts(producer)[self.number]
            logs[log.partition] = log
        return dict(sorted({**logs, **self._stream._historical_logs()}.items()))

    def __str__(self) -> str:
        return f"{self._stream}[{self.number}]"
