"""Rules are compared with the same expression evaluated by Python, item by item; what is not of the
language is refused.
"""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.shops import ranking_world

from tailorbird.errors import DeclarationError
from tailorbird.events import DAY, hash64
from tailorbird.ranking import Boost, Cap, Diversity, Explore, Pin, Quota, Slot
from tailorbird.ranking.policy.rule_columns import RuleRequest, seen_mask
from tailorbird.ranking.policy.rules import check_slot, compile_rules
from tailorbird.retrieval import NewItem, with_items

NOW = ranking_world.T0 + 9 * DAY


def mask(index, *rules, **settings_):
    return compile_rules(rules).mask(
        RuleRequest(index, np.arange(len(index)), now=NOW, **settings_)
    )


def numbers(index, satisfied):
    return sorted(int(index.ids[row][1:]) for row in np.flatnonzero(satisfied))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("item.price < 6", lambda i: i * 2 < 6),
        ("item.price < 50 and item.stock > 0", lambda i: i * 2 < 50 and i % 3 > 0),
        ("item.category in ('coats', 'hats')", lambda i: i % 4 in (0, 1)),
        ("item.category not in ['coats', 'hats']", lambda i: i % 4 in (2, 3)),
        ("item.category == 'shoes' or item.price == 4", lambda i: i % 4 == 2 or i == 2),
        ("not item.category == 'shoes'", lambda i: i % 4 != 2),
        ("10 <= item.price <= 20", lambda i: 5 <= i <= 10),
        ("item.stock in (0, 2)", lambda i: i % 3 in (0, 2)),
        ("-item.stock in (-2, 0, 7)", lambda i: i % 3 in (0, 2)),
        ("item.price / 2 - 1 > 2 * item.stock + 30", lambda i: i - 1 > 2 * (i % 3) + 30),
        ("-item.price > -5", lambda i: -i * 2 > -5),
        ("item.stock", lambda i: i % 3 != 0),
        ("item.id == 'i7'", lambda i: i == 7),
        ("item.id != 'i7'", lambda i: i != 7),
        ("context.country == 'NO'", lambda i: True),
        ("context.country != 'NO' or item.price < 3", lambda i: i < 2),
        ("context.device == 'phone'", lambda i: False),
        ("context.device != 'phone'", lambda i: True),
        ("item.price < 2 * user.avg_price", lambda i: i * 2 < 20),
        ("item.colour == 'red'", lambda i: False),
        ("item.colour != 'red'", lambda i: True),
        ("item.colour > 3", lambda i: False),
        ("item.category > 3", lambda i: False),
        ("item.category == 3", lambda i: False),
        ("item.price == 'cheap'", lambda i: False),
        ("item.price == context.country", lambda i: False),
        ("item.price != context.country", lambda i: True),
        ("item.price / 0 > 1", lambda i: i > 0),
        ("True", lambda i: True),
    ],
)
def test_a_rule_agrees_with_python(index, rule, expected):
    satisfied = mask(index, rule, context={"country": "NO"}, user={"avg_price": 10})
    assert numbers(index, satisfied) == [i for i in range(ranking_world.ITEM_COUNT) if expected(i)]


OPERANDS = st.sampled_from(
    ["item.price", "item.stock", "3", "item.price / 2", "user.avg_price", "2 * item.stock + 1"]
)
COMPARISONS = st.tuples(
    OPERANDS, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), OPERANDS
).map(" ".join)
EXPRESSIONS = st.recursive(
    COMPARISONS
    | st.sampled_from(
        ["item.category == 'hats'", "item.category in ('hats', 'bags')", "context.country == 'NO'"]
    ),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from([" and ", " or "]), inner).map(
            lambda parts: f"({''.join(parts)})"
        ),
        inner.map(lambda text: f"(not {text})"),
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(EXPRESSIONS)
def test_any_rule_agrees_with_python(index, rule):
    satisfied = mask(index, rule, context={"country": "NO"}, user={"avg_price": 10.0})

    class Fields:
        def __init__(self, **fields):
            self.__dict__.update(fields)

    categories = ("coats", "hats", "shoes", "bags")
    scope = {"user": Fields(avg_price=10.0), "context": Fields(country="NO")}
    items = [
        Fields(price=i * 2.0, stock=float(i % 3), category=categories[i % 4])
        for i in range(ranking_world.ITEM_COUNT)
    ]
    assert numbers(index, satisfied) == [
        i for i in range(ranking_world.ITEM_COUNT) if eval(rule, {}, scope | {"item": items[i]})
    ]


