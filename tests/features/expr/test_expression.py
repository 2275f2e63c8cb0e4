"""Expressions over columns give what the same expression gives value by value, and nothing else can
be written in them.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailorbird.events.keys import hash64
from tailorbird.features.expr.expression import parse
from tailorbird.features.expr.nodes import ExpressionError
from tailorbird.features.expr.scalar import evaluate_number, evaluate_truth

KINDS = {"a": "number", "b": "number", "word": "text", "other": "text", "item.x": "either"}
numbers = st.one_of(
    st.sampled_from([math.nan, 0.0, -0.0, 1.0, 2.5, -3.0, 1e300]), st.floats(-10, 10)
)
words = st.sampled_from([None, "", "x", "bot"])

_number = st.recursive(
    st.sampled_from(["a", "b", "2", "0", "-1.5", "item.x"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        st.tuples(st.sampled_from(["min", "max"]), inner, inner).map(
            lambda t: f"{t[0]}({t[1]}, {t[2]})"
        ),
        inner.map(lambda one: f"sqrt(abs({one}))"),
        inner.map(lambda one: f"-{one}"),
        st.tuples(st.sampled_from(["log", "log1p", "exp"]), inner).map(lambda t: f"{t[0]}({t[1]})"),
        st.tuples(inner, inner, inner).map(lambda t: f"({t[0]} if {t[1]} < 1 else {t[2]})"),
    ),
    max_leaves=6,
)
_test = st.recursive(
    st.one_of(
        st.tuples(_number, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), _number)
        .map(" ".join)
        .map(lambda one: f"(1 * {one})"),
        st.sampled_from(
            [
                "word == 'bot'",
                "word != other",
                "word in ('x', 'bot')",
                "other not in ['x']",
                "word is None",
                "a is not None",
            ]
        ),
        st.sampled_from(["missing(a)", "missing(word)", "a in (1, 2.5)", "0 < a <= b < 9", "a"]),
    ),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(
            lambda t: f"({t[0]} {t[1]} {t[2]})"
        ),
        inner.map(lambda one: f"not ({one})"),
    ),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(
    text=st.one_of(_number, _test),
    rows=st.lists(st.tuples(numbers, numbers, numbers, words, words), min_size=1, max_size=5),
)
def test_columns_and_values_agree_in_every_bit(text, rows):
    expression = parse(text, KINDS.get, expected_kind="number")
    names = ("a", "b", "item.x", "word", "other")
    values = [dict(zip(names, row, strict=True)) for row in rows]

    def column(name, kind):
        if kind == "text":
            return np.array(
                [0 if value[name] is None else hash64(value[name]) for value in values], np.uint64
            )
        return np.array([value[name] for value in values], np.float64)

    expected = np.array(
        [evaluate_number(expression, lambda name, kind, one=one: one[name]) for one in values]
    )
    np.testing.assert_array_equal(expression.numbers(column, len(values)), expected)
    holds = [evaluate_truth(expression, lambda name, kind, one=one: one[name]) for one in values]
    assert expression.truths(column, len(values)).tolist() == holds


def test_what_is_missing_equals_nothing_but_none():
    def holds(text):
        expression = parse(text, KINDS.get, expected_kind="truth")
        return evaluate_truth(expression, lambda name, kind: None if kind == "text" else math.nan)

    assert holds("word != 'bot'")
    assert not holds("word == 'bot'")
    assert not holds("a < 5")
    assert holds("not a < 5")
    assert holds("missing(a) and word is None")


def test_logarithms_and_exponentials_are_near_the_true_ones_and_equal_in_columns_and_one_by_one():
    x = np.concatenate(
        (
            np.geomspace(1e-300, 1e300, 2_000),
            np.linspace(-0.99, 3, 2_000),
            np.linspace(-700, 700, 2_001),
            [0.0, -1.0, np.nan, 1e4],
        )
    )
    names = {"log": math.log, "log1p": math.log1p, "exp": math.exp}
    for name, true in names.items():
        expression = parse(f"{name}(a)", KINDS.get, expected_kind="number")
        values = expression.numbers(lambda name, kind: x, len(x))
        one_by_one = [evaluate_number(expression, lambda name, kind, one=one: one) for one in x]
        np.testing.assert_array_equal(values, one_by_one)
        is_finite = np.isfinite(values)
        assert np.count_nonzero(is_finite) > 3_000
        np.testing.assert_allclose(
            values[is_finite], [true(one) for one in x[is_finite]], rtol=4e-15
        )
    assert math.isnan(
        evaluate_number(parse("log(a)", KINDS.get, expected_kind="number"), lambda name, kind: 0.0)
    )


def test_division_by_zero_is_missing():
    assert math.isnan(
        evaluate_number(parse("1 / a", KINDS.get, expected_kind="number"), lambda name, kind: 0.0)
    )


def test_an_attribute_is_what_it_is_compared_with():
    assert parse("item.x == 'red'", KINDS.get, expected_kind="truth").names == (("item.x", "text"),)
    assert parse("item.x > 3", KINDS.get, expected_kind="truth").names == (("item.x", "number"),)


@pytest.mark.parametrize(
    "text",
    [
        "(lambda: 1)()",
        "[a for a in (1,)]",
        "a.__class__",
        "print(a)",
        "a ** 2",
        "f'{a}'",
        "a := 1",
        "a[0]",
        "*a",
        "1j",
        "1e999",
        "a if word else b",
        "'x' + word",
        "word < 'x'",
        "a == 'x'",
        "item.x == item.x",
        "item.x > 1 and item.x == 'a'",
        "a is b",
        "word in (1, 'x')",
        "a in b",
        "min(a)",
        "min(a, b, a)",
        "abs(x=a)",
        "(" * 60 + "a",
        "-" * 40 + "a",
        "a" + " + a" * 200,
    ],
)
def test_anything_outside_the_small_language_is_refused(text):
    with pytest.raises(ExpressionError):
        parse(text, KINDS.get, expected_kind="number")
