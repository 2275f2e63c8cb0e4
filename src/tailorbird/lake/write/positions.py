"""Load and store how far the lake has each log, in a small synced file that the logs' writers read
before they prune.

    positions.json   {"tables": {"events": {"routed": 60001}, …}, "archive": {"raw-collector": 812},
                      "routed": {"collector": 900}, "ledger": 42, "safe": {"routed": 60001, …}}

`tables` is how far each table was loaded, with or without rows; a table's own transactions know
only of commits with rows. `routed` is, for each raw partition, the first row that has not come out
of the router: every row before it must be in a table. `router_offsets` is, by raw log that several
routers share, how far each router has read it. `ledger` is its number of lines. Rows below
`safe` may be deleted as far as the lake is concerned: they are committed, synced, and were read
back and compared with the ledger. Logs are named by their files, without the extension.
`checksum` is of all the rest, see `stream.released`.
"""

from collections.abc import Callable, Iterator, Mapping

import msgspec

from tailorbird.errors import DamageError, NotReadyError
from tailorbird.lake.files import durable
from tailorbird.lake.files.ledger import Ledger
from tailorbird.storage import storage_at
from tailorbird.storage_paths import StoragePath
from tailorbird.stream.released import POSITIONS_FILE, decode_with_checksum, encode_with_checksum


class Positions(msgspec.Struct, forbid_unknown_fields=True):
    """The content of the file."""

    tables: dict[str, dict[str, int]] = {}
    archive: dict[str, int] = {}
    routed: dict[str, int] = {}
    router_offsets: dict[str, dict[str, int]] = {}
    ledger: int = 0
    safe: dict[str, int] = {}


def load_positions(lake: StoragePath) -> Positions:
    """Load the positions; empty if there is no file yet. Raises DamageError."""
    path = lake / POSITIONS_FILE
    try:
        return msgspec.convert(decode_with_checksum(path.read_bytes()), Positions)
    except FileNotFoundError:
        return Positions()
    except ValueError as error:
        raise DamageError(
            f"cannot be read: {error}",
            where=str(path),
            fix="tailorbird lake repair rebuilds it; until then nothing is pruned",
        ) from error


def missing_ledger_error(lake: StoragePath) -> NotReadyError:
    """Return the error about a missing ledger: there is no lake yet, or the ledger was lost."""
    if not (lake / POSITIONS_FILE).exists() and not (lake / "archive" / "manifest.jsonl").exists():
        return NotReadyError(
            "there is nothing in the lake yet", where=str(lake), fix="tailorbird import FORMAT PATH"
        )
    return NotReadyError(
        "ledger.jsonl is missing, so nothing vouches for what is there",
        where=str(lake),
        fix=lost_ledger_fix(lake),
    )


def lost_ledger_fix(lake: StoragePath) -> str:
    """Return the remedy for a lost ledger."""
    if storage_at(lake).is_remote:
        return (
            "restore it: its previous version if the bucket keeps versions, else from the backup "
            "of the bucket"
        )
    return (
        "restore it from the backup: one of any age within lake.history will do, because the "
        "tables' own commits complete it"
    )


def positions_lost(lake: StoragePath, ledger: Ledger, archive_positions: Mapping[str, int]) -> bool:
    """Return whether the file was lost: the role writes it before the first row of any log."""
    return not (lake / POSITIONS_FILE).exists() and (
        bool(archive_positions) or any(line.positions for line in ledger.lines)
    )


def store_positions(lake: StoragePath, positions: Positions) -> None:
    """Replace the file durably."""
    durable.replace(lake / POSITIONS_FILE, encode_with_checksum(msgspec.to_builtins(positions)))


def positions_beyond_logs(
    positions: Positions, find_end: Callable[[str], int | None]
) -> Iterator[tuple[str, str, int, int]]:
    """Yield the tables whose position is beyond the end of a log: table, log, position, end.

    New rows of that log would be skipped as if the table had them.

    Args:
        find_end: return the end of a log by its name, or None if it is not there.
    """
    log_ends = {
        log: find_end(log) for log in {log for logs in positions.tables.values() for log in logs}
    }
    for table, logs in sorted(positions.tables.items()):
        for log, position in sorted(logs.items()):
            end = log_ends[log]
            if end is not None and position > end:
                yield table, log, position, end


def safe_positions(lake: StoragePath) -> dict[str, int]:
    """Return for each log the position below which the lake no longer needs it.

    A log that is not named is needed entirely.

    >>> from pathlib import Path
    >>> safe_positions(Path("no-such-lake"))
    {}
    """
    return load_positions(lake).safe
