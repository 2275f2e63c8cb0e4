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
from tailorbird.events.suppression import FOLDER, LAST_ERASURE_FILE
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
_MARKED_STEP = "marked"


@dataclass
class Topics:
    """The writers of all topics of a project. `raw`, `response_logs`, `shuffled` (and scores): by the
    topic's name, one for each partition.
    """

    stream: KafkaLogSet
    routed: RoutedTopics
    raw: "dict[str, list[KafkaWriter]]" = field(default_factory=dict)
    response_logs: "dict[str, list[KafkaWriter]]" = field(default_factory=dict)
    shuffled: "dict[str, list[KafkaWriter]]" = field(default_factory=dict)

    @property
    def _all(self) -> "list[list[KafkaWriter]]":
        return [
            writers
            for by_topic in (self.raw, self.response_logs, self.shuffled)
            for writers in by_topic.values()
        ]

    def behind(self, released: ReleasedPositions) -> list[str]:
        """Return the logs with rows that are not in the lake yet. Raises LagError."""
        raw = [
            stored_block.partition
            for writers in self.raw.values()
            for stored_block in writers
            if stored_block.end() > released.raw_position(stored_block.partition)
        ]
        responses = [
            stored_block.partition
            for writers in self.response_logs.values()
            for stored_block in writers
            if stored_block.end() > released.responses_position(stored_block.partition)
        ]
        return [
            *raw,
            *responses,
            *(["routed"] if self.routed.end() > max(released.routed_position(), 1) else []),
        ]

    def describe(self) -> list[TopicSpec]:
        """Return how all topics are made again."""
        own_topics = [
            topic_reset.describe_topic(
                [stored_block.address for stored_block in writers],
                [stored_block.end() for stored_block in writers],
            )
            for writers in self._all
        ]
        return [*own_topics, *self.routed.summarize_items()]

    def empty(self, topics: list[TopicSpec], clock: Clock) -> int:
        """Empty all topics and return their number; what was emptied before stays."""
        for writers in self._all:
            for writer in writers:
                writer.check_sole_writer()
                writer.close()
        for held in (self.raw, self.response_logs, self.shuffled):
            held.clear()
        by_name = {topic.topic: topic for topic in topics}
        for name, spec in by_name.items():
            if name not in ("routed", "order", "index", "items"):
                topic_reset.reset_topic(logs_of(self.stream, spec), spec)
                faults.at("erase.topic")
        self.routed.reset(
            by_name["routed"],
            by_name.get("order"),
            by_name.get("index"),
            by_name.get("items"),
            clock,
        )
        return len(topics)

    def publish(self, data: Path, suppressed: bytes, key: bytes) -> None:
        """Give other machines the suppression list, and let them in again."""
        number = topic_reset.record_erasure(self.stream.cluster, suppressed, key).number
        write_private(data / FOLDER / LAST_ERASURE_FILE, b"%d" % number)
        release(self.stream.cluster, data)

    def close(self) -> None:
        for writers in self._all:
            for writer in writers:
                writer.close()


@contextmanager
def hold_topics(
    stream: KafkaLogSet, data: Path, topics: list[TopicSpec] | None
) -> Iterator[Topics]:
    """Hold all topics; `topics` are those of an erasure that was cut off and may have deleted
    some.
    """
    stream = KafkaLogSet(replace(stream.cluster, erasing=True), stream.folder)
    erasure_token = _read_erasure_token(data) or marker.new_erasure_token()
    write_private(
        data / FOLDER / _MARKED_STEP, erasure_token.encode()
    )  # first: a marker that nobody here knows of would keep all out
    try:
        marker.set_marker(stream.cluster, erasure_token)
    except NotReadyError:
        (data / FOLDER / _MARKED_STEP).unlink(missing_ok=True)  # it is another's, and stays
        raise
    faults.at("erase.marked")
    try:
        for spec in topics or ():
            topic_reset.create_topic(logs_of(stream, spec), spec)
        with lock_routed_topics(stream) as routed:
            held = Topics(stream, routed)
            try:
                for log in stream.raw_topics():
                    held.raw.setdefault(log.topic, []).append(
                        open_writer(log, partition=log.partition)
                    )
                for log in stream.shuffled_logs():
                    held.shuffled.setdefault(log.topic, []).append(
                        open_writer(log, partition=log.partition)
                    )
                if stream.scores.name in topic_reset.list_topics(stream.cluster):
                    held.shuffled[stream.scores.topic] = [
                        open_writer(stream.scores, partition="scores")
                    ]
                for log in stream.response_logs().values():
                    held.response_logs.setdefault(log.topic, []).append(
                        open_writer(log, partition=log.partition)
                    )
                yield held
            finally:
                held.close()
    except BaseException:
        if topics is None and not journal_path(data).exists():  # nothing was changed yet
            release(stream.cluster, data)
        raise


def release_unbegun(stream: KafkaLogSet, data: Path) -> bool:
    """Let others in again where an erasure of this machine died before its journal was written.

    No erasure may be at work here. Return whether its marker stood; another machine's is left.
    """
    return not journal_path(data).exists() and release(stream.cluster, data)


def release(cluster: Cluster, data: Path) -> bool:
    """Remove this machine's marker; return whether it stood."""
    erasure_token = _read_erasure_token(data)
    is_cleared = erasure_token is not None and marker.clear_marker(cluster, erasure_token)
    (data / FOLDER / _MARKED_STEP).unlink(missing_ok=True)
    return is_cleared


def _read_erasure_token(data: Path) -> str | None:
    """Return whose marker this machine's is; an empty file is anybody's."""
    try:
        return (data / FOLDER / _MARKED_STEP).read_text() or marker.new_erasure_token()
    except FileNotFoundError:
        return None


def logs_of(stream: KafkaLogSet, spec: TopicSpec) -> list[KafkaLog]:
    """Return the partitions of a topic."""
    count, kind, producer = len(spec.ends), *spec.topic.partition(".")[::2]
    if kind == "order":
        return [stream.order(stream.folder)]
    if kind == "items":
        return [stream.item_summary]
    if kind == "answers":
        return [stream.response_log(producer)]
    if kind == "scores":
        return [stream.scores]
    if kind == "raw":
        return list(stream.raw_parts(producer))
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
    routed = [
        *(stream.share(number, stream.folder).routed for number in range(stream.count)),
        *stream.snapshots(),
        stream.item_summary,
    ]
    for log in (
        *stream.raw_topics(),
        *stream.response_logs().values(),
        *stream.shuffled_logs(),
        stream.scores,
        *routed,
    ):
        with suppress(NotReadyError), open_reader(log) as reader:
            position, end = reader.start(), reader.end()
            while position < end and (stored := reader.read(position)):
                yield from (
                    (f"{log.name}, row {stored_block.offset}", stored_block.block)
                    for stored_block in stored
                )
                position = stored[-1].end
