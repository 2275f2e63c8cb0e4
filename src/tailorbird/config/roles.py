"""The file `data/run/roles.json`: the roles that `up` runs, for other processes."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from tailorbird.atomic_write import atomic_write

FILE = "roles.json"
RECENT_S = 3600.0  # How long a restart counts as recent.


class Restart(msgspec.Struct, frozen=True):
    """The end of a role: its time in seconds since 1970, and its cause."""

    at_s: float
    reason: str


class RoleState(msgspec.Struct, frozen=True):
    """A role as its supervisor sees it.

    Attributes:
        name: name that `up` prints, such as `worker`.
        pid: process id; 0 while the role waits for a restart.
        since_s: when the process started or the last one ended, in seconds since 1970.
        restarts: number of restarts after it had died.
        hung: of these, restarts because it made no progress.
        recent: the restarts of the last hour.
    """

    name: str
    pid: int
    since_s: float
    restarts: int = 0
    hung: int = 0
    recent: list[Restart] = []


def write_roles(run: Path, roles: Sequence[RoleState]) -> None:
    """Replace the recorded roles; raises OSError if the folder is not writable."""
    atomic_write(run / FILE, msgspec.json.encode(roles))


def read_roles(run: Path) -> list[RoleState]:
    """Return the roles that `up` runs on this machine; none without a readable record."""
    try:
        return msgspec.json.decode((run / FILE).read_bytes(), type=list[RoleState])
    except (OSError, msgspec.MsgspecError):
        return []


def clear_roles(run: Path) -> None:
    """Delete the record when `up` ends."""
    (run / FILE).unlink(missing_ok=True)
