"""Who an anonymous visitor is: the user of the newest applied `identify` with a time at or before the event's.

The past is never keyed again: an event keeps the person that it was routed with.
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
    """The identifies applied so far, in memory, and in the table `identity` once saved."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._users: Timeline[str] = Timeline()
        self._new: list[tuple[str, int, int, str]] = []
        for anonymous_id, ts, user_id in connection.execute("SELECT anonymous_id, ts, user_id FROM identity ORDER BY anonymous_id, ts, p"):
            self._users.put(anonymous_id, ts, user_id)

    def apply(self, anonymous_id: str, ts: int, p: int, user_id: str) -> None:
        """From `ts` on, `anonymous_id` is `user_id`."""
        self._users.put(anonymous_id, ts, user_id)
        self._new.append((anonymous_id, ts, p, user_id))

    def user(self, anonymous_id: str, ts: int) -> str | None:
        """The user known for `anonymous_id` at `ts`."""
        return self._users.at(anonymous_id, ts)

    def save(self, connection: apsw.Connection) -> None:
        """Write what was applied since the last time."""
        if self._new:
            connection.executemany("INSERT INTO identity VALUES (?, ?, ?, ?)", self._new)
            self._new = []
