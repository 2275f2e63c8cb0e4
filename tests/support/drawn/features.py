"""Declarations of every kind, as Hypothesis likes them; the events that they count are in
`tests.support.drawn.events`.

A new kind of feature is one more function here: `DRAW_BY_KIND` has a maker for each, which gets `draw` and
a name.
"""

from typing import Any

from hypothesis import strategies as st

from tailorbird.features import (
    Feature,
    FeatureSet,
    age,
    attribute,
    attributes,
    context,
    count,
    decayed,
    derived,
    distinct,
    entity,
    favourite,
    first,
    gap_deviation,
    gap_last,
    gap_max,
    gap_mean,
    gap_min,
    last,
    match,
    maximum,
    mean,
    minimum,
    quantile,
    ratio,
    refinements,
    seen,
    sequence,
    session,
    session_depth,
    session_duration,
    session_length,
    share,
    similarity,
    time_since,
    time_since_first,
    total,
    trend,
    variance,
)
from tailorbird.features.declare.checks import determines

USER, ITEM = entity("user"), entity("item")
REQUEST_ENTITIES = (
    USER,
    entity("session"),
    entity("user.segment"),
    entity(),
    entity("query"),
    entity("user", "weekday"),
)
ENTITIES = (
    *REQUEST_ENTITIES,
    ITEM,
    entity("item.category"),
    entity("user", "item.category"),
    entity("user", "item"),
    entity("session", "item.category"),
    entity("country", "item"),
    entity("query", "item"),
    entity("user", "local_hour"),
    entity("item", "weekday"),
    entity("item", "position"),
)
ENTITY_AND_GROUP = [
    (entity_, group) for entity_ in ENTITIES for group in ENTITIES if determines(entity_, group)
]
TYPES = ("click", "view", "purchase", "impression", "answer", "search", "rating")
FILTERS = (
    None,
    "agent != 'bot'",
    "price > 5",
    "device == 'phone' or missing(dwell_ms)",
    "item.category == 'a'",
    "item != 'i1' and user == 'u1'",
    "properties.tag in ('x', 'y')",
    "weekday in (0, 6) or position < 3",
)
NUMBERS = (
    "price",
    "price * quantity",
    "dwell_ms",
    "rating",
    "item.price",
    "properties.depth",
    "weekday - local_hour",
)
SEQUENCE_VALUES = (
    "dwell_ms",
    "price * quantity - 10",
    "item.category",
    "query",
    "number(item.price)",
    "price > 5",
)
TRENDS = (("1m", "1h", None), ("10m", "1h", "10m"), ("1d", "7d", None), ("1d", "30d", "1d"))
WINDOWS = (
    *(("1m", None), ("1h", "10m"), ("1d", "1h"), ("7d", None), ("3d", "3d"), (None, None)),
    *(("28d", "1d"), ("84d", None), ("400d", "10d"), ("400d", "400d")),
)

event_type = st.sampled_from(TYPES)
event_types = st.lists(event_type, min_size=1, max_size=3)
any_entity = st.sampled_from(ENTITIES)
request_entity = st.sampled_from(REQUEST_ENTITIES)
filter_arguments = st.sampled_from(FILTERS).map(lambda text: {"where": text})
window_arguments = st.sampled_from(WINDOWS).map(lambda pair: {"window": pair[0], "hop": pair[1]})
amount_arguments = st.fixed_dictionaries(
    {
        "of": st.sampled_from(NUMBERS),
        "unit": st.sampled_from([0.01, 0.3, 1.0]),
        "max": st.sampled_from([10, 1e6]),
    }
)
optional_amount_arguments = st.just({}) | amount_arguments


def _make_sum_drawer(kind: Any) -> Any:
    return lambda draw, name: kind(
        name,
        draw(any_entity),
        draw(event_types),
        **draw(amount_arguments),
        **draw(window_arguments),
        **draw(filter_arguments),
    )


def _measure(draw: st.DrawFn, name: str) -> Feature:
    return draw(st.sampled_from([session_length, session_depth, session_duration]))(
        name, draw(st.none() | event_types)
    )


def _distinct(draw: st.DrawFn, name: str) -> Feature:
    of = draw(st.sampled_from(["item", "user", "query", "item.category"]))
    return distinct(
        name,
        draw(any_entity),
        draw(event_types),
        of=of,
        precision=draw(st.integers(4, 8)),
        **draw(window_arguments),
        **draw(filter_arguments),
    )


