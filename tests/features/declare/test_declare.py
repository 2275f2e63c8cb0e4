"""Declarations: what is refused, with its line; what is proposed instead; and the schema that
follows from what is accepted.
"""

from importlib import resources
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from tailorbird.errors import DeclarationError
from tailorbird.events import EVENT_TYPES
from tailorbird.features import (
    FeatureSet,
    attribute,
    context,
    count,
    decayed,
    derived,
    distinct,
    entity,
    gap_mean,
    last,
    load_features,
    maximum,
    mean,
    minimum,
    ratio,
    sequence,
    session,
    session_depth,
    share,
    similarity,
    time_since_first,
    total,
    trend,
    variance,
)
from tailorbird.features.declare.fields import CONTEXT_FIELDS
from tailorbird.features.transforms import impute, log, transform

HEAD = """\
from tailorbird.features import *
user = entity("user"); item = entity("item"); category = entity("item.category")
count("clicks", item, "click", window="7d")
"""


RECENT = 'recent = sequence("recent", user, "click", length=8); '


def refused(tmp_path: Path, line: str) -> str:
    """The message for a features.py whose fourth line is `line`, without the path."""
    path = tmp_path / "features.py"
    path.write_text(HEAD + line + "\n")
    with pytest.raises(DeclarationError) as caught:
        load_features(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:4: "), message
    return message.removeprefix(f"{path}:4: ")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('count("x", item, "klick", window="7d")', "x: 'klick' is no event type"),
        ('count("clicks", item, "view", window="7d")', "clicks is declared twice, first at"),
        (
            'count("x", item, "click", window="7d", hop="5h")',
            "the window of 7d is not a multiple of its hop of 5h\n  fix: hop='14h'",
        ),
        ('count("x", item, "click", window="7d", hop="1h")', "7d by 1h is 168 hops, more than 64"),
        ('count("x", item, "click", window="401d")', "window: expected 1m to 400d, got 401d"),
        (
            'count("x", item, "click", window="soon")',
            "'soon' is no duration; write it as 90s, 30m, 6h, 7d or 2w",
        ),
        ('count("x", item, "click", hop="1h")', "hop needs a window"),
        (
            'count("x", item, "click", where="agnet != \'bot\'")',
            "\"agnet != 'bot'\": column 1: agnet is no field",
        ),
        (
            'count("x", item, "click", where="price > \'a\'")',
            "column 9: \"'a'\" is a text, and is compared with a number",
        ),
        (
            'count("x", item, "click", where="__import__(\'os\')")',
            "expected one of abs, sqrt, min, max, missing",
        ),
        (
            'count("x", item, "click", where="device.__class__ == 1")',
            "device.__class__ is no field",
        ),
        ('count("x", item, "click", where="query")', "expected a truth, 'query' is a text"),
        ('count("x", item, "click", where="1 +")', "'1 +': at its end: invalid syntax"),
        ('count("x", item, "click", where="price")', "where: 'price' is a number, not a test"),
        (
            'count("x", item, "click", where="price - 3")',
            "where: 'price - 3' is a number, not a test",
        ),
        (
            'count("x", item, "click", where="price > 1 and " * 9)',
            "'price > 1 and price > 1 and price > 1 and",
        ),
        ('last("x", user, "click", of="item.price")', "item.price' may be a number or a text"),
        ('first("x", user, "click", of="properties.tag")', "may be a number or a text"),
        (
            'attribute("x", item, "", kind="numeric")',
            "attribute: expected the name of an attribute, such as \"category\", got ''",
        ),
        ('match("x", item, "")', "attribute: expected the name of an attribute"),
        (
            'count("x" * 5_000, item, "click")',
            "a feature's name has at most 100 letters, got 5,000: 'xxx",
        ),
        (
            'total("x", user, "click", of="price", unit=1e-30, max=1e30)',
            "max: expected at most 1e+15, got 1e+30",
        ),
        (
            'total("x", user, "click", of="price", max="10")',
            "max: expected a number, got the text '10'",
        ),
        (
            'count("x", item, "click", where=5)',
            "expected an expression in quotes, such as 'price < 5', got 5",
        ),
        (
            'total("x", user, "purchase", of=None)',
            "expected an expression in quotes, such as 'price < 5', got None",
        ),
        ('derived("x", 5)', "expected an expression in quotes, such as 'price < 5', got 5"),
        ("import sys; sys.exit(3)", "ends the program (3) before all is declared"),
        ('count("x", "item", "click")', "expected an entity such as entity(\"item\"), got 'item'"),
        ('count("1x", item, "click")', "a feature's name is letters, digits and _, got '1x'"),
        ('total("x", user, "purchase", of="query")', "expected a number, 'query' is a text"),
        (
            'total("x", user, "purchase", of="price", max=1e9)',
            "max / unit = 100,000,000,000 is too fine",
        ),
        ('total("x", user, "purchase", of="price", unit=0)', "expected 0 < unit <= max"),
        ('sequence("x", user, "click", length=5000)', "length: expected 1 to 1024, got 5000"),
        ('sequence("x", item, "click")', "a sequence belongs to who asks"),
        (
            'sequence("x", entity("user", "item.category"), "click")',
            "a sequence belongs to who asks, not to each candidate; got user",
        ),
        (
            'attribute("x", category, "price", kind="numeric")',
            "only user and item have profiles, got item.category",
        ),
        (
            'attribute("x", item, "price", kind="number")',
            "kind: expected numeric or categorical, got 'number'",
        ),
        (
            'context("browser")',
            "a request has no 'browser'; expected device, country, query, local_hour, weekday",
        ),
        ('entity("items")', "'items' is no field of an entity"),
        (
            'derived("x", "clicks / view")',
            "x: 'clicks / view': column 10: view is no field\n  fix: numeric columns: clicks",
        ),
        ('derived("x", "x + 1")', "derived columns go in a circle: x → x"),
        ('derived("x", "clicks + ")', "x: 'clicks + ': at its end: invalid syntax"),
        (
            'ratio("x", item, "click", "impression", weight=-1)',
            "weight: expected a number from 0 to 1e9, got -1",
        ),
        (
            'distinct("x", item, "click", of="user", precision=9)',
            "precision: expected 4 to 8, got 9",
        ),
        ('distinct("x", item, "click", of="price")', "expected a text, 'price' is a number"),
        (
            'gap_mean("x", item, "click")',
            "a gap belongs to who asks, not to each candidate; got item",
        ),
        ('gap_mean("x", user, "click", length=1)', "length: expected 2 to 1024, got 1"),
        ('session_depth("x", "klick")', "x: 'klick' is no event type"),
        (
            'variance("x", item, "purchase", of="price", max=1e8)',
            "is too fine: its square does not fit|too fine: 1,073,741,824 such",
        ),
        (
            'variance("x", item, "purchase", of="price", unit=1e-3, max=4e6)',
            "its square does not fit\n  fix: unit=0.00186 or coarser",
        ),
        ('maximum("x", item, "purchase", of="query")', "expected a number, 'query' is a text"),
        (
            'trend("x", item, "click", short="7d", long="1d")',
            "short: expected less than long, 1d, got 7d",
        ),
        ('trend("x", item, "click", hop="1h")', "7d by 1h is 168 hops, more than 64"),
        (
            'share("x", item, "click", within=item)',
            'within: expected another entity, such as entity("item.category")',
        ),
        (
            'share("x", item, "click", within=category, of="query")',
            "expected a number, 'query' is a text",
        ),
        ('decayed("x", item, "click", half_life="51d")', "half_life: expected 15s to 50d, got 51d"),
        (
            'decayed("x", item, "click", half_life="1d", of="price", max=1e9)',
            "max / unit = 100,000,000,000 is too fine",
        ),
        (
            'entity("weekdays")',
            "'weekdays' is no field of an entity; expected user, item, session, device, "
            "country, query, local_hour",
        ),
        (
            'sequence("x", user, "click", of=["price", "price"])',
            "of: expected at most 8 different values, got price, price",
        ),
        ('sequence("x", user, "click", of="prize")', "'prize': column 1: prize is no field"),
        (
            'first("x", user, "click", of="item.price", kind="number")',
            "kind: expected numeric or categorical, got 'number'",
        ),
        (
            'favourite("x", item, "click", of="item.category")',
            "a favourite belongs to who asks, not to each candidate; got item",
        ),
        ('favourite("x", user, "click", of="price")', "expected a text, 'price' is a number"),
        (
            'seen("x", user, "click", of="device")',
            "of: expected item or an attribute of it, got 'device'\n  fix: of=\"item.category\"",
        ),
        ('seen("x", user, "click", length=0)', "length: expected 1 to 1024, got 0"),
        (
            'quantile("x", user, "click", of="price", edges=[1])',
            "edges: expected 2 to 32 numbers, ascending, got [1]",
        ),
        (
            'quantile("x", user, "click", of="price", edges=[2, 1])',
            "edges: expected 2 to 32 numbers, ascending, got [2, 1]",
        ),
        (
            'quantile("x", user, "click", of="price", edges=[1, float("nan")])',
            "ascending, got [1, nan]",
        ),
        (
            'quantile("x", user, "click", of="price", edges=[1, 2], q=50)',
            "q: expected a number between 0 and 1, got 50",
        ),
        (
            'attribute("x", item, "tags", kind="categorical", element=0)',
            "element: expected 1 to 256, got 0",
        ),
        (
            'attributes("x", item, "tags", kind="categorical", length=999)',
            "length: expected 1 to 256, got 999",
        ),
        ('match("x", category, "title")', "only user and item have profiles, got item.category"),
        ('age("x", "item")', "only user and item have profiles, got 'item'"),
        (
            'share("x", item, "click", within=user)',
            "within: item does not say which user it belongs to\n  fix: some of its own fields",
        ),
        (
            'share("x", user, "click", within=category)',
            'or make it about entity("user", "item.category")',
        ),
        (
            'share("x", item, "click", within=5)',
            'within: expected an entity such as entity("item.category"), got 5',
        ),
        (
            'ratio("x", item, "click", "view", prior=user)',
            "prior: item does not say which user it belongs to",
        ),
        (
            'ratio("x", item, "click", "view", prior=item)',
            'prior: expected another entity, such as entity("item.category"), got item',
        ),
        (
            'ratio("x", item, "click", "view", prior="item")',
            'prior: expected an entity such as entity("item.category"), got',
        ),
        ('derived("x", "1 / 0")', "column 1: 1 / 0 divides by 0, which is always missing"),
        (
            'derived("x", "clicks / (2 - 2)")',
            "x: 'clicks / (2 - 2)': column 1: clicks / (2 - 2) divides by 0",
        ),
        (
            'derived("x", "clicks + sqrt(0 - 1)")',
            "column 10: sqrt(0 - 1) cannot be computed, so it is always missing",
        ),
        ('total("x", item, "click", of="price / 0")', "price / 0 divides by 0"),
        (
            'count("recent_age", item, "click")',
            "recent_age is what a column of every model is called",
        ),
        (
            'context("weekday", name="position")',
            "position is what a column of every model is called",
        ),
        (
            'count("item", item, "click")',
            "item is what a column of a backfill's rows is called: request_id, person, ts, p, item",
        ),
        ('count("p", item, "click")', "p is what a column of a backfill's rows is called"),
        (
            'attribute("ts", item, "ts", kind="numeric")',
            "ts is what a column of a backfill's rows is called",
        ),
        (
            'context("device", name="person")',
            "person is what a column of a backfill's rows is called",
        ),
        (
            RECENT + 'similarity("x", of="recnt")',
            "x: of: there is no sequence 'recnt'\n  fix: did you mean recent?",
        ),
        (
            'similarity("x", of="clicks")',
            "x: of: 'clicks' is no sequence\n  fix: sequences: none; declare one with sequence()",
        ),
        (
            RECENT + 'similarity("x", of=recent)',
            "of: expected the name of a sequence, got SequenceOf",
        ),
        (
            RECENT + 'similarity("x", of="recent", length=9)',
            "x: length: recent keeps 8 events, not 9\n  fix: length=8",
        ),
        (RECENT + 'similarity("x", of="recent", length=65)', "length: expected 1 to 64, got 65"),
        (
            RECENT + 'similarity("x", of="recent", length=8, decay=0)',
            "decay: expected above 0 and at most 1, got 0",
        ),
        (
            RECENT + 'similarity("x", of="recent", length=8, table="vectors")',
            "table: expected cooccurrence, got 'vectors'",
        ),
        (
            RECENT + 'similarity("x", of="recent", length=8, how="mean")',
            "how: expected sum or max, got 'mean'",
        ),
        (
            RECENT + 'similarity("clicks", of="recent", length=8)',
            "clicks is declared twice, first at",
        ),
        (
            RECENT + 'similarity("category_share", of="recent", length=8)',
            "category_share is what a column of every model is called",
        ),
        (
            RECENT + 'similarity("s", of="recent", length=8); derived("x", "s + 1")',
            ": s is no field\n  fix: a similarity is known to the model alone",
        ),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("count(", "SyntaxError: '(' was never closed"),
    ],
)
def test_what_cannot_be_built_is_refused_with_its_line(tmp_path, line, message):
    message_ = refused(tmp_path, line)
    assert any(one in message_ for one in message.split("|")), message_


