"""Names of a project's log files.

raw-PRODUCER.db       bodies as received, by serve process; also raw-import.db, raw-replay.db
answers-PRODUCER.db   the response log of a serve process
routed.db             the router's output
LOG.db.damaged-N      blocks from offset N on that failed their checksums when LOG.db was opened
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from tailorbird.errors import UsageError

IMPORTS = "import"  # producer of imported files
REPLAYS = "replay"  # producer of refused events that are sent again
HISTORICAL_PRODUCERS = (
    IMPORTS,
    REPLAYS,
    # Their events were received before, so the merge by time of receipt does not wait for them.
)

if TYPE_CHECKING:
    from tailorbird.stream.kafka import KafkaLog, KeyedLog, MergedLog
    from tailorbird.stream.kafka.logs import KafkaPartition, KafkaStream

Stream: TypeAlias = "Path | KafkaStream"  # storage of a project's logs
Share: TypeAlias = "Path | KafkaPartition"  # the part of one router
Address: TypeAlias = "Path | KafkaLog | MergedLog"  # address of a log for readers
RawAddress: TypeAlias = "Path | KafkaLog | KeyedLog"  # address of a collector's log for its writer
_PRODUCER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")


def raw_path(stream: Path, producer: str) -> Path:
    """Return the path of the raw log of `producer`."""
    return stream / f"raw-{check_producer_name(producer)}.db"


def response_log_path(stream: Path, producer: str) -> Path:
    """Return the path of the response log of `producer`."""
    return stream / f"answers-{check_producer_name(producer)}.db"


def routed_path(stream: Path) -> Path:
    """Return the path of the routed log."""
    return stream / "routed.db"


def raw_logs(stream: Path) -> dict[str, Path]:
    """Return the existing raw logs by producer, in order of name."""
    return _logs(stream, "raw-")


def response_logs(stream: Path) -> dict[str, Path]:
    """Return the existing response logs by producer, in order of name."""
    return _logs(stream, "answers-")


def set_aside_files(log: Path) -> list[Path]:
    """Return the files with damaged ends of a log that were set aside, by offset."""
    return sorted(
        log.parent.glob(f"{log.name}.damaged-*"), key=lambda path: int(path.name.rpartition("-")[2])
    )


def _logs(stream: Path, prefix: str) -> dict[str, Path]:
    return {
        path.name[len(prefix) : -len(".db")]: path for path in sorted(stream.glob(f"{prefix}*.db"))
    }


def router_share(stream: "Stream | Share") -> Share:
    """Return the logs of one router: all, or the given partition."""
    if isinstance(stream, Path):
        return stream
    from tailorbird.stream.kafka.logs import KafkaStream

    if not isinstance(stream, KafkaStream):
        return stream
    if stream.count > 1:
        raise ValueError("each of several partitions has a router of its own, see router.group")
    return stream.share(0, stream.folder)


def scores_path(stream: Path) -> Path:
    """Return the path of the score role's file."""
    return stream / "scores.db"


def raw_address(stream: Stream, producer: str) -> RawAddress:
    """Return the address of the raw log of `producer`."""
    return raw_path(stream, producer) if isinstance(stream, Path) else stream.raw(producer)


def response_log_address(stream: Stream, producer: str) -> "Path | KafkaLog":
    """Return the address of the response log of `producer`."""
    return (
        response_log_path(stream, producer)
        if isinstance(stream, Path)
        else stream.answers(producer)
    )


def routed_address(stream: Stream) -> Address:
    """Return the address of the routed log."""
    return routed_path(stream) if isinstance(stream, Path) else stream.routed


def raw_log_names(stream: Stream, producer: str) -> list[str]:
    """Return the names of the raw log of `producer` in the lake, one for each partition."""
    return (
        [producer]
        if isinstance(stream, Path)
        else [log.partition for log in stream.raw_parts(producer)]
    )


def raw_addresses(stream: "Stream | Share") -> "Mapping[str, Path | KafkaLog]":
    """Return the existing raw logs by producer, in order of name."""
    return raw_logs(stream) if isinstance(stream, Path) else stream.raw_logs()


def response_log_addresses(stream: Stream) -> "Mapping[str, Path | KafkaLog]":
    """Return the existing response logs by producer, in order of name."""
    return response_logs(stream) if isinstance(stream, Path) else stream.response_logs()


def index_paths(stream: Stream) -> list[Path]:
    """Return the files on this machine that may hold a router's tables."""
    return [routed_path(stream)] if isinstance(stream, Path) else stream.index_paths()


def local_folder(stream: Stream) -> Path:
    """Return the local folder for files that belong to the logs."""
    return stream if isinstance(stream, Path) else stream.folder


def check_producer_name(producer: str) -> str:
    """Return a producer's name, or raise UsageError if it is invalid.

    >>> checked("serve-1")
    'serve-1'
    """
    if not _PRODUCER.match(producer):
        raise UsageError(
            f"expected a producer's name of letters, digits, '.', '_' and '-', got {producer!r}"
        )
    return producer


def is_derived(log: Address) -> bool:
    """Return whether a role derives the log from another one, as the shuffle does.

    Such a log may end before the positions of its readers.
    """
    return getattr(log, "topic", "").startswith("shuffled.")
