"""What the lake says may be deleted of each log. The lake writes it (`lake.positions`); whoever writes a log prunes by it.

    positions.json   {"safe": {"raw-serve-1": 812, "answers-serve-1": 90, "routed": 60001}, "routed": {"serve-1": 900}, …}

Rows of a log below `safe` were committed, synced and read back. Below `routed`, by producer, everything that the router made
of raw rows is in the tables; so a raw row that is below both has been archived, routed and loaded.
"""

import msgspec

from tailorbird.errors import DamageError
from tailorbird.places import Place, UnreachableError

FILE = "positions.json"


class Released(msgspec.Struct, frozen=True):
    """The part of the lake's file that concerns those who prune. A log that is not named is needed whole."""

    safe: dict[str, int] = {}
    routed: dict[str, int] = {}

    def raw(self, producer: str) -> int:
        """Below which row nobody needs the raw log of `producer`."""
        return min(self.safe.get(f"raw-{producer}", 0), self.routed.get(producer, 0))

    def answers(self, producer: str) -> int:
        """Below which row nobody needs the answers of `producer`."""
        return self.safe.get(f"answers-{producer}", 0)

    def of_routed(self) -> int:
        """Below which row the lake does not need the routed log; workers have a say of their own."""
        return self.safe.get("routed", 0)


_decoder = msgspec.json.Decoder(Released)


def read_released(lake: Place) -> Released:
    """What the lake at `lake` has released; nothing if it has said nothing yet. Raises DamageError, StorageError.

    >>> from pathlib import Path
    >>> read_released(Path("no-such-lake")).raw("serve-1")
    0
    """
    path = lake / FILE
    try:
        return _decoder.decode(path.read_bytes())
    except FileNotFoundError:
        return Released()
    except UnreachableError:
        raise
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DamageError(
            f"cannot be read: {error}", where=str(path), fix="restore it from a copy; until then nothing is pruned"
        ) from error
