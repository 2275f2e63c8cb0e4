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
    Counted,
    Decayed,
    Derived,
    Distinct,
    Entity,
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
from tailorbird.features.declare.limits import HORIZON
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.reference.counted import shared_by_item
from tailorbird.features.reference.moments import Event, Moment, RoutedPositions, Row, make_moment
from tailorbird.features.reference.reference import Value, value_at
from tailorbird.features.request import ReadRequest


@dataclass(frozen=True)
class Explanation:
    """A value, the events that it was computed from (oldest first), and the values that it reads.

    Attributes:
        inputs: explanations of the columns that a derived column reads.
        entity_fields: the fields of its entity.
        missing_fields: those fields that the request does not have, or whose profile is unknown: without
            them the value is missing.
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
    p: RoutedPositions,
    events: Sequence[Event],
) -> Explanation:
    """Explain the value of a column for `request.person` (already resolved) and `item` at (t, p).

    Args:
        events: as for `reference.compute_value`; include those of a parent entity for its rate.
    Raises:
        KeyError: no such column.
    """
    return _explain(make_moment(features, request, item, t, p, events), name)


def _explain(moment_: Moment, name: str) -> Explanation:
    feature = moment_.features.feature(name)
    reads: tuple[Explanation, ...] = ()
    if isinstance(feature, Derived):
        expression = next(
            step.expression for step in moment_.features.layout.steps if step.name == name
        )
        assert expression is not None
        reads = tuple(_explain(moment_, column) for column, _ in expression.names)
    rows = {id(row.event): row for row in _find_rows(moment_, feature)}
    events = tuple(row.event for row in sorted(rows.values(), key=Row.order))
    entity = getattr(feature, "entity", None)
    fields = entity.fields if isinstance(entity, Entity) else ()
    return Explanation(
        name,
        value_at(moment_, name),
        events,
        reads,
        fields,
        tuple(field for field in fields if moment_.key_field(field) is None),
    )


def _find_rows(moment_: Moment, feature: Feature) -> list[Row]:
    if isinstance(feature, Attribute | Age | Match):
        newest = moment_.profile_row(feature.entity.fields[0])
        return [] if newest is None else [newest]
    if isinstance(feature, SessionFeature):
        return (
            [
                row
                for row in moment_.session_rows(feature)
                if row.event["type"] in feature.measured_types
            ]
            if moment_.request.person
            else []
        )
    if not isinstance(feature, Counted) or None in moment_.key(feature.entity):
        return []
    if isinstance(feature, SequenceOf):
        return moment_.last_rows(moment_.rows(feature, per_item=True), feature.length)
    if isinstance(feature, Favourite | Seen):
        return moment_.last_rows(moment_.rows(feature, value=feature.of), feature.length)
    if isinstance(feature, GapMean):
        return moment_.last_rows(moment_.rows(feature), feature.length)
    if isinstance(feature, TimeSinceFirst | First):
        return sorted(
            moment_.rows(feature, value=feature.of if isinstance(feature, First) else None),
            key=Row.order,
        )[:1]
    if isinstance(feature, Last | TimeSince):
        return moment_.last_rows(
            moment_.rows(feature, value=feature.of if isinstance(feature, Last) else None), 1
        )
    if isinstance(feature, Trend):
        return moment_.within(moment_.rows(feature), feature.long)
    window = getattr(feature, "window", Window(HORIZON, HORIZON))
    amount = (
        feature.amount.of
        if isinstance(feature, Total | Mean | Variance | Extreme | Decayed | Share)
        and feature.amount
        else None
    )
    amount = feature.of if isinstance(feature, Distinct | Quantile) else amount
    if isinstance(feature, Share):
        groups = [
            about for about in (feature.entity, feature.group) if None not in moment_.key(about)
        ]
        per_item = shared_by_item(feature)
        return [
            row
            for about in groups
            for row in moment_.within(
                moment_.rows(feature, entity=about, value=amount, per_item=per_item), window
            )
        ]
    if not isinstance(feature, Ratio):
        return moment_.within(moment_.rows(feature, value=amount), window)
    rated_entities = [feature.entity] + (
        [feature.prior] if isinstance(feature.prior, Entity) else []
    )
    pairs = [
        (about, types)
        for about in rated_entities
        if None not in moment_.key(about)
        for types in (feature.types, feature.below)
    ]
    return [
        row
        for about, types in pairs
        for row in moment_.within(moment_.rows(feature, types=types, entity=about), window)
    ]