@pytest.mark.parametrize(
    ("own", "group"),
    [
        ('"item"', '"item.category"'),
        ('"item"', ""),
        ('"user", "item.category"', '"user"'),
        ('"user", "item"', '"user.segment", "item.category"'),
        ('"query", "item"', '"item"'),
        ('"session"', '"user"'),
        ('"session", "item.category"', '"session"'),
        ('"user", "local_hour"', '"user"'),
        ('"item", "position"', '"position"'),
    ],
)
def test_an_entity_may_be_related_to_any_that_it_belongs_to(tmp_path, own, group):
    lines = (
        f'share("s", entity({own}), "click", within=entity({group}))\nratio("r", '
        f'entity({own}), "click", "view", prior=entity({group}))'
    )
    (tmp_path / "features.py").write_text(HEAD + lines + "\n")
    assert load_features(tmp_path / "features.py").numeric == ("clicks", "s", "r")


def test_the_constants_that_expressions_may_have_stay_allowed():
    allowed = [
        "a * -0.5 + 1 / 3",
        "a / b if b != 0 else 0 / 1",
        "missing(a) / 2",
        "min(a, 1) / max(b, 2)",
    ]
    for text in allowed:
        count_ = [
            count("a", entity("item"), "click"),
            count("b", entity("item"), "view"),
            derived("x", text),
        ]
        assert FeatureSet.from_declarations(count_).numeric == ("a", "b", "x")