def _ratio(draw: st.DrawFn, name: str) -> Feature:
    entity_ = draw(any_entity)
    smoothing_arguments = {
        "prior": draw(
            st.sampled_from(
                [None, 0.1, *(group for one, group in ENTITY_AND_GROUP if one == entity_)]
            )
        ),
        "weight": draw(st.sampled_from([0, 3, 20.5])),
    }
    return ratio(
        name,
        entity_,
        draw(event_types),
        draw(event_types),
        **smoothing_arguments,
        **draw(window_arguments),
        **draw(filter_arguments),
    )


def _trend(draw: st.DrawFn, name: str) -> Feature:
    short, long, hop = draw(st.sampled_from(TRENDS))
    return trend(
        name,
        draw(any_entity),
        draw(event_types),
        short=short,
        long=long,
        hop=hop,
        **draw(filter_arguments),
    )


def _share(draw: st.DrawFn, name: str) -> Feature:
    entity_, group = draw(st.sampled_from(ENTITY_AND_GROUP))
    return share(
        name,
        entity_,
        draw(event_types),
        within=group,
        **draw(optional_amount_arguments),
        **draw(window_arguments),
        **draw(filter_arguments),
    )


def _decayed(draw: st.DrawFn, name: str) -> Feature:
    half_life = draw(st.sampled_from(["15s", "1h", "3d", "50d"]))
    return decayed(
        name,
        draw(any_entity),
        draw(event_types),
        half_life=half_life,
        **draw(optional_amount_arguments),
        **draw(filter_arguments),
    )


LAST_VALUES = (
    ("price", None),
    ("item.category", "categorical"),
    ("item.price", "numeric"),
    ("query", None),
    ("position", None),
)


def _last(draw: st.DrawFn, name: str) -> Feature:
    of, kind = draw(st.sampled_from(LAST_VALUES))
    return last(
        name, draw(any_entity), draw(event_types), of=of, kind=kind, **draw(filter_arguments)
    )


def _first(draw: st.DrawFn, name: str) -> Feature:
    of, kind = draw(st.sampled_from(LAST_VALUES))
    return first(
        name, draw(any_entity), draw(event_types), of=of, kind=kind, **draw(filter_arguments)
    )


def _sequence(draw: st.DrawFn, name: str) -> Feature:
    further_values = draw(st.lists(st.sampled_from(SEQUENCE_VALUES), max_size=3, unique=True))
    return sequence(
        name,
        draw(request_entity),
        draw(event_types),
        length=draw(st.integers(1, 5) | st.sampled_from([64, 128])),
        of=further_values,
        **draw(filter_arguments),
    )


def _gap(draw: st.DrawFn, name: str) -> Feature:
    kind = draw(st.sampled_from([gap_mean, gap_min, gap_max, gap_deviation, gap_last]))
    return kind(
        name,
        draw(request_entity),
        draw(event_types),
        length=draw(st.integers(2, 6) | st.just(64)),
        **draw(filter_arguments),
    )


def _similarity(draw: st.DrawFn, name: str) -> tuple[Feature, ...]:
    """Its values need a learned table (tests/training/test_similarities_read.py); here, that it and
    its sequence disturb no other.
    """
    length = draw(st.sampled_from([1, 5, 64, 128]))
    sequence_ = sequence(
        name, draw(request_entity), draw(event_types), length=length, **draw(filter_arguments)
    )
    near_feature = similarity(
        f"{name}_near", of=name, how=draw(st.sampled_from(["sum", "max"])), length=min(length, 64)
    )
    return tuple(draw(st.permutations([sequence_, near_feature])))


def _favourite(draw: st.DrawFn, name: str) -> Feature:
    of = draw(st.sampled_from(["item", "item.category", "query", "device", "item.tags"]))
    return favourite(
        name,
        draw(request_entity),
        draw(event_types),
        of=of,
        length=draw(st.integers(1, 6) | st.just(64)),
        **draw(filter_arguments),
    )


def _seen(draw: st.DrawFn, name: str) -> Feature:
    of = draw(st.sampled_from(["item", "item.category", "item.tags"]))
    return seen(
        name,
        draw(request_entity),
        draw(event_types),
        of=of,
        length=draw(st.integers(1, 6) | st.just(128)),
        **draw(filter_arguments),
    )


