"""Topics that were lost, begun anew behind what is held of them: `tailorbird stream begin-anew`.

A broker that came back without its disk, or from an older copy, ends before positions that router
and lake hold. Were it written to, these places would be given out twice, and what stands at them be
skipped; so doors refuse (`stream.held`) until this was done:

    held by router and lake      1 ─────────────────► 812
    the topic, as it is          –  (or ends at 640)
    the topic, begun anew                             812 ──► …

A topic is replaced whole, and only if nobody misses a row of it. What had been acknowledged behind
812 is lost with the broker, and nothing here can tell how much that was. Each step can be repeated:
what was begun anew already is not lost any more.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from tailorbird import faults
from tailorbird.errors import NotReadyError
from tailorbird.stream.held import held_by
from tailorbird.stream.kafka import emptied
from tailorbird.stream.kafka.cluster import KafkaLog, topic_settings
from tailorbird.stream.kafka.emptied import Emptying, end_of
from tailorbird.stream.kafka.logs import KafkaStream
from tailorbird.stream.partitions import PAST
from tailorbird.stream.released import Released


@dataclass(frozen=True)
class Lost:
    """A topic that ends before what is held of it.

    Attributes:
        was: as it is made again.
        ends: of each partition, where it ends now; 0 where it is not there.
    """

    was: Emptying
    ends: tuple[int, ...]
    logs: tuple[KafkaLog, ...]

    @property
    def rows(self) -> int:
        """How many positions are held that it does not have."""
        return sum(
            max(0, wanted - end) for wanted, end in zip(self.was.ends, self.ends, strict=True)
        )


def lost(
    logs: Sequence[KafkaLog], wanted: Sequence[int], there: Collection[str], missed: str = ""
) -> Lost | None:
    """The topic of these partitions, if one of them ends before the position that is held of it.

    Raises:
        NotReadyError: another of its partitions has rows that nobody has read, which would be lost
            with it.
    """
    ends = tuple(end_of(log, there) for log in logs)
    if all(end >= position for end, position in zip(ends, wanted, strict=True)):
        return None
    unread = [log for log, end, position in zip(logs, ends, wanted, strict=True) if end > position]
    if unread:
        raise NotReadyError(
            f"{logs[0].name} lost rows, and {', '.join(log.partition for log in unread)} has "
            "some that were not read yet",
            where=str(logs[0].cluster),
            fix=missed
            or (
                "run router and lake until they have these (tailorbird doctor says how far they "
                "are), then begin anew"
            ),
        )
    copies = logs[0].cluster.replication
    return Lost(
        Emptying(logs[0].topic, tuple(wanted), copies, topic_settings(copies)), ends, tuple(logs)
    )


def lost_of_doors(stream: KafkaStream, at: Mapping[str, Mapping[str, int]]) -> list[Lost]:
    """The topics of doors that were lost. `at`: what is held of each producer's logs, see
    `held_of`.
    """
    there = emptied.topics_of(stream.cluster)
    found: list[Lost] = []
    for producer, positions in at.items():
        for logs in (stream.raw_parts(producer), (stream.answers(producer),)):
            wanted = [positions[log.stem] for log in logs]
            if any(wanted) and (one := lost(logs, wanted, there)) is not None:
                found.append(one)
    return found


def held_of(
    stream: KafkaStream, released: Released, routers: Collection[Mapping[str, int]]
) -> dict[str, Mapping[str, int]]:
    """By producer, how far router and lake are in each of its logs, those whose topics are gone
    too; without those that were retired.
    """
    count = stream.count
    names = {name for part in routers for name in part} | set(released.routed)
    producers = {
        name.rpartition(".")[0] if count > 1 and name.rpartition(".")[2].isdigit() else name
        for name in names
    }
    producers |= {
        name.removeprefix("answers-") for name in released.tables.get("answers", {})
    } | set(stream.producers())
    gone = stream.retired() | set(PAST)
    return {each: held_by(stream, each, routers, released) for each in sorted(producers - gone)}


def begin_anew(one: Lost) -> None:
    """Put a new topic in a lost one's place. Raises StorageError if the broker does not delete, or
    cannot be reached.
    """
    emptied.empty(list(one.logs), one.was, anew=True)
    faults.at("anew.topic")