@pytest.mark.parametrize(
    ("call", "parameter", "values"),
    [
        (attribute, "kind", ("numeric", "categorical")),
        (last, "kind", ("numeric", "categorical")),
        (context, "field", tuple(CONTEXT_FIELDS)),
        (impute, "how", ("mean", "median", "mode", "constant")),
    ],
)
def test_editors_see_which_values_a_call_accepts(call, parameter, values):
    hint = get_type_hints(call)[parameter]
    (literal,) = [one for one in (hint, *get_args(hint)) if get_origin(one) is Literal]
    assert get_args(literal) == values
    assert resources.files("tailorbird").joinpath("py.typed").is_file()


def test_a_similarity_is_a_column_of_the_model_and_no_part_of_the_schema():
    base_set = declarations()
    features = FeatureSet.from_declarations(
        [*base_set, similarity("goes_with", of="recent")],
        transforms=[transform("goes_with", log())],
    )
    assert features.schema_hash == FeatureSet.from_declarations(base_set).schema_hash
    assert "goes_with" not in features.numeric
    assert (features.columns[-1].name, features.columns[-1].kind, features.columns[-1].entity) == (
        "goes_with",
        "learned",
        "user+item",
    )
    assert [one.name for one in features.similarities] == ["goes_with"]


def test_a_circle_of_derived_columns_names_all_of_it():
    with pytest.raises(DeclarationError, match="a → b → c → a"):
        FeatureSet.from_declarations(
            [derived("a", "b + 1"), derived("b", "c"), derived("c", "a * 2")]
        )


