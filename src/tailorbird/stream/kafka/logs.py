"""Logs of a project in a cluster.

    raw.PRODUCER, routed    the project's number of partitions, each a log: raw-PRODUCER.2, routed.2
    index                   likewise; snapshots of the routers' tables (`stream.kafka.snapshots`)
    answers.PRODUCER        one partition: response log
    order                   one partition, only where others have several (`stream.kafka.merged`)
    scores                  one partition: online scores, for consumers
    shuffled.SCHEMA-3       a partition for each of several workers: shuffled-SCHEMA-3.0

Imports and replays stay in files, on the machine of the routers. Each router reads the rows of its
own partition from them.
"""

import re
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from tailorbird.stream.kafka.address import KafkaLog
from tailorbird.stream.kafka.client import AdminClient
from tailorbird.stream.kafka.cluster import SHUFFLED_PREFIX, Cluster, list_topic_suffixes
from tailorbird.stream.kafka.keyed import KeyedLog
from tailorbird.stream.kafka.merged import MergedLog
from tailorbird.stream.kafka.snapshots import ITEM_SUMMARY, SNAPSHOT_ROWS
from tailorbird.stream.kafka.topic_backlog import BacklogClient
from tailorbird.stream.partitions import HISTORICAL_PRODUCERS, check_producer_name, raw_logs

_REFRESH_S = 1.0  # between listings of topics
_INDEX_STEM = "routed-index"


class KafkaLogSet:
    """The logs of a project in a cluster.

    Attributes:
        folder: local folder with locks, router indexes, and files of imports and replays.
        host: name of this machine, the prefix of its producers' names.
        partition_count: number of partitions.
        snapshot_rows: number of routed rows between two snapshots of a router's tables.
    """

    def __init__(
        self, cluster: Cluster, folder: Path, *, snapshot_rows: int = SNAPSHOT_ROWS
    ) -> None:
        self.cluster = cluster
        self.folder = folder
        self.snapshot_rows = snapshot_rows
        self.partition_count = cluster.partitions
        self.host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname()).strip("-")[:40] or "host"
        self._listed_producers: dict[str, tuple[float, list[str]]] = {}
        self.is_remote = True

    @property
    def kafka_logs(self) -> "KafkaLogSet":
        return self

    def raw(self, producer: str) -> KafkaLog | KeyedLog:
        """Return the raw log of `producer`."""
        partition_logs = self.raw_partitions(producer)
        return partition_logs[0] if self.partition_count == 1 else KeyedLog(partition_logs)

    def raw_partitions(self, producer: str) -> tuple[KafkaLog, ...]:
        """Return the partitions of the raw log of `producer`."""
        return self._list_partitions(f"raw.{check_producer_name(producer)}", producer, self.folder)

    def raw_names_by_stem(self, producer: str) -> dict[str, str]:
        return {part.stem: part.partition for part in self.raw_partitions(producer)}

    def response_log(self, producer: str) -> KafkaLog:
        """Return the response log of the serve process `producer`."""
        return KafkaLog(
            self.cluster, f"answers.{check_producer_name(producer)}", producer, self.folder
        )

    @property
    def routed(self) -> KafkaLog | MergedLog:
        """The routed log in the order of all readers."""
        return self.routed_partitions[0] if self.partition_count == 1 else self.merged_log

    @property
    def merged_log(self) -> MergedLog:
        """The partitions of the routed topic in their order."""
        return MergedLog(self.order_log(None), self.routed_partitions)

    @property
    def routed_partitions(self) -> tuple[KafkaLog, ...]:
        """The partitions of the routed topic."""
        return self._list_partitions("routed", "routed", self.folder)

    def order_log(self, folder: Path | None) -> KafkaLog:
        """Return the log with the order of the partitions of `routed`; `folder` has its lock."""
        return KafkaLog(self.cluster, "order", "order", folder)

    def shuffled(self, schema: str, count: int) -> tuple[KafkaLog, ...]:
        """Return the shuffled log of a schema, a partition per worker; see
        `features.online.shuffle`.
        """
        topic = f"{SHUFFLED_PREFIX}.{schema}-{count}"
        return tuple(
            KafkaLog(self.cluster, topic, f"shuffled.{number}", self.folder, number, count)
            for number in range(count)
        )

    def shuffled_logs(self) -> list[KafkaLog]:
        """Return all existing shuffled logs, of any schema and number of workers."""
        shuffles = [
            name.rpartition("-") for name in list_topic_suffixes(self.cluster, SHUFFLED_PREFIX)
        ]
        return [
            log
            for schema, _, count in shuffles
            if count.isdigit()
            for log in self.shuffled(schema, int(count))
        ]

    def snapshots(self) -> tuple[KafkaLog, ...]:
        """Return the topics of router snapshots, by partition."""
        return self._list_partitions("index", "index", None)

    @property
    def scores(self) -> KafkaLog:
        """The log of online scores, see `serving.scores.log`."""
        return KafkaLog(self.cluster, "scores", "scores", self.folder)

    @property
    def item_summary(self) -> KafkaLog:
        """The topic of the item summary of deleted rows, see `router.routed_log.retention`."""
        return KafkaLog(self.cluster, ITEM_SUMMARY, ITEM_SUMMARY)

    def producers(self) -> list[str]:
        """List the producers with topics, in order, without a cache."""
        return sorted(
            {
                *list_topic_suffixes(self.cluster, "raw"),
                *list_topic_suffixes(self.cluster, "answers"),
            }
        )

    def raw_logs(self) -> dict[str, KafkaLog | Path]:
        """Return the existing raw logs, each partition by itself, in order of name."""
        logs = {log.partition: log for log in self.raw_topics()}
        return dict(sorted({**logs, **self._historical_logs()}.items()))

    def response_logs(self) -> dict[str, KafkaLog]:
        """Return the existing response logs by producer, in order of name."""
        return {
            producer: self.response_log(producer) for producer in self._list_producers("answers")
        }

    def raw_topics(self) -> list[KafkaLog]:
        """Return the existing raw logs in topics, in order of producer."""
        return [log for name in self._list_producers("raw") for log in self.raw_partitions(name)]

    def measured_logs(
        self, producer: str
    ) -> tuple[Mapping[str, Path | KafkaLog], Mapping[str, KafkaLog]]:
        if not producer:
            return self.raw_logs(), self.response_logs()
        raw = {log.partition: log for log in self.raw_partitions(producer)}
        return raw, {producer: self.response_log(producer)}

    def backlog_client(self) -> BacklogClient:
        return BacklogClient()

    def lost_raw_logs(self, names: Iterable[str]) -> dict[str, str]:
        return {}

    def producer_prefix(self, prefix: str) -> str:
        return f"{self.host}-{prefix}"

    def single_share(self) -> "KafkaPartition":
        if self.partition_count > 1:
            raise ValueError("each of several partitions has a router of its own, see router.group")
        return self.share(0, self.folder)

    def check_settings(self) -> None:
        """Let librdkafka validate its settings without connecting to a broker."""
        self.cluster.client(AdminClient, {**self.cluster.conf(), "bootstrap.servers": ""})

    def share(self, number: int, folder: Path) -> "KafkaPartition":
        """Return one partition for its router; `folder` has the index and the router's lock."""
        return KafkaPartition(self, number, folder)

    def index_paths(self) -> list[Path]:
        """Return the paths of router tables on this machine."""
        if self.partition_count == 1:
            return [self.folder / f"{_INDEX_STEM}.db"]
        return sorted((self.folder / "routers").glob(f"*/{_INDEX_STEM}.*.db"))

    def expected_partition_count(self, topic: str) -> int:
        """Return the expected number of partitions of a topic, named without the prefix."""
        if topic.startswith(f"{SHUFFLED_PREFIX}."):
            return int(topic.rpartition("-")[2])
        return (
            self.partition_count if topic in ("routed", "index") or topic.startswith("raw.") else 1
        )

    def _list_partitions(self, topic: str, name: str, folder: Path | None) -> tuple[KafkaLog, ...]:
        if self.partition_count == 1:
            return (KafkaLog(self.cluster, topic, name, folder),)
        return tuple(
            KafkaLog(self.cluster, topic, f"{name}.{number}", folder, number, self.partition_count)
            for number in range(self.partition_count)
        )

    def _historical_logs(self) -> dict[str, Path]:
        return {
            producer: path
            for producer, path in raw_logs(self.folder).items()
            if producer in HISTORICAL_PRODUCERS
        }

    def _list_producers(self, kind: str) -> list[str]:
        listed_at, names = self._listed_producers.get(kind, (0.0, []))
        if not listed_at or time.monotonic() - listed_at >= _REFRESH_S:
            names = list_topic_suffixes(self.cluster, kind)
            self._listed_producers[kind] = (time.monotonic(), names)
        return names

    def __str__(self) -> str:
        return f"kafka://{self.cluster.servers}/{self.cluster.prefix}"


