"""Reset of topics for an erasure: delete them and create them again with continued positions.

A record cannot be removed from a topic, and records deleted up to an offset stay on the broker's
disk as long as their segment. So a topic is deleted as a whole once the lake has all of it:

    raw.serve-1     1 ─────────────────► 812 │ deleted
    raw.serve-1                          812 ──► …        same name, settings and replication

Meanwhile a topic `PREFIX.erasing` exists (`stream.kafka.marker`), which every writer checks when it
opens (`cluster.ensure_topic`). The erasure's own writers fence those that opened before.

`PREFIX.erased` is a log of the erasures, with the suppression list of each, for the collectors and
routers of other machines.
"""

import time
from collections.abc import Collection, Generator, Sequence

import msgspec

from tailorbird.errors import NotReadyError, StorageError
from tailorbird.stream.kafka.address import KafkaLog
from tailorbird.stream.kafka.client import (
    ConfigResource,
    KafkaError,
    KafkaException,
    NewTopic,
    TopicPartition,
)
from tailorbird.stream.kafka.cluster import (
    Cluster,
    KafkaTopic,
    storage_error,
    topic_settings,
    translate_errors,
)
from tailorbird.stream.kafka.reader import KafkaReader
from tailorbird.stream.kafka.tail import create_consumer
from tailorbird.stream.kafka.writer import KafkaWriter
from tailorbird.stream.protocol import Block

_POLL_S = 0.05
_TOPIC_SOURCE = 1  # source of a setting of the topic itself
_ERASURE_KIND = "erased"


class TopicSpec(msgspec.Struct, frozen=True):
    """The description of a topic to create again.

    Attributes:
        topic: name without the prefix.
        ends: end of each partition, where the new one begins.
        replication: replication factor.
        settings: settings of the topic itself.
    """

    topic: str
    ends: tuple[int, ...]
    replication: int
    settings: dict[str, str] = {}


class Erasure(msgspec.Struct, frozen=True):
    """An erasure for other machines: its number, the suppression list and its key.

    Nothing in it names a person.
    """

    number: int
    suppression_list: bytes = msgspec.field(name="stop")
    key: bytes


def describe_topic(logs: Sequence[KafkaTopic], ends: list[int]) -> TopicSpec:
    """Describe a topic by its partitions as it is now."""
    cluster = logs[0].cluster
    name = logs[0].name
    admin = cluster.admin()
    with translate_errors(cluster, admin):
        topic = admin.list_topics(timeout=cluster.timeout_s).topics[name]
        resource = ConfigResource("topic", name)
        try:
            config_entries = admin.describe_configs([resource], request_timeout=cluster.timeout_s)[
                resource
            ].result(cluster.timeout_s)
        except (KafkaException, TimeoutError):
            config_entries = {}  # the broker does not tell, or not this user
    own_settings = {
        key: entry.value
        for key, entry in config_entries.items()
        if entry.value is not None and entry.source == _TOPIC_SOURCE
    }
    replication = max(
        1,
        min(
            (len(partition.replicas) for partition in topic.partitions.values()),
            default=cluster.replication,
        ),
    )
    return TopicSpec(
        logs[0].topic, tuple(ends), replication, {**topic_settings(replication), **own_settings}
    )


def reset_topic(logs: list[KafkaLog], spec: TopicSpec) -> None:
    """Delete a topic, unless it was reset already, and create it again.

    Its only writers are the caller's, and are closed.

    Raises:
        StorageError: the broker does not delete topics, or cannot be reached.
    """
    if _topic_exists(logs[0]) and not _was_reset(logs, spec):
        delete_topic(logs[0].cluster, logs[0].name)
    create_topic(logs, spec)


def create_topic(logs: list[KafkaLog], spec: TopicSpec) -> None:
    """Create a deleted topic and begin its empty partitions; existing rows stay."""
    cluster = logs[0].cluster
    name = logs[0].name
    if not _topic_exists(logs[0]):
        topic = NewTopic(
            name,
            num_partitions=len(logs),
            replication_factor=spec.replication,
            config=spec.settings,
        )
        admin = cluster.admin()
        with translate_errors(cluster, admin):
            admin.create_topics([topic], operation_timeout=cluster.timeout_s)[name].result(
                cluster.timeout_s
            )
    for log, end in zip(logs, spec.ends, strict=True):
        KafkaWriter(log, first_position=end).close()


