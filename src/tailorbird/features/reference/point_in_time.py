"""Requests at a time, with the events that were known then."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from tailorbird.events.clock import SESSION_GAP
from tailorbird.events.keys import combine_keys, hash64
from tailorbird.features.declare.declarations import Entity, EventFeature, SessionFeature, Window
from tailorbird.features.declare.limits import LOOK_BACK_MAX, SESSION_EVENTS_MAX
from tailorbird.features.declare.scalars import (
    category_hash,
    local_weekday,
    number_of,
    query_text,
    request_text,
    text_of,
)
from tailorbird.features.event_columns.columns import entity_key
from tailorbird.features.expr.expression import Expression
from tailorbird.features.expr.scalar import evaluate, evaluate_number, evaluate_truth
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.request import ReadRequest

Event = Mapping[str, Any]


SHOWN_TYPES = ("impression", "answer")
LogPositions = int | Sequence[int]  # up to which events are known, or one for each part


def routed_events(table: pa.Table) -> list[Event]:
    """Return the rows of a table of routed events, times as integers."""
    fields = [
        pa.field(f.name, pa.int64()) if pa.types.is_timestamp(f.type) else f for f in table.schema
    ]
    return table.cast(pa.schema(fields)).to_pylist()


def make_view(
    features: FeatureSet,
    request: ReadRequest,
    item: str | None,
    t: int,
    log_position: LogPositions,
    events: Sequence[Event],
) -> "PointInTimeView":
    positions = (log_position,) if isinstance(log_position, int) else tuple(log_position)
    visible_events = [
        event
        for event in events
        if event["counts"] and event["ts"] < t and event["p"] <= max(positions)
    ]
    return PointInTimeView(
        features, request=request, item=item, t=t, events=visible_events, positions=positions
    )


@dataclass(frozen=True)
class Row:
    """An event as it counts for one item; `index` is the item's index in `items`."""

    event: Event
    item: str | None
    index: int

    def field(self, name: str, kind: str) -> Any:
        if name in ("user", "item", "session"):
            return self.key_field(name)
        owner, _, attribute = name.partition(".")
        if name == "weekday":
            raw_value = local_weekday(self.event["ts"], self.event["local_hour"])
        elif name == "position":
            raw_value = self.position()
        elif not attribute:
            raw_value = self.event.get(name)
        elif owner == "properties":
            raw_value = json.loads(self.event.get("properties") or "{}").get(attribute)
        else:
            profile = json.loads(self.event.get(f"{owner}_profile") or "{}")
            if isinstance(profile, list):  # one for each of `items`
                profile = profile[self.index] if self.index < len(profile) else None
            raw_value = (profile or {}).get(attribute)
        return number_of(raw_value) if kind == "number" else text_of(raw_value)

    def has_value(self, expression: Expression) -> bool:
        if expression.kind == "text":
            return evaluate(expression, self.field) is not None
        return not math.isnan(evaluate_number(expression, self.field))

    def value(self, expression: Expression) -> float | int:
        """Return a number, or a text as a category."""
        return (
            category_hash(evaluate(expression, self.field))
            if expression.kind == "text"
            else evaluate_number(expression, self.field)
        )

    def key_field(self, name: str) -> str | None:
        """Return a field of an entity's key."""
        if name == "item":
            return self.item
        if name == "query":
            return query_text(self.event["query"]) or query_text(self.event["answer_query"])
        column = {"user": "person", "session": "session_id"}.get(name, name)
        return self.field(column, "text")

    def position(self) -> int | None:
        """Return the position at which the item was shown, from 1.

        The event's own position, or the index among items that were shown at once.
        """
        event = self.event
        is_shown_at_once = (
            event["item_id"] is None and event["items"] and event["type"] in SHOWN_TYPES
        )
        return (
            self.index + 1 if event["position"] is None and is_shown_at_once else event["position"]
        )

    def sort_key(self) -> tuple[int, int]:
        """Return a sort key: time, then a hash of event id and owner plus the item's index in
        `items`.
        """
        event = self.event
        owner = event["user_id"] or event["anonymous_id"] or event["item_id"] or ""
        hashes = [np.array([hash64(text)], np.uint64) for text in (event["event_id"], owner)]
        return event["ts"], (int(combine_keys(*hashes)[0]) + self.index) % 2**64


