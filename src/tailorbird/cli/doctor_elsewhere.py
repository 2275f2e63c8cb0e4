"""What `tailorbird doctor` finds of the parts that a project has elsewhere: brokers, Valkey,
bucket. Nothing is changed there.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird.errors import NotReadyError, TailorbirdError
from tailorbird.places import ObjectPath, Storage

if TYPE_CHECKING:
    from tailorbird.config import Project
    from tailorbird.stream import Address, Stream
    from tailorbird.stream.kafka.logs import KafkaStream

LOST = (
    "it was lost, or is another cluster's or an older copy: see stream.url and the disk; "
    "lake verify names what is missing; "
    'topics that are lost for good: docs/how-to/kafka.md, "When topics are lost for good"'
)

Finding = tuple[str, str, str, str]  # what, "ok" | "warning" | "error", what was found, what to do


def elsewhere(project: "Project") -> Iterator[Finding]:
    """Whether those answer that settings name, and are as they should be."""
    if not isinstance(project.stream, Path):
        yield from _cluster(project.stream, project.paths.lake)
    if isinstance(project.paths.lake, ObjectPath):
        yield _bucket(project.paths.lake)
    store = project.settings.store
    for setting, url in (
        ("store.url", store.url),
        ("store.replica", store.replica if store.url else ""),
    ):
        if url:
            yield _valkey(setting, url, store.password)


def _bucket(lake: ObjectPath) -> Finding:
    """Whether the bucket is there and may be read. Of one that is not, an object is told as not
    there, and a lake as empty.
    """
    try:
        next(
            (lake / "doctor").iterdir(), None
        )  # nothing is there: one question, however much the lake has
    except TailorbirdError as error:
        return "bucket", "error", f"{error.where}: {error.message}", error.fix
    return (
        "bucket",
        "ok",
        f"{lake} can be read; the lake role tries conditional writes when it starts",
        "",
    )


def _valkey(setting: str, url: str, password: str) -> Finding:
    """Whether the server that a setting names answers, and keeps what it is given."""
    from tailorbird.store.valkey import open_copies

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


def _cluster(stream: "KafkaStream", lake: Storage) -> Iterator[Finding]:
    """The cluster: can it be reached, are our topics as they are configured, and what the lake does
    not have yet of each.
    """
    from tailorbird.stream.kafka.inspect import find_problems, inspect_cluster

    cluster = stream.cluster
    try:
        state = inspect_cluster(cluster)
    except TailorbirdError as error:
        yield (
            "kafka",
            "error",
            f"{error.where}: {error.message}",
            error.fix or "is the broker running?",
        )
        return
    how = str(cluster.conf().get("security.protocol", "PLAINTEXT"))
    yield (
        "kafka",
        "ok",
        f"{len(state.brokers)} brokers ({', '.join(state.brokers)}), {how}, "
        f"{len(state.topics)} topics",
        "",
    )
    for topic in state.topics:
        name = topic.name.removeprefix(f"{cluster.prefix}.")
        for found, fix in find_problems(topic, cluster, stream.partition_count(name)):
            yield f"kafka {name}", "warning", found, fix
    yield from _topics(stream, lake)


def _topics(stream: "Stream", lake: Storage) -> Iterator[Finding]:
    """The topics there are, and how many rows of each the lake does not have yet."""
    from tailorbird.stream import (
        open_reader,
        raw_addresses,
        read_released,
        response_log_addresses,
        routed_address,
    )
    from tailorbird.stream.kafka import KafkaLog

    try:
        found: dict[str, Address] = {
            **raw_addresses(stream),
            **{f"answers {name}": each for name, each in response_log_addresses(stream).items()},
        }
        found["routed"] = routed_address(stream)
        safe = read_released(lake).safe
        for address in found.values():
            if isinstance(address, Path):
                continue
            try:
                with open_reader(address) as reader:
                    end, waiting = reader.end(), reader.waiting(safe.get(address.stem, 0))
            except NotReadyError:
                if safe.get(address.stem, 0) > 1:
                    yield (
                        f"topic {address.topic}",
                        "error",
                        f"is empty, but {safe[address.stem]:,} rows of it are in the lake",
                        LOST,
                    )
                continue  # nobody has written to it yet
            part = (
                f"[{address.number}]" if isinstance(address, KafkaLog) and address.count > 1 else ""
            )
            what = f"topic {address.topic}{part}"
            if waiting.beyond:
                yield (
                    what,
                    "error",
                    f"ends at {end:,}, {waiting.beyond:,} rows before what the lake has of it",
                    LOST,
                )
            else:
                yield (
                    what,
                    "ok",
                    f"{end:,} rows, {waiting.rows:,} of them not yet safe in the lake",
                    "",
                )
    except TailorbirdError as error:
        yield (
            "kafka",
            "error",
            f"{error.where}: {error.message}",
            error.fix or "is the broker running?",
        )
