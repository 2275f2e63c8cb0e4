"""One of any entity, as somebody asks about it: `session:s1`, `query:red shoes`,
`item.category:shoes`, or several together.

    user:u1 item.category:shoes  →  the columns about nothing but the two, each and together  →  their values, the events of both

Somebody or an item alone is asked for as a request would ask; this is for what a request would find
by its own way, such as a category by its item.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from tailorbird.errors import UsageError
from tailorbird.features.checks import is_profile_field
from tailorbird.features.declare import (
    ENTITY_FIELDS,
    INTEGER_FIELDS,
    Counted,
    Derived,
    OfSession,
    Ratio,
    Seen,
)
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.plain import query_text
from tailorbird.features.reference import Event, RoutedPositions, Row, Value, expand_items, make_moment, routed_events
from tailorbird.features.request import ReadRequest

ANONYMOUS = "anonymous"
_PROFILES = ("user", "item", "identify", "merge")
_PIECE = 2_000  # events that are looked at in one go, the newest first
_WHOLE = {"local_hour": range(24), "weekday": range(7), "position": range(1, 10_001)}


@dataclass(frozen=True)
class Subject:
    """`parts`: field of an entity → its value; `anonymous` stands for a user who is not known."""

    parts: Mapping[str, str]

    @classmethod
    def parse(cls, texts: Sequence[str], features: FeatureSet) -> "Subject":
        """The subject of `FIELD:VALUE` texts.

        Raises:
            UsageError: a text is none, a field comes twice, or no feature is about any part of it.
        """
        parts: dict[str, str] = {}
        for text in texts:
            field, _, value = text.partition(":")
            if field not in (*ENTITY_FIELDS, ANONYMOUS) and not is_profile_field(field):
                near = difflib.get_close_matches(field, [*ENTITY_FIELDS, ANONYMOUS], n=1)
                fix = (
                    f"did you mean {near[0]}:{value}?"
                    if near and value
                    else f"fields: {', '.join(ENTITY_FIELDS)}, item.NAME, user.NAME"
                )
                raise UsageError(
                    f"expected user:ID, anonymous:ID, item:ID or another FIELD:VALUE, got {text!r}",
                    fix=fix,
                )
            parts[field] = _checked(field, value, text, parts)
        found = cls(parts)
        if not found.columns(features):
            about = sorted(
                {one.entity.name for one in features.layout.entities if one.entity.fields}
            )
            raise UsageError(
                f"features.py declares nothing about {' and '.join(parts)}",
                fix=f"features are about {', '.join(about)}",
            )
        return found

    @property
    def title(self) -> str:
        return " and ".join(f"{field}:{value}" for field, value in self.parts.items())

    @property
    def item(self) -> str:
        return self.parts.get("item", "")

    def request(self, now: int, person: str | None = None) -> ReadRequest:
        """As whom and what it reads; `person` where it is resolved."""
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
        """The numeric columns that are about nothing else; of derived ones those that read nothing
        else.
        """
        kinds = {step.name: step for step in features.layout.steps if step.kind == "numeric"}
        shown: dict[str, None] = {}
        for feature in features.features:
            if (
                feature.name in kinds
                and not isinstance(feature, Derived)
                and self._covers(_fields_of(feature))
            ):
                shown[feature.name] = None
        for name in features.layout.derived_order:
            expression = kinds[name].expression
            if expression is not None and all(other in shown for other, _ in expression.names):
                shown[name] = None
        return tuple(name for name in features.numeric if name in shown)

    def _covers(self, fields: Sequence[str]) -> bool:
        """Whether one of an entity of these fields is known by the parts."""
        known = {"user" if field == ANONYMOUS else field for field in self.parts}
        return bool(fields) and all(
            name in known or ("." in name and name.partition(".")[0] in known) for name in fields
        )

    def types(self, features: FeatureSet) -> tuple[str, ...]:
        """The types of event that the columns are made of, profiles included."""
        found = set(_PROFILES)
        for name in self.columns(features):
            found |= _types_of(features, name)
        return tuple(sorted(found))

    def values(
        self, features: FeatureSet, person: str, t: int, p: RoutedPositions, events: pa.Table
    ) -> dict[str, Value]:
        """Each column at the two times, by the plain reference."""
        now = make_moment(
            features, self.request(t, person), self.item or None, t, p, routed_events(events)
        )
        return {name: now.value(name) for name in self.columns(features)}

    def newest(self, tables: Iterable[pa.Table], person: str, count: int) -> list[Event]:
        """The newest events of all of it; the tables come in order, the newest first."""
        found: list[Event] = []
        for table in tables:
            for event in self._among(table, person):
                found.append(event)
                if len(found) == count:
                    return found
        return found

    def _among(self, events: pa.Table, person: str) -> Iterator[Event]:
        for stop in range(events.num_rows, 0, -_PIECE):
            start = max(0, stop - _PIECE)
            for event in reversed(routed_events(events.slice(start, stop - start))):
                if any(self._is_of(row, person) for row in expand_items(event, per_item=True)):
                    yield event

    def _is_of(self, row: Row, person: str) -> bool:
        return all(row.key_field(field) == value for field, value in self._keys(person).items())

    def _keys(self, person: str) -> dict[str, Any]:
        return {
            "user" if field == ANONYMOUS else field: person
            if field in ("user", ANONYMOUS)
            else value
            for field, value in self._normal.items()
        }

    @cached_property
    def _normal(self) -> dict[str, str]:
        return {
            field: (query_text(value) or "") if field == "query" else value
            for field, value in self.parts.items()
        }


def _checked(field: str, value: str, text: str, before: Mapping[str, str]) -> str:
    if not value:
        raise UsageError(f"expected {field}:VALUE, got {text!r}", fix="name which one")
    if field in before or {field, *before} >= {"user", ANONYMOUS}:
        raise UsageError(f"{field} is asked for twice", fix="keep one")
    if field in INTEGER_FIELDS and not (value.isdigit() and int(value) in _WHOLE[field]):
        raise UsageError(
            f"expected {field} of {_WHOLE[field][0]} to {_WHOLE[field][-1]}, got {value!r}"
        )
    return str(int(value)) if field in INTEGER_FIELDS else value


def _fields_of(feature: object) -> tuple[str, ...]:
    """What must be known to read it; of a context value nothing that is about anybody."""
    if isinstance(feature, OfSession):
        return ("user",)
    entity = getattr(feature, "entity", None)
    fields: tuple[str, ...] = () if entity is None else entity.fields
    return (*fields, "item") if isinstance(feature, Seen) else fields


def _types_of(features: FeatureSet, name: str) -> set[str]:
    feature = features.feature(name)
    if isinstance(feature, Derived):
        step = next(step for step in features.layout.steps if step.name == name)
        return {
            one
            for other, _ in (step.expression.names if step.expression else ())
            for one in _types_of(features, other)
        }
    if isinstance(feature, OfSession):
        return set(feature.types)
    found = set(feature.types) if isinstance(feature, Counted) else set()
    return found | set(feature.below) if isinstance(feature, Ratio) else found