def test_a_missing_value_equals_nothing_and_compares_as_false(index):
    later = with_items(
        index,
        [
            NewItem("n1", {"title": "New"}, NOW),
            NewItem("n2", {"category": "hats", "price": 1}, NOW),
        ],
    )
    request = RuleRequest(later, later.find_ids(["n1", "n2"]), now=NOW)
    for rule, expected in {
        "item.price < 50": [False, True],
        "item.price >= 50": [False, False],
        "item.price != 1": [True, False],
        "item.category == 'hats'": [False, True],
        "item.category not in ('hats', 'coats')": [True, False],
        "item.category != 'coats'": [True, True],
    }.items():
        assert compile_rules([rule]).mask(request).tolist() == expected, rule


def test_parts_of_a_list(index):
    later = with_items(
        index,
        [NewItem("n1", {"tags": ["warm", "red"]}, NOW), NewItem("n2", {"tags": ["warmer"]}, NOW)],
    )
    request = RuleRequest(later, later.find_ids(["n1", "n2", "i0"]), now=NOW)
    assert compile_rules(["'warm' in item.tags"]).mask(request).tolist() == [True, False, False]
    assert compile_rules(["'warm' not in item.tags"]).mask(request).tolist() == [False, True, True]


def test_seen_reads_the_recent_sequence_and_its_time(index):
    sequence = ranking_world.make_rows([], recent=[3, 5]).sequences["recent"]
    sequence = dataclasses.replace(sequence, ts=np.array([NOW - 40 * DAY, NOW - 2 * DAY]))
    assert numbers(index, ~mask(index, "not seen", recent_events=sequence)) == [3, 5]
    assert numbers(index, ~mask(index, "not seen(30d)", recent_events=sequence)) == [5]
    assert numbers(index, mask(index, "seen(1h) or item.price > 76")) == [39]
    assert not mask(index, "seen").any()


def test_seen_by_type_of_event(index):
    sequence = ranking_world.make_rows([], recent=[3, 5]).sequences["recent"]
    sequence = dataclasses.replace(
        sequence, type=np.array([hash64("click"), hash64("purchase")], np.uint64)
    )
    rows = np.arange(len(index))
    assert numbers(index, seen_mask(index, rows, sequence, types=("purchase", "cart"))) == [5]
    assert numbers(index, seen_mask(index, rows, sequence)) == [3, 5]
    assert not seen_mask(index, rows, None).any()


