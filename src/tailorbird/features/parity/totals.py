"""Totals of the parity comparisons, in a small file.

`features.parity.watch` writes it, servers and `doctor` read it. The counters survive a restart, and
are reset when the declarations change. The file is written atomically.
"""

from pathlib import Path

import msgspec

from tailorbird.atomic_write import atomic_write

TOTALS_FILE = "features-compared.json"


class ParityTotals(msgspec.Struct, frozen=True, kw_only=True):
    """The totals of all comparisons so far.

    Attributes:
        at: when the last one ended, microseconds; 0 before the first.
        answers: number of responses compared. compared, unequal: number of values, by feature.
        dropped: values that differ because a cap on entities may have dropped what they depend on;
            not counted as unequal.
        examples: descriptions of the last values that differed.
        left_out: columns that were too expensive to compare the last time.
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
    def unequal_features(self) -> dict[str, int]:
        """The features with unequal values."""
        return {name: count for name, count in self.unequal.items() if count}


_decoder = msgspec.json.Decoder(ParityTotals)


def read_parity_totals(folder: Path) -> ParityTotals | None:
    """Return the totals in a folder (`data/run`), or None if there are none or the file is
    unreadable.
    """
    try:
        return _decoder.decode((folder / TOTALS_FILE).read_bytes())
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def write_parity_totals(folder: Path, totals: ParityTotals) -> None:
    """Write the totals atomically."""
    atomic_write(
        folder / TOTALS_FILE, msgspec.json.format(msgspec.json.encode(totals), indent=1) + b"\n"
    )
