"""Positions up to which the lake has released each log for pruning.

The lake writes them (`lake.write.positions`), and the writer of a log prunes by them.

    positions.json   {"safe": {"raw-serve-1": 812, "answers-serve-1": 90, "routed": 60001},
                      "routed": {"serve-1": 900}, …}

Rows of a log before `safe` were committed, synced and read back. Raw rows before `routed`, by
producer, are routed and in the tables. So a raw row before both has been archived, routed and
loaded. `tables` and `archive` have the positions reached, safe or not. `checksum` is the SHA-256 of
all else: a position with a flipped bit would have rows deleted or skipped. Files of older releases
have none.
"""

import hashlib
import time
from typing import Any, TypeVar

import msgspec

from tailorbird.errors import DamageError
from tailorbird.storage_paths import StoragePath, UnreachableError

POSITIONS_FILE = "positions.json"
BACKUP_POSITIONS_FILE = "backed-up.json"  # the same as of the newest backup, where logs are topics
_BACKUP_HOLD_US = 7 * 86_400_000_000  # time for which rows stay that the newest backup lacks
_CHECKSUM_KEY = "checksum"


class ReleasedPositions(msgspec.Struct, frozen=True):
    """The released positions for the logs' writers. A log without a position is needed whole."""

    safe: dict[str, int] = {}
    routed: dict[str, int] = {}
    tables: dict[str, dict[str, int]] = {}
    archive: dict[str, int] = {}

    def raw_position(self, producer: str) -> int:
        """Return the row before which nobody needs the raw log of `producer`."""
        return min(self.safe.get(f"raw-{producer}", 0), self.routed.get(producer, 0))

    def responses_position(self, producer: str) -> int:
        """Return the row before which nobody needs the response log of `producer`."""
        return self.safe.get(f"answers-{producer}", 0)

    def routed_position(self) -> int:
        """Return the row before which the lake does not need the routed log; workers may."""
        return self.safe.get("routed", 0)


_R = TypeVar("_R", bound=ReleasedPositions)


def encode_with_checksum(content: dict[str, Any]) -> bytes:
    """Encode the content of the file with its checksum."""
    return msgspec.json.format(
        msgspec.json.encode({**content, _CHECKSUM_KEY: _compute_digest(content)}, order="sorted"),
        indent=1,
    )


def decode_with_checksum(data: bytes) -> dict[str, Any]:
    """Decode the file without its checksum, or raise ValueError if it does not match.

    >>> decode_with_checksum(encode_with_checksum({"ledger": 42}))
    {'ledger': 42}
    """
    content = msgspec.json.decode(data, type=dict[str, Any])
    expected_checksum = content.pop(_CHECKSUM_KEY, None)
    if expected_checksum is None and any(
        isinstance(value, str) for value in content.values()
    ):  # a flipped bit in the name of the checksum
        raise ValueError("it has no checksum, and something that was one")
    if expected_checksum is not None and expected_checksum != _compute_digest(content):
        raise ValueError("it does not match its checksum")
    return content


def _compute_digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()


def try_read_released_positions(lake: StoragePath) -> ReleasedPositions | None:
    """Return the released positions, or None where they are absent or unreadable."""
    try:
        return msgspec.convert(
            decode_with_checksum((lake / POSITIONS_FILE).read_bytes()), ReleasedPositions
        )
    except (OSError, ValueError):
        return None


class _BackedUpPositions(ReleasedPositions, frozen=True):
    backed_up_at: int = 0


def read_prunable_positions(lake: StoragePath) -> ReleasedPositions:
    """Return the positions before which nobody needs the logs, a restored backup included.

    A backup holds no topic, so rows stay that the newest one lacks, for up to a week.

    Raises:
        DamageError, StorageError: a file is damaged or cannot be read.
    """
    released_positions = read_released_positions(lake)
    backed_up_positions = _read_positions(lake / BACKUP_POSITIONS_FILE, _BackedUpPositions)
    if (
        backed_up_positions is None
        or backed_up_positions.backed_up_at < time.time() * 1e6 - _BACKUP_HOLD_US
    ):
        return released_positions
    return ReleasedPositions(
        safe={
            log: min(end, backed_up_positions.safe.get(log, 0))
            for log, end in released_positions.safe.items()
        },
        routed={
            producer: min(end, backed_up_positions.routed.get(producer, 0))
            for producer, end in released_positions.routed.items()
        },
    )


def read_history_end(lake: StoragePath, log_start: int) -> int:
    """Return the position up to which a reader of the routed log can be built from the lake, before
    it goes on in the log.

    Raises:
        DamageError: the lake does not have all that the log, which begins at `log_start`, has
            deleted.
    """
    end = read_released_positions(lake).routed_position()
    if end < log_start:
        raise DamageError(
            f"the routed log begins at {log_start}, the lake has only what stood before {end}",
            where=str(lake),
            fix="restore the lake from a copy, or let the lake role catch up",
        )
    return end


def read_released_positions(lake: StoragePath) -> ReleasedPositions:
    """Return the released positions of a lake; empty if it has none yet.

    Raises:
        DamageError, StorageError: the file is damaged or cannot be read.

    >>> from pathlib import Path
    >>> read_released_positions(Path("no-such-lake")).raw_position("serve-1")
    0
    """
    return _read_positions(lake / POSITIONS_FILE, ReleasedPositions) or ReleasedPositions()


def _read_positions(path: StoragePath, positions_type: type[_R]) -> _R | None:
    try:
        return msgspec.convert(decode_with_checksum(path.read_bytes()), positions_type)
    except FileNotFoundError:
        return None
    except UnreachableError:
        raise
    except (OSError, ValueError) as error:
        raise DamageError(
            f"cannot be read: {error}",
            where=str(path),
            fix=f"tailorbird lake repair for {POSITIONS_FILE}, a backup for "
            f"{BACKUP_POSITIONS_FILE}; until then nothing is pruned",
        ) from error
