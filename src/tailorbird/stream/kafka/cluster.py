"""Address, client settings and topics of a Kafka cluster.

    kafka://host:9092,host:9092/shop     servers, and the prefix of all topic names

    shop.raw.PRODUCER    shop.answers.PRODUCER    shop.routed

Topics never expire; they are pruned.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tailorbird.errors import ConfigError, NotReadyError, StorageError, TailorbirdError
from tailorbird.stream.kafka.client import (
    AdminClient,
    ConfigResource,
    KafkaError,
    KafkaException,
    NewTopic,
    require_client,
)

log = logging.getLogger(__name__)

TIMEOUT_S = 10.0
SHUFFLED_PREFIX = "shuffled"  # prefix of the topics that a shuffle derives for workers
MESSAGE_BYTES_DEFAULT = 1_000_000  # default limit of a broker that does not tell its own
_HEADERS_BYTES = 16_384  # room for headers in a message
_PREFIX = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9_-]{0,80}\Z"
)  # no dots: `shop` must not read what `shop.raw` writes
_TOPIC_SETTINGS = {
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "cleanup.policy": "delete",
}  # a log is pruned, it never expires


class BrokerErrors:
    """The last refusal by a broker's connection; a waiting call itself only sees a timeout."""

    def __init__(self) -> None:
        self._refusal: Any = None

    def __call__(self, error: Any) -> None:
        if (
            error.code() in (KafkaError._AUTHENTICATION, KafkaError._SSL)
            or "certificate" in error.str()
        ):
            self._refusal = error

    def pop(self, clients: Sequence[Any] = ()) -> Any:
        """Return and clear the last refusal, or None; clients report it when they are polled."""
        for client in clients:
            client.poll(0)
        refusal = self._refusal
        self._refusal = None
        return refusal


