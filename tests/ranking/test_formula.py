"""Value formulas: what their text means, and what is said of one that cannot be used."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.errors import BundleError, DeclarationError
from tailorbird.ranking import Slot
from tailorbird.ranking.policy.formula import (
    compute_value,
    format_formula,
    parse_formula,
    require_heads,
)

WEIGHTS = st.dictionaries(
    st.sampled_from(["click", "purchase", "dwell_30s", "hide"]),
    st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: x + 0.0),
    min_size=1,
)


@given(WEIGHTS)
def test_a_formatted_formula_parses_back(weights):
    assert parse_formula(format_formula(weights)) == weights


def test_a_value_is_the_weighted_sum_and_leaves_out_what_is_not_predicted():
    heads = {"click": np.array([0.5, 0.1]), "purchase": np.array([0.0, 0.2])}
    assert compute_value(
        heads, parse_formula("1.0*click + 8.0*purchase")
    ).tolist() == pytest.approx([0.5, 1.7])
    assert compute_value(
        heads, parse_formula("click - purchase*2 + 0.002*dwell_s")
    ).tolist() == pytest.approx([0.5, -0.3])
    with pytest.raises(BundleError, match="asks for share"):
        compute_value(heads, {"share": 1.0})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("click + + ) purchase", "column 11: unmatched ')'"),
        ("click * purchase", "column 1: expected a number times a head, got 'click * purchase'"),
        ("click + log(purchase)", "column 9: expected a number times a head"),
        ("click + 2*click", "column 9: 'click' stands there twice"),
        ("1e400*click", "the weight of 'click' is inf"),
        (f"1{'0' * 400}*click", "the weight of 'click' is inf"),
        ("1e308*click + 1e308*purchase", "use a number from -1e+100 to 1e+100"),
        ("", "expected one expression"),
        ("+".join(["click"] * 500), "longer than 1000"),
    ],
)
def test_what_is_no_formula_is_refused_with_its_column(text, expected):
    with pytest.raises(DeclarationError) as error:
        parse_formula(text, where="slot home")
    assert expected in str(error.value)
    assert error.value.where.startswith("slot home, formula")


def test_an_unknown_head_is_named_with_what_is_near():
    with pytest.raises(
        DeclarationError, match="v0003 predicts no 'purchse'; it predicts click, purchase"
    ) as error:
        require_heads(
            parse_formula("click + purchse"), ["click", "purchase"], model="the champion v0003"
        )
    assert error.value.fix == "did you mean purchase?"


def test_a_slot_accepts_a_formula_as_text():
    assert (
        Slot("home", formula="1.0*click + 8.0*purchase").objective
        == Slot("home", objective={"click": 1, "purchase": 8}).objective
    )
    with pytest.raises(DeclarationError, match="expected 1 to 50 heads"):
        Slot("home", objective={})
