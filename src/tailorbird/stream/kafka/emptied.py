"""Emptying topics: deleted, and made anew with positions that go on where the old ones ended. For
an erasure.

A record cannot be taken out of a topic, and what was deleted up to an offset stays on the broker's
disk as long as its segment does. So a topic goes as a whole, once all that it holds is in the lake:

    raw.serve-1     1 ─────────────────► 812 │ deleted
    raw.serve-1                          812 ──► …        the same name, settings and copies

While this goes on a topic `PREFIX.erasing` is there (`stream.kafka.marker`), which every writer
looks for when it opens (`cluster.ensure`); those that had opened before are fenced by the erasure's
own writers, as any second writer fences the first.

`PREFIX.erased` is a log of the erasures: to each, the stop list as it was then, for the doors and
routers of other machines.
"""

import time
from collections.abc import Collection, Generator

import msgspec

from tailorbird.errors import NotReadyError, StorageError
from tailorbird.stream.kafka.client import (
    ConfigResource,
    KafkaError,
    KafkaException,
    NewTopic,
    TopicPartition,
)
from tailorbird.stream.kafka.cluster import Cluster, KafkaLog, errors, storage_error, topic_settings
from tailorbird.stream.kafka.reader import KafkaReader
from tailorbird.stream.kafka.tail import consumer_of
from tailorbird.stream.kafka.writer import KafkaWriter
from tailorbird.stream.protocol import Block

_POLL_S = 0.05
_TOPIC_SOURCE = 1  # where a setting comes from that was made for the topic alone
_KIND = "erased"


class Emptying(msgspec.Struct, frozen=True):
    """A topic as it was, and is made again.

    Attributes:
        topic: its name without the prefix.
        ends: of each partition, the position behind its last row: there the new one begins.
        replication: how many copies it had.
        settings: those that were set for it alone.
    """

    topic: str
    ends: tuple[int, ...]
    replication: int
    settings: dict[str, str] = {}


class Erasure(msgspec.Struct, frozen=True):
    """An erasure, as other machines have to know it: the stop list and its key, and which one it
    was. Nothing of it names anybody.
    """

    number: int
    stop: bytes
    key: bytes


def describe(logs: list[KafkaLog], ends: list[int]) -> Emptying:
    """A topic by its partitions, as it is now."""
    cluster, name = logs[0].cluster, logs[0].name
    admin = cluster.admin()
    with errors(cluster, admin):
        topic = admin.list_topics(timeout=cluster.timeout_s).topics[name]
        resource = ConfigResource("topic", name)
        try:
            entries = admin.describe_configs([resource], request_timeout=cluster.timeout_s)[
                resource
            ].result(cluster.timeout_s)
        except (KafkaException, TimeoutError):
            entries = {}  # the broker does not say, or not to us
    own = {
        key: entry.value
        for key, entry in entries.items()
        if entry.value is not None and entry.source == _TOPIC_SOURCE
    }
    copies = max(
        1,
        min(
            (len(each.replicas) for each in topic.partitions.values()), default=cluster.replication
        ),
    )
    return Emptying(logs[0].topic, tuple(ends), copies, {**topic_settings(copies), **own})


def empty(logs: list[KafkaLog], was: Emptying) -> None:
    """Delete a topic, unless it is emptied already, and make it again; its only writers are the
    caller's, and closed.

    Raises:
        StorageError: the broker does not delete topics, or cannot be reached.
    """
    if _is_there(logs[0]) and not _is_empty(logs, was):
        delete(logs[0].cluster, logs[0].name)
    begin(logs, was)


def begin(logs: list[KafkaLog], was: Emptying) -> None:
    """Make a topic that was deleted, or its partitions that nobody has begun; what is there stays."""
    cluster, name = logs[0].cluster, logs[0].name
    if not _is_there(logs[0]):
        topic = NewTopic(
            name, num_partitions=len(logs), replication_factor=was.replication, config=was.settings
        )
        admin = cluster.admin()
        with errors(cluster, admin):
            admin.create_topics([topic], operation_timeout=cluster.timeout_s)[name].result(
                cluster.timeout_s
            )
    for log, end in zip(logs, was.ends, strict=True):
        KafkaWriter(log, first=end).close()


def erasure_log(cluster: Cluster) -> KafkaLog:
    """The log of the erasures."""
    return KafkaLog(cluster, _KIND, _KIND)


