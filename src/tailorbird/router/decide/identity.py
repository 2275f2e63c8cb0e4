"""Identity: an anonymous visitor is the user of the newest applied `identify` at or before the
event's time, and a user is whom the merges of that time point to (`events.merges`).

The past is never re-keyed: an event keeps the person that it was routed with. The tables hold all
identifies and merges; memory caches recently requested ones, see `router.decide.timeline`.
"""

from collections.abc import Iterable

import apsw

from tailorbird.events.merges import Merge, resolve_merged_user
from tailorbird.router.decide.timeline import Timeline

SCHEMA_SQL = """
CREATE TABLE IF NOT EXISTS identity(
    anonymous_id TEXT NOT NULL, ts INTEGER NOT NULL, p INTEGER NOT NULL, user_id TEXT NOT NULL,
    PRIMARY KEY (anonymous_id, ts, p)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS merge(
    user_id TEXT NOT NULL, ts INTEGER NOT NULL, p INTEGER NOT NULL, merged_into TEXT NOT NULL,
    PRIMARY KEY (user_id, ts, p)
) STRICT, WITHOUT ROWID;
"""


class IdentityHistory:
    """Applied identifies: unsaved ones, and the table `identity` with a cache of at most
    `bytes_max`.

    Attributes:
        timeline: the user of each anonymous id over time.
    """

    def __init__(self, connection: apsw.Connection, bytes_max: int) -> None:
        select_sql = "SELECT ts, user_id FROM identity WHERE anonymous_id = ?1"
        self.timeline: Timeline[str] = Timeline(
            connection, select_sql, str, len, bytes_max=bytes_max
        )
        self._unsaved: list[tuple[str, int, int, str]] = []

    @property
    def cache_bytes(self) -> int:
        """Return the approximate size of the cache."""
        return self.timeline.cache_bytes

    def apply(self, anonymous_id: str, ts: int, log_position: int, user_id: str) -> None:
        """Make `anonymous_id` the user `user_id` from `ts` on."""
        self.timeline.put(anonymous_id, ts, user_id)
        self._unsaved.append((anonymous_id, ts, log_position, user_id))

    def save(self, connection: apsw.Connection) -> None:
        """Write what was applied since the last save."""
        if self._unsaved:
            connection.executemany("INSERT INTO identity VALUES (?, ?, ?, ?)", self._unsaved)
            self._unsaved = []
        self.timeline.mark_saved()


class MergeHistory:
    """Applied merges, stored as identifies are.

    Attributes:
        has_merges: whether there are any; most sites have none and need no lookups.
    """

    def __init__(self, connection: apsw.Connection, bytes_max: int) -> None:
        select_sql = "SELECT ts, ts, p, merged_into FROM merge WHERE user_id = ?1"
        self._timeline: Timeline[Merge] = Timeline(
            connection, select_sql, Merge, lambda merge: len(merge.merged_into), bytes_max=bytes_max
        )
        self._unsaved: list[tuple[str, int, int, str]] = []
        self.has_merges = connection.execute("SELECT EXISTS (SELECT 1 FROM merge)").get == 1

    @property
    def cache_bytes(self) -> int:
        """Return the approximate size of the cache."""
        return self._timeline.cache_bytes

    def apply(self, user_id: str, ts: int, log_position: int, merged_into: str) -> None:
        """Make `user_id` another name of `merged_into` from `ts` on."""
        self._timeline.put(user_id, ts, Merge(ts, log_position, merged_into))
        self._unsaved.append((user_id, ts, log_position, merged_into))
        self.has_merges = True

    def find_merged_users(self, users: Iterable[str]) -> set[str]:
        """Return the users that were ever merged."""
        users = list(users)
        self._timeline.preload(users)
        return {user for user in users if self._timeline.values(user)}

    def resolve_user(self, user_id: str, ts: int) -> str:
        """Return the user that `user_id` is merged into at `ts`, or itself."""
        return resolve_merged_user(user_id, lambda user: self._timeline.value_at(user, ts))[0]

    def save(self, connection: apsw.Connection) -> None:
        """Write what was applied since the last save."""
        if self._unsaved:
            connection.executemany("INSERT INTO merge VALUES (?, ?, ?, ?)", self._unsaved)
            self._unsaved = []
        self._timeline.mark_saved()
