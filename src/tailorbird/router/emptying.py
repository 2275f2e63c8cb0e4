"""An erasure where the routed log is in topics: the routers' tables without some people, the topics
emptied, a snapshot in each.

    sum up      what the log says of items is in the topic `items`, as where it is pruned (`router.retention`)
    forget      people go from the tables, and what is said of them, in the files alone
    items       the topic is emptied, and gets the summary as it is now
    index       the topic of snapshots is emptied (`stream.kafka.emptied`), and gets one of the tables as they are now
    routed      is emptied; a row without meaning begins it
    order       likewise, where there are several partitions; it begins with where these rows stand

Positions go on, so whoever had read to the end goes on, and a router of another machine takes its
tables from the snapshot.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird import faults
from tailorbird.errors import BehindError
from tailorbird.events import Clock
from tailorbird.router.erase import Forgotten, Mentions, erase_from_tables, remove_item_mentions
from tailorbird.router.group import lock_member_folder
from tailorbird.router.order import restart_order
from tailorbird.router.retention import publish_summary, summarize, rewrite_summary
from tailorbird.router.router import FIRST_P, make_tables
from tailorbird.router.topic import RoutedTopic
from tailorbird.stream import open_reader, open_writer
from tailorbird.stream.kafka import KafkaLog, MergedLog, emptied
from tailorbird.stream.kafka.emptied import Emptying
from tailorbird.stream.kafka.merged import decode_entry

if TYPE_CHECKING:
    from tailorbird.stream.kafka import KafkaWriter
    from tailorbird.stream.kafka.logs import KafkaStream


@dataclass
class RoutedTopics:
    """The writers of all that routers write; every other router is fenced. `ends`: behind the last
    row of each partition.
    """

    stream: "KafkaStream"
    folder: Path
    topics: list[RoutedTopic]
    order: "KafkaWriter | None"

    @property
    def ends(self) -> list[int]:
        return [topic.end() for topic in self.topics]

    def end(self) -> int:
        """Behind the last row of the whole. Raises BehindError where rows are in no order yet, or
        profiles not with all routers.
        """
        if self.order is None:
            return self.ends[0]
        assert isinstance(self.stream.routed, MergedLog)
        with open_reader(self.stream.routed.order) as reader:
            end = reader.end()
            ordered_ends = (
                list(decode_entry(reader.read(end - 1)[-1].block).ends)
                if end > reader.start()
                else [FIRST_P] * len(self.topics)
            )
        followed = [
            topic.connection.execute("SELECT offset FROM followed").get or 0
            for topic in self.topics[1:]
        ]
        is_profile_pending = self.ends[0] > FIRST_P and any(one < self.ends[0] for one in followed)
        if ordered_ends != self.ends or is_profile_pending:
            raise BehindError(
                "rows of the routed log are not in order yet",
                where=str(self.stream),
                fix="stop the routers of all machines, and erase again, which brings them in",
            )
        return end

    def describe(self) -> list[Emptying]:
        """The topics as they are, once all is summed up that is to be."""
        summarize(self.stream)
        topics = [emptied.describe(list(self.stream.routed_parts), self.ends)]
        if (items := _topic_ends([self.stream.items])) is not None:
            topics.append(emptied.describe([self.stream.items], items))
        if (index := _topic_ends(self.stream.snapshots())) is not None:
            topics.append(emptied.describe(list(self.stream.snapshots()), index))
        if self.order is not None:
            topics.append(emptied.describe([self.stream.order(self.folder)], [self.order.end()]))
        return topics

    def forget(
        self,
        *,
        users: Collection[str],
        visitors: Collection[str],
        events: Collection[tuple[str, str, str]],
        requests: Collection[str],
        mentions: Mentions,
    ) -> list[Forgotten]:
        """Sum up what the log says of items, and take people out of the tables."""
        counts: list[Forgotten] = [
            Forgotten(mentions=rewrite_summary(self.stream, partial(remove_item_mentions, mentions=mentions)))
        ]
        for topic in self.topics:
            with topic.tables() as connection:
                counts.append(
                    erase_from_tables(
                        connection,
                        users=users,
                        visitors=visitors,
                        events=events,
                        requests=requests,
                        mentions=mentions,
                    )
                )
            topic.shrink()
            faults.at("erase.routed_file")
        return counts

    def empty(
        self,
        routed: Emptying,
        order: Emptying | None,
        index: Emptying | None,
        items: Emptying | None,
        clock: Clock,
    ) -> None:
        """Empty the topics, behind snapshots; what was done before is not done again."""
        snapshots = list(self.stream.snapshots())
        for topic in self.topics:
            topic.check_sole_writer()
        if items is not None:
            emptied.empty([self.stream.items], items)
            faults.at("erase.items_topic")
            publish_summary(self.stream)
        if index is not None:
            emptied.empty(snapshots, index)
        for topic, address in zip(self.topics, snapshots, strict=True):
            topic.put_snapshot(address)
        faults.at("erase.snapshot")
        self.close()
        logs = list(self.stream.routed_parts)
        emptied.empty(logs, routed)
        faults.at("erase.routed_topic")
        ends: list[int] = []
        for number, log in enumerate(logs):
            with open_partition(self.stream, number, self.folder) as topic:
                with open_reader(log) as reader:
                    if topic.end() == reader.start():
                        topic.append_first_row()
                topic.shrink()
                ends.append(topic.end())
        if order is not None:
            order_log = self.stream.order(self.folder)
            emptied.empty([order_log], order)
            faults.at("erase.order_topic")
            restart_order(order_log, routed.ends, ends, clock)

    def close(self) -> None:
        """Let go of all topics."""
        for topic in self.topics:
            topic.close()
        self.topics.clear()
        if self.order is not None:
            self.order.close()


@contextmanager
def hold_routed(stream: "KafkaStream") -> Iterator[RoutedTopics]:
    """All that routers write, for one writer; their tables are brought up, and those of other
    routers of this machine deleted.

    Raises:
        LockedError: a router runs on this machine.
    """
    with ExitStack() as stack:
        folder = (
            stream.folder
            if stream.count == 1
            else stack.enter_context(lock_member_folder(stream.folder, exclusive=True))
        )
        topics = RoutedTopics(stream, folder, [], None)
        stack.callback(topics.close)
        for number in range(stream.count):
            topics.topics.append(_open_topic(stream, number, folder))
        if stream.count > 1:
            topics.order = open_writer(stream.order(folder), partition="order", first=FIRST_P)
        for path in stream.index_paths():
            if path.parent != folder:  # made anew from the topic by who needs it
                for each in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
                    each.unlink(missing_ok=True)
        yield topics


def _open_topic(stream: "KafkaStream", number: int, folder: Path) -> RoutedTopic:
    share = stream.share(number, folder)
    return RoutedTopic(
        share.routed, share.index, make_tables, first=FIRST_P, snapshots=share.snapshots
    )


@contextmanager
def open_partition(stream: "KafkaStream", number: int, folder: Path) -> Iterator[RoutedTopic]:
    """One partition of what the routers write, for one writer. Raises LockedError."""
    topic = _open_topic(stream, number, folder)
    try:
        yield topic
    finally:
        topic.close()


def _topic_ends(logs: Sequence[KafkaLog]) -> list[int] | None:
    """Where the partitions of a topic end; None where it is not there."""
    there = emptied.topics_of(logs[0].cluster)
    return [emptied.log_end(log, there) for log in logs] if logs[0].name in there else None