def _quantile(draw: st.DrawFn, name: str) -> Feature:
    edges = draw(st.sampled_from([(0, 10), (-5, 0.005, 9.995, 10.0, 1e9), (1, 2, 3)]))
    q, of = draw(st.sampled_from([0.01, 0.5, 0.9])), draw(st.sampled_from(NUMBERS))
    return quantile(
        name,
        draw(any_entity),
        draw(event_types),
        of=of,
        edges=edges,
        q=q,
        **draw(window_arguments),
        **draw(filter_arguments),
    )


def _attributes(draw: st.DrawFn, name: str) -> tuple[Feature, ...]:
    column, kind = draw(
        st.sampled_from([("tags", "categorical"), ("vector", "numeric"), ("price", "numeric")])
    )
    return attributes(name, ITEM, column, kind=kind, length=draw(st.integers(1, 3)))


def _element(draw: st.DrawFn, name: str) -> Feature:
    return attribute(name, ITEM, "tags", kind="categorical", element=draw(st.integers(1, 3)))


def _age(draw: st.DrawFn, name: str) -> Feature:
    return age(
        name,
        draw(st.sampled_from([USER, ITEM])),
        of=draw(st.sampled_from([None, "released", "price"])),
    )


def _match(draw: st.DrawFn, name: str) -> Feature:
    return match(name, ITEM, draw(st.sampled_from(["title", "tags", "nothing"])))


ATTRIBUTES = (
    (USER, "segment", "categorical"),
    (USER, "age", "numeric"),
    (ITEM, "category", "categorical"),
    (ITEM, "price", "numeric"),
    (ITEM, "tags", "categorical"),
)


def _attribute(draw: st.DrawFn, name: str) -> Feature:
    owner, column, kind = draw(st.sampled_from(ATTRIBUTES))
    return attribute(name, owner, column, kind=kind)


def _context(draw: st.DrawFn, name: str) -> Feature:
    return context(
        draw(st.sampled_from(["device", "country", "query", "local_hour", "weekday"])), name=name
    )


DRAW_BY_KIND: dict[str, Any] = {
    "count": lambda draw, name: count(
        name,
        draw(any_entity),
        draw(event_types),
        **draw(window_arguments),
        **draw(filter_arguments),
    ),
    "total": _make_sum_drawer(total),
    "mean": _make_sum_drawer(mean),
    "variance": _make_sum_drawer(variance),
    "minimum": _make_sum_drawer(minimum),
    "maximum": _make_sum_drawer(maximum),
    "distinct": _distinct,
    "ratio": _ratio,
    "trend": _trend,
    "share": _share,
    "decayed": _decayed,
    "last": _last,
    "since": lambda draw, name: time_since(
        name, draw(any_entity), draw(event_types), **draw(filter_arguments)
    ),
    "first": lambda draw, name: time_since_first(
        name, draw(any_entity), draw(event_types), **draw(filter_arguments)
    ),
    "gap": _gap,
    "measure": _measure,
    "sequence": _sequence,
    "first_value": _first,
    "favourite": _favourite,
    "seen": _seen,
    "similarity": _similarity,
    "refinements": lambda draw, name: refinements(name),
    "quantile": _quantile,
    "attributes": _attributes,
    "element": _element,
    "age": _age,
    "match": _match,
    "session": lambda draw, name: session(name, draw(event_type)),
    "attribute": _attribute,
    "context": _context,
}


@st.composite
def declarations(draw: st.DrawFn, kind: str = "") -> list[Feature]:
    """Some features of every kind that hypothesis likes, or of one kind, and columns derived from
    them.
    """
    kinds = (
        [kind] * 4
        if kind
        else draw(st.lists(st.sampled_from(list(DRAW_BY_KIND)), min_size=1, max_size=7))
    )
    features: list[Feature] = []
    for number, kind in enumerate(kinds):
        declared_features = DRAW_BY_KIND[kind](draw, f"f{number}")
        features += (
            declared_features if isinstance(declared_features, tuple) else [declared_features]
        )
    numbers = [
        feature.name
        for feature in features
        if feature.name in FeatureSet.from_declarations(features).numeric
    ]
    if numbers:
        a, b = draw(st.sampled_from(numbers)), draw(st.sampled_from(numbers))
        transforms = [
            f"sqrt({a} + 1) if {b} > 1 else {b}",
            f"log1p({a}) - log({b})",
            f"exp({a} / 1000) * {b}",
        ]
        features.append(
            derived("d1", draw(st.sampled_from([f"{a} / {b}", f"{a} - 0.1 * {b}", *transforms])))
        )
        features.append(derived("d2", f"max(d1, {a}) * 3"))
    return features
