"""Instances of entities for inspection: `session:s1`, `query:red shoes`, `item.category:shoes`.

    user:u1 item.category:shoes  →  the columns about these two only, each and together, with their
                                    values and the events of both

A person or an item alone is read like a request; this module is for entities that a request
derives, such as a category from its item.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from tailorbird.errors import UsageError
from tailorbird.features.declare.checks import is_profile_field
from tailorbird.features.declare.declarations import Counted, Derived, Ratio, Seen, SessionFeature
from tailorbird.features.declare.fields import ENTITY_FIELDS, INTEGER_FIELDS
from tailorbird.features.declare.scalars import query_text
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.reference.moments import (
    Event,
    RoutedPositions,
    Row,
    expand_items,
    make_moment,
    routed_events,
)
from tailorbird.features.reference.reference import Value, value_at
from tailorbird.features.request import ReadRequest

ANONYMOUS = "anonymous"
_PROFILES = ("user", "item", "identify", "merge")
_CHUNK_ROWS = 2_000  # events scanned at a time, newest first
_INTEGER_RANGES = {"local_hour": range(24), "weekday": range(7), "position": range(1, 10_001)}


@dataclass(frozen=True)
class Subject:
    """`parts`: field of an entity → its value; `anonymous` stands for a user who is not known."""

    parts: Mapping[str, str]

    @classmethod
    def parse(cls, texts: Sequence[str], features: FeatureSet) -> "Subject":
        """Parse `FIELD:VALUE` texts.

        Raises:
            UsageError: a text is invalid, a field comes twice, or no feature is about any part of
                it.
        """
        parts: dict[str, str] = {}
        for text in texts:
            field, _, value = text.partition(":")
            if field not in (*ENTITY_FIELDS, ANONYMOUS) and not is_profile_field(field):
                suggestions = difflib.get_close_matches(field, [*ENTITY_FIELDS, ANONYMOUS], n=1)
                fix = (
                    f"did you mean {suggestions[0]}:{value}?"
                    if suggestions and value
                    else f"fields: {', '.join(ENTITY_FIELDS)}, item.NAME, user.NAME"
                )
                raise UsageError(
                    f"expected user:ID, anonymous:ID, item:ID or another FIELD:VALUE, got {text!r}",
                    fix=fix,
                )
            parts[field] = _check_value(field, value, text, parts)
        subject = cls(parts)
        if not subject.columns(features):
            about = sorted(
                {entity.entity.name for entity in features.layout.entities if entity.entity.fields}
            )
            raise UsageError(
                f"features.py declares nothing about {' and '.join(parts)}",
                fix=f"features are about {', '.join(about)}",
            )
        return subject

    @property
    def title(self) -> str:
        return " and ".join(f"{field}:{value}" for field, value in self.parts.items())

    @property
    def item(self) -> str:
        return self.parts.get("item", "")

    def request(self, now: int, person: str | None = None) -> ReadRequest:
        """Return the request that reads the subject; `person` overrides the user if resolved."""
        parts = self.parts
        given = {
            field: value for field, value in parts.items() if "." in field or field == "weekday"
        }
        hour = int(parts["local_hour"]) if "local_hour" in parts else None
        return ReadRequest(
            person=person if person is not None else parts.get("user"),
            anonymous_id=parts.get(ANONYMOUS) if person is None else None,
            session_id=parts.get("session"),
            device=parts.get("device"),
            country=parts.get("country"),
            local_hour=hour,
            now=now,
            query=parts.get("query"),
            position=int(parts.get("position", 1)),
            given=given,
        )

    def columns(self, features: FeatureSet) -> tuple[str, ...]:
        """Return the numeric columns about nothing else, including derived ones that read only such
        columns.
        """
        kinds = {step.name: step for step in features.layout.steps if step.kind == "numeric"}
        own_columns: dict[str, None] = {}
        for feature in features.features:
            if (
                feature.name in kinds
                and not isinstance(feature, Derived)
                and self._determines(_fields_of(feature))
            ):
                own_columns[feature.name] = None
        for name in features.layout.derived_order:
            expression = kinds[name].expression
            if expression is not None and all(
                other in own_columns for other, _ in expression.names
            ):
                own_columns[name] = None
        return tuple(name for name in features.numeric if name in own_columns)

    def _determines(self, fields: Sequence[str]) -> bool:
        """Return whether the parts determine an entity of these fields."""
        determined_fields = {"user" if field == ANONYMOUS else field for field in self.parts}
        return bool(fields) and all(
            name in determined_fields
            or ("." in name and name.partition(".")[0] in determined_fields)
            for name in fields
        )

    def types(self, features: FeatureSet) -> tuple[str, ...]:
        """Return the event types that the columns are computed from, profiles included."""
        event_types = set(_PROFILES)
        for name in self.columns(features):
            event_types |= _types_of(features, name)
        return tuple(sorted(event_types))

    def values(
        self, features: FeatureSet, person: str, t: int, p: RoutedPositions, events: pa.Table
    ) -> dict[str, Value]:
        """Return each column at the two times, by the reference."""
        moment_ = make_moment(
            features, self.request(t, person), self.item or None, t, p, routed_events(events)
        )
        return {name: value_at(moment_, name) for name in self.columns(features)}

    def newest_events(self, tables: Iterable[pa.Table], person: str, count: int) -> list[Event]:
        """Return the newest events that match all parts; tables and results are ordered newest
        first.
        """
        events: list[Event] = []
        for table in tables:
            for event in self._own_events(table, person):
                events.append(event)
                if len(events) == count:
                    return events
        return events

    def _own_events(self, events: pa.Table, person: str) -> Iterator[Event]:
        for stop in range(events.num_rows, 0, -_CHUNK_ROWS):
            start = max(0, stop - _CHUNK_ROWS)
            for event in reversed(routed_events(events.slice(start, stop - start))):
                if any(self._is_of(row, person) for row in expand_items(event, per_item=True)):
                    yield event

    def _is_of(self, row: Row, person: str) -> bool:
        return all(
            row.key_field(field) == value for field, value in self._entity_keys(person).items()
        )

    def _entity_keys(self, person: str) -> dict[str, Any]:
        return {
            "user" if field == ANONYMOUS else field: person
            if field in ("user", ANONYMOUS)
            else value
            for field, value in self._normalised.items()
        }

    @cached_property
    def _normalised(self) -> dict[str, str]:
        return {
            field: (query_text(value) or "") if field == "query" else value
            for field, value in self.parts.items()
        }


def _check_value(field: str, value: str, text: str, parts: Mapping[str, str]) -> str:
    if not value:
        raise UsageError(f"expected {field}:VALUE, got {text!r}", fix="name which one")
    if field in parts or {field, *parts} >= {"user", ANONYMOUS}:
        raise UsageError(f"{field} is asked for twice", fix="keep one")
    if field in INTEGER_FIELDS and not (value.isdigit() and int(value) in _INTEGER_RANGES[field]):
        raise UsageError(
            f"expected {field} of {_INTEGER_RANGES[field][0]} to {_INTEGER_RANGES[field][-1]}, "
            f"got {value!r}"
        )
    return str(int(value)) if field in INTEGER_FIELDS else value


def _fields_of(feature: object) -> tuple[str, ...]:
    """Return the fields that must be known to read a feature; a context value needs none."""
    if isinstance(feature, SessionFeature):
        return ("user",)
    entity = getattr(feature, "entity", None)
    fields: tuple[str, ...] = () if entity is None else entity.fields
    return (*fields, "item") if isinstance(feature, Seen) else fields


def _types_of(features: FeatureSet, name: str) -> set[str]:
    feature = features.feature(name)
    if isinstance(feature, Derived):
        step = next(step for step in features.layout.steps if step.name == name)
        return {
            type_name
            for other, _ in (step.expression.names if step.expression else ())
            for type_name in _types_of(features, other)
        }
    if isinstance(feature, SessionFeature):
        return set(feature.types)
    types = set(feature.types) if isinstance(feature, Counted) else set()
    return types | set(feature.below) if isinstance(feature, Ratio) else types
