"""The definition of every feature in plain Python: the oracle for stream, reading and backfill.

Slow and obviously right: it scans all events for each value. `compute_value(features, name,
request, item, t, log_position, events)` is the value that a request would read at time t from a
worker that has applied everything routed up to p.

An event is a dict of the columns of `events.contract.schema.ROUTED`, times in integer microseconds
(`routed_events` makes them from a table). It is counted if `counts`, ts < t and its p is at or
before p; where several workers keep the state, p is one number for each part of the entities' keys,
and that of the entity's part decides. An event without an item_id but with `items` counts once for
each of them if it is an impression or an answer, or if the feature is about the item.
"""

import math
from collections.abc import Sequence

from tailorbird.events.keys import hash64
from tailorbird.features.declare.declarations import (
    Age,
    Attribute,
    ContextValue,
    Derived,
    Entity,
    EventFeature,
    Match,
    SequenceOf,
    SessionFeature,
)
from tailorbird.features.declare.scalars import (
    category_hash,
    element_of,
    float32,
    number_of,
    request_text,
    text_of,
    time_of,
    words_of,
)
from tailorbird.features.expr.scalar import evaluate_number
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.reference.event_features import event_feature_value, session_value
from tailorbird.features.reference.point_in_time import (
    Event,
    LogPositions,
    PointInTimeView,
    make_view,
)
from tailorbird.features.request import ReadRequest

# A numeric value (rounded to float32), a categorical one (hash64, 0 = missing), or a sequence of
# (item, type, ts, further values).
Value = float | int | list[tuple[int | float, ...]]


def compute_value(
    features: FeatureSet,
    name: str,
    request: ReadRequest,
    item: str | None,
    t: int,
    log_position: LogPositions,
    events: Sequence[Event],
) -> Value:
    """Return the value of one column for `request.person` (already resolved) and `item`, at t and
    p.
    """
    return value_at(
        make_view(
            features, request=request, item=item, t=t, log_position=log_position, events=events
        ),
        name,
    )


def value_at(view: PointInTimeView, name: str) -> Value:
    """Return the value of a feature in a view."""
    feature = view.features.feature(name)
    if isinstance(feature, ContextValue):
        context_text = request_text(view.request, feature.field, view.t)
        return (
            category_hash(context_text)
            if feature.kind == "categorical"
            else float32(math.nan if context_text is None else float(context_text))
        )
    if isinstance(feature, Derived):
        expression = next(
            step.expression for step in view.features.layout.steps if step.name == name
        )
        assert expression is not None
        return float32(evaluate_number(expression, lambda column, kind: value_at(view, column)))
    if isinstance(feature, Attribute):
        attribute = view.profile_attribute(feature.entity.fields[0], feature.attribute)
        attribute = element_of(attribute, max(feature.element, 1))
        return (
            float32(number_of(attribute))
            if feature.kind == "numeric"
            else category_hash(text_of(attribute))
        )
    if isinstance(feature, Age):
        return float32(
            (
                float(view.t)
                - time_of(view.profile_attribute(feature.entity.fields[0], feature.attribute))
            )
            / 1e6
        )
    if isinstance(feature, Match):
        query_words, profile_words = (
            words_of(text)
            for text in (
                view.request.query,
                view.profile_attribute(feature.entity.fields[0], feature.attribute),
            )
        )
        return float32(
            float(len(set(query_words) & set(profile_words))) / float(len(query_words))
            if query_words and profile_words
            else math.nan
        )
    assert isinstance(feature, EventFeature | SessionFeature)
    entity = feature.entity if isinstance(feature, EventFeature) else Entity(("user",))
    if None in view.key(entity):
        return (
            []
            if isinstance(feature, SequenceOf)
            else 0
            if getattr(feature, "kind", "") == "categorical"
            else math.nan
        )
    if isinstance(feature, SequenceOf):
        rows = view.last_rows(view.rows(feature, per_item=True), feature.length)
        return [
            (
                category_hash(row.item),
                hash64(row.event["type"]),
                row.event["ts"],
                *map(row.value, feature.of),
            )
            for row in rows
        ]
    if isinstance(feature, SessionFeature):
        return float32(session_value(view, feature))
    return event_feature_value(view, feature)
