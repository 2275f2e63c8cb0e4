"""What came of comparing served features with the lake, in a small file: written by
`features.watch`, read by servers and `doctor`.

The counters go on after a restart, and begin anew with other declarations. The file is written
whole and renamed into place.
"""

from pathlib import Path

import msgspec

from tailorbird.whole import write_whole

FILE = "features-compared.json"


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """What the comparisons came to so far.

    Attributes:
        at: when the last one ended, microseconds; 0 before the first.
        answers: compared so far. compared, unequal: values so far, by feature.
        dropped: values that differ because a cap on entities may have dropped what they depend on;
            not among the unequal ones.
        examples: of the last values that differed, in words.
        left_out: columns that were too dear to compare the last time.
        error: why the last comparison failed, "" if it did not.
    """

    schema_hash: str
    at: int = 0
    answers: int = 0
    compared: dict[str, int] = {}
    unequal: dict[str, int] = {}
    dropped: int = 0
    examples: list[str] = []
    left_out: list[str] = []
    error: str = ""

    @property
    def differing(self) -> dict[str, int]:
        """The features with unequal values."""
        return {name: count for name, count in self.unequal.items() if count}


_decoder = msgspec.json.Decoder(Compared)


def read_compared(folder: Path) -> Compared | None:
    """What stands in the folder (`data/run`); None where nothing was compared yet or the file
    cannot be read.
    """
    try:
        return _decoder.decode((folder / FILE).read_bytes())
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def write_compared(folder: Path, found: Compared) -> None:
    """Whole or not at all."""
    write_whole(folder / FILE, msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
