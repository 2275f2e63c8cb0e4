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

from tailorbird.events.contract.envelope import ANONYMOUS_PREFIX, NUMBER_BOUNDS
from tailorbird.events.contract.plan import INTO_ERASED, MERGED_INTO
from tailorbird.events.suppression import RENAMED_PREFIX
from tailorbird.privacy.footprint import TEXT_COLUMNS

_REMOVED_FIELDS = (
    *TEXT_COLUMNS,
    *("device", "country", "local_hour", "session_id", "user_version", "user_profile"),
    *("ts_original", "sent_at"),
)
_TYPES_WITH_USER = ("user", "identify", "merge")
EventKey = tuple[str, str, str]  # mark and id of the subject as `subject_of` returns them, event id


class EventRewriter:
    """Makes events of erased people those of strangers.

    Args:
        key: of the hashes.
        requests: of the erased people.
    """

    def __init__(self, key: bytes, requests: Collection[str]) -> None:
        self._key = key
        self.requests = frozenset(requests)

    def hash(self, *ids: str) -> str:
        """Return what stands in place of an id."""
        text = "\0".join(ids).encode(errors="surrogatepass")
        return RENAMED_PREFIX + blake2b(text, digest_size=12, key=self._key).hexdigest()

    def hash_reference(self, id_: str) -> str:
        """Return the new id of another's event, session or request whose id holds an erased id."""
        return self.hash("thing", id_)

    def rewrite_row(self, row: Mapping[str, Any], event_key: EventKey) -> dict[str, Any]:
        """Return a row of `events`."""
        new_row = (
            dict(row)
            | dict.fromkeys(_REMOVED_FIELDS)
            | self._replacement_ids(row["type"], row["request_id"], event_key)
        )
        if row["type"] == "item":  # nobody's, and the profile stays
            return new_row | {"properties": row["properties"], "person": None}
        new_row["person"] = new_row["user_id"] or f"{ANONYMOUS_PREFIX}{new_row['anonymous_id']}"
        new_row["properties"] = "{}" if row["type"] == "user" else None
        return new_row | (self.rewrite_merge_row(new_row) if row["type"] == "merge" else {})

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
        self, event: Mapping[str, Any], event_key: EventKey, ts: int
    ) -> dict[str, Any]:
        """Return an event as it came in and was accepted with the time `ts`."""
        retained_fields = ("type", "item_id", "items", "received_at")
        new_event = {name: event[name] for name in retained_fields if event.get(name) is not None}
        new_event |= {"timeless": True} if event.get("timeless") else {"ts": ts}
        ids = self._replacement_ids(event["type"], event.get("request_id"), event_key)
        new_event |= {name: id_ for name, id_ in ids.items() if id_ is not None}
        properties = event.get("properties") or {}
        if event["type"] == "item":
            return new_event | {"properties": properties}
        if event["type"] == "merge":
            new_event["properties"] = {MERGED_INTO: new_event["user_id"], INTO_ERASED: True}
        elif event["type"] == "user":
            new_event["properties"] = {}
        elif numbers := {name: properties[name] for name in NUMBER_BOUNDS if name in properties}:
            new_event["properties"] = numbers
        if (response := event.get("answer")) is not None:
            new_event["answer"] = {
                name: value for name, value in response.items() if name != "query"
            }
        return new_event

    def rewrite_raw_merge(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Return another's merge into an erased user, as `rewrite_merge_row`."""
        return dict(event) | {"properties": {MERGED_INTO: event["user_id"], INTO_ERASED: True}}

    def rename_request(self, request_id: str | None) -> str | None:
        """Return what stands in place of a request id."""
        return None if request_id is None else self.hash("request", request_id)

    def rename_duplicate(self, event_id: str, *position: object) -> str:
        """Return what stands in place of the event id of a repeat at a position of the log."""
        return self.hash("repeat", event_id, *map(str, position))

    def _replacement_ids(
        self, type_: str, request_id: str | None, event_key: EventKey
    ) -> dict[str, str | None]:
        """Return the ids of an event; only where the contract asks for a user is there one."""
        if type_ == "item":
            absent_fields = ("user_id", "anonymous_id", "request_id")
            _, _, event_id = event_key
            return {"event_id": event_id, **dict.fromkeys(absent_fields)}
        stranger_key: tuple[str, ...] = event_key
        if request_id is not None and request_id in self.requests:
            stranger_key = ("request", request_id)
        return {
            "event_id": self.hash("event", *event_key),
            "request_id": self.rename_request(request_id),
            "user_id": self.hash("user", *stranger_key) if type_ in _TYPES_WITH_USER else None,
            "anonymous_id": None if type_ in ("user", "merge") else self.hash("who", *stranger_key),
        }
