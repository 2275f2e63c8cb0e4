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
_decode = msgspec.json.Decoder(dict[str, Any])


class Profile(msgspec.Struct, frozen=True, gc=False):
    """One version: its id, and the declared attributes as JSON with sorted keys."""

    version: str
    attributes: str


class Catalogue:
    """The versions of one kind of profile: those not yet saved, and the table `profile`, of which
    memory holds `bytes_max`.

    Attributes:
        timeline: the version of each id.
    """

    def __init__(
        self,
        connection: apsw.Connection,
        kind: Literal["user", "item"],
        declared: Sequence[str],
        bytes_max: int,
    ) -> None:
        self._kind = kind
        self._declared = tuple(sorted(declared))
        select = f"SELECT ts, version, properties FROM profile WHERE kind = '{kind}' AND id = ?1"
        self.timeline: Timeline[Profile] = Timeline(
            connection, select, self._stored, _size, bytes_max=bytes_max
        )
        self._new: list[tuple[str, str, int, int, str, str]] = []

    @property
    def bytes(self) -> int:
        """About what memory holds."""
        return self.timeline.bytes

    def apply(
        self, id_: str, ts: int, p: int, version: str, properties: dict[str, Any], text: str
    ) -> None:
        """From `ts` on, the profile of `id_` is this version; `text` is its properties as JSON."""
        self.timeline.put(id_, ts, Profile(version, self._attributes(properties)))
        self._new.append((self._kind, id_, ts, p, version, text))

    def of_each(self, ids: Sequence[str], ts: int) -> Profile | None:
        """The versions of several that apply at `ts`, each column a JSON list in the order of
        `ids`; None if none has one.
        """
        found = [self.timeline.at(id_, ts) for id_ in ids]
        if not any(found):
            return None
        versions = msgspec.json.encode([profile and profile.version for profile in found]).decode()
        return Profile(
            versions,
            f"[{','.join(profile.attributes if profile else 'null' for profile in found)}]",
        )

    def save(self, connection: apsw.Connection) -> None:
        """Write what was applied since the last time."""
        if self._new:
            connection.executemany("INSERT INTO profile VALUES (?, ?, ?, ?, ?, ?)", self._new)
            self._new = []
        self.timeline.saved()

    def _stored(self, version: str, properties: str) -> Profile:
        return Profile(version, self._attributes(_decode.decode(properties)))

    def _attributes(self, properties: dict[str, Any]) -> str:
        return msgspec.json.encode(
            {name: properties[name] for name in self._declared if name in properties}
        ).decode()


def _size(profile: Profile) -> int:
    return len(profile.version) + len(profile.attributes)