def test_all_rules_must_hold(index):
    rules = compile_rules(["item.price < 20", "item.stock > 0"])
    request = RuleRequest(index, np.arange(len(index)))
    assert rules.item_fields == {"price", "stock"}
    assert rules.mask(request).sum() == 6
    assert compile_rules([]).mask(request).all()


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("item.price <", "at its end: invalid syntax"),
        (f"item.price < 1{'0' * 400}", "column 14: the number is too large"),
        (f"item.price in (1, 1{'0' * 400})", "column 19: the number is too large"),
        ("item.price < < 3", "column 14: invalid syntax"),
        ("", "expected one expression"),
        ("item.price, item.stock", "expected one expression"),
        (
            "item.price > 1) and (item.stock > 1",
            "expected one expression, with all its brackets closed",
        ),
        ("item.price > (1", "at its end: '\\(' was never closed"),
        ("item.price < 5; 1", "invalid syntax"),
        ("__import__('os').system('true')", "is not allowed"),
        ("item.__class__.__bases__", "is not allowed"),
        ("().__class__", "is not allowed"),
        ("[x for x in (1,)]", "is not allowed"),
        ("lambda: 1", "is not allowed"),
        ("(x := 1)", "is not allowed"),
        ("f'{item.price}'", "is not allowed"),
        ("2 ** 100000000", "is not allowed"),
        ("item.price if True else 1", "is not allowed"),
        ("item.price is 3", "column 15: only None comes after `is` and `is not`\n  fix: use =="),
        (
            "item.price == None",
            r"column 15: None equals nothing, and is never in a list\n  fix: use missing\(…\)",
        ),
        (
            "item.category not in ('hats', None)",
            r"column 31: None equals nothing, and is never in a list\n  fix: use missing\(…\)",
        ),
        ("None", "None equals nothing"),
        ("missing(item.price, 3)", "column 1: .* expected one of missing, seen with its arguments"),
        ("order.price > 1", "expected item, user or context before the dot, got 'order'"),
        ("price > 1", "'price' is not allowed in a rule"),
        (
            "item.id in (item.price, 3)",
            "column 13: 'item.price' is no constant, and a list after `in` has nothing else",
        ),
        ("f(" + "-" * 900 + "1)", "nested too deeply|cannot be read"),
        ("seen('x')", "expected a time such as 30d"),
        ("seen(30)", "column 6: expected a time such as 30d, got '30'"),
        ("seen(d30)", "expected a time such as 30d, got 'd30'"),
        ("b'x' == item.id", "is not allowed"),
        ("1j < 2", "is not allowed"),
        (" and ".join(["item.price > 0"] * 100), "longer than 1000 characters"),
        ("not " * 30 + "True", "too long or nested too deeply"),
        ("(" * 240 + "1" + ")" * 240, "column|cannot be read"),
        ("1 in (" + "1," * 400 + ")", "list of at most"),
        ("item.price > 1\x00", "column|cannot be read"),
    ],
)
def test_what_is_not_of_the_language_is_refused_with_its_place(rule, message):
    with pytest.raises(DeclarationError, match=message) as refused:
        compile_rules([rule], where="slot home")
    assert str(refused.value).startswith("slot home, rule ")


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            "context.country > 3",
            "column 1: 'context.country' is a text, and is compared with a number",
        ),
        (
            "context.device < 'x'",
            "column 1: 'context.device' is a text, which is not more or less than another\n  "
            "fix: use == or in",
        ),
        (
            "item.popularity == 'high'",
            "column 20: \"'high'\" is a text, and is compared with a number",
        ),
        ("item.price < 2 * item.id", "column 18: 'item.id' is a text, expected a number"),
        (
            "item.price < 2 * user.avg_prize",
            r"column 18: there is no user.avg_prize\n  fix: did you mean user.avg_price\?",
        ),
        (
            "context.country == 'de'",
            "column 20: a country is a code of two capital letters, and never 'de'\n  fix: "
            "write 'DE'",
        ),
        (
            "'Norway' != context.country",
            "column 1: a country is .* never 'Norway'\n  fix: write its code, such as 'NO'",
        ),
        (
            "item.stock > 0 and context.country not in ('NO', 'se')",
            "column 50: .* never 'se'\n  fix: write 'SE'",
        ),
        ("item.id in ('i1', 42)", "column 1: 'item.id' is a text, and is compared with a number"),
        (
            "user.avg_price not in ('10',)",
            "column 24: \"'10'\" is a text, and is compared with a number",
        ),
        (
            "5 in item.tags",
            r"column 1: '5' is no text to look for in 'item.tags'\n  fix: such as 'warm' in item.tags",
        ),
        (
            "item.brand not in item.tags",
            "column 1: 'item.brand' is no text to look for in 'item.tags'",
        ),
        ("'x' in item.popularity", "column 8: 'item.popularity' is no text, and has no parts"),
        (
            "context.contry == 'NO'",
            r"column 1: there is no context.contry\n  fix: did you mean context.country\?",
        ),
    ],
)
def test_what_cannot_hold_or_names_no_field_is_refused(rule, message):
    with pytest.raises(DeclarationError, match=message):
        compile_rules([rule], user_fields=["avg_price", "orders"])


@pytest.mark.parametrize(
    ("rule", "position"),
    [
        ("not seen(30d) and order.price > 1", "column 19"),
        ("not seen(30d) and item.price ><", "column 31"),
        ("item.title == 'søt 𝄞' and order.price > 1", "column 27"),
        ("item.title == 'søt 𝄞' and item.price ><", "column 39"),
        ("item.title == 'seen(30d)' and order.price > 1", "column 31"),
        ("item.stock > 0\n  and order.price > 1", "line 2, column 7"),
        ("\n  not seen( 30d )\r\n  and order.price > 1\n", "line 3, column 7"),
        ("item.stock > 0  # seen(30d)\n\u2028and order.price > 1", "line 2, column"),
    ],
)
def test_errors_say_where_in_the_text_they_are(rule, position):
    with pytest.raises(DeclarationError, match=f": {position}"):
        compile_rules([rule])


def test_a_rule_may_stand_on_several_lines(index):
    rule = """
        item.stock > 0       # what is left
            and item.price < 50
    """
    assert numbers(index, mask(index, rule)) == [
        i for i in range(ranking_world.ITEM_COUNT) if i % 3 > 0 and i * 2 < 50
    ]
    two = compile_rules(["not seen(30d)\nand item.stock > 0", "item.title != 'seen(30d)'"])
    assert [one.is_item_only for one in two.rules] == [False, True]


def test_missing_values_can_be_tested(index):
    unseen = [
        NewItem("n1", {"title": "New"}, NOW),
        NewItem("n2", {"category": "hats", "price": 1}, NOW),
    ]
    later = with_items(index, unseen)
    request = RuleRequest(
        later,
        later.find_ids(["n1", "n2"]),
        now=NOW,
        user={"orders": None},
        context={"country": "NO"},
    )
    for rule, expected in {
        "missing(item.price)": [True, False],
        "item.price is None": [True, False],
        "item.category is not None": [False, True],
        "missing(item.category) or item.price < 3": [True, True],
        "missing(item.colour)": [True, True],
        "missing(item.price + 1)": [True, False],
        "missing(user.orders)": [True, True],
        "missing(context.country)": [False, False],
        "missing(context.device)": [True, True],
        "missing(seen)": [False, False],
    }.items():
        assert compile_rules([rule]).mask(request).tolist() == expected, rule