def erasure_log(cluster: Cluster) -> KafkaLog:
    """Return the log of the erasures."""
    return KafkaLog(cluster, _ERASURE_KIND, _ERASURE_KIND)


def record_erasure(cluster: Cluster, suppression_list: bytes, key: bytes) -> Erasure:
    """Append an erasure to the log of erasures."""
    with KafkaWriter(erasure_log(cluster), first_position=1) as writer:
        erasure = Erasure(writer.end(), suppression_list, key)
        writer.append([Block(_ERASURE_KIND, 1, msgspec.msgpack.encode(erasure))])
    return erasure


def last_erasure(cluster: Cluster) -> Erasure | None:
    """Return the last erasure, or None. Raises NotReadyError while one is unfinished."""
    admin = cluster.admin()
    with translate_errors(cluster, admin):
        topics = admin.list_topics(timeout=cluster.timeout_s).topics
    log = erasure_log(cluster)
    if cluster.marker_topic in topics:
        raise NotReadyError(
            "people are being erased, or their erasure was cut short",
            where=str(cluster),
            fix="tailorbird lake erase --yes, on the machine where it was begun, brings it to "
            "its end",
        )
    if log.name not in topics:
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


def list_topics(cluster: Cluster) -> dict[str, int]:
    """Return the topics with the project's prefix and their numbers of partitions."""
    admin = cluster.admin()
    with translate_errors(cluster, admin):
        topics = admin.list_topics(timeout=cluster.timeout_s).topics
    return {
        name: len(topic.partitions)
        for name, topic in sorted(topics.items())
        if name.startswith(f"{cluster.prefix}.")
    }


def read_log_end(log: KafkaLog, existing_topics: Collection[str]) -> int:
    """Return the end of a log; 0 if its topic is not in `existing_topics`, or empty."""
    if log.name not in existing_topics:
        return 0
    try:
        with KafkaReader(log) as reader:
            return reader.end()
    except NotReadyError:
        return 0


def read_messages(
    cluster: Cluster, name: str, partition: int
) -> Generator[tuple[int, dict[str, bytes], bytes], None, None]:
    """Yield offset, headers with the key, and value of every message of a partition."""
    log = KafkaLog(cluster, name.removeprefix(f"{cluster.prefix}."), "")
    consumer = create_consumer(log)
    topic_partition = TopicPartition(name, partition)
    try:
        with translate_errors(cluster, consumer):
            low, high = consumer.get_watermark_offsets(topic_partition, timeout=cluster.timeout_s)
            consumer.assign([TopicPartition(name, partition, low)])
        deadline = time.monotonic() + cluster.timeout_s
        offset = low
        while offset < high:
            with translate_errors(cluster, consumer):
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


def _topic_exists(log: KafkaLog) -> bool:
    return log.name in list_topics(log.cluster)


def _was_reset(logs: list[KafkaLog], spec: TopicSpec) -> bool:
    """Return whether no partition has a row from before its reset."""
    for log, end in zip(logs, spec.ends, strict=True):
        try:
            with KafkaReader(log) as reader:
                if reader.start() < end:
                    return False
        except NotReadyError:  # created, and without a writer yet
            continue
    return True


def delete_topic(cluster: Cluster, name: str) -> None:
    """Delete a topic, if it exists, and wait until it is gone. Raises StorageError."""
    admin = cluster.admin()
    with translate_errors(cluster, admin):
        try:
            admin.delete_topics([name], operation_timeout=cluster.timeout_s)[name].result(
                cluster.timeout_s
            )
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise
    deadline = time.monotonic() + cluster.timeout_s
    while name in list_topics(cluster):  # brokers confirm before it is gone
        if time.monotonic() > deadline:
            raise StorageError(
                f"the topic {name} was deleted and is still there",
                where=str(cluster),
                fix="do the brokers have delete.topic.enable=false, or may this user not delete "
                "topics? Erase again, it goes on",
            )
        time.sleep(_POLL_S)
