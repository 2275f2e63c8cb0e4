"""Erasure where the routed log is in topics: erase people from the routers' tables and reset the
topics, with a snapshot in each.

    summary     the items of the log go into the topic `items`, as in `router.routed_log.retention`
    erase       people and mentions of them are deleted from the local files
    items       the topic is reset (`stream.kafka.topic_reset`) and gets the current summary
    index       the topic of snapshots is reset and gets one of the current tables
    routed      is reset; a row without content begins it
    order       likewise, for several partitions; it begins with the places of these rows

Positions continue, so readers that had read to the end go on, and a router of another machine takes
its tables from the snapshot.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird import faults
from tailorbird.errors import LagError
from tailorbird.events import Clock
from tailorbird.router.erasure.erase import (
    ErasedCounts,
    Mentions,
    erase_from_tables,
    remove_item_mentions,
)
from tailorbird.router.partitions.group import lock_member_folder
from tailorbird.router.partitions.order import FIRST_LOG_POSITION, restart_order
from tailorbird.router.routed_log.retention import (
    publish_summary,
    rewrite_summary,
    summarize_all_items,
)
from tailorbird.router.routed_log.tables import make_tables
from tailorbird.router.routed_log.topic import RoutedTopic
from tailorbird.stream import open_reader, open_writer
from tailorbird.stream.kafka import KafkaLog, topic_reset
from tailorbird.stream.kafka.merged import decode_entry
from tailorbird.stream.kafka.topic_reset import TopicSpec

if TYPE_CHECKING:
    from tailorbird.stream.kafka import KafkaWriter
    from tailorbird.stream.kafka.logs import KafkaLogSet


@dataclass
class RoutedTopics:
    """Writers of all topics of the routers; every other router is fenced.

    `ends` has the position after the last row of each partition.
    """

    stream: "KafkaLogSet"
    folder: Path
    topics: list[RoutedTopic]
    order_writer: "KafkaWriter | None"

    @property
    def ends(self) -> list[int]:
        return [topic.end() for topic in self.topics]

    def end(self) -> int:
        """Return the position after the last ordered row.

        Raises:
            LagError: rows are not ordered yet, or a router lacks profiles.
        """
        if self.order_writer is None:
            return self.ends[0]
        with open_reader(self.stream.order_log(None)) as reader:
            end = reader.end()
            ordered_ends = (
                list(decode_entry(reader.read(end - 1)[-1].block).ends)
                if end > reader.start()
                else [FIRST_LOG_POSITION] * len(self.topics)
            )
        followed_ends = [
            topic.connection.execute("SELECT offset FROM followed").get or 0
            for topic in self.topics[1:]
        ]
        is_profile_pending = self.ends[0] > FIRST_LOG_POSITION and any(
            followed_end < self.ends[0] for followed_end in followed_ends
        )
        if ordered_ends != self.ends or is_profile_pending:
            raise LagError(
                "rows of the routed log are not in order yet",
                where=str(self.stream),
                fix="stop the routers of all machines, and erase again, which brings them in",
            )
        return end

    def summarize_items(self) -> list[TopicSpec]:
        """Summarize the items of the log, and return the topics to reset with their ends."""
        summarize_all_items(self.stream)
        topic_specs = [topic_reset.describe_topic(list(self.stream.routed_partitions), self.ends)]
        if (item_summary_ends := _read_topic_ends([self.stream.item_summary])) is not None:
            topic_specs.append(
                topic_reset.describe_topic([self.stream.item_summary], item_summary_ends)
            )
        if (index_ends := _read_topic_ends(self.stream.snapshots())) is not None:
            topic_specs.append(
                topic_reset.describe_topic(list(self.stream.snapshots()), index_ends)
            )
        if self.order_writer is not None:
            topic_specs.append(
                topic_reset.describe_topic(
                    [self.stream.order_log(self.folder)], [self.order_writer.end()]
                )
            )
        return topic_specs

    def erase(
        self,
        *,
        user_ids: Collection[str],
        anonymous_ids: Collection[str],
        event_keys: Collection[tuple[str, str, str]],
        request_ids: Collection[str],
        mentions: Mentions,
    ) -> list[ErasedCounts]:
        """Summarize the items of the log, and erase people from summary and tables."""
        counts: list[ErasedCounts] = [
            ErasedCounts(
                mentions=rewrite_summary(
                    self.stream, partial(remove_item_mentions, mentions=mentions)
                )
            )
        ]
        for topic in self.topics:
            with topic.edit_tables() as connection:
                counts.append(
                    erase_from_tables(
                        connection,
                        user_ids=user_ids,
                        anonymous_ids=anonymous_ids,
                        event_keys=event_keys,
                        request_ids=request_ids,
                        mentions=mentions,
                    )
                )
            topic.shrink()
            faults.fire_if_armed("erase.routed_file")
        return counts

    def reset(
        self,
        routed_spec: TopicSpec,
        order_spec: TopicSpec | None,
        index_spec: TopicSpec | None,
        items_spec: TopicSpec | None,
        clock: Clock,
    ) -> None:
        """Reset the topics after their snapshots; steps that were done before are skipped.

        A spec describes a topic to create again; None stands for a topic that does not exist.
        """
        snapshots = list(self.stream.snapshots())
        for topic in self.topics:
            topic.check_sole_writer()
        if items_spec is not None:
            topic_reset.reset_topic([self.stream.item_summary], items_spec)
            faults.fire_if_armed("erase.items_topic")
            publish_summary(self.stream)
        if index_spec is not None:
            topic_reset.reset_topic(snapshots, index_spec)
        for topic, address in zip(self.topics, snapshots, strict=True):
            topic.put_snapshot(address)
        faults.fire_if_armed("erase.snapshot")
        self.close()
        logs = list(self.stream.routed_partitions)
        topic_reset.reset_topic(logs, routed_spec)
        faults.fire_if_armed("erase.routed_topic")
        ends: list[int] = []
        for number, log in enumerate(logs):
            with open_partition(self.stream, number, self.folder) as topic:
                with open_reader(log) as reader:
                    if topic.end() == reader.start():
                        topic.append_first_row()
                topic.shrink()
                ends.append(topic.end())
        if order_spec is not None:
            order_log = self.stream.order_log(self.folder)
            topic_reset.reset_topic([order_log], order_spec)
            faults.fire_if_armed("erase.order_topic")
            restart_order(order_log, routed_spec.ends, ends, clock)

    def close(self) -> None:
        """Close all topics."""
        for topic in self.topics:
            topic.close()
        self.topics.clear()
        if self.order_writer is not None:
            self.order_writer.close()


@contextmanager
def lock_routed_topics(stream: "KafkaLogSet") -> Iterator[RoutedTopics]:
    """Open all topics of the routers as their only writer.

    Brings the tables up to date, and deletes those of other router processes of this machine.

    Raises:
        LockedError: a router runs on this machine.
    """
    with ExitStack() as stack:
        folder = (
            stream.folder
            if stream.partition_count == 1
            else stack.enter_context(lock_member_folder(stream.folder, exclusive=True))
        )
        topics = RoutedTopics(stream, folder, [], None)
        stack.callback(topics.close)
        for number in range(stream.partition_count):
            topics.topics.append(_open_topic(stream, number, folder))
        if stream.partition_count > 1:
            topics.order_writer = open_writer(
                stream.order_log(folder), partition="order", first_position=FIRST_LOG_POSITION
            )
        for path in stream.index_paths():
            if path.parent != folder:  # rebuilt from the topic when needed
                for database_file in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
                    database_file.unlink(missing_ok=True)
        yield topics


def _open_topic(stream: "KafkaLogSet", number: int, folder: Path) -> RoutedTopic:
    share = stream.share(number, folder)
    return RoutedTopic(
        share.routed,
        share.index_path,
        make_tables,
        first_position=FIRST_LOG_POSITION,
        snapshots=share.snapshots,
    )


@contextmanager
def open_partition(stream: "KafkaLogSet", number: int, folder: Path) -> Iterator[RoutedTopic]:
    """Open one partition of the routed topic as its only writer. Raises LockedError."""
    topic = _open_topic(stream, number, folder)
    try:
        yield topic
    finally:
        topic.close()


def _read_topic_ends(logs: Sequence[KafkaLog]) -> list[int] | None:
    """Return the ends of a topic's partitions; None where it does not exist."""
    existing_topics = topic_reset.list_topics(logs[0].cluster)
    return (
        [topic_reset.read_log_end(log, existing_topics) for log in logs]
        if logs[0].name in existing_topics
        else None
    )
