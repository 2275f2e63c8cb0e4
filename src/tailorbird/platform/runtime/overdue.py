"""Trainings that are due and cannot run, or failed: since when, and why.

    MONITORING/overdue.json    one entry for each slot, written by the trainer

An entry is over once another version of the slot was trained, by whomever.
"""

import logging
import re

import msgspec

from tailorbird.atomic_write import atomic_write
from tailorbird.config import Project
from tailorbird.errors import TailorbirdError
from tailorbird.events import Clock, to_iso_minute
from tailorbird.registry import Registry, VersionInfo

OVERDUE_FILE = "overdue.json"
_NUMBER = re.compile(r"\d[\d,.]*")
log = logging.getLogger(__name__)


class OverdueTraining(msgspec.Struct, frozen=True):
    """A training that is due and did not succeed.

    Attributes:
        since: when it was due, microseconds.
        tried_at: the last attempt, microseconds.
        newest: the newest version of the slot at that time; "" without one.
        why: what stands in its way, and what to do.
    """

    slot: str
    since: int
    tried_at: int
    newest: str
    why: str
    fix: str = ""

    def describe(self) -> str:
        """Return a sentence for the status."""
        return (
            f"training of {self.slot}: due since {to_iso_minute(self.since)}, could not: {self.why}"
        )


def _newest_version_of(project: Project, clock: Clock, name: str) -> str:
    """Return the newest version of a slot or churn model; "" without one."""
    if name in project.churn:
        return _newest_version_name(Registry(project.paths.churn(name), clock=clock).versions())
    return _newest_version_name(versions_of(Registry(project.paths.registry, clock=clock), name))


def versions_of(registry: Registry, slot: str) -> list[VersionInfo]:
    """Return the versions that were trained for a slot."""
    return [
        info for info in registry.versions() if info.metrics.get("about", {}).get("slot") == slot
    ]


def read_overdue(project: Project, clock: Clock) -> list[OverdueTraining]:
    """Return the trainings that are due and did not succeed."""
    entry_by_slot = _read_entries(project)
    if not entry_by_slot:
        return []
    return [
        entry
        for entry in entry_by_slot.values()
        if _newest_version_of(project, clock, entry.slot) == entry.newest
    ]


def note_overdue(project: Project, clock: Clock, slot: str, since: int, error: Exception) -> None:
    """Store why a training could not run, and log a warning once for each cause."""
    entry_by_slot = _read_entries(project)
    now = clock.now()
    why = str(error) or type(error).__name__
    fix = ""
    if isinstance(error, TailorbirdError):
        why = error.message
        fix = error.fix
    elif type(error).__name__ not in why:
        why = f"{type(error).__name__}: {why}"
    newest_version = _newest_version_of(project, clock, slot)
    earlier_entry = entry_by_slot.get(slot)
    is_same_delay = earlier_entry is not None and earlier_entry.newest == newest_version
    entry = OverdueTraining(
        slot,
        earlier_entry.since if earlier_entry and is_same_delay else since,
        now,
        newest_version,
        why,
        fix,
    )
    # Counts in a reason change at each attempt; they make no other cause.
    if (
        not earlier_entry
        or not is_same_delay
        or _NUMBER.sub("#", earlier_entry.why) != _NUMBER.sub("#", why)
    ):
        log.warning("%s%s", entry.describe(), f"; {fix}" if fix else "")
    _write_entries(project, {**entry_by_slot, slot: entry})


def end_overdue(project: Project, slot: str) -> None:
    """Forget what stood in the way of a slot's training: it ran, or is not due."""
    entry_by_slot = _read_entries(project)
    if entry_by_slot.pop(slot, None) is not None:
        _write_entries(project, entry_by_slot)


def _newest_version_name(versions: list[VersionInfo]) -> str:
    return versions[-1].version if versions else ""


def _read_entries(project: Project) -> dict[str, OverdueTraining]:
    try:
        encoded_entries = (project.paths.monitoring / OVERDUE_FILE).read_bytes()
        return {
            entry.slot: entry
            for entry in msgspec.json.decode(encoded_entries, type=list[OverdueTraining])
        }
    except FileNotFoundError:
        return {}
    except msgspec.MsgspecError as error:
        log.warning("%s cannot be read: %s", project.paths.monitoring / OVERDUE_FILE, error)
        return {}


def _write_entries(project: Project, entry_by_slot: dict[str, OverdueTraining]) -> None:
    project.paths.monitoring.mkdir(parents=True, exist_ok=True)
    atomic_write(
        project.paths.monitoring / OVERDUE_FILE, msgspec.json.encode(list(entry_by_slot.values()))
    )
