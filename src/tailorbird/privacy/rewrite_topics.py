"""An erasure where the logs are topics: each held by one writer, emptied once the lake has all of
it, and searched.

A marker in the cluster keeps roles of other machines from starting, a writer for each topic fences
those that run. Whoever starts later takes in what was erased (`config.erasures`).
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird import faults
from tailorbird.errors import NotReadyError
from tailorbird.events import Clock
from tailorbird.events.suppression import ERASURE_FOLDER, LAST_ERASURE_FILE
from tailorbird.privacy.journal import journal_path, write_private
from tailorbird.router.erasure.topics import RoutedTopics, lock_routed_topics
from tailorbird.stream import Block, open_reader, open_writer
from tailorbird.stream.kafka import Cluster, KafkaLog, marker, topic_reset
from tailorbird.stream.kafka.logs import SHUFFLED_PREFIX, KafkaLogSet
from tailorbird.stream.kafka.topic_reset import TopicSpec
from tailorbird.stream.released import ReleasedPositions

if TYPE_CHECKING:
    from tailorbird.stream.kafka import KafkaWriter

# below `data/erasure`: the name under which this machine's erasure may have a marker in the cluster
_MARKER_FILE = "marked"


@dataclass
class TopicWriters:
    """The writers of all topics of a project. `raw`, `response_logs`, `shuffled` (and scores): by
    the topic's name, one for each partition. Shuffled topics hold events by worker.
    """

    stream: KafkaLogSet
    routed: RoutedTopics
    raw: "dict[str, list[KafkaWriter]]" = field(default_factory=dict)
    response_logs: "dict[str, list[KafkaWriter]]" = field(default_factory=dict)
    shuffled: "dict[str, list[KafkaWriter]]" = field(default_factory=dict)

    @property
    def _all_writers(self) -> "list[list[KafkaWriter]]":
        return [
            writers
            for writers_by_topic in (self.raw, self.response_logs, self.shuffled)
            for writers in writers_by_topic.values()
        ]

    def logs_behind(self, released_positions: ReleasedPositions) -> list[str]:
        """Return the logs with rows that are not in the lake yet. Raises LagError."""
        raw = [
            writer.partition
            for writers in self.raw.values()
            for writer in writers
            if writer.end() > released_positions.raw_position(writer.partition)
        ]
        responses = [
            writer.partition
            for writers in self.response_logs.values()
            for writer in writers
            if writer.end() > released_positions.responses_position(writer.partition)
        ]
        return [
            *raw,
            *responses,
            *(
                ["routed"]
                if self.routed.end() > max(released_positions.routed_position(), 1)
                else []
            ),
        ]

    def describe_topics(self) -> list[TopicSpec]:
        """Return how all topics are made again."""
        own_topics = [
            topic_reset.describe_topic(
                [writer.address for writer in writers], [writer.end() for writer in writers]
            )
            for writers in self._all_writers
        ]
        return [*own_topics, *self.routed.summarize_items()]

    def empty_topics(self, topics: list[TopicSpec], clock: Clock) -> int:
        """Empty all topics and return their number; what was emptied before stays."""
        for writers in self._all_writers:
            for writer in writers:
                writer.check_sole_writer()
                writer.close()
        for writers_by_topic in (self.raw, self.response_logs, self.shuffled):
            writers_by_topic.clear()
        spec_by_name = {topic.topic: topic for topic in topics}
        for name, spec in spec_by_name.items():
            if name not in ("routed", "order", "index", "items"):
                topic_reset.reset_topic(partitions_of(self.stream, spec), spec)
                faults.fire_if_armed("erase.topic")
        self.routed.reset(
            spec_by_name["routed"],
            spec_by_name.get("order"),
            spec_by_name.get("index"),
            spec_by_name.get("items"),
            clock,
        )
        return len(topics)

    def publish_suppression_list(self, data: Path, suppression_bytes: bytes, key: bytes) -> None:
        """Give other machines the suppression list, and let them in again."""
        number = topic_reset.record_erasure(self.stream.cluster, suppression_bytes, key).number
        write_private(data / ERASURE_FOLDER / LAST_ERASURE_FILE, b"%d" % number)
        release_marker(self.stream.cluster, data)

    def close(self) -> None:
        for writers in self._all_writers:
            for writer in writers:
                writer.close()


@contextmanager
def hold_topics(
    stream: KafkaLogSet, data: Path, topics: list[TopicSpec] | None
) -> Iterator[TopicWriters]:
    """Hold all topics; `topics` are those of an erasure that was cut off and may have deleted
    some.
    """
    stream = KafkaLogSet(replace(stream.cluster, is_erasing=True), stream.folder)
    erasure_token = _read_erasure_token(data) or marker.new_erasure_token()
    write_private(
        data / ERASURE_FOLDER / _MARKER_FILE, erasure_token.encode()
    )  # first: a marker that nobody here knows of would keep all out
    try:
        marker.set_marker(stream.cluster, erasure_token)
    except NotReadyError:
        (data / ERASURE_FOLDER / _MARKER_FILE).unlink(missing_ok=True)  # it is another's, and stays
        raise
    faults.fire_if_armed("erase.marked")
    try:
        for spec in topics or ():
            topic_reset.create_topic(partitions_of(stream, spec), spec)
        with lock_routed_topics(stream) as routed:
            topic_writers = TopicWriters(stream, routed)
            try:
                for log in stream.raw_topics():
                    topic_writers.raw.setdefault(log.topic, []).append(
                        open_writer(log, partition=log.partition)
                    )
                for log in stream.shuffled_logs():
                    topic_writers.shuffled.setdefault(log.topic, []).append(
                        open_writer(log, partition=log.partition)
                    )
                if stream.scores.name in topic_reset.list_topics(stream.cluster):
                    topic_writers.shuffled[stream.scores.topic] = [
                        open_writer(stream.scores, partition="scores")
                    ]
                for log in stream.response_logs().values():
                    topic_writers.response_logs.setdefault(log.topic, []).append(
                        open_writer(log, partition=log.partition)
                    )
                yield topic_writers
            finally:
                topic_writers.close()
    except BaseException:
        if topics is None and not journal_path(data).exists():  # nothing was changed yet
            release_marker(stream.cluster, data)
        raise


def release_unbegun(stream: KafkaLogSet, data: Path) -> bool:
    """Let others in again where an erasure of this machine died before its journal was written.

    No erasure may be at work here. Return whether its marker stood; another machine's is left.
    """
    return not journal_path(data).exists() and release_marker(stream.cluster, data)


def release_marker(cluster: Cluster, data: Path) -> bool:
    """Remove this machine's marker; return whether it stood."""
    erasure_token = _read_erasure_token(data)
    is_cleared = erasure_token is not None and marker.clear_marker(cluster, erasure_token)
    (data / ERASURE_FOLDER / _MARKER_FILE).unlink(missing_ok=True)
    return is_cleared


