"""What `up` notes of the roles that it runs, for pages and commands of other processes:
`data/run/roles.json`.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from tailorbird.whole import atomic_write

FILE = "roles.json"


class RoleState(msgspec.Struct, frozen=True):
    """A role as its supervisor sees it.

    Attributes:
        name: as `up` prints it, such as `worker`.
        pid: of its process; 0 while it waits to be started again.
        since_s: when this process was started, or the last one ended, in seconds since 1970.
        restarts: how often it was started again after it had died.
    """

    name: str
    pid: int
    since_s: float
    restarts: int = 0


def note_roles(run: Path, roles: Sequence[RoleState]) -> None:
    """Write the roles that run now in place of those that were noted before. Raises OSError where
    the folder cannot be written.
    """
    atomic_write(run / FILE, msgspec.json.encode(roles))


def read_roles(run: Path) -> list[RoleState]:
    """Return the roles that `up` runs on this machine; none where it does not run, or its file
    cannot be read.
    """
    try:
        return msgspec.json.decode((run / FILE).read_bytes(), type=list[RoleState])
    except (OSError, msgspec.MsgspecError):
        return []


def forget_roles(run: Path) -> None:
    """Take the note away, as `up` ends."""
    (run / FILE).unlink(missing_ok=True)
