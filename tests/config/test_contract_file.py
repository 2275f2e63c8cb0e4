"""`contract.toml`: what can be declared, and how a slip of the pen is named."""

import pytest

from tailorbird.cli.init import init
from tailorbird.config import open_project
from tailorbird.config.contract_file import EventContract, load_contract
from tailorbird.errors import ConfigError
from tailorbird.events import EVENT_TYPES, HOUR
from tailorbird.events.contract.rules import Rule

TEXT = """
[purchase]
daily_min = 100
fresh_within = "2h"
[purchase.price]
required = true
type = "number"
min = 0.01
[purchase.currency]
one_of = ["EUR", "NOK"]
[purchase.order_id]
unique = true
"""


def load(tmp_path, text):
    (tmp_path / "contract.toml").write_text(text)
    return load_contract(tmp_path / "contract.toml", EVENT_TYPES)


def test_server_events_cannot_be_refused(tmp_path):
    with pytest.raises(ConfigError, match="answers are the server's own") as caught:
        load(tmp_path, "[answer.currency]\nrequired = true")
    assert caught.value.where.endswith("[answer.currency]")
    assert load(tmp_path, "[answer]\ndaily_min = 5").daily_min == {"answer": 5}


def test_everything_that_can_be_declared(tmp_path):
    assert load(tmp_path, TEXT) == EventContract(
        {
            "purchase": (
                Rule("price", True, "number", 0.01),
                Rule("currency", one_of=("EUR", "NOK")),
            )
        },
        {"purchase": ("order_id",)},
        {"purchase": 100},
        {"purchase": 2 * HOUR},
    )


def test_without_a_file_nothing_is_declared(tmp_path):
    assert load_contract(tmp_path / "contract.toml", EVENT_TYPES) == EventContract()


def test_the_rules_of_a_project_stand_in_its_plan(tmp_path):
    init(tmp_path / "shop", json=True)
    (tmp_path / "shop" / "contract.toml").write_text(TEXT)
    assert open_project(tmp_path / "shop").plan.rules["purchase"][0] == Rule(
        "price", True, "number", 0.01
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[bought.price]\nrequired = true", r"\[bought\] is no type"),
        ("[purchase]\nprice = 3", "unknown key price"),
        ("[purchase]\ndaily_min = 'many'", "expected a whole number"),
        ("[purchase]\nfresh_within = 'soon'", "expected a duration"),
        ("[purchase.price]\nmandatory = true", r"unknown key mandatory"),
        ("[purchase.price]\nrequired = 'yes'", "true or false"),
        ("[purchase.price]\ntype = 'money'", "type is one of"),
        ("[purchase.price]\nmin = '3'", "min is a number"),
        ("[purchase.price]\nmin = 3\nmax = 2", "no number is at least 3"),
        ("[purchase.price]\nmin = nan", "min is a number"),
        ("[purchase.price]\nmax = inf", "max is a number"),
        ("[purchase.note]\ntype = 'text'\nmin = 3", "for numbers"),
        ("[purchase.price]\ntype = 'text'", "price is a number everywhere"),
        ("[purchase.note]\none_of = 'a'", "one_of is a list"),
        ("[purchase.note]\none_of = []", "one_of is empty"),
        ("[purchase.note]\ntype = 'number'\none_of = ['EUR']", "one_of has 'EUR'"),
        ("[purchase.price]\none_of = ['cheap']", "price is a number everywhere"),
        ("[click.item_id]\nrequired = true", "item_id is a field of the event itself"),
        ("[purchase.event_id]\nunique = true", "event_id is a field of the event itself"),
        ("[purchase", "cannot be read"),
    ],
)
def test_a_slip_of_the_pen_is_named(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, text)
