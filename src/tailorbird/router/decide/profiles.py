"""Versions of user and item profiles; an event carries the latest version at or before its time.

A version is the `event_id` of the profile event, which holds the whole profile. A "timeless"
profile is valid from the beginning. The table keeps all properties of all versions, so that an
attribute that is declared later is attached to events from then on. Memory caches the declared
attributes of recently requested keys, see `router.decide.timeline`.
"""

from collections.abc import Sequence
from typing import Any, Literal

import apsw
import msgspec

from tailorbird.router.decide.timeline import Timeline

SCHEMA_SQL = """
CREATE TABLE IF NOT EXISTS profile(
    kind TEXT NOT NULL, id TEXT NOT NULL, ts INTEGER NOT NULL, p INTEGER NOT NULL,
    version TEXT NOT NULL, properties TEXT NOT NULL,
    PRIMARY KEY (kind, id, ts, p)
) STRICT, WITHOUT ROWID;
"""
_decoder = msgspec.json.Decoder(dict[str, Any])


class ProfileVersion(msgspec.Struct, frozen=True, gc=False):
    """One version: its id, and the declared attributes as JSON with sorted keys."""

    version: str
    attributes: str


class ProfileHistory:
    """Profile versions of one kind: unsaved ones, and the table `profile` with a cache of at most
    `bytes_max`.

    Attributes:
        timeline: the version of each id.
    """

    def __init__(
        self,
        connection: apsw.Connection,
        kind: Literal["user", "item"],
        attributes: Sequence[str],
        bytes_max: int,
    ) -> None:
        self._kind = kind
        self._declared_attributes = tuple(sorted(attributes))
        select_sql = (
            f"SELECT ts, version, properties FROM profile WHERE kind = '{kind}' AND id = ?1"
        )
        self.timeline: Timeline[ProfileVersion] = Timeline(
            connection, select_sql, self._from_row, _text_bytes, bytes_max=bytes_max
        )
        self._unsaved: list[tuple[str, str, int, int, str, str]] = []

    @property
    def cache_bytes(self) -> int:
        """Return the approximate size of the cache."""
        return self.timeline.cache_bytes

    def apply(
        self,
        id_: str,
        ts: int,
        log_position: int,
        version: str,
        properties: dict[str, Any],
        properties_json: str,
    ) -> None:
        """Make this version the profile of `id_` from `ts` on."""
        self.timeline.put(id_, ts, ProfileVersion(version, self._encode_attributes(properties)))
        self._unsaved.append((self._kind, id_, ts, log_position, version, properties_json))

    def join_versions(self, ids: Sequence[str], ts: int) -> ProfileVersion | None:
        """Return the versions of several ids at `ts`, as JSON lists in the order of `ids`.

        Returns None if no id has a version.
        """
        profiles = [self.timeline.value_at(id_, ts) for id_ in ids]
        if not any(profiles):
            return None
        versions = msgspec.json.encode(
            [profile and profile.version for profile in profiles]
        ).decode()
        return ProfileVersion(
            versions,
            f"[{','.join(profile.attributes if profile else 'null' for profile in profiles)}]",
        )

    def save(self, connection: apsw.Connection) -> None:
        """Write the versions applied since the last save."""
        if self._unsaved:
            connection.executemany("INSERT INTO profile VALUES (?, ?, ?, ?, ?, ?)", self._unsaved)
            self._unsaved = []
        self.timeline.mark_saved()

    def _from_row(self, version: str, properties: str) -> ProfileVersion:
        return ProfileVersion(version, self._encode_attributes(_decoder.decode(properties)))

    def _encode_attributes(self, properties: dict[str, Any]) -> str:
        return msgspec.json.encode(
            {name: properties[name] for name in self._declared_attributes if name in properties}
        ).decode()


def _text_bytes(profile: ProfileVersion) -> int:
    return len(profile.version) + len(profile.attributes)
