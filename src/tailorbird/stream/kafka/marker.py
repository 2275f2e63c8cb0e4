"""The marker topic `PREFIX.erasing`, which exists while people are erased, and its token.

The topic keeps writers out, and its first message has the token of the erasure that made it. So an
erasure that did not learn whether its marker was created or deleted can check: it removes only its
own.
"""

import secrets
import time
from contextlib import closing
from typing import Any

from tailorbird import faults
from tailorbird.errors import NotReadyError, StorageError
from tailorbird.stream.kafka.address import KafkaLog
from tailorbird.stream.kafka.client import KafkaError, KafkaException, NewTopic, Producer
from tailorbird.stream.kafka.cluster import Cluster, storage_error, topic_settings, translate_errors
from tailorbird.stream.kafka.topic_reset import delete_topic, list_topics, read_messages


def new_erasure_token() -> str:
    """Return a random token for an erasure."""
    return secrets.token_hex(16)


def set_marker(cluster: Cluster, erasure_token: str) -> None:
    """Keep new writers out until `clear_marker`. Idempotent.

    Raises:
        NotReadyError: another erasure is unfinished.
        StorageError: it is unknown whether the marker exists; `clear_marker` checks.
    """
    admin = cluster.admin()
    settings = topic_settings(cluster.replication)  # the message with the token must not expire
    topic = NewTopic(
        cluster.marker_topic,
        num_partitions=1,
        replication_factor=cluster.replication,
        config=settings,
    )
    try:
        admin.create_topics([topic], operation_timeout=cluster.timeout_s)[
            cluster.marker_topic
        ].result(cluster.timeout_s)
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise storage_error(error.args[0], cluster, admin) from error
    faults.fire_if_armed("erase.marker")
    if not _claim_or_compare(cluster, erasure_token):
        raise NotReadyError(
            "another erasure is at work, or was cut short",
            where=str(cluster),
            fix="finish it on the machine where it was begun: tailorbird lake erase --yes. If "
            "that machine is lost with its disk, "
            f"delete the topic {cluster.marker_topic} and erase these people again",
        )


def clear_marker(cluster: Cluster, erasure_token: str) -> bool:
    """Remove the marker with this token, and return whether there was one."""
    if cluster.marker_topic not in list_topics(cluster) or not _claim_or_compare(
        cluster, erasure_token
    ):
        return False
    delete_topic(cluster, cluster.marker_topic)
    return True


def _claim_or_compare(cluster: Cluster, erasure_token: str) -> bool:
    """Return whether the marker has this token; claim one whose creator died before it did."""
    current_token = _read_token(cluster)
    if current_token is None:
        _append_claim(cluster, erasure_token)
        current_token = _read_token(cluster)
    return current_token == erasure_token


def _read_token(cluster: Cluster) -> str | None:
    with closing(read_messages(cluster, cluster.marker_topic, 0)) as stored_messages:
        first_message = next(stored_messages, None)
    if first_message is None:
        return None
    _, _, token = first_message
    return token.decode(errors="replace")


def _append_claim(cluster: Cluster, erasure_token: str) -> None:
    """Append a claim; of several the first counts."""
    failures: list[Any] = []
    timeout_ms = int(cluster.timeout_s * 1000)
    conf = cluster.conf(
        acks="all", linger_ms=0, message_timeout_ms=timeout_ms, request_timeout_ms=timeout_ms
    )
    producer = cluster.client(Producer, conf)
    where = KafkaLog(cluster, cluster.marker_topic.removeprefix(f"{cluster.prefix}."), "")
    with translate_errors(where, producer):
        producer.produce(
            cluster.marker_topic,
            erasure_token.encode(),
            partition=0,
            on_delivery=lambda error, _: failures.append(error) if error else None,
        )
    deadline = time.monotonic() + cluster.timeout_s + 1
    while (pending := producer.flush(0.05)) and time.monotonic() < deadline:
        pass
    if failures:
        raise storage_error(failures[0], where, producer)
    if pending:
        raise StorageError(
            "Kafka did not acknowledge the marker of an erasure",
            where=str(where),
            fix="is the broker running?",
        )