def test_a_file_that_is_missing_or_declares_nothing_is_refused(tmp_path):
    with pytest.raises(DeclarationError, match="no such file"):
        load_features(tmp_path / "features.py")
    (tmp_path / "features.py").write_text("x = 1\n")
    with pytest.raises(DeclarationError, match="declares no feature"):
        load_features(tmp_path / "features.py")


def test_a_projects_own_event_types_can_be_counted(tmp_path):
    (tmp_path / "features.py").write_text(HEAD + 'count("plays", item, "play", window="1d")\n')
    assert (
        "plays"
        in load_features(tmp_path / "features.py", event_types=(*EVENT_TYPES, "play")).numeric
    )


def test_a_long_invalid_text_is_shortened_in_the_message(tmp_path):
    for line in (
        'count("x" * 5_000, item, "click")',
        'count("x", item, "click", where="price > 1 and " * 30)',
        'attribute("x", item, "a" * 5_000, kind="numeric")',
    ):
        assert len(refused(tmp_path, line)) < 400


def test_a_transform_without_a_declared_feature_names_its_line(tmp_path):
    path = tmp_path / "features.py"
    path.write_text(
        "from tailorbird.features import *\nfrom tailorbird.features.transforms import "
        'transform\n\ntransform("nope")\n'
    )
    with pytest.raises(
        DeclarationError, match=r"features.py:4: transforms 'nope', and declares no feature"
    ):
        load_features(path)