@dataclass(frozen=True)
class PointInTimeView:
    """A request at t, with the events that were known then.

    `positions`: the p up to which events of each part of the keys are known.
    """

    features: FeatureSet
    request: ReadRequest
    item: str | None
    t: int
    events: list[Event]
    positions: tuple[int, ...]

    def session_rows(self, feature: SessionFeature) -> list[Row]:
        """Return the events of the current session.

        These are the events with the request's session_id, or without one the run of events that
        ends within the gap of t.
        """
        session_events = EventFeature(
            name=feature.name,
            location="",
            description="",
            entity=Entity(("user",)),
            types=feature.types,
            where=None,
        )
        rows = self.last_rows(self.rows(session_events, per_item=True), SESSION_EVENTS_MAX)
        if self.request.session_id is not None:
            return [row for row in rows if row.event["session_id"] == self.request.session_id]
        session_rows = []
        next_ts = self.t
        for row in reversed(rows):
            if next_ts - row.event["ts"] > SESSION_GAP:
                break
            session_rows.append(row)
            next_ts = row.event["ts"]
        return session_rows

    def rows(
        self,
        feature: EventFeature,
        *,
        types: Sequence[str] = (),
        entity: Entity | None = None,
        value_expression: Expression | None = None,
        per_item: bool = False,
    ) -> list[Row]:
        """Return the events of the entity of the request, once per item where required."""
        entity = entity or feature.entity
        read_names = [
            *entity.fields,
            *(
                name
                for expression in (feature.where, value_expression)
                if expression is not None
                for name, _ in expression.names
            ),
        ]
        per_item = per_item or any(
            name == "item" or name.startswith("item.") for name in read_names
        )
        key = self.key(entity)
        rows = []
        last_log_position = self.log_position_of(
            entity_key(entity, [np.array(hash64(part or ""), np.uint64) for part in key])
        )
        for event in self.events:
            if (
                event["p"] > last_log_position
                or event["type"] not in (types or feature.types)
                or event["ts"] <= 0
            ):
                continue
            for row in expand_items(event, per_item):
                if [row.key_field(name) for name in entity.fields] != key:
                    continue
                if feature.where is not None and not evaluate_truth(feature.where, row.field):
                    continue
                if value_expression is None or row.has_value(value_expression):
                    rows.append(row)
        return rows

    def rows_in_window(self, rows: list[Row], window: Window) -> list[Row]:
        """Return the rows in the tile of t and in the window before it."""
        since = self.t // window.hop * window.hop - window.length
        return [row for row in rows if row.event["ts"] >= since]

    def last_rows(self, rows: list[Row], length: int) -> list[Row]:
        recent_rows = [row for row in rows if row.event["ts"] >= self.t - LOOK_BACK_MAX]
        return sorted(recent_rows, key=Row.sort_key)[-length:]

    def key(self, entity: Entity) -> list[str | None]:
        """Return the values of the entity's fields in this request.

        A field such as item.category is the item's own attribute.
        """
        return [self.key_field(name) for name in entity.fields]

    def key_field(self, name: str) -> str | None:
        if name in self.request.key_overrides:
            return self.request.key_overrides[name]
        if "." in name:
            owner, _, attribute = name.partition(".")
            return text_of(self.profile_attribute(owner, attribute))
        return self.item if name == "item" else request_text(self.request, name, self.t)

    def profile_attribute(self, owner: str, attribute: str) -> object:
        """Return an attribute of the newest profile event; a newer profile replaces the older one
        completely.
        """
        newest_profile = self.profile_row(owner)
        return (
            None
            if newest_profile is None
            else json.loads(newest_profile.event["properties"] or "{}").get(attribute)
        )

    def profile_row(self, owner: str) -> Row | None:
        column, owner_id = (
            ("user_id", self.request.person) if owner == "user" else ("item_id", self.item)
        )
        if owner_id is None:
            return None
        last_log_position = self.log_position_of(hash64(owner_id))
        rows = [
            Row(event, None, 0)
            for event in self.events
            if event["type"] == owner
            and event[column] == owner_id
            and event["p"] <= last_log_position
        ]
        return max(rows, key=Row.sort_key, default=None)

    def log_position_of(self, key: int | np.ndarray) -> int:
        """Return the p up to which the events of the entity with this key are known."""
        return self.positions[int(key) % len(self.positions)]


def expand_items(event: Event, per_item: bool) -> Iterator[Row]:
    items = event.get("items")
    if event["item_id"] is not None or not items:
        yield Row(event, event["item_id"], 0)
    elif per_item or event["type"] in SHOWN_TYPES:
        yield from (Row(event, item, index) for index, item in enumerate(items))
    else:
        yield Row(event, None, 0)
