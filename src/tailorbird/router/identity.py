"""Who an anonymous visitor is: the user of the newest applied `identify` with a time at or before the event's.

The past is never keyed again: an event keeps the person that it was routed with. All identifies stand in the table; memory
has those asked for lately, see `router.timeline`.
"""

import apsw

from tailorbird.router.timeline import Timeline

TABLE = """
CREATE TABLE IF NOT EXISTS identity(
    anonymous_id TEXT NOT NULL, ts INTEGER NOT NULL, p INTEGER NOT NULL, user_id TEXT NOT NULL,
    PRIMARY KEY (anonymous_id, ts, p)
) STRICT, WITHOUT ROWID;
"""


class Identity:
    """The identifies applied so far: those not yet saved, and the table `identity`, of which memory holds `bytes_max`.

    Attributes:
        timeline: the user of each anonymous id.
    """

    def __init__(self, connection: apsw.Connection, bytes_max: int) -> None:
        select = "SELECT ts, user_id FROM identity WHERE anonymous_id = ?1"
        self.timeline: Timeline[str] = Timeline(connection, select, str, len, bytes_max=bytes_max)
        self._new: list[tuple[str, int, int, str]] = []

    @property
    def bytes(self) -> int:
        """About what memory holds."""
        return self.timeline.bytes

    def apply(self, anonymous_id: str, ts: int, p: int, user_id: str) -> None:
        """From `ts` on, `anonymous_id` is `user_id`."""
        self.timeline.put(anonymous_id, ts, user_id)
        self._new.append((anonymous_id, ts, p, user_id))

    def save(self, connection: apsw.Connection) -> None:
        """Write what was applied since the last time."""
        if self._new:
            connection.executemany("INSERT INTO identity VALUES (?, ?, ?, ?)", self._new)
            self._new = []
        self.timeline.saved()