@dataclass(frozen=True)
class Cluster:
    """A cluster as a project uses it.

    Attributes:
        servers: `host:port`, several separated by commas.
        prefix: prefix of the topics' names.
        options: further settings of librdkafka, such as SASL and TLS; never printed.
        partitions: number of partitions of raw and routed topics, fixed at their creation.
        replication: replication factor of new topics; 3 in production, of which 2 must
            acknowledge.
        timeout_s: time after which an unanswered call fails.
        broker_errors: the last refusals by brokers.
        is_erasing: whether this process runs an erasure, which keeps other writers out.
    """

    servers: str
    prefix: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)
    replication: int = 1
    partitions: int = 1
    timeout_s: float = TIMEOUT_S
    broker_errors: BrokerErrors = field(default_factory=BrokerErrors, repr=False, compare=False)
    is_erasing: bool = False

    @property
    def marker_topic(self) -> str:
        """The topic that exists while people are erased, see `stream.kafka.topic_reset`."""
        return f"{self.prefix}.erasing"

    def conf(self, **settings: Any) -> dict[str, Any]:
        """Return the settings for a client; `_` in names stands for `.`."""
        timeout_ms = int(self.timeout_s * 1000)
        base = {
            "bootstrap.servers": self.servers,
            "client.id": "tailorbird",
            "log_level": 2,
            "socket.timeout.ms": max(1000, timeout_ms),
        }
        base |= {"reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 1000}
        client_settings = {
            "error_cb": self.broker_errors,
            **{name.replace("_", "."): value for name, value in settings.items()},
        }
        return {**base, **self.options, **client_settings}

    def client(self, client_class: Callable[[dict[str, Any]], Any], conf: dict[str, Any]) -> Any:
        """Create a client with these settings. Raises ConfigError for an invalid one."""
        try:
            return client_class(conf)
        except (KafkaException, ValueError, TypeError) as error:
            reason = error.args[0].str() if isinstance(error, KafkaException) else str(error)
            fix = (
                "see [stream] of tailorbird.toml: client, ca_file, cert_file, key_file, and the "
                "password of the key"
            )
            raise ConfigError(
                f"the client of Kafka refuses its settings: {reason}", where="stream", fix=fix
            ) from None

    def __str__(self) -> str:
        return f"kafka://{self.servers}/{self.prefix}"

    def admin(self) -> Any:
        """Return the shared admin client; each client has threads of its own."""
        return self._admin

    @cached_property
    def _admin(self) -> Any:
        require_client()
        return self.client(AdminClient, self.conf())


@dataclass(frozen=True)
class KafkaTopic:
    """A partition of a topic, which has a log.

    Attributes:
        topic: name without the cluster's prefix, such as `raw.serve-1` or `routed`.
        partition: name of the log, see `LogReader.partition`.
        folder: holds the lock against a second writer on this machine.
        partition_number: number of the partition, out of `partition_count` of the topic.
    """

    cluster: Cluster
    topic: str
    partition: str
    folder: Path | None = None
    partition_number: int = 0
    partition_count: int = 1

    @property
    def name(self) -> str:
        """The topic's full name."""
        return f"{self.cluster.prefix}.{self.topic}"

    @property
    def stem(self) -> str:
        """The name of the log as a file, without suffix."""
        return self.topic.replace(".", "-", 1) + (
            f".{self.partition_number}" if self.partition_count > 1 else ""
        )

    @property
    def label(self) -> str:
        """The topic, with the number of the partition if there are several."""
        return self.topic + (f"[{self.partition_number}]" if self.partition_count > 1 else "")

    @property
    def is_derived(self) -> bool:
        return self.topic.startswith(f"{SHUFFLED_PREFIX}.")

    def __str__(self) -> str:
        return f"kafka://{self.cluster.servers}/{self.name}" + (
            f"[{self.partition_number}]" if self.partition_count > 1 else ""
        )


def parse_cluster(url: str, **settings: Any) -> Cluster:
    """Parse a URL like `kafka://host:9092/prefix`. Raises ConfigError.

    >>> parse_cluster("kafka://a:9092,b:9092/shop").servers
    'a:9092,b:9092'
    """
    parts = urlsplit(url)
    if parts.scheme != "kafka" or not parts.netloc:
        raise ConfigError(f"expected kafka://host:9092/prefix, got {url!r}", where="stream.url")
    if "@" in parts.netloc:
        raise ConfigError(
            "a password does not belong into an address",
            where="stream.url",
            fix="set stream.sasl_user and stream.sasl_password",
        )
    servers = [
        server if re.search(r":\d+\Z", server) else f"{server}:9092"
        for server in parts.netloc.split(",")
    ]
    prefix = parts.path.strip("/") or "tailorbird"
    if not _PREFIX.match(prefix):
        raise ConfigError(
            f"topics cannot begin with {prefix!r}",
            where="stream.url",
            fix="use letters, digits, '_' and '-'",
        )
    return Cluster(",".join(servers), prefix, **settings)


@contextmanager
def translate_errors(where: "KafkaTopic | Cluster", *clients: Any) -> Iterator[None]:
    """Convert the client's errors to ours; `clients` are polled for why a broker was silent."""
    try:
        yield
    except KafkaException as error:
        raise storage_error(error.args[0], where, *clients) from error


def storage_error(error: Any, where: "KafkaTopic | Cluster", *clients: Any) -> TailorbirdError:
    """Convert an error of the client to one of ours."""
    unreachable_codes = (
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TIMED_OUT,
        KafkaError._MSG_TIMED_OUT,
    )
    if error.code() in unreachable_codes:
        cluster = where if isinstance(where, Cluster) else where.cluster
        error = cluster.broker_errors.pop(clients) or error
    unauthorized_codes = (
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
    )
    if error.code() in (*unauthorized_codes, KafkaError._AUTHENTICATION):
        fix = (
            "see stream.sasl_user, the password in TAILORBIRD_STREAM__SASL_PASSWORD, and what "
            "this user may do at the broker"
        )
    elif error.code() == KafkaError._SSL or "certificate" in error.str():
        fix = (
            "see stream.tls, stream.ca_file, stream.cert_file and stream.key_file, and the name "
            "in the broker's certificate"
        )
    elif error.code() in unreachable_codes:
        fix = "is the broker running, and is its advertised address reachable from here?"
    else:
        fix = "look at the broker's log"
    return StorageError(f"Kafka: {error.str()} ({error.name()})", where=str(where), fix=fix)


def list_topic_suffixes(cluster: Cluster, kind: str) -> list[str]:
    """Return the sorted suffixes of the topics of a kind, such as `raw` or `answers`."""
    admin = cluster.admin()
    name_prefix = f"{cluster.prefix}.{kind}."
    with translate_errors(cluster, admin):
        names = admin.list_topics(timeout=cluster.timeout_s).topics
    return sorted(name[len(name_prefix) :] for name in names if name.startswith(name_prefix))


def check_topic_exists(consumer: Any, address: KafkaTopic) -> None:
    """Check that a topic exists with the expected number of partitions.

    Raises:
        NotReadyError: there is no such topic.
        ConfigError: it has another number of partitions.
    """
    with translate_errors(address, consumer):
        topic = consumer.list_topics(timeout=address.cluster.timeout_s).topics.get(address.name)
    if topic is None:
        raise NotReadyError(
            "there is no such topic", where=str(address), fix="start its writer first"
        )
    _check_partition_count(topic, address)


def ensure_topic(address: KafkaTopic) -> int:
    """Create the topic if it does not exist, and return the maximum bytes of a payload.

    Raises:
        ConfigError: the topic has another number of partitions.
        NotReadyError: an erasure is running.
        StorageError: the broker cannot be reached, or refuses.
    """
    cluster = address.cluster
    admin = cluster.admin()
    new_topic = NewTopic(
        address.name,
        num_partitions=address.partition_count,
        replication_factor=cluster.replication,
        config=topic_settings(cluster.replication),
    )
    with translate_errors(address, admin):
        topics_by_name = admin.list_topics(timeout=cluster.timeout_s).topics
        if cluster.marker_topic in topics_by_name and not cluster.is_erasing:
            raise NotReadyError(
                "people are being erased, or their erasure was cut short, and nothing may be "
                "written meanwhile",
                where=str(cluster),
                fix="tailorbird lake erase --yes, on the machine where it was begun, brings it "
                "to its end",
            )
        topic = topics_by_name.get(address.name)
        if topic is None:
            try:
                admin.create_topics([new_topic], operation_timeout=cluster.timeout_s)[
                    address.name
                ].result(cluster.timeout_s)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise
        else:
            _check_partition_count(topic, address)
    return _read_payload_bytes_max(admin, address)


def topic_settings(replication: int) -> dict[str, str]:
    """Return the settings of a new topic.

    With replicas, acknowledged messages are on at least two of them, and only one that has them can
    become the leader.
    """
    if replication == 1:
        return _TOPIC_SETTINGS
    return {
        **_TOPIC_SETTINGS,
        "min.insync.replicas": "2" if replication > 2 else "1",
        "unclean.leader.election.enable": "false",
    }


def _check_partition_count(topic: Any, address: KafkaTopic) -> None:
    if len(topic.partitions) != address.partition_count:
        raise ConfigError(
            f"the topic has {len(topic.partitions)} partitions, expected "
            f"{address.partition_count}; the number is fixed when a topic is made",
            where=f"{address.cluster}: {address.name}",
            fix="set stream.partitions back; or delete the topic if it is not ours, or give the "
            "project another prefix: "
            'stream.url = "kafka://host:9092/PREFIX"',
        )


def _read_payload_bytes_max(admin: Any, address: KafkaTopic) -> int:
    resource = ConfigResource("topic", address.name)
    try:
        config_entries = admin.describe_configs(
            [resource], request_timeout=address.cluster.timeout_s
        )[resource].result(address.cluster.timeout_s)
        message_bytes_max = int(config_entries["max.message.bytes"].value)
    except (KafkaException, KeyError, TypeError, ValueError, TimeoutError):
        message_bytes_max = MESSAGE_BYTES_DEFAULT  # the broker does not tell
    if message_bytes_max <= 2 * _HEADERS_BYTES:
        raise ConfigError(
            f"the topic takes messages of {message_bytes_max} bytes at most",
            where=str(address),
            fix="set its max.message.bytes to 1000000",
        )
    return message_bytes_max - _HEADERS_BYTES
