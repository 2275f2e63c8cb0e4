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
from tailorbird.features.declare.declarations import (
    Derived,
    EventFeature,
    Ratio,
    Seen,
    SessionFeature,
)
from tailorbird.features.declare.fields import ENTITY_FIELDS, INTEGER_FIELDS
from tailorbird.features.declare.scalars import query_text
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.reference.point_in_time import (
    Event,
    LogPositions,
    Row,
    expand_items,
    make_view,
    routed_events,
)
from tailorbird.features.reference.reference import Value, value_at
from tailorbird.features.request import ReadRequest

ANONYMOUS = "anonymous"
_PROFILE_TYPES = ("user", "item", "identify", "merge")
_CHUNK_ROWS = 2_000  # events scanned at a time, newest first
_INTEGER_RANGES = {"local_hour": range(24), "weekday": range(7), "position": range(1, 10_001)}


@dataclass(frozen=True)
class Subject:
    """`field_values`: field of an entity → its value; `anonymous` stands for a user who is not
    known.
    """

    field_values: Mapping[str, str]

    @classmethod
    def parse(cls, texts: Sequence[str], features: FeatureSet) -> "Subject":
        """Parse `FIELD:VALUE` texts.

        Raises:
            UsageError: a text is invalid, a field comes twice, or no feature is about any part of
                it.
        """
        field_values: dict[str, str] = {}
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
            field_values[field] = _check_value(field, value, text, field_values)
        subject = cls(field_values)
        if not subject.columns(features):
            entity_names = sorted(
                {entity.entity.name for entity in features.layout.entities if entity.entity.fields}
            )
            raise UsageError(
                f"features.py declares nothing about {' and '.join(field_values)}",
                fix=f"features are about {', '.join(entity_names)}",
            )
        return subject

    @property
    def title(self) -> str:
        return " and ".join(f"{field}:{value}" for field, value in self.field_values.items())

    @property
    def item(self) -> str:
        return self.field_values.get("item", "")

    def to_read_request(self, now: int, person: str | None = None) -> ReadRequest:
        """Return the request that reads the subject; `person` overrides the user if resolved."""
        values = self.field_values
        key_overrides = {
            field: value for field, value in values.items() if "." in field or field == "weekday"
        }
        hour = int(values["local_hour"]) if "local_hour" in values else None
        return ReadRequest(
            person=person if person is not None else values.get("user"),
            anonymous_id=values.get(ANONYMOUS) if person is None else None,
            session_id=values.get("session"),
            device=values.get("device"),
            country=values.get("country"),
            local_hour=hour,
            now=now,
            query=values.get("query"),
            position=int(values.get("position", 1)),
            key_overrides=key_overrides,
        )

    def columns(self, features: FeatureSet) -> tuple[str, ...]:
        """Return the numeric columns about nothing else, including derived ones that read only such
        columns.
        """
        numeric_steps = {
            step.name: step for step in features.layout.steps if step.kind == "numeric"
        }
        own_columns: dict[str, None] = {}
        for feature in features.features:
            if (
                feature.name in numeric_steps
                and not isinstance(feature, Derived)
                and self._determines_entity(_fields_of(feature))
            ):
                own_columns[feature.name] = None
        for name in features.layout.derived_order:
            expression = numeric_steps[name].expression
            if expression is not None and all(
                read_column in own_columns for read_column, _ in expression.names
            ):
                own_columns[name] = None
        return tuple(name for name in features.numeric if name in own_columns)

    def _determines_entity(self, fields: Sequence[str]) -> bool:
        """Return whether the fields determine an entity of these fields."""
        determined_fields = {"user" if field == ANONYMOUS else field for field in self.field_values}
        return bool(fields) and all(
            name in determined_fields
            or ("." in name and name.partition(".")[0] in determined_fields)
            for name in fields
        )

    def event_types(self, features: FeatureSet) -> tuple[str, ...]:
        """Return the event types that the columns are computed from, profiles included."""
        event_types = set(_PROFILE_TYPES)
        for name in self.columns(features):
            event_types |= _event_types_of(features, name)
        return tuple(sorted(event_types))

    def values(
        self,
        features: FeatureSet,
        person: str,
        t: int,
        log_positions: LogPositions,
        events: pa.Table,
    ) -> dict[str, Value]:
        """Return each column at the two times, by the reference."""
        view = make_view(
            features,
            request=self.to_read_request(t, person),
            item=self.item or None,
            t=t,
            log_position=log_positions,
            events=routed_events(events),
        )
        return {name: value_at(view, name) for name in self.columns(features)}

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
                if any(
                    self._concerns_row(row, person) for row in expand_items(event, per_item=True)
                ):
                    yield event

    def _concerns_row(self, row: Row, person: str) -> bool:
        return all(
            row.key_field(field) == value
            for field, value in self._expected_key_fields(person).items()
        )

    def _expected_key_fields(self, person: str) -> dict[str, Any]:
        return {
            "user" if field == ANONYMOUS else field: person
            if field in ("user", ANONYMOUS)
            else value
            for field, value in self._normalised_values.items()
        }

    @cached_property
    def _normalised_values(self) -> dict[str, str]:
        return {
            field: (query_text(value) or "") if field == "query" else value
            for field, value in self.field_values.items()
        }


def _check_value(field: str, value: str, text: str, field_values: Mapping[str, str]) -> str:
    if not value:
        raise UsageError(f"expected {field}:VALUE, got {text!r}", fix="name which one")
    if field in field_values or {field, *field_values} >= {"user", ANONYMOUS}:
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


def _event_types_of(features: FeatureSet, name: str) -> set[str]:
    feature = features.feature(name)
    if isinstance(feature, Derived):
        step = next(step for step in features.layout.steps if step.name == name)
        return {
            type_name
            for read_column, _ in (step.expression.names if step.expression else ())
            for type_name in _event_types_of(features, read_column)
        }
    if isinstance(feature, SessionFeature):
        return set(feature.types)
    types = set(feature.types) if isinstance(feature, EventFeature) else set()
    return types | set(feature.below) if isinstance(feature, Ratio) else types
