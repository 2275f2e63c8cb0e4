"""An event without its person: type, time, item and numbers stay, ids become hashes, texts go.

The hashes are keyed, and the key is destroyed at the end of the erasure. So archive and lake agree,
a crash between them does no harm, and nothing leads back. One stranger stands for a request and
what followed from it, or for one event; never one for the whole person, whose trail of clicks would
tell who it was.

    row     an event of the lake            wire    the same event as it came in, for the archive

Both give the same event when the archive is routed again.
"""

from collections.abc import Collection, Mapping
from hashlib import blake2b
from typing import Any

import msgspec

from tailorbird.events.contract.envelope import ANONYMOUS_PREFIX, NUMBERS
from tailorbird.events.contract.plan import INTO_ERASED, MERGED_INTO
from tailorbird.events.suppression import RENAMED_PREFIX
from tailorbird.privacy.footprint import TEXT_COLUMNS

_REMOVED_FIELDS = (
    *TEXT_COLUMNS,
    *("device", "country", "local_hour", "session_id", "user_version", "user_profile"),
    *("ts_original", "sent_at"),
)
_TYPES_WITH_USER = ("user", "identify", "merge")
Event = tuple[str, str, str]  # mark and id of the subject, event id


class EventRewriter:
    """Makes events of erased people those of strangers.

    Args:
        key: of the hashes.
        requests: of the erased people.
    """

    def __init__(self, key: bytes, requests: Collection[str]) -> None:
        self._key, self.requests = key, frozenset(requests)

    def hash(self, *ids: str) -> str:
        """Return what stands in place of an id."""
        text = "\0".join(ids).encode(errors="surrogatepass")
        return RENAMED_PREFIX + blake2b(text, digest_size=12, key=self._key).hexdigest()

    def hash_reference(self, id_: str) -> str:
        """Return the new id of another's event, session or request whose id holds an erased id."""
        return self.hash("thing", id_)

    def rewrite_row(self, row: Mapping[str, Any], event: Event) -> dict[str, Any]:
        """Return a row of `events`."""
        new = (
            dict(row)
            | dict.fromkeys(_REMOVED_FIELDS)
            | self._ids_of(row["type"], row["request_id"], event)
        )
        if row["type"] == "item":  # nobody's, and the profile stays
            return new | {"properties": row["properties"], "person": None}
        new["person"] = new["user_id"] or f"{ANONYMOUS_PREFIX}{new['anonymous_id']}"
        new["properties"] = "{}" if row["type"] == "user" else None
        return new | (self.rewrite_merge_row(new) if row["type"] == "merge" else {})

    def rewrite_merge_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a merge into an erased user becomes: one of the user into itself."""
        user = row["user_id"]
        return {
            "person": user,
            "properties": msgspec.json.encode(
                {MERGED_INTO: user, INTO_ERASED: True}, order="sorted"
            ).decode(),
        }

    def rewrite_raw_event(
        self, event: Mapping[str, Any], subject: Event, ts: int
    ) -> dict[str, Any]:
        """Return an event as it came in and was accepted with the time `ts`."""
        retained_fields = ("type", "item_id", "items", "received_at")
        new = {name: event[name] for name in retained_fields if event.get(name) is not None}
        new |= {"timeless": True} if event.get("timeless") else {"ts": ts}
        ids = self._ids_of(event["type"], event.get("request_id"), subject)
        new |= {name: id_ for name, id_ in ids.items() if id_ is not None}
        properties = event.get("properties") or {}
        if event["type"] == "item":
            return new | {"properties": properties}
        if event["type"] == "merge":
            new["properties"] = {MERGED_INTO: new["user_id"], INTO_ERASED: True}
        elif event["type"] == "user":
            new["properties"] = {}
        elif numbers := {name: properties[name] for name in NUMBERS if name in properties}:
            new["properties"] = numbers
        if (response := event.get("answer")) is not None:
            new["answer"] = {name: value for name, value in response.items() if name != "query"}
        return new

    def rewrite_raw_merge(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Return another's merge into an erased user, as `rewrite_merge_row`."""
        return dict(event) | {"properties": {MERGED_INTO: event["user_id"], INTO_ERASED: True}}

    def rename_request(self, request_id: str | None) -> str | None:
        """Return what stands in place of a request id."""
        return None if request_id is None else self.hash("request", request_id)

    def rename_duplicate(self, event_id: str, *position: object) -> str:
        """Return what stands in place of the event id of a repeat."""
        return self.hash("repeat", event_id, *map(str, position))

    def _ids_of(self, type_: str, request_id: str | None, event: Event) -> dict[str, str | None]:
        """Return the ids of an event; only where the contract asks for a user is there one."""
        if type_ == "item":
            empty = ("user_id", "anonymous_id", "request_id")
            return {"event_id": event[2], **dict.fromkeys(empty)}
        key: tuple[str, ...] = event
        if request_id is not None and request_id in self.requests:
            key = ("request", request_id)
        return {
            "event_id": self.hash("event", *event),
            "request_id": self.rename_request(request_id),
            "user_id": self.hash("user", *key) if type_ in _TYPES_WITH_USER else None,
            "anonymous_id": None if type_ in ("user", "merge") else self.hash("who", *key),
        }
