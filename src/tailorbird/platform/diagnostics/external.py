"""Diagnosis of external parts of a project: brokers, Valkey, bucket."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tailorbird.errors import NotReadyError, TailorbirdError
from tailorbird.storage import storage_at
from tailorbird.storage_paths import ObjectPath, StoragePath

if TYPE_CHECKING:
    from tailorbird.config import Project
    from tailorbird.stream.kafka.logs import KafkaLogSet

LOST_ROWS_FIX = (
    "it was lost, or is another cluster's or an older copy: see stream.url and the disk; "
    "lake verify names what is missing; "
    'topics that are lost for good: docs/how-to/kafka.md, "When topics are lost for good"'
)

Finding = tuple[str, str, str, str]  # Subject, "ok" | "warning" | "error", finding, and fix.


def check_external_services(project: "Project") -> Iterator[Finding]:
    """Check that the services in the settings respond and are configured correctly."""
    if (topics := project.stream.kafka_logs) is not None:
        yield from _check_cluster(topics, project.paths.lake)
    if (lake := storage_at(project.paths.lake).conditional_object) is not None:
        yield _check_bucket(lake)
    store = project.settings.store
    for setting, url in (
        ("store.url", store.url),
        ("store.replica", store.replica if store.url else ""),
    ):
        if url:
            yield _check_valkey(setting, url, store.password)


def _check_bucket(lake: ObjectPath) -> Finding:
    """Check that the bucket exists and is readable.

    Without this check, a missing bucket would look like an empty lake.
    """
    try:
        # Nothing has this prefix, so it is one request however large the lake is.
        next((lake / "doctor").iterdir(), None)
    except TailorbirdError as error:
        return "bucket", "error", f"{error.where}: {error.message}", error.fix
    return (
        "bucket",
        "ok",
        f"{lake} can be read; the lake role tries conditional writes when it starts",
        "",
    )


def _check_valkey(setting: str, url: str, password: str) -> Finding:
    """Check that the server of a setting responds and does not evict keys."""
    from tailorbird.store import open_copies

    try:
        copy_target = open_copies(url, "doctor", password=password)
        try:
            copy_target.check_eviction_policy()
        finally:
            copy_target.close()
    except TailorbirdError as error:
        return (
            setting,
            "error",
            f"{error.where}: {error.message}",
            error.fix.replace("store.url", setting),
        )
    return setting, "ok", f"{copy_target.where} answers", ""


def _check_cluster(log_set: "KafkaLogSet", lake: StoragePath) -> Iterator[Finding]:
    """Check that the cluster is reachable and its topics are configured as declared."""
    from tailorbird.stream.kafka.inspect import find_problems, inspect_cluster

    cluster = log_set.cluster
    try:
        cluster_state = inspect_cluster(cluster)
    except TailorbirdError as error:
        yield _broker_error(error)
        return
    security_protocol = str(cluster.conf().get("security.protocol", "PLAINTEXT"))
    yield (
        "kafka",
        "ok",
        f"{len(cluster_state.brokers)} brokers ({', '.join(cluster_state.brokers)}), "
        f"{security_protocol}, "
        f"{len(cluster_state.topics)} topics",
        "",
    )
    for topic in cluster_state.topics:
        name = topic.name.removeprefix(f"{cluster.prefix}.")
        for problem, fix in find_problems(topic, cluster, log_set.expected_partition_count(name)):
            yield f"kafka {name}", "warning", problem, fix
    yield from _check_topics(log_set, lake)


def _broker_error(error: TailorbirdError) -> Finding:
    text = f"{error.where}: {error.message}"
    return "kafka", "error", text, error.fix or "is the broker running?"


def _check_topics(log_set: "KafkaLogSet", lake: StoragePath) -> Iterator[Finding]:
    """Check the topics, and how many rows of each the lake does not have yet."""
    from tailorbird.stream import open_reader, read_released_positions

    try:
        log_addresses = (*log_set.raw_topics(), *log_set.response_logs().values(), log_set.routed)
        safe_positions = read_released_positions(lake).safe
        for address in log_addresses:
            try:
                with open_reader(address) as reader:
                    end_position = reader.end()
                    backlog = reader.backlog_after(safe_positions.get(address.stem, 0))
            except NotReadyError:
                if safe_positions.get(address.stem, 0) > 1:
                    yield (
                        f"topic {address.topic}",
                        "error",
                        f"is empty, but {safe_positions[address.stem]:,} rows of it are in the "
                        "lake",
                        LOST_ROWS_FIX,
                    )
                continue  # Nothing has been written to it yet.
            subject = f"topic {address.label}"
            if backlog.rows_past_end:
                yield (
                    subject,
                    "error",
                    f"ends at {end_position:,}, {backlog.rows_past_end:,} rows before what the "
                    "lake has of it",
                    LOST_ROWS_FIX,
                )
            else:
                yield (
                    subject,
                    "ok",
                    f"{end_position:,} rows, {backlog.rows:,} of them not yet safe in the lake",
                    "",
                )
    except TailorbirdError as error:
        yield _broker_error(error)
