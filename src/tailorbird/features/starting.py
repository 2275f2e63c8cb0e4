"""A state that ends each process which opens it: found at the next start, moved aside, and built
anew.

    starting    in the state's folder from before a worker opens the store until it has taken a step

A worker that finds it left by another looks at the whole store first (`store.scan`). That is never
so after a clean end, nor after a kill of a worker that was at work, so that these start at once.
"""

import logging
from pathlib import Path

from tailorbird.store.scan import whole

log = logging.getLogger(__name__)


class Starting:
    """The mark of a start in a state's folder. Only for the worker that holds the lock."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._mark = folder, folder / "starting"
        self._stands = False

    def begin(self) -> bool:
        """Set the mark; whether the store was damaged, and is aside now."""
        damaged = (
            self._mark.exists() and (self._folder / "data.mdb").exists() and not whole(self._folder)
        )
        if damaged:
            self._set_aside()
        self._mark.touch()
        self._stands = True
        return damaged

    def done(self) -> None:
        """The store was opened and used."""
        if self._stands:
            self._mark.unlink(missing_ok=True)
            self._stands = False

    def _set_aside(self) -> None:
        aside = self._folder / "data.mdb.damaged"
        (self._folder / "data.mdb").replace(aside)
        (self._folder / "lock.mdb").unlink(
            missing_ok=True
        )  # readers of the old file keep theirs, and notice that there is a new one
        log.critical(
            "%s: the state is damaged; it was moved to %s and is built anew from lake and "
            "log. Look at the disk",
            self._folder,
            aside,
        )
