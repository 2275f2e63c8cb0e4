"""Read-only inspection of a cluster and our topics against the settings, for `doctor`."""

from collections.abc import Iterator
from dataclasses import dataclass

from tailorbird.stream.kafka.client import ConfigResource, KafkaException
from tailorbird.stream.kafka.cluster import Cluster, translate_errors


@dataclass(frozen=True)
class TopicState:
    """A topic of ours.

    Attributes:
        name: full name with the prefix.
        partitions: number of partitions.
        replication, in_sync: fewest replicas, and in-sync replicas, of any partition.
        settings: settings that the broker tells, such as "min.insync.replicas".
    """

    name: str
    partitions: int
    replication: int
    in_sync: int
    settings: dict[str, str]


@dataclass(frozen=True)
class ClusterState:
    """The brokers, `host:port` each, and our topics by name."""

    brokers: tuple[str, ...]
    topics: tuple[TopicState, ...]


_INSPECTED_SETTINGS = (
    "min.insync.replicas",
    "retention.ms",
    "retention.bytes",
    "cleanup.policy",
    "unclean.leader.election.enable",
)


def inspect_cluster(cluster: Cluster) -> ClusterState:
    """Inspect the cluster.

    Raises:
        StorageError: it cannot be reached, or refuses.
        ConfigError: client settings are invalid.
    """
    admin = cluster.admin()
    with translate_errors(cluster, admin):
        metadata = admin.list_topics(timeout=cluster.timeout_s)
    brokers = tuple(sorted(f"{broker.host}:{broker.port}" for broker in metadata.brokers.values()))
    names = sorted(name for name in metadata.topics if name.startswith(f"{cluster.prefix}."))
    resources = [ConfigResource("topic", name) for name in names]
    descriptions = (
        admin.describe_configs(resources, request_timeout=cluster.timeout_s) if names else {}
    )
    states = []
    for name, resource in zip(names, resources, strict=True):
        partitions = metadata.topics[name].partitions.values()
        try:
            entries = descriptions[resource].result(cluster.timeout_s)
        except (KafkaException, TimeoutError):
            entries = {}  # the broker does not say, or not to us
        settings = {
            key: entries[key].value
            for key in _INSPECTED_SETTINGS
            if key in entries and entries[key].value is not None
        }
        replication = min((len(partition.replicas) for partition in partitions), default=0)
        in_sync = min((len(partition.isrs) for partition in partitions), default=0)
        states.append(TopicState(name, len(partitions), replication, in_sync, settings))
    return ClusterState(brokers, tuple(states))


def find_problems(
    topic: TopicState, cluster: Cluster, expected_partitions: int
) -> Iterator[tuple[str, str]]:
    """Yield problems of a topic and their fixes; `expected_partitions` is the expected number."""
    if topic.partitions != expected_partitions:
        yield (
            f"{topic.partitions} partitions, {expected_partitions} configured",
            "the number is fixed when a topic is made",
        )
    if topic.replication < cluster.replication:
        problem = f"{topic.replication} copies, {cluster.replication} configured"
        yield (
            problem,
            "add replicas at the broker (kafka-reassign-partitions), stream.replication "
            "counts only for topics that are made",
        )
    if topic.in_sync < topic.replication:
        yield f"{topic.in_sync} of {topic.replication} copies are in sync", "is a broker down?"
    min_in_sync = int(topic.settings.get("min.insync.replicas", "0"))
    if topic.replication > 1 and 0 < min_in_sync < 2:
        yield (
            "min.insync.replicas is 1: what one broker has counts as written",
            "set min.insync.replicas=2 for the topic",
        )
    elif min_in_sync > topic.replication > 0:
        yield (
            f"min.insync.replicas is {min_in_sync}, with {topic.replication} copies: nothing can "
            "be written",
            "lower it, or add replicas",
        )
    if topic.settings.get("unclean.leader.election.enable") == "true":
        yield (
            "unclean leaders may be elected: what was acknowledged may be lost",
            "set unclean.leader.election.enable=false",
        )
    if "compact" in topic.settings.get("cleanup.policy", ""):
        yield "the topic is compacted: rows vanish from it", "set cleanup.policy=delete"
    for key in ("retention.ms", "retention.bytes"):
        if topic.settings.get(key, "-1") != "-1":
            yield (
                f"{key} is {topic.settings[key]}: rows expire, whether the lake has them or not",
                f"set {key}=-1, or longer than any outage",
            )
