"""Up to where each log stands in the lake, in one small synced file that the logs' writers read before they prune.

    positions.json   {"tables": {"events": {"routed": 60001}, …}, "archive": {"raw-door": 812},
                      "routed": {"door": 900}, "ledger": 42, "safe": {"routed": 60001, …}}

`tables` says how far each table was brought, rows or none: a table's own transactions know only of commits with rows.
`routed` says, for each raw partition, behind which row nothing has come out of the router yet: every row before it must
be in a table. `ledger` is its number of lines. `safe` is what may be deleted as far as the lake is concerned: rows below
it are committed, synced, and were read back and compared with the ledger. Logs are named by their files, without the ending.
"""

import msgspec

from tailorbird.errors import DamageError
from tailorbird.lake import durable
from tailorbird.places import Place
from tailorbird.stream.released import FILE


class Positions(msgspec.Struct):
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
        return msgspec.json.decode(path.read_bytes(), type=Positions)
    except FileNotFoundError:
        return Positions()
    except msgspec.MsgspecError as error:
        raise DamageError(
            f"cannot be read: {error}", where=str(path), fix="restore it from a copy; until then nothing is pruned"
        ) from error


def store_positions(lake: Place, positions: Positions) -> None:
    """Replace the file, durably."""
    durable.replace(lake / FILE, msgspec.json.format(msgspec.json.encode(positions, order="sorted"), indent=1))


def safe_positions(lake: Place) -> dict[str, int]:
    """For each log the position below which the lake no longer needs it; a log that is not named is needed whole.

    >>> from pathlib import Path
    >>> safe_positions(Path("no-such-lake"))
    {}
    """
    return load_positions(lake).safe