def test_an_attribute_of_its_own_may_be_a_test():
    [feature] = FeatureSet.from_declarations(
        [count("x", entity("item"), "click", where="properties.first")]
    ).features
    assert feature.where.names == (("properties.first", "number"),)


def declarations() -> list:
    user, item, category = entity("user"), entity("item"), entity("item.category")
    return [
        count("clicks", item, "click", window="7d", where="agent != 'bot'"),
        ratio("ctr", item, "click", "impression", window="7d", prior=category, weight=20),
        total("spend", user, "purchase", of="price", window="30d"),
        mean("habit", user, "purchase", of="price", window="30d"),
        last("last_category", user, "click", of="item.category", kind="categorical"),
        sequence("recent", user, ["purchase", "click"], length=64),
        session("session_clicks", "click"),
        attribute("price", item, "price", kind="numeric"),
        context("device"),
        derived("price_to_habit", "price / habit"),
    ]


def test_columns_are_by_kind_in_order_of_declaration():
    features = FeatureSet.from_declarations(declarations())
    assert features.numeric == (
        "clicks",
        "ctr",
        "spend",
        "habit",
        "session_clicks",
        "price",
        "price_to_habit",
    )
    assert features.categorical == ("last_category", "device")
    assert features.sequences == ("recent",)
    assert features.item_attributes == ("category", "price")
    assert (
        features.columns[1].description
        == "click for each of impression of the item in 7d by 14h, smoothed by item.category × 20"
    )


def test_the_schema_hash_is_of_the_content_and_nothing_else():
    one, two = (
        FeatureSet.from_declarations(declarations()),
        FeatureSet.from_declarations(declarations()),
    )
    assert (
        one.schema_hash == two.schema_hash == "ec0412f7dbcb"
    )  # another: raise ENGINE_VERSION, states are built anew
    assert FeatureSet.from_declarations(declarations()[:-1]).schema_hash != one.schema_hash
    assert FeatureSet.from_declarations(declarations()[::-1]).schema_hash != one.schema_hash


def test_the_schema_hash_of_every_other_kind_stays_too():
    user, item, price = entity("user"), entity("item"), {"of": "price", "window": "7d"}
    features = FeatureSet.from_declarations(
        [
            variance("spread", item, "purchase", **price),
            minimum("least", item, "purchase", **price),
            maximum("most", item, "purchase", **price),
            distinct("reach", item, "view", of="user", window="7d"),
            trend("trend", item, "view"),
            share("part", item, "view", within=entity("item.category"), window="7d"),
            decayed("fading", item, "view", half_life="3d"),
            time_since_first("known_for", item, "view"),
            gap_mean("gap", user, "click"),
            session_depth("depth"),
            count("searched", entity("query"), "search", window="7d"),
        ]
    )
    assert (
        features.schema_hash == "ab5ebca4849a"
    )  # another: raise ENGINE_VERSION, states are built anew
    assert [[sketch.registers for sketch in one.sketches] for one in features.layout.entities] == [
        [64],
        [],
        [],
        [],
    ]


def test_the_schema_hash_of_later_kinds_is_stable_too(tmp_path):
    lines = [
        'first("first_price", item, "purchase", of="price")',
        'sequence("recent", user, "click", of=["dwell_ms", "item.category"])',
        'favourite("liked", user, "click", of="item.category")',
        'seen("seen", user, "click", of="item.category")',
        'refinements("looking")',
        'quantile("usual", user, "purchase", of="price", edges=[5, 10, 20], window="30d")',
        'attributes("tag", item, "tags", kind="categorical", length=2)',
        'match("match", item, "title")',
        'age("age", item, of="born")',
        'count("hourly", entity("user", "local_hour", "weekday", "position"), "click")',
    ]
    (tmp_path / "features.py").write_text(HEAD + "\n".join(lines) + "\n")
    assert (
        load_features(tmp_path / "features.py").schema_hash == "a570d5ed3b3b"
    )  # another: raise ENGINE_VERSION, states are built anew


def test_windows_over_the_same_events_with_the_same_hop_share_their_tiles():
    item = entity("item")
    shared = FeatureSet.from_declarations(
        [
            count("a", item, "click", window="6h", hop="1h"),
            count("b", item, "click", window="3h", hop="1h"),
        ]
    )
    layout = shared.layout.entities[0]
    assert [ring.tiles for ring in layout.rings] == [6]
    assert [window.tiles for window in layout.windows] == [6, 3]
    # newest ts and seven tiles; newest, valid from, next change, commit and two sums
    assert (layout.state_bytes, layout.reading_bytes) == (8 * 8, 8 * 6)
