"""The last look for drift, as status and messages read it: `data/monitoring/episodes.json`."""

from pathlib import Path

import msgspec

from tailorbird.atomic_write import atomic_write
from tailorbird.events import to_iso_minute

EPISODES_FILE = "episodes.json"


class DriftRow(msgspec.Struct, frozen=True):
    """An episode as it is printed and stored.

    Attributes:
        until: end; "" while it goes on.
        cause, evidence, runbook: the likely cause.
        moved: the signals that moved most, with their distance.
    """

    since: str
    until: str
    detected: str
    cause: str
    evidence: str
    runbook: str
    compared_with: str
    moved: dict[str, float] = {}

    def describe(self) -> str:
        """Return a sentence for the status."""
        return f"drift since {self.since}, {self.cause}: {self.evidence}, see {self.runbook}"

    def is_open_at(self, as_of: str) -> bool:
        """Return whether it was known at a time, such as 2026-09-28T10:00Z, and went on."""
        return self.detected <= as_of and (not self.until or self.until > as_of)


class Judgement(msgspec.Struct, frozen=True):
    """The episodes of the last look for drift.

    Attributes:
        at: when, microseconds; 0: never.
        obstacle: why it could not be judged; "" if it could.
    """

    at: int = 0
    rows: list[DriftRow] = []
    obstacle: str = ""

    def __str__(self) -> str:
        if not self.at:
            return "drift was never judged, see tailorbird monitor drift"
        text = f"could not be judged, {self.obstacle}" if self.obstacle else "was judged"
        return f"drift {text}, as of {to_iso_minute(self.at)}"


def store_judgement(folder: Path, judgement: Judgement) -> None:
    """Replace the last look, in `data/monitoring`."""
    atomic_write(folder / EPISODES_FILE, msgspec.json.encode(judgement))


def read_judgement(folder: Path) -> Judgement:
    """Return the last look, an empty one without any."""
    try:
        return msgspec.json.decode((folder / EPISODES_FILE).read_bytes(), type=Judgement)
    except (FileNotFoundError, msgspec.MsgspecError):
        return Judgement()  # none yet, or by another version: it is computed again
