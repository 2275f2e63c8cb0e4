"""Settings of the data on its way: events, logs, router, stores, features and lake."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class EventsSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    types: Annotated[
        list[str], Meta(description="event types of your own, in addition to the built-in ones")
    ] = []
    skew: Annotated[
        str,
        Meta(
            description="how far a client's ts may be in the future before the event is quarantined"
        ),
    ] = "5m"
    lateness: Annotated[
        str, Meta(description="how late an event may arrive and still count in features")
    ] = "1d"
    dedup: Annotated[
        str, Meta(description="how long an event_id is remembered to drop repeats")
    ] = "7d"
    pseudonym_key: Annotated[
        str,
        Meta(
            description="key to replace ids of people by keyed hashes before anything is "
            "written; set it by environment"
        ),
    ] = ""
    answer: Annotated[
        str, Meta(description="how long an answer waits for the clicks that name it")
    ] = "2h"


class StreamSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    url: Annotated[
        str,
        Meta(
            description="kafka://host:9092/prefix to store the logs in topics; empty: files "
            "on this machine"
        ),
    ] = ""
    tls: Annotated[bool, Meta(description="use TLS to the brokers")] = False
    ca_file: Annotated[
        str, Meta(description="CA certificates of the brokers; empty: those of the system")
    ] = ""
    cert_file: Annotated[
        str, Meta(description="client certificate, if the brokers require one")
    ] = ""
    key_file: Annotated[str, Meta(description="private key of cert_file")] = ""
    key_password: Annotated[
        str, Meta(description="password of key_file; set it by environment")
    ] = ""
    sasl: Annotated[
        str, Meta(description="PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; empty: no SASL")
    ] = ""
    sasl_user: Annotated[str, Meta(description="user name for SASL")] = ""
    sasl_password: Annotated[
        str, Meta(description="password of sasl_user; set it by environment")
    ] = ""
    replication: Annotated[
        int,
        Meta(
            ge=1,
            description="replication factor of new topics; 3 for production, with "
            "min.insync.replicas=2",
        ),
    ] = 1
    partitions: Annotated[
        int,
        Meta(
            ge=1,
            le=64,
            description="number of partitions of the topics, by visitor; as many routers can"
            " share the work. It cannot be changed later",
        ),
    ] = 1
    routers: Annotated[
        int,
        Meta(
            ge=1,
            le=64,
            description="number of router processes that `up` runs on this machine, if there"
            " are several partitions",
        ),
    ] = 1
    snapshot_rows: Annotated[
        int,
        Meta(
            ge=1_000,
            description="routed rows of a partition after which its router writes a snapshot"
            " of its tables to a topic; earlier rows may then be deleted",
        ),
    ] = 500_000
    session: Annotated[
        str,
        Meta(
            description="time without a heartbeat after which a router's partitions are "
            "given to others; brokers require at least 6s"
        ),
    ] = "10s"
    timeout: Annotated[
        str, Meta(description="time limit for a broker's response before a write or a read fails")
    ] = "10s"
    client: Annotated[
        list[str], Meta(description="further settings of librdkafka, each `name=value`")
    ] = []


class RouterSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    memory_mb: Annotated[
        int,
        Meta(
            ge=1,
            description="approximate megabytes of identities and profiles that the router "
            "keeps in memory; it reads others from disk",
        ),
    ] = 256


class StoreSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    url: Annotated[
        str,
        Meta(
            description="Valkey or Redis to copy features to and read them from, such as "
            "valkey://host:6379, valkey+cluster://host:6379, or with TLS "
            "valkeys://host:6379?ssl_ca_certs=FILE (also ssl_certfile, "
            "ssl_keyfile); empty: files on this machine"
        ),
    ] = ""
    password: Annotated[
        str,
        Meta(
            description="password of the Valkey, instead of one in the url; set it by environment"
        ),
    ] = ""
    prefix: Annotated[
        str,
        Meta(
            description="prefix of this project's keys, if several projects share the "
            "Valkey; empty: the prefix of stream.url, or without topics an id in"
            " data/project-id. After a change, copy all records again: `features"
            " republish`"
        ),
    ] = ""
    replica: Annotated[
        str,
        Meta(
            description="replica of the Valkey to repeat slow reads on; empty: they are "
            "repeated over another connection"
        ),
    ] = ""
    hedge: Annotated[
        float,
        Meta(
            ge=0,
            le=0.5,
            description="maximum share of reads that are repeated when they are slow; 0: none",
        ),
    ] = 0.05
    stale_after: Annotated[
        str,
        Meta(
            description="time without an update of the Valkey after which answers name "
            "`freshness` as degraded"
        ),
    ] = "30s"


class FeaturesSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    workers: Annotated[
        int,
        Meta(
            ge=1,
            le=64,
            description="number of workers that share the entities of each schema; a change "
            "rebuilds the states",
        ),
    ] = 1
    entities_max: Annotated[
        int,
        Meta(
            ge=1_000,
            description="maximum number of users, items or crosses; beyond it, those that "
            "are idle longest are evicted and counted",
        ),
    ] = 20_000_000


class LakeSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    url: Annotated[
        str,
        Meta(
            description="s3://bucket/prefix to store the lake in a bucket (credentials: AWS_"
            " variables); empty: files on this machine"
        ),
    ] = ""
    commit_every: Annotated[str, Meta(description="interval of the lake's commits")] = "2s"
    commit_rows: Annotated[
        int, Meta(ge=1_000, description="number of rows after which the lake commits earlier")
    ] = 500_000
    history: Annotated[
        str, Meta(description="how long files are kept after their rows were compacted into others")
    ] = "7d"
    sort: Annotated[
        Literal["position", "person"],
        Meta(
            description="sort order of past days: person reads one person faster and builds "
            "a new state slower"
        ),
    ] = "position"
