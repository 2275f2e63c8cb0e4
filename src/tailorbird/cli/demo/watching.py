"""What monitoring says in the demo: the episode of drift with its cause, and the state at the end."""

from typing import Any

import msgspec

from tailorbird.config import Project
from tailorbird.errors import NotReadyError
from tailorbird.events import HOUR, SimulatedClock, to_iso
from tailorbird.platform.drift import find_drift
from tailorbird.platform.monitoring import read_status


def find_episode(project: Project, clock: SimulatedClock, since: int) -> dict[str, Any]:
    """Return the first episode of drift that was detected after a time.

    The result is empty without any, and has a `refusal` if there is too little history.
    """
    hours = (clock.now() - since) // HOUR + 1
    try:
        rows = find_drift(project, clock, since=f"{hours}h").rows
    except NotReadyError as error:
        return {"refusal": error.message}
    later = [row for row in rows if row.detected > to_iso(since)[:16]]
    return msgspec.to_builtins(later[-1]) if later else {}


def describe_episode(episode: dict[str, Any]) -> str:
    """Return an episode in one sentence."""
    if refusal := episode.get("refusal"):
        return f"no drift is looked for: {refusal}"
    if not episode:
        return "no episode of drift"
    return (
        f"drift since {episode['since']}, detected at {episode['detected']}. Likely cause: "
        f"{episode['cause']}. {episode['evidence']}. See {episode['runbook']}"
    )


def read_last_day(project: Project, clock: SimulatedClock) -> list[str]:
    """Look for drift once more, as the trainer does each hour, and return the lines of the state."""
    find_episode(project, clock, clock.now() - 7 * 24 * HOUR)
    return list(read_status(project, clock).lines)