def note(cluster: Cluster, stop: bytes, key: bytes) -> Erasure:
    """Add an erasure to the log of them."""
    with KafkaWriter(erasure_log(cluster), first=1) as writer:
        erasure = Erasure(writer.end(), stop, key)
        writer.append([Block(_KIND, 1, msgspec.msgpack.encode(erasure))])
    return erasure


def last(cluster: Cluster) -> Erasure | None:
    """The last erasure; None where there was none. Raises NotReadyError while one is at work, or
    was cut short.
    """
    admin = cluster.admin()
    with errors(cluster, admin):
        there = admin.list_topics(timeout=cluster.timeout_s).topics
    log = erasure_log(cluster)
    if cluster.marker in there:
        raise NotReadyError(
            "people are being erased, or their erasure was cut short",
            where=str(cluster),
            fix="tailorbird lake erase --yes, on the machine where it was begun, brings it to "
            "its end",
        )
    if log.name not in there:
        return None
    try:
        reader = KafkaReader(log)
    except NotReadyError:
        return None
    with reader:
        end = reader.end()
        return (
            msgspec.msgpack.decode(reader.read(end - 1)[-1].block.payload, type=Erasure)
            if end > reader.start()
            else None
        )


def topics_of(cluster: Cluster) -> dict[str, int]:
    """All topics that begin with the project's prefix, with how many partitions each has."""
    admin = cluster.admin()
    with errors(cluster, admin):
        topics = admin.list_topics(timeout=cluster.timeout_s).topics
    return {
        name: len(topic.partitions)
        for name, topic in sorted(topics.items())
        if name.startswith(f"{cluster.prefix}.")
    }


def log_end(log: KafkaLog, there: Collection[str]) -> int:
    """Where a log ends; 0 if its topic is not there, or was not begun. `there`: see `topics_of`."""
    if log.name not in there:
        return 0
    try:
        with KafkaReader(log) as reader:
            return reader.end()
    except NotReadyError:
        return 0


def messages(
    cluster: Cluster, name: str, partition: int
) -> Generator[tuple[int, dict[str, bytes], bytes], None, None]:
    """Every message that a partition holds, whether it counts or not: offset, headers with the key,
    value.
    """
    log = KafkaLog(cluster, name.removeprefix(f"{cluster.prefix}."), "")
    consumer = consumer_of(log)
    topic_partition = TopicPartition(name, partition)
    try:
        with errors(cluster, consumer):
            low, high = consumer.get_watermark_offsets(topic_partition, timeout=cluster.timeout_s)
            consumer.assign([TopicPartition(name, partition, low)])
        deadline = time.monotonic() + cluster.timeout_s
        offset = low
        while offset < high:
            with errors(cluster, consumer):
                batch = consumer.consume(64, timeout=0.1)
            for message in batch:
                if message.error() is not None:
                    raise storage_error(message.error(), cluster)
                offset = message.offset() + 1
                deadline = time.monotonic() + cluster.timeout_s
                yield (
                    message.offset(),
                    {**dict(message.headers() or ()), "": message.key() or b""},
                    message.value() or b"",
                )
            if not batch and time.monotonic() > deadline:
                raise StorageError(
                    f"nothing came in {cluster.timeout_s:g} s",
                    where=name,
                    fix="is the broker running?",
                )
    finally:
        consumer.close()


def _is_there(log: KafkaLog) -> bool:
    return log.name in topics_of(log.cluster)


def _is_empty(logs: list[KafkaLog], was: Emptying) -> bool:
    """Whether no partition has a row from before; what was written since may be there."""
    for log, end in zip(logs, was.ends, strict=True):
        try:
            with KafkaReader(log) as reader:
                if reader.start() < end:
                    return False
        except NotReadyError:  # made, and not begun
            continue
    return True


def delete(cluster: Cluster, name: str) -> None:
    """Delete a topic, if it is there, and wait until the brokers know of it no more. Raises
    StorageError.
    """
    admin = cluster.admin()
    with errors(cluster, admin):
        try:
            admin.delete_topics([name], operation_timeout=cluster.timeout_s)[name].result(
                cluster.timeout_s
            )
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise
    deadline = time.monotonic() + cluster.timeout_s
    while name in topics_of(cluster):  # brokers say that it is done before they have forgotten it
        if time.monotonic() > deadline:
            raise StorageError(
                f"the topic {name} was deleted and is still there",
                where=str(cluster),
                fix="do the brokers have delete.topic.enable=false, or may this user not delete "
                "topics? Erase again, it goes on",
            )
        time.sleep(_POLL_S)
