"""Profiles of users and items, as versions: an event carries the version at or before its time,
among those applied.

A version is the `event_id` of the profile event, which holds the whole profile. One without a time
("timeless") has been valid from the beginning. The table keeps all versions with all their
properties, so that an attribute that is declared later is attached to the events routed from then
on; memory has the declared ones of what was asked for lately, see `router.timeline`.
"""

from collections.abc import Sequence
from typing import Any, Literal

import apsw
import msgspec

from tailorbird.router.timeline import Timeline

TABLE = """
CREATE TABLE IF NOT EXISTS profile(
    kind TEXT NOT NULL, id TEXT NOT NULL, ts INTEGER NOT NULL, p INTEGER NOT NULL, version TEXT NOT NULL, properties TEXT NOT NULL,
    PRIMARY KEY (kind, id, ts, p)
) STRICT, WITHOUT ROWID;
"""
_decoder = msgspec.json.Decoder(dict[str, Any])


class ProfileVersion(msgspec.Struct, frozen=True, gc=False):
    """One version: its id, and the declared attributes as JSON with sorted keys."""

    version: str
    attributes: str


class ProfileHistory:
    """The versions of one kind of profile: those not yet saved, and the table `profile`, of which
    memory holds `bytes_max`.

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
        select = f"SELECT ts, version, properties FROM profile WHERE kind = '{kind}' AND id = ?1"
        self.timeline: Timeline[ProfileVersion] = Timeline(
            connection, select, self._from_row, _text_bytes, bytes_max=bytes_max
        )
        self._unsaved: list[tuple[str, str, int, int, str, str]] = []

    @property
    def bytes(self) -> int:
        """About what memory holds."""
        return self.timeline.bytes

    def apply(
        self, id_: str, ts: int, p: int, version: str, properties: dict[str, Any], text: str
    ) -> None:
        """From `ts` on, the profile of `id_` is this version; `text` is its properties as JSON."""
        self.timeline.put(id_, ts, ProfileVersion(version, self._encode_attributes(properties)))
        self._unsaved.append((self._kind, id_, ts, p, version, text))

    def list_versions(self, ids: Sequence[str], ts: int) -> ProfileVersion | None:
        """The versions of several that apply at `ts`, each column a JSON list in the order of
        `ids`; None if none has one.
        """
        profiles = [self.timeline.at(id_, ts) for id_ in ids]
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
        """Write what was applied since the last time."""
        if self._unsaved:
            connection.executemany("INSERT INTO profile VALUES (?, ?, ?, ?, ?, ?)", self._unsaved)
            self._unsaved = []
        self.timeline.saved()

    def _from_row(self, version: str, properties: str) -> ProfileVersion:
        return ProfileVersion(version, self._encode_attributes(_decoder.decode(properties)))

    def _encode_attributes(self, properties: dict[str, Any]) -> str:
        return msgspec.json.encode(
            {name: properties[name] for name in self._declared_attributes if name in properties}
        ).decode()


def _text_bytes(profile: ProfileVersion) -> int:
    return len(profile.version) + len(profile.attributes)