class KafkaPartition:
    """The logs of the router of one partition.

    Attributes:
        partition_number, partition_count: number of the partition, and of all partitions.
        index_path: file of the router's tables.
    """

    def __init__(self, log_set: KafkaLogSet, number: int, folder: Path) -> None:
        self._log_set = log_set
        self.partition_number = number
        self.partition_count = log_set.partition_count
        self.folder = folder
        self.snapshot_rows = log_set.snapshot_rows
        self.index_path = folder / (
            f"{_INDEX_STEM}.db" if log_set.partition_count == 1 else f"{_INDEX_STEM}.{number}.db"
        )

    @property
    def kafka_logs(self) -> "KafkaPartition":
        return self

    def single_share(self) -> "KafkaPartition":
        return self

    @property
    def routed(self) -> KafkaLog:
        """The partition of the routed topic that this router writes."""
        return self._log_set._list_partitions("routed", "routed", self.folder)[
            self.partition_number
        ]

    @property
    def snapshots(self) -> KafkaLog:
        """The topic of this router's snapshots."""
        return self._log_set.snapshots()[self.partition_number]

    @property
    def profile_logs(self) -> tuple[KafkaLog, KafkaLog]:
        """The routed log with the profiles, and the order log that limits how far to follow it."""
        return self._log_set._list_partitions("routed", "routed", None)[0], self._log_set.order_log(
            None
        )

    def raw_logs(self) -> dict[str, KafkaLog | Path]:
        """Return the raw logs of this partition, in order of name."""
        logs: dict[str, KafkaLog | Path] = {}
        for producer in self._log_set._list_producers("raw"):
            log = self._log_set.raw_partitions(producer)[self.partition_number]
            logs[log.partition] = log
        return dict(sorted({**logs, **self._log_set._historical_logs()}.items()))

    def __str__(self) -> str:
        return f"{self._log_set}[{self.partition_number}]"