def test_item_only_rules_are_distinguished_from_request_rules():
    texts = [
        "item.stock > 0 and item.id != 'i3'",
        "item.age_days < 3",
        "not seen(30d)",
        "item.price < user.avg_price",
        "not seen",
    ]
    rules = compile_rules([*texts, "context.country == 'NO'", "item.popularity > 0.1"])
    assert [rule.text for rule in rules.item_only.rules] == [texts[0], "item.popularity > 0.1"]
    assert len(rules.item_only.rules) == 2


@pytest.mark.parametrize("name", ["rules", "hide_seen", "allow", "deny"])
def test_a_text_where_a_list_belongs_is_refused(name):
    """Of ("purchase"), which is no tuple, each letter would be a type, and nothing that was bought
    would be hidden.
    """
    with pytest.raises(DeclarationError, match="expected a list, got 'purchase'"):
        Slot("home", **{name: ("purchase")})


def test_a_slot_is_checked_against_the_declarations():
    slot = Slot("home", boosts=[Boost("user.odrers > 2", 2.0)], caps=[Cap("shwon", 3)])
    with pytest.raises(
        DeclarationError, match=r"there is no user.odrers\n  fix: did you mean user.orders\?"
    ):
        check_slot(slot, user_fields=["orders"], sequences=["shown"])
    with pytest.raises(
        DeclarationError,
        match=r"sequence 'shwon', which is not declared\n  fix: did you mean shown\?",
    ):
        check_slot(
            dataclasses.replace(slot, boosts=()), user_fields=["orders"], sequences=["shown"]
        )
    check_slot(
        Slot("home", caps=[Cap("shown", 3)], pins=[Pin("i1", when="user.orders > 1")]),
        user_fields=["orders"],
        sequences=["shown"],
    )


def test_an_unknown_attribute_is_refused_with_the_nearest_one(index):
    with pytest.raises(
        DeclarationError,
        match=r"items have no attribute 'prize'\n  fix: did you mean item\.price\?",
    ):
        compile_rules(["item.prize < 3"], item_fields=index.attributes)
    compile_rules(
        ["item.price < 3 and item.age_days < 7 and item.popularity > 0.5"],
        item_fields=index.attributes,
    )


@settings(deadline=None, max_examples=300)
@given(
    st.text(st.sampled_from("itemuserconx.()<>=!+-*/'\"0123456789 andornotin[],seen"), max_size=60)
    | st.text(max_size=40)
)
def test_foreign_text_is_refused_or_compiles_but_never_raises_anything_else(index, text):
    try:
        rules = compile_rules([text])
    except DeclarationError:
        return
    assert rules.mask(RuleRequest(index, np.arange(5))).shape == (5,)


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (
            lambda: Slot("home", explore={"rate": 0.1}),
            r"slot home, explore: expected an Explore or None, got \{'rate': 0.1\}",
        ),
        (
            lambda: Slot("home", diversity="mmr"),
            "slot home, diversity: expected a Diversity or None, got 'mmr'",
        ),
        (lambda: Slot("home", size="12"), "slot home, size: expected a whole number, got '12'"),
        (lambda: Slot("home", quotas=["brand"]), "slot home, quotas: expected a list of Quotas"),
        (lambda: Slot("home", size=1_001), "slot home: expected a size from 1 to 1000, got 1001"),
        (
            lambda: Slot("home", sources={"popular": 1.5}),
            "slot home, sources: expected a dict of whole numbers",
        ),
        (
            lambda: Slot("home", sources={"popular": -1}),
            "slot home, sources, popular: expected a number of candidates, got -1",
        ),
        (lambda: Explore(pool=1.5), "Explore, pool: expected a whole number, got 1.5"),
        (lambda: Explore(rate="x"), "Explore, rate: expected a number, got 'x'"),
        (lambda: Explore(first=True), "Explore, first: expected a whole number, got True"),
        (lambda: Diversity(balance="a"), "Diversity, balance: expected a number, got 'a'"),
        (lambda: Quota("brand", 1.5), "Quota brand, most: expected a whole number, got 1.5"),
    ],
)
def test_a_declaration_of_another_kind_is_refused_by_name(declare, message):
    with pytest.raises(DeclarationError, match=message):
        declare()
