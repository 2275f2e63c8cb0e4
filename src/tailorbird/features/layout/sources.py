"""The sources, measures and profile lanes of declarations.

`features.layout.compile` derives the content of records from them, and `features.layout.steps` the
lanes that columns are finished from.
"""

from tailorbird.features.declare.declarations import (
    Age,
    Amount,
    Attribute,
    Decayed,
    Distinct,
    Entity,
    EventFeature,
    Extreme,
    Favourite,
    Feature,
    First,
    Last,
    Match,
    Mean,
    Quantile,
    Seen,
    SequenceOf,
    SessionFeature,
    Share,
    Total,
    Variance,
)
from tailorbird.features.declare.limits import WORDS_MAX
from tailorbird.features.expr.expression import Expression
from tailorbird.features.layout.layout import Source


def source_of(
    feature: EventFeature, types: tuple[str, ...] | None = None, entity: Entity | None = None
) -> Source:
    """Return the source of a feature; `types` and `entity` override its own (ratio denominators,
    parents).
    """
    counted_entity = feature.entity if entity is None else entity
    value: Amount | Expression | None = None
    if isinstance(feature, Total | Mean | Variance | Extreme | Share | Decayed):
        value = feature.amount
    elif isinstance(feature, Last | First | Distinct | Favourite | Seen):
        value = feature.of
    read_names = (
        [*counted_entity.fields, *feature.entity.fields, *feature.group.fields]
        if isinstance(feature, Share)
        else [*counted_entity.fields]
    )
    for expression in (feature.where, value.of if isinstance(value, Amount) else value):
        read_names += [] if expression is None else [name for name, _ in expression.names]
    per_item = isinstance(feature, SequenceOf) or any(
        name == "item" or name.startswith("item.") for name in read_names
    )
    return Source(
        counted_entity, feature.types if types is None else types, feature.where, value, per_item
    )


def session_source(feature: SessionFeature) -> Source:
    return Source(Entity(("user",)), feature.types, None, None, True)


def sequence_values(feature: Feature) -> tuple[Expression, ...]:
    """Return what a sequence stores of each event besides item, type and time."""
    if isinstance(feature, SequenceOf):
        return feature.of
    return (
        (feature.of,) if isinstance(feature, Favourite | Seen) and feature.of.text != "item" else ()
    )


def lane_kinds(feature: Attribute | Age | Match) -> list[str]:
    """Return the kinds of a profile's lanes that a feature needs, see `layout.Profile`."""
    if isinstance(feature, Match):
        return [f"word {number}" for number in range(1, WORDS_MAX + 1)]
    if isinstance(feature, Age):
        return ["time"]
    return [f"{feature.kind} {feature.element}" if feature.element > 1 else feature.kind]


def bucket_sources(feature: Quantile) -> list[Source]:
    base_source = source_of(feature)
    per_item = base_source.per_item or any(
        name.partition(".")[0] == "item" for name, _ in feature.of.names
    )
    return [
        Source(feature.entity, feature.types, bucket, None, per_item) for bucket in feature.buckets
    ]


VARIANCE_MEASURES = ("count", "sum", "square_low", "square_high")


def extreme_measure(feature: Extreme) -> str:
    return "largest" if feature.largest else "smallest"


def measure_of(feature: Share | Decayed) -> str:
    return "count" if feature.amount is None else "sum"
