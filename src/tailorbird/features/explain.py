"""Explanation of a feature's value: the value at (t, p) and the events that it was computed from.

The plain-Python reference computes one value at a time, for `features show`. It scans every event
that it is given, so pass only the person's and the item's. `features.parity.recompute` compares
entire tables.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tailorbird.features.declare.declarations import (
    Age,
    Attribute,
    Decayed,
    Derived,
    Distinct,
    Entity,
    EventFeature,
    Extreme,
    Favourite,
    Feature,
    First,
    GapMean,
    Last,
    Match,
    Mean,
    Quantile,
    Ratio,
    Seen,
    SequenceOf,
    SessionFeature,
    Share,
    TimeSince,
    TimeSinceFirst,
    Total,
    Trend,
    Variance,
    Window,
)
from tailorbird.features.declare.limits import LOOK_BACK_MAX
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.reference.event_features import counts_per_item
from tailorbird.features.reference.point_in_time import (
    Event,
    LogPositions,
    PointInTimeView,
    Row,
    make_view,
)
from tailorbird.features.reference.reference import Value, value_at
from tailorbird.features.request import ReadRequest


@dataclass(frozen=True)
class Explanation:
    """A value, the events that it was computed from (oldest first), and the values that it reads.

    Attributes:
        inputs: explanations of the columns that a derived column reads.
        entity_fields: the fields of its entity.
        missing_fields: those fields that the request does not have, or whose profile is
            unknown: without them the value is missing.
    """

    name: str
    value: Value
    events: tuple[Event, ...]
    inputs: tuple["Explanation", ...] = ()
    entity_fields: tuple[str, ...] = ()
    missing_fields: tuple[str, ...] = ()


def explain(
    features: FeatureSet,
    name: str,
    request: ReadRequest,
    item: str | None,
    t: int,
    log_position: LogPositions,
    events: Sequence[Event],
) -> Explanation:
    """Explain the value of a column for `request.person` (already resolved) and `item` at (t, p).

    Args:
        events: as for `reference.compute_value`; include those of a parent entity for its rate.
    Raises:
        KeyError: no such column.
    """
    return _explain(
        make_view(
            features, request=request, item=item, t=t, log_position=log_position, events=events
        ),
        name,
    )


def _explain(view: PointInTimeView, name: str) -> Explanation:
    feature = view.features.feature(name)
    inputs: tuple[Explanation, ...] = ()
    if isinstance(feature, Derived):
        expression = next(
            step.expression for step in view.features.layout.steps if step.name == name
        )
        assert expression is not None
        inputs = tuple(_explain(view, column) for column, _ in expression.names)
    row_by_event = {id(row.event): row for row in _find_rows(view, feature)}
    events = tuple(row.event for row in sorted(row_by_event.values(), key=Row.sort_key))
    entity = getattr(feature, "entity", None)
    fields = entity.fields if isinstance(entity, Entity) else ()
    return Explanation(
        name,
        value=value_at(view, name),
        events=events,
        inputs=inputs,
        entity_fields=fields,
        missing_fields=tuple(field for field in fields if view.key_field(field) is None),
    )


def _find_rows(view: PointInTimeView, feature: Feature) -> list[Row]:
    if isinstance(feature, Attribute | Age | Match):
        newest_profile = view.profile_row(feature.entity.fields[0])
        return [] if newest_profile is None else [newest_profile]
    if isinstance(feature, SessionFeature):
        return (
            [
                row
                for row in view.session_rows(feature)
                if row.event["type"] in feature.measured_types
            ]
            if view.request.person
            else []
        )
    if not isinstance(feature, EventFeature) or None in view.key(feature.entity):
        return []
    if isinstance(feature, SequenceOf):
        return view.last_rows(view.rows(feature, per_item=True), feature.length)
    if isinstance(feature, Favourite | Seen):
        return view.last_rows(view.rows(feature, value_expression=feature.of), feature.length)
    if isinstance(feature, GapMean):
        return view.last_rows(view.rows(feature), feature.length)
    if isinstance(feature, TimeSinceFirst | First):
        return sorted(
            view.rows(feature, value_expression=feature.of if isinstance(feature, First) else None),
            key=Row.sort_key,
        )[:1]
    if isinstance(feature, Last | TimeSince):
        return view.last_rows(
            view.rows(feature, value_expression=feature.of if isinstance(feature, Last) else None),
            1,
        )
    if isinstance(feature, Trend):
        return view.rows_in_window(view.rows(feature), feature.long)
    window = getattr(feature, "window", Window(LOOK_BACK_MAX, LOOK_BACK_MAX))
    value_expression = (
        feature.amount.of
        if isinstance(feature, Total | Mean | Variance | Extreme | Decayed | Share)
        and feature.amount
        else None
    )
    value_expression = feature.of if isinstance(feature, Distinct | Quantile) else value_expression
    if isinstance(feature, Share):
        entities = [
            entity for entity in (feature.entity, feature.group) if None not in view.key(entity)
        ]
        per_item = counts_per_item(feature)
        return [
            row
            for entity in entities
            for row in view.rows_in_window(
                view.rows(
                    feature, entity=entity, value_expression=value_expression, per_item=per_item
                ),
                window,
            )
        ]
    if not isinstance(feature, Ratio):
        return view.rows_in_window(view.rows(feature, value_expression=value_expression), window)
    rated_entities = [feature.entity] + (
        [feature.prior] if isinstance(feature.prior, Entity) else []
    )
    entities_and_types = [
        (entity, types)
        for entity in rated_entities
        if None not in view.key(entity)
        for types in (feature.types, feature.below)
    ]
    return [
        row
        for entity, types in entities_and_types
        for row in view.rows_in_window(view.rows(feature, types=types, entity=entity), window)
    ]
