"""An event without its person: type, time and item stay, and with them the numbers; whose it was,
and what they wrote, goes.

                 event of the lake, or of the archive        after
    event_id, session_id, request_id, ids of people          fresh, see `privacy.fresh`; session only where sketches count it
    person                                                   a visitor of one request and what followed from it, or of one event
    device, country, page, referrer, query                   null, but for what `needs` and enough other people keep
    ts, sent_at as the client said them                      null: the time that was decided on stays
    whom a user was merged into                              that user itself: from then on it is nobody else
    properties, profile                                      numbers and truths that `needs`; a user's profile is emptied
    type, ts, item, items, position, propensity, arm, numbers of columns, agent (person or bot)       stay

A row that was refused, and whatever else cannot be read, is replaced whole by `contract.ERASED`.
"""

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from tailorbird.events.contract import ANONYMOUS_PREFIX
from tailorbird.events.plan import INTO_ERASED, MERGED_INTO
from tailorbird.features.erase import Needs
from tailorbird.privacy.fresh import Fresh
from tailorbird.privacy.marks import TEXTS, Marks, who_key

_TIMES = ("ts_original", "sent_at")
_decode = msgspec.json.Decoder().decode
Event = tuple[str, str, str]


class Unlinked:
    """Makes the events of erased people those of nobody."""

    def __init__(self, users: Collection[str], marks: Marks, needs: Needs, fresh: Fresh) -> None:
        self._users = frozenset(users)
        self.requests = frozenset(marks.requests)
        self._common = {name: frozenset(texts) for name, texts in marks.common.items()}
        self._needs, self._fresh = needs, fresh

    def row(self, row: Mapping[str, Any], event: Event) -> dict[str, Any]:
        """A row of `events`."""
        found = dict(row) | dict.fromkeys(_TIMES)
        found |= {name: self._text(name, row[name], event) for name in TEXTS}
        found["session_id"] = self._session(row["session_id"], event)
        found["user_version"] = None
        found["user_profile"] = self._numbers(row["user_profile"], "user")
        if "local_hour" not in self._needs.kept:
            found["local_hour"] = None
        if row["type"] == "item":
            return found | {
                "user_id": None,
                "anonymous_id": None,
                "request_id": None,
                "person": None,
            }
        key = who_key(row["request_id"], event, self.requests)
        found["event_id"] = self._fresh.text("event", *event)
        found["request_id"] = self.request(row["request_id"])
        found["user_id"], found["anonymous_id"] = self._who(row["type"], key, row["user_id"])
        found["person"] = found["user_id"] or f"{ANONYMOUS_PREFIX}{found['anonymous_id']}"
        found["properties"] = (
            "{}" if row["type"] == "user" else self._numbers(row["properties"], "properties")
        )
        if row["type"] == "merge":
            found["properties"] = msgspec.json.encode(
                {MERGED_INTO: found["user_id"], INTO_ERASED: True}
            ).decode()
        return found

    def linked(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row of somebody else who followed what an erased person had asked for."""
        query = row["answer_query"]
        kept = query in self._common.get("answer_query", ())
        return dict(row) | {
            "request_id": self.request(row["request_id"]),
            "answer_query": query if kept else None,
        }

    def wire(self, event: Mapping[str, Any], whose: Event, ts: int) -> dict[str, Any]:
        """An event as it came in, that was accepted with the time `ts`."""
        found: dict[str, Any] = {"event_id": event["event_id"], "type": event["type"]}
        found |= {
            name: event[name]
            for name in ("item_id", "items", "received_at")
            if event.get(name) is not None
        }
        found |= {"timeless": True} if event.get("timeless") else {"ts": ts}
        if event["type"] == "item":
            return found | {"properties": event.get("properties") or {}}
        found["event_id"] = self._fresh.text("event", *whose)
        user_id, anonymous_id = self._who(
            event["type"],
            who_key(event.get("request_id"), whose, self.requests),
            event.get("user_id"),
        )
        found |= {
            name: id_
            for name, id_ in (("user_id", user_id), ("anonymous_id", anonymous_id))
            if id_ is not None
        }
        found |= (
            {}
            if (request := self.request(event.get("request_id"))) is None
            else {"request_id": request}
        )
        found |= (
            {}
            if (session := self._session(event.get("session_id"), whose)) is None
            else {"session_id": session}
        )
        if context := self._context(event.get("context") or {}, whose):
            found["context"] = context
        if event["type"] == "user":
            found["properties"] = {}
        elif event["type"] == "merge":
            found["properties"] = {MERGED_INTO: user_id, INTO_ERASED: True}
        elif properties := self._properties(event.get("properties") or {}, whose):
            found["properties"] = properties
        if (answer := event.get("answer")) is not None:
            found["answer"] = {name: value for name, value in answer.items() if name != "query"}
            if (query := self._text("query", answer.get("query"), whose)) is not None:
                found["answer"]["query"] = query
        return found

    def request(self, request_id: str | None) -> str | None:
        return None if request_id is None else self._fresh.text("request", request_id)

    def thing(self, id_: str) -> str:
        """In place of the id of an event, a session or a request of somebody else that says who an
        erased person was.
        """
        return self._fresh.text("thing", id_)

    def repeat(self, event_id: str, *place: object) -> str:
        """In place of the id of an event that was a repeat."""
        return self._fresh.text("repeat", event_id, *map(str, place))

    def _who(
        self, type_: str, key: tuple[str, ...], was: str | None
    ) -> tuple[str | None, str | None]:
        """`user_id` and `anonymous_id`; only where the contract asks for a user is there one.

        Somebody else who was merged into one of theirs stays who that is, and from then on is
        nobody but itself.
        """
        if type_ == "merge" and was not in self._users:
            return was, None
        user = self._fresh.text("user", *key) if type_ in ("user", "identify", "merge") else None
        return user, None if type_ in ("user", "merge") else self._fresh.text("who", *key)

    def _text(self, name: str, value: str | None, event: Event) -> str | None:
        if value is None or value in self._common.get(name, ()):
            return value
        return self._fresh.text(name, *event) if self._needs.precisions(name) else None

    def _session(self, value: str | None, event: Event) -> str | None:
        return (
            self._fresh.text("session", *event)
            if value is not None and self._needs.precisions("session")
            else None
        )

    def _numbers(self, text: str | None, owner: str) -> str | None:
        """Of an object in JSON the numbers that states without a person are made of; None without
        any.
        """
        kept = self._kept(_decode(text), owner) if text else {}
        return msgspec.json.encode(kept, order="sorted").decode() if kept else None

    def _kept(self, properties: Mapping[str, Any], owner: str) -> dict[str, Any]:
        return {
            name: one
            for name, one in properties.items()
            if isinstance(one, bool | int | float) and f"{owner}.{name}" in self._needs.kept
        }

    def _properties(self, properties: Mapping[str, Any], event: Event) -> dict[str, Any]:
        numbers = {
            name: properties[name]
            for name in ("dwell_ms", "price", "quantity", "rating")
            if properties.get(name) is not None
        }
        query = self._text("query", properties.get("query"), event)
        return (
            numbers
            | self._kept(properties, "properties")
            | ({} if query is None else {"query": query})
        )

    def _context(self, context: Mapping[str, Any], event: Event) -> dict[str, Any]:
        found = {
            name: self._text(name, context.get(name), event)
            for name in ("device", "page", "referrer")
        }
        country = context.get("country")
        found["country"] = (
            None if country is None else self._text("country", country.upper(), event)
        )
        if "local_hour" in self._needs.kept:
            found["utc_offset_min"] = context.get("utc_offset_min")
        return {name: value for name, value in found.items() if value is not None}
