"""What a worker has taken in and what its state holds, in a small file beside the state: for `/metrics` and comparisons.

The file is written whole and renamed into place, every few seconds and at once when a cap dropped something. Its counters go on
after a restart and are gone with the state.
"""

from pathlib import Path

import msgspec

from tailorbird.whole import write_whole

FILE = "worker.json"


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of entity; see `features.idle.Tally`."""

    entities: int = 0
    state_bytes: int = 0
    expired: int = 0
    dropped: int = 0
    dropped_newest: int = 0


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one worker.

    Attributes:
        at: when they were taken, microseconds.
        rows: of the routed log that were taken in, since the state was begun.
        behind: rows of the routed log that were not yet taken in.
        offset: from where on it reads the routed log.
        capped: values that were cut off at the maximum that is declared for them, by what is summed.
        unreadable: values that are no number or text as declared, by field.
        converted: truths and lists that were taken as numbers, by field.
        kinds: by name of the entity.
    """

    schema_hash: str
    at: int = 0
    rows: int = 0
    behind: int = 0
    offset: int = 0
    capped: dict[str, int] = {}
    unreadable: dict[str, int] = {}
    converted: dict[str, int] = {}
    kinds: dict[str, Kind] = {}

    @property
    def dropped(self) -> dict[str, int]:
        """The kinds of which a cap has dropped any, and the newest time that one of these was last heard of."""
        return {name: kind.dropped_newest for name, kind in self.kinds.items() if kind.dropped}


_decoder = msgspec.json.Decoder(Figures)


def read_figures(folder: Path) -> Figures | None:
    """What the worker of the state in `folder` told; None where none did yet or the file cannot be read."""
    try:
        return _decoder.decode((folder / FILE).read_bytes())
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def all_figures(state: Path) -> list[Figures]:
    """Of the workers of all states in a folder, sorted by schema."""
    found = [read_figures(path.parent) for path in sorted(state.glob(f"*/{FILE}"))]
    return [one for one in found if one is not None]


def write_figures(folder: Path, figures: Figures) -> None:
    """Whole or not at all."""
    write_whole(folder / FILE, msgspec.json.encode(figures))
