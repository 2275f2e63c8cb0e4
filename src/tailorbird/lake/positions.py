"""Up to where each log stands in the lake, in one small synced file that the logs' writers read
before they prune.

    positions.json   {"tables": {"events": {"routed": 60001}, …}, "archive": {"raw-door": 812},
                      "routed": {"door": 900}, "ledger": 42, "safe": {"routed": 60001, …}}

`tables` says how far each table was brought, rows or none: a table's own transactions know only of
commits with rows. `routed` says, for each raw partition, behind which row nothing has come out of
the router yet: every row before it must be in a table. `ledger` is its number of lines. `safe` is
what may be deleted as far as the lake is concerned: rows below it are committed, synced, and were
read back and compared with the ledger. Logs are named by their files, without the ending.
`checksum` is of all the rest, see `stream.released`.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from tailorbird.errors import DamageError, NotReadyError
from tailorbird.lake import durable
from tailorbird.lake.ledger import Ledger
from tailorbird.places import Place
from tailorbird.stream.released import FILE, sealed, unsealed


class Positions(msgspec.Struct, forbid_unknown_fields=True):
    """The content of the file."""

    tables: dict[str, dict[str, int]] = {}
    archive: dict[str, int] = {}
    routed: dict[str, int] = {}
    taken: dict[str, dict[str, int]] = {}
    ledger: int = 0
    safe: dict[str, int] = {}


def load_positions(lake: Place) -> Positions:
    """What the file says; nothing, if there is none yet. Raises DamageError."""
    path = lake / FILE
    try:
        return msgspec.convert(unsealed(path.read_bytes()), Positions)
    except FileNotFoundError:
        return Positions()
    except ValueError as error:
        raise DamageError(
            f"cannot be read: {error}",
            where=str(path),
            fix="tailorbird lake repair makes it anew; until then nothing is pruned",
        ) from error


def no_ledger(lake: Place) -> NotReadyError:
    """What to say where the ledger is not there: that there is no lake yet, or that it was lost
    beside what it vouches for.
    """
    if not (lake / FILE).exists() and not (lake / "archive" / "manifest.jsonl").exists():
        return NotReadyError(
            "there is nothing in the lake yet", where=str(lake), fix="tailorbird import FORMAT PATH"
        )
    return NotReadyError(
        "ledger.jsonl is missing, so nothing vouches for what is there",
        where=str(lake),
        fix=ledger_lost(lake),
    )


def ledger_lost(lake: Place) -> str:
    """What to do where the ledger is gone."""
    if not isinstance(lake, Path):
        return (
            "restore it: where the bucket keeps versions, the one before; else from a copy of "
            "the bucket. Without either it is gone"
        )
    return (
        "restore it from the backup: one of any age within lake.history will do, because the "
        "tables' own commits complete it"
    )


def positions_lost(lake: Place, ledger: Ledger, archived: Mapping[str, int]) -> bool:
    """Whether the file is gone: the role puts it there before the first row of any log."""
    return not (lake / FILE).exists() and (
        bool(archived) or any(line.positions for line in ledger.lines)
    )


def store_positions(lake: Place, positions: Positions) -> None:
    """Replace the file, durably."""
    durable.replace(lake / FILE, sealed(msgspec.to_builtins(positions)))


def beyond_logs(
    positions: Positions, ends: Callable[[str], int | None]
) -> Iterator[tuple[str, str, int, int]]:
    """The tables that are said to be further than a log has ever come, with the log, the position
    and where the log ends.

    Rows that come to that log from now on would be passed over, as if the table had them.

    Args:
        ends: where a log ends, by its name; None where it is not there.
    """
    known = {log: ends(log) for log in {log for logs in positions.tables.values() for log in logs}}
    for table, logs in sorted(positions.tables.items()):
        for log, position in sorted(logs.items()):
            end = known[log]
            if end is not None and position > end:
                yield table, log, position, end


def safe_positions(lake: Place) -> dict[str, int]:
    """For each log the position below which the lake no longer needs it; a log that is not named is
    needed whole.

    >>> from pathlib import Path
    >>> safe_positions(Path("no-such-lake"))
    {}
    """
    return load_positions(lake).safe
