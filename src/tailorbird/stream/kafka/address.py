"""The address of a log in a topic, which opens it."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import apsw

from tailorbird.stream.kafka.cluster import KafkaTopic
from tailorbird.stream.kafka.reader import KafkaReader
from tailorbird.stream.kafka.snapshots import open_item_summary
from tailorbird.stream.kafka.topic_backlog import BacklogClient, LogBacklog
from tailorbird.stream.kafka.writer import KafkaWriter


@dataclass(frozen=True)
class KafkaLog(KafkaTopic):
    """The address of a log: a partition of a topic."""

    def open_reader(self) -> KafkaReader:
        return KafkaReader(self)

    def open_writer(
        self,
        *,
        partition: str,
        first_position: int,
        on_damaged_tail: str,
        expected_ends: Mapping[str, int],
    ) -> KafkaWriter:
        return KafkaWriter(
            self, first_position=first_position, expected_end=expected_ends.get(self.stem, 0)
        )

    def damaged_tail_files(self) -> list[Path]:
        return []

    def open_backlog(self, client: BacklogClient | None) -> LogBacklog:
        return (client or BacklogClient()).open(self)

    def pruned_summary(
        self, start: int
    ) -> AbstractContextManager[tuple[apsw.Connection | None, int]]:
        return open_item_summary(self.cluster, start)
