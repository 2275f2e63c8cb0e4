"""Declarations drawn as lines of a `features.py`, so that a failing example can be pasted into a
project.

What is drawn is found by looking at the vocabulary: every call that `tailorbird.features` exports
and that returns a feature, with a strategy for each parameter by its name. A new kind is so drawn
by itself where its parameters are known here; a parameter without a default that is not known here
is an error that names it, and so is a kind that no call makes.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, get_args, get_type_hints

from hypothesis import strategies as st
from tests.support.drawn.features import FILTERS as SOME_FILTERS
from tests.support.drawn.features import TRENDS, TYPES

import tailorbird.features as vocabulary
from tailorbird.errors import DeclarationError
from tailorbird.features import Feature, FeatureSet
from tailorbird.features.declare import declarations as declare
from tailorbird.features.declare.checks import determines
from tailorbird.features.declare.fields import CONTEXT_FIELDS

Call = Callable[..., Feature]

WHO = (
    'entity("user")',
    'entity("session")',
    'entity("user.segment")',
    "entity()",
    'entity("query")',
    'entity("user", "query")',
    'entity("user", "weekday")',
)
ENTITIES = (
    *WHO,
    'entity("item")',
    'entity("item")',
    'entity("item.category")',
    'entity("user", "item.category")',
    'entity("user", "item")',
    'entity("country", "item")',
    'entity("query", "item")',
    'entity("device", "user.segment")',
    'entity("user", "local_hour")',
    'entity("item", "position")',
)
_ENTITIES = {text: eval(text, {"entity": vocabulary.entity}) for text in ENTITIES}
RELATED = sorted(
    (own, group)
    for own, one in _ENTITIES.items()
    for group, other in _ENTITIES.items()
    if determines(one, other)
)
FILTERS = (None, *SOME_FILTERS)  # without one twice as often
NUMBERS = (
    "price",
    "price * quantity",
    "price - 50",
    "dwell_ms",
    "rating",
    "item.price",
    "properties.depth",
    "weekday - local_hour",
)
FURTHER = (
    "dwell_ms",
    "price * quantity - 10",
    "item.category",
    "query",
    "number(item.price)",
    "price > 5",
    "properties.tag",
)
TEXTS = ("item", "user", "query", "item.category", "item.tags", "properties.tag")
WINDOWS = (
    ("1m", None),
    ("1h", "10m"),
    ("1d", "1h"),
    ("7d", None),
    ("3d", "3d"),
    ("64m", "1m"),
    ("400d", None),
    (None, None),
)
# Up to the bounds that are checked: max / unit below 2^33 for sums, below 2^31 for squares.
AMOUNTS = (
    (0.01, 10),
    (0.3, 1e6),
    (1.0, 1e6),
    (1.0, 2**31 - 1),
    (1e-9, 1.0),
    (0.5, 1e9),
    (1e6, 1e15),
)
VALUES = (
    ("price", None),
    ("price * quantity", None),
    ("item.category", "categorical"),
    ("item.price", "numeric"),
    ("query", None),
)
OWNERS = (
    ('entity("user")', "segment", "categorical"),
    ('entity("user")', "age", "numeric"),
    ('entity("item")', "category", "categorical"),
    ('entity("item")', "price", "numeric"),
    ('entity("item")', "tags", "categorical"),
)

LISTS = (
    ('entity("item")', "tags", "categorical"),
    ('entity("item")', "vector", "numeric"),
    ('entity("item")', "price", "numeric"),
)

_types = st.lists(st.sampled_from(TYPES), min_size=1, max_size=3, unique=True).map(tuple)
_of = st.sampled_from
# By name of the parameter, or (call, parameter); a strategy of one name may stand for several that
# must fit each other.
PARAMETERS: dict[Any, st.SearchStrategy] = {
    "entity": _of(ENTITIES),
    "type": _types,
    "below": _types,
    "where": _of(FILTERS),
    "of": _of(NUMBERS),
    "weight": _of([0, 3, 20.5]),
    "precision": st.integers(4, 8),
    "half_life": _of(["15s", "1h", "3d", "50d"]),
    "length": st.integers(2, 6),
    "kind": _of(["numeric", "categorical"]),
    ("distinct", "of"): _of(TEXTS),
    ("gap_deviation", "entity"): _of(WHO),
    ("gap_last", "entity"): _of(WHO),
    ("gap_max", "entity"): _of(WHO),
    ("gap_mean", "entity"): _of(WHO),
    ("gap_min", "entity"): _of(WHO),
    ("sequence", "entity"): _of(WHO),
    ("sequence", "of"): st.lists(_of(FURTHER), min_size=1, max_size=3, unique=True).map(tuple),
    ("session", "type"): _of(TYPES),
    ("favourite", "entity"): _of(WHO),
    ("favourite", "of"): _of(("item", "item.category", "query", "device", "item.tags")),
    ("seen", "entity"): _of(WHO),
    ("seen", "of"): _of(("item", "item.category", "item.tags")),
    ("quantile", "edges"): _of(((0, 10), (-5, 0.005, 9.995, 10.0, 1e9), (1, 2, 3))),
    ("quantile", "q"): _of((0.01, 0.5, 0.9)),
    ("attribute", "element"): st.integers(1, 3),
    ("age", "entity"): _of(('entity("user")', 'entity("item")')),
    ("age", "of"): _of(("released", "price")),
}
TOGETHER: dict[Any, tuple[tuple[str, ...], st.SearchStrategy]] = {
    "window": (("window", "hop"), _of(WINDOWS)),
    "short": (("short", "long", "hop"), _of(TRENDS)),
    "unit": (("unit", "max"), _of(AMOUNTS)),
    ("share", "entity"): (("entity", "within"), _of(RELATED)),
    ("ratio", "entity"): (
        ("entity", "prior"),
        _of([*RELATED, *((own, prior) for own in ENTITIES for prior in (None, 0.1))]),
    ),
    ("attribute", "entity"): (("entity", "attribute", "kind"), _of(OWNERS)),
    ("attributes", "entity"): (("entity", "attribute", "kind"), _of(LISTS)),
    ("match", "entity"): (
        ("entity", "attribute"),
        _of([('entity("item")', name) for name in ("title", "tags", "nothing")]),
    ),
    ("last", "of"): (("of", "kind"), _of(VALUES)),
    ("first", "of"): (("of", "kind"), _of(VALUES)),
    ("context", "field"): (("field",), _of([(name,) for name in CONTEXT_FIELDS])),
}
_ENTITY_PARAMETERS = ("entity", "within", "prior")
_APART = ("derived",)  # made of other columns, drawn last
# No column of a reading: its own are compared in tests/training/test_similarities_read.py.
_LEARNED = {"similarity": declare.Similarity}


def calls() -> dict[str, Call]:
    """The calls of the vocabulary that make features, by name."""
    calls_by_name = {}
    for name in vocabulary.__all__:
        call = getattr(vocabulary, name)
        if inspect.isfunction(call) and made_by(call) and name not in _LEARNED:
            calls_by_name[name] = call
    return calls_by_name


def made_by(call: Callable) -> set[type[Feature]]:
    """The kinds of what a call returns: of one, of either of two, of a tuple."""
    returned, open_ = set(), [get_type_hints(call).get("return")]
    while open_:
        one = open_.pop()
        open_ += get_args(one)
        if isinstance(one, type) and issubclass(one, Feature):
            returned.add(one)
    return returned


def kinds() -> set[type[Feature]]:
    """Every kind of feature that `features.declare.declarations` has and readings have: the classes
    that no other is derived from.
    """
    feature_kinds, open_ = set(), [Feature]
    while open_:
        one = open_.pop()
        below = [each for each in one.__subclasses__() if each.__module__ == declare.__name__]
        feature_kinds.update([] if below else [one])
        open_ += below
    return feature_kinds - {*_LEARNED.values()}


@st.composite
def line(draw: st.DrawFn, name: str, call: str) -> str | None:
    """`count("f1", entity("item"), type=("click",), window="1h")`; None if what was drawn does not
    go together.
    """
    given: dict[str, Any] = {"name": name}
    own = calls()[call]
    for parameter, about in inspect.signature(own).parameters.items():
        if parameter in given:
            continue
        together = TOGETHER.get((call, parameter)) or TOGETHER.get(parameter)
        if together is not None:
            if (
                about.default is not inspect.Parameter.empty
                and parameter != "window"
                and draw(st.integers(0, 9)) == 0
            ):
                continue
            given |= {
                key: value
                for key, value in zip(together[0], draw(together[1]), strict=True)
                if key not in given
            }
            continue
        strategy = PARAMETERS.get((call, parameter))
        strategy = PARAMETERS.get(parameter) if strategy is None else strategy
        if about.default is not inspect.Parameter.empty:
            if strategy is None or (parameter != "where" and draw(st.booleans())):
                continue
        elif strategy is None:
            raise LookupError(
                f"nobody knows what to draw for {parameter!r} of {call}(): add it to "
                "PARAMETERS in tests/features/fuzzing/words.py"
            )
        given[parameter] = draw(strategy)
    parts = [f"{key}={_spelled(key, value)}" for key, value in given.items() if value is not None]
    text = f"{call}({', '.join(parts)})"
    try:
        made(text)
    except DeclarationError:
        return None
    return text


def _spelled(parameter: str, value: Any) -> str:
    return value if parameter in _ENTITY_PARAMETERS and isinstance(value, str) else repr(value)


def made(text: str) -> tuple[Feature, ...]:
    """The declarations that a line makes."""
    declared = eval(text, {name: getattr(vocabulary, name) for name in vocabulary.__all__})
    return declared if isinstance(declared, tuple) else (declared,)


@st.composite
def declarations(draw: st.DrawFn, most: int = 6, prefix: str = "f") -> tuple[str, ...]:
    """Lines of some features of every kind that comes, and of columns derived from them."""
    by_kind: dict[
        tuple[str, ...], list[str]
    ] = {}  # kinds that several calls make are not to crowd out others
    for call in sorted(set(calls()) - set(_APART)):
        by_kind.setdefault(
            tuple(sorted(kind.__name__ for kind in made_by(calls()[call]))), []
        ).append(call)
    lines: list[str] = []
    numbers: list[str] = []
    for number in range(draw(st.integers(1, most))):
        name = f"{prefix}{number}"
        call = draw(st.sampled_from(by_kind[draw(st.sampled_from(sorted(by_kind)))]))
        text = draw(line(name, call))
        if text is None:
            continue
        lines.append(text)
        numbers += FeatureSet.from_declarations(made(text)).numeric[:2]
    if numbers and draw(st.booleans()):
        a, b = draw(st.sampled_from(numbers)), draw(st.sampled_from(numbers))
        shapes = [
            f"{a} / {b}",
            f"{a} - 0.1 * {b}",
            f"sqrt({a} + 1) if {b} > 1 else {b}",
            f"missing({a}) + abs({b})",
        ]
        shapes.append(f"log1p({a}) * exp({b} / 99)")
        lines.append(f"derived({prefix + 'd'!r}, {draw(st.sampled_from(shapes))!r})")
        lines.append(f"derived({prefix + 'e'!r}, {f'max({prefix}d, {a}) * 3'!r})")
    return tuple(lines) or ('count("clicks", entity("item"), "click", window="1h")',)


def feature_set(lines: Sequence[str]) -> FeatureSet:
    return FeatureSet.from_declarations([one for text in lines for one in made(text)])


def source(lines: Sequence[str]) -> str:
    """The lines as a project's file."""
    return "from tailorbird.features import *  # noqa: F403\n\n" + "\n".join(lines) + "\n"
