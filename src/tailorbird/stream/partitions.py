"""Which log files a project has, and what they are called.

raw-PRODUCER.db       bodies as received; one door or serve process each, `raw-import.db` for imports, `raw-replay.db` for replays
answers-PRODUCER.db   what each answer read; one serve process each
routed.db             the router's output
LOG.db.damaged-N      blocks from offset N on that did not match their checksums, moved out of the way when LOG.db was opened
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from tailorbird.errors import UsageError

IMPORTS = "import"  # the producer of imported files
REPLAYS = "replay"  # the producer of what was refused once and is sent again
PAST = (
    IMPORTS,
    REPLAYS,
    # their events were received before: in the order of receipt they wait for nobody, nor anybody for
    # them
)

if TYPE_CHECKING:
    from tailorbird.stream.kafka import KafkaLog, KeyedLog, MergedLog
    from tailorbird.stream.kafka.logs import KafkaPartition, KafkaStream

Stream: TypeAlias = "Path | KafkaStream"  # where the logs of a project are
Share: TypeAlias = "Path | KafkaPartition"  # the part of them that one router has
Address: TypeAlias = "Path | KafkaLog | MergedLog"  # of a log, for those who read it
RawAddress: TypeAlias = "Path | KafkaLog | KeyedLog"  # of a door's log, for the door
_PRODUCER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")


def raw_path(stream: Path, producer: str) -> Path:
    """Where `producer` writes the bodies that it takes."""
    return stream / f"raw-{check_producer_name(producer)}.db"


def answers_path(stream: Path, producer: str) -> Path:
    """Where the serve process `producer` writes what its answers read."""
    return stream / f"answers-{check_producer_name(producer)}.db"


def routed_path(stream: Path) -> Path:
    """Where the router writes."""
    return stream / "routed.db"


def raw_logs(stream: Path) -> dict[str, Path]:
    """The raw logs there are, by producer, in the order of their names."""
    return _logs(stream, "raw-")


def answer_logs(stream: Path) -> dict[str, Path]:
    """The answer logs there are, by producer, in the order of their names."""
    return _logs(stream, "answers-")


def set_aside_files(log: Path) -> list[Path]:
    """The files into which damaged ends of a log were moved when its writer opened it, oldest first
    by offset.
    """
    return sorted(
        log.parent.glob(f"{log.name}.damaged-*"), key=lambda path: int(path.name.rpartition("-")[2])
    )


def _logs(stream: Path, prefix: str) -> dict[str, Path]:
    return {
        path.name[len(prefix) : -len(".db")]: path for path in sorted(stream.glob(f"{prefix}*.db"))
    }


def router_share(stream: "Stream | Share") -> Share:
    """What a router has of the logs: all, or the partition that it was given."""
    if isinstance(stream, Path):
        return stream
    from tailorbird.stream.kafka.logs import KafkaStream

    if not isinstance(stream, KafkaStream):
        return stream
    if stream.count > 1:
        raise ValueError("each of several partitions has a router of its own, see router.group")
    return stream.share(0, stream.folder)


def scores_path(stream: Path) -> Path:
    """The file of the score role."""
    return stream / "scores.db"


def raw_address(stream: Stream, producer: str) -> RawAddress:
    """The raw log of `producer`, wherever the logs are."""
    return raw_path(stream, producer) if isinstance(stream, Path) else stream.raw(producer)


def answers_address(stream: Stream, producer: str) -> "Path | KafkaLog":
    """The answer log of `producer`, wherever the logs are."""
    return answers_path(stream, producer) if isinstance(stream, Path) else stream.answers(producer)


def routed_address(stream: Stream) -> Address:
    """The router's log, wherever the logs are."""
    return routed_path(stream) if isinstance(stream, Path) else stream.routed


def raw_names(stream: Stream, producer: str) -> list[str]:
    """Under which names the lake knows the raw log of `producer`: one for each partition."""
    return (
        [producer]
        if isinstance(stream, Path)
        else [log.partition for log in stream.raw_parts(producer)]
    )


def raw_addresses(stream: "Stream | Share") -> "Mapping[str, Path | KafkaLog]":
    """The raw logs there are, by producer, in the order of their names."""
    return raw_logs(stream) if isinstance(stream, Path) else stream.raw_logs()


def answers_addresses(stream: Stream) -> "Mapping[str, Path | KafkaLog]":
    """The answer logs there are, by producer, in the order of their names."""
    return answer_logs(stream) if isinstance(stream, Path) else stream.answer_logs()


def index_paths(stream: Stream) -> list[Path]:
    """The files on this machine that hold a router's tables, if there are any."""
    return [routed_path(stream)] if isinstance(stream, Path) else stream.index_paths()


def folder_of(stream: Stream) -> Path:
    """Where this machine keeps what belongs to the logs."""
    return stream if isinstance(stream, Path) else stream.folder


def check_producer_name(producer: str) -> str:
    """A producer's name. Raises UsageError if it cannot be one.

    >>> checked("serve-1")
    'serve-1'
    """
    if not _PRODUCER.match(producer):
        raise UsageError(
            f"expected a producer's name of letters, digits, '.', '_' and '-', got {producer!r}"
        )
    return producer


def is_made_of_another(log: Address) -> bool:
    """Whether a role makes a log of another one, as the shuffle does: it may end before where those
    are who read it.
    """
    return getattr(log, "topic", "").startswith("shuffled.")