def _read_erasure_token(data: Path) -> str | None:
    """Return whose marker this machine's is; an empty file is anybody's."""
    try:
        return (data / ERASURE_FOLDER / _MARKER_FILE).read_text() or marker.new_erasure_token()
    except FileNotFoundError:
        return None


def partitions_of(stream: KafkaLogSet, spec: TopicSpec) -> list[KafkaLog]:
    """Return the partitions of a topic."""
    count, kind, producer = len(spec.ends), *spec.topic.partition(".")[::2]
    if kind == "order":
        return [stream.order_log(stream.folder)]
    if kind == "items":
        return [stream.item_summary]
    if kind == "answers":
        return [stream.response_log(producer)]
    if kind == "scores":
        return [stream.scores]
    if kind == "raw":
        return list(stream.raw_partitions(producer))
    if kind == "index":
        return list(stream.snapshots())
    if kind == SHUFFLED_PREFIX:
        schema, _, _ = producer.rpartition("-")
        return list(stream.shuffled(schema, count))
    return [stream.share(number, stream.folder).routed for number in range(count)]


def read_topics(stream: KafkaLogSet) -> Iterator[tuple[str, Block]]:
    """Yield every message of every topic with its headers, then the blocks of its logs, whole."""
    cluster = stream.cluster
    for name, count in topic_reset.list_topics(cluster).items():
        for partition in range(count):
            for offset, headers, value in topic_reset.read_messages(cluster, name, partition):
                yield (
                    f"{name}, partition {partition}, offset {offset}",
                    Block("", 1, b"\n".join((*headers.values(), value))),
                )
    routed_logs = [
        *(stream.share(number, stream.folder).routed for number in range(stream.partition_count)),
        *stream.snapshots(),
        stream.item_summary,
    ]
    for log in (
        *stream.raw_topics(),
        *stream.response_logs().values(),
        *stream.shuffled_logs(),
        stream.scores,
        *routed_logs,
    ):
        with suppress(NotReadyError), open_reader(log) as reader:
            position = reader.start()
            end = reader.end()
            while position < end and (blocks := reader.read(position)):
                yield from (
                    (f"{log.name}, row {stored_block.offset}", stored_block.block)
                    for stored_block in blocks
                )
                position = blocks[-1].end
