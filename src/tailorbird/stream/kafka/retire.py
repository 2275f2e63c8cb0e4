"""Producers that are gone for good: their topics are deleted once nobody needs them, and their
names are never used again.

    retired      a block for each name, written before anything is deleted

A position is a number of rows since the topic began, and others remember theirs. A topic that began
anew under the name would be behind them, so a door that finds its name here takes another
(`serving.naming.first_free`).

What shuffles wrote for another number of workers, or for a schema that is no longer active, is a
function of the routed log: it goes without being noted, and comes again if it is asked for again.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from tailorbird import faults
from tailorbird.errors import NotReadyError, UsageError
from tailorbird.stream.kafka.cluster import KafkaLog, errors
from tailorbird.stream.kafka.logs import SHUFFLED, KafkaStream
from tailorbird.stream.kafka.tail import Tail
from tailorbird.stream.opening import open_writer
from tailorbird.stream.protocol import Block
from tailorbird.stream.released import Released


@dataclass(frozen=True)
class Retired:
    """What became of a producer, or of what a shuffle wrote; `why` it stays, if it does."""

    producer: str
    gone: bool
    why: str = ""


def retire(
    stream: KafkaStream,
    released: Released,
    now: int,
    *,
    producers: Sequence[str] = (),
    idle_us: int,
    dry_run: bool = False,
) -> list[Retired]:
    """Delete the topics of producers that are gone and drained.

    Args:
        released: what the lake has, and what of it was routed.
        producers: these; all there are, without any.
        idle_us: for how long nobody may have written.
    Raises:
        UsageError: there is no such producer.
        StorageError: the broker cannot be reached, or refuses. What was begun is finished when it
            is called again.
    """
    there = stream.producers()
    for name in producers:
        if name not in there:
            raise UsageError(
                f"no topic is of {name!r}",
                where=str(stream),
                fix=f"use one of {', '.join(there) or 'none there is'}",
            )
    known = stream.retired()
    found = []
    for name in producers or there:
        why = "" if name in known else next(_reasons(stream, released, name, now, idle_us), "")
        if not why and not dry_run:
            _retire(stream, name, noted=name in known)
        found.append(Retired(name, not why, why))
    return found


def retire_shuffled(
    stream: KafkaStream,
    wanted: Collection[tuple[str, int]],
    now: int,
    *,
    idle_us: int,
    dry_run: bool = False,
) -> list[Retired]:
    """Delete the topics of shuffles that no worker reads.

    Args:
        wanted: schema and number of workers of those that are at work.
        idle_us: for how long nobody may have written.
    Raises:
        StorageError: as `retire`.
    """
    found = []
    for topic in sorted({log.topic for log in stream.shuffled_logs()}):
        schema, _, count = topic.removeprefix(f"{SHUFFLED}.").rpartition("-")
        if (schema, int(count)) in wanted:
            continue
        lately = any(
            now - _written_at(log) < idle_us for log in stream.shuffled(schema, int(count))
        )
        if not lately and not dry_run:
            _delete(stream, [f"{stream.cluster.prefix}.{topic}"])
        found.append(Retired(topic, not lately, "it was written to lately" if lately else ""))
    return found


def _written_at(log: KafkaLog) -> int:
    try:
        tail = Tail(log)
    except NotReadyError:
        return 0
    try:
        return tail.written_at()
    finally:
        tail.close()


def _reasons(
    stream: KafkaStream, released: Released, producer: str, now: int, idle_us: int
) -> Iterator[str]:
    logs = [(log, released.raw(log.partition)) for log in stream.raw_parts(producer)]
    for log, safe in [*logs, (stream.answers(producer), released.answers(producer))]:
        try:
            tail = Tail(log)
        except NotReadyError:
            continue
        try:
            start, end, at = tail.start(), tail.tip().end or 0, tail.written_at()
        finally:
            tail.close()
        if now - at < idle_us:
            yield "it was written to lately"
        if end > start and safe < end:
            yield f"{end - safe:,} rows of {log.topic} are not routed, archived and loaded yet"


def _retire(stream: KafkaStream, producer: str, *, noted: bool) -> None:
    if not noted:
        with open_writer(stream.retirement, partition="retired") as writer:
            writer.append([Block("retired", 1, producer.encode())])
    faults.at("retire.before_delete")
    _delete(stream, [log.name for log in (stream.raw_parts(producer)[0], stream.answers(producer))])


def _delete(stream: KafkaStream, topics: Sequence[str]) -> None:
    admin = stream.cluster.admin()
    with errors(stream.cluster, admin):
        known = admin.list_topics(timeout=stream.cluster.timeout_s).topics
        for done in admin.delete_topics(
            [name for name in topics if name in known], request_timeout=stream.cluster.timeout_s
        ).values():
            done.result(stream.cluster.timeout_s)
