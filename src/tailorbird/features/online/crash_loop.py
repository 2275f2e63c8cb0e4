"""Detection of a damaged state that crashes each process which opens it.

    starting    in the state's folder from before a worker opens the store until it has taken a step

A worker that finds the marker of another one scans the entire store first (`store.scan`), and moves
a damaged one aside to rebuild it. A clean end, or a kill of a running worker, leaves no marker, so
that the next start is immediate.
"""

import logging
from pathlib import Path

from tailorbird.store.scan import is_readable

log = logging.getLogger(__name__)


class StartMarker:
    """The marker of a start in a state's folder. Only for the worker that holds the lock."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._marker = folder / "starting"
        self._is_set = False

    def begin(self) -> bool:
        """Set the marker, and return whether the store was damaged and moved aside."""
        is_damaged = (
            self._marker.exists()
            and (self._folder / "data.mdb").exists()
            and not is_readable(self._folder)
        )
        if is_damaged:
            self._set_aside()
        self._marker.touch()
        self._is_set = True
        return is_damaged

    def clear(self) -> None:
        """Remove the marker: the store was opened and used."""
        if self._is_set:
            self._marker.unlink(missing_ok=True)
            self._is_set = False

    def _set_aside(self) -> None:
        damaged_file = self._folder / "data.mdb.damaged"
        (self._folder / "data.mdb").replace(damaged_file)
        (self._folder / "lock.mdb").unlink(
            missing_ok=True
        )  # Readers of the old file keep their lock, and notice the new file.
        log.critical(
            "%s: the state is damaged; it was moved to %s and is built anew from lake and "
            "log. Look at the disk",
            self._folder,
            damaged_file,
        )
