"""Names of a project's log files.

raw-PRODUCER.db       bodies as received, by serve process; also raw-import.db, raw-replay.db
answers-PRODUCER.db   the response log of a serve process
routed.db             the router's output
LOG.db.damaged-N      blocks from offset N on that failed their checksums when LOG.db was opened
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from tailorbird.errors import UsageError

IMPORT_PRODUCER = "import"  # producer of imported files
REPLAY_PRODUCER = "replay"  # producer of refused events that are sent again
# Their events were received before, so the merge by time of receipt does not wait for them.
HISTORICAL_PRODUCERS = (IMPORT_PRODUCER, REPLAY_PRODUCER)

if TYPE_CHECKING:
    from tailorbird.stream.kafka import KafkaLog, KeyedLog, MergedLog
    from tailorbird.stream.log_set import LogSet

Stream: TypeAlias = "Path | LogSet"  # a project's logs; a path stands for the files in the folder
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
    return _list_logs(stream, "raw-")


def response_logs(stream: Path) -> dict[str, Path]:
    """Return the existing response logs by producer, in order of name."""
    return _list_logs(stream, "answers-")


def damaged_tail_files(log: Path) -> list[Path]:
    """Return the files with damaged ends of a log that were set aside, by offset."""
    return sorted(
        log.parent.glob(f"{log.name}.damaged-*"), key=lambda path: int(path.name.rpartition("-")[2])
    )


def _list_logs(stream: Path, prefix: str) -> dict[str, Path]:
    return {
        path.name[len(prefix) : -len(".db")]: path for path in sorted(stream.glob(f"{prefix}*.db"))
    }


def scores_path(stream: Path) -> Path:
    """Return the path of the score role's file."""
    return stream / "scores.db"


def check_producer_name(producer: str) -> str:
    """Return a producer's name, or raise UsageError if it is invalid.

    >>> check_producer_name("serve-1")
    'serve-1'
    """
    if not _PRODUCER.match(producer):
        raise UsageError(
            f"expected a producer's name of letters, digits, '.', '_' and '-', got {producer!r}"
        )
    return producer
