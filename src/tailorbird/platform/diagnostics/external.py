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


def external_services(project: "Project") -> Iterator[Finding]:
    """Check that the services in the settings respond and are configured correctly."""
    if (topics := project.stream.topics) is not None:
        yield from _cluster(topics, project.paths.lake)
    if (lake := storage_at(project.paths.lake).conditional) is not None:
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
        copies = open_copies(url, "doctor", password=password)
        try:
            copies.check()
        finally:
            copies.close()
    except TailorbirdError as error:
        return (
            setting,
            "error",
            f"{error.where}: {error.message}",
            error.fix.replace("store.url", setting),
        )
    return setting, "ok", f"{copies.where} answers", ""


def _cluster(stream: "KafkaLogSet", lake: StoragePath) -> Iterator[Finding]:
    """Check that the cluster is reachable and its topics are configured as declared."""
    from tailorbird.stream.kafka.inspect import find_problems, inspect_cluster

    cluster = stream.cluster
    try:
        state = inspect_cluster(cluster)
    except TailorbirdError as error:
        yield _broker_error(error)
        return
    security_protocol = str(cluster.conf().get("security.protocol", "PLAINTEXT"))
    yield (
        "kafka",
        "ok",
        f"{len(state.brokers)} brokers ({', '.join(state.brokers)}), {security_protocol}, "
        f"{len(state.topics)} topics",
        "",
    )
    for topic in state.topics:
        name = topic.name.removeprefix(f"{cluster.prefix}.")
        for problem, fix in find_problems(topic, cluster, stream.partition_count(name)):
            yield f"kafka {name}", "warning", problem, fix
    yield from _topics(stream, lake)


def _broker_error(error: TailorbirdError) -> Finding:
    where = f"{error.where}: {error.message}"
    return "kafka", "error", where, error.fix or "is the broker running?"


def _topics(stream: "KafkaLogSet", lake: StoragePath) -> Iterator[Finding]:
    """Check the topics, and how many rows of each the lake does not have yet."""
    from tailorbird.stream import open_reader, read_released

    try:
        logs = (*stream.raw_topics(), *stream.response_logs().values(), stream.routed)
        safe = read_released(lake).safe
        for address in logs:
            try:
                with open_reader(address) as reader:
                    end, waiting = reader.end(), reader.backlog_after(safe.get(address.stem, 0))
            except NotReadyError:
                if safe.get(address.stem, 0) > 1:
                    yield (
                        f"topic {address.topic}",
                        "error",
                        f"is empty, but {safe[address.stem]:,} rows of it are in the lake",
                        LOST_ROWS_FIX,
                    )
                continue  # Nothing has been written to it yet.
            subject = f"topic {address.label}"
            if waiting.rows_past_end:
                yield (
                    subject,
                    "error",
                    f"ends at {end:,}, {waiting.rows_past_end:,} rows before what the lake has of it",
                    LOST_ROWS_FIX,
                )
            else:
                yield (
                    subject,
                    "ok",
                    f"{end:,} rows, {waiting.rows:,} of them not yet safe in the lake",
                    "",
                )
    except TailorbirdError as error:
        yield _broker_error(error)
