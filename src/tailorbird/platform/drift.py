"""Episodes of drift of a project."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tailorbird.atomic_write import atomic_write
from tailorbird.config import Project
from tailorbird.errors import NotReadyError
from tailorbird.events import DAY, HOUR, Clock, parse_duration, to_iso
from tailorbird.lake import Lake
from tailorbird.monitoring.drift import find_episodes, name_cause
from tailorbird.monitoring.drift.causes import Change
from tailorbird.monitoring.drift.detect import DAYS_MIN
from tailorbird.monitoring.drift.sketches import SketchStore
from tailorbird.platform.frames import Frame
from tailorbird.registry import Registry

HISTORY_DAYS = 56
RECENT = "7d"
SIGNALS_SHOWN = 5
FILE = "episodes.json"
RUNBOOKS = "docs/operate"


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
    moved: dict[str, float]


@dataclass(frozen=True, repr=False)
class DriftResult:
    """Episodes of drift, the newest first."""

    false_alarms: float
    history_days: int
    signals: int
    rows: list[DriftRow]

    def to_frame(self) -> Frame:
        """Return the episodes as a table."""
        names = ["since", "until", "cause", "evidence", "runbook", "moved"]
        return Frame.from_rows(
            names,
            [
                (row.since, row.until, row.cause, row.evidence, row.runbook, ", ".join(row.moved))
                for row in self.rows
            ],
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what `tailorbird monitor drift --json` prints."""
        return {
            "false_alarms_a_month": self.false_alarms,
            "history_days": self.history_days,
            "signals": self.signals,
            "episodes": msgspec.to_builtins(self.rows),
        }

    @property
    def header(self) -> str:
        return (
            f"{self.signals} signals against {self.history_days} days before; chance alone causes "
            f"{self.false_alarms:g} episodes a month"
        )

    def __repr__(self) -> str:
        return f"{self.header}\n{self.to_frame()!r}" if self.rows else f"{self.header}\nno episode"

    def _repr_html_(self) -> str:
        return f"<p>{self.header}</p>{self.to_frame()._repr_html_()}"


def find_drift(project: Project, clock: Clock, *, since: str = RECENT) -> DriftResult:
    """Return the episodes of drift of the most recent period.

    Raises:
        NotReadyError: there is too little history to compare with.
    """
    now = clock.now()
    folder, lake = project.paths.monitoring / "sketches", Lake(project.paths.lake)
    store = SketchStore(folder, lake, project.features.numeric, project.features.schema_hash)
    store.refresh(max(now - HISTORY_DAYS * DAY, _first_event(lake)), now)
    signals, first = store.read(now - HISTORY_DAYS * DAY, now)
    history = (now - parse_duration(since) - first) // HOUR
    if not signals or history < DAYS_MIN * 24:
        raise NotReadyError(
            f"drift needs {DAYS_MIN} days of history before the last {since}, and there are "
            f"{max(history, 0) / 24:.1f}",
            where=str(folder),
            fix="wait, or name a shorter time by since",
        )
    rate = project.settings.monitoring.false_alarms
    episodes = find_episodes(signals, history, false_alarms=rate)
    changes = [
        Change(entry.at, f"{entry.by}: {entry.action} {entry.version}")
        for entry in Registry(project.paths.registry, clock=clock).audit()
        if entry.action in ("promote", "rollback", "canary", "end canary")
    ]
    rows = []
    for episode in reversed(episodes):
        cause = name_cause(episode, signals, first, changes)
        rows.append(
            DriftRow(
                since=_hour(first, episode.start),
                until="" if episode.is_open else _hour(first, episode.stop),
                detected=_hour(first, episode.detected),
                cause=cause.name,
                evidence=cause.evidence,
                runbook=f"{RUNBOOKS}/{cause.page}",
                compared_with=episode.compared_with,
                moved={one.name: one.distance for one in episode.moved[:SIGNALS_SHOWN]},
            )
        )
    result = DriftResult(rate, int(history // 24), len(signals), rows)
    atomic_write(project.paths.monitoring / FILE, msgspec.json.encode(rows))
    return result


def read_episodes(folder: Path) -> list[DriftRow]:
    """Return the stored episodes."""
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=list[DriftRow])
    except (FileNotFoundError, msgspec.MsgspecError):
        return []  # nothing was computed yet, or by another version: it is computed again


def read_open_episodes(folder: Path) -> list[DriftRow]:
    """Return the stored episodes that go on."""
    return [row for row in read_episodes(folder) if not row.until]


def _first_event(lake: Lake) -> int:
    import pyarrow as pa

    first = lake.sql("SELECT min(ts) AS ts FROM events WHERE NOT timeless")["ts"]
    return first.cast(pa.int64())[0].as_py() or 0


def _hour(first: int, hour: int) -> str:
    return to_iso(first + hour * HOUR)[:16] + "Z"
