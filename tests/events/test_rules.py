"""Declared property rules are checked identically in collector and router."""

import json

import pytest

from tailorbird.events import Receipt, RoutePlan, SimulatedClock, check_body
from tailorbird.events.contract.rules import Rule
from tailorbird.router import Router
from tailorbird.router.columns import to_table
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.stream import open_reader, routed_path

NOW = 1_764_072_000_000_000
RULES = {
    "purchase": (
        Rule("price", required=True, kind="number", low=0.01, high=500),
        Rule("currency", one_of=("EUR", "NOK")),
        Rule("pieces", kind="integer"),
        Rule("note", kind="text"),
        Rule("gift", kind="boolean"),
    )
}
PLAN = RoutePlan(rules=RULES)
GOOD = {"price": 19.9, "currency": "EUR", "pieces": 2, "note": "", "gift": False}


def event(event_id, **properties):
    return {
        "event_id": event_id,
        "type": "purchase",
        "user_id": "u",
        "item_id": "i",
        "properties": properties,
    }


BROKEN = [
    ({"price": None}, "missing", "$.properties.price"),
    ({"price": "19.9"}, "wrong_type", "$.properties.price"),
    ({"price": True}, "wrong_type", "$.properties.price"),
    ({"price": 0}, "number_out_of_range", "$.properties.price"),
    ({"price": 500.01}, "number_out_of_range", "$.properties.price"),
    ({"currency": "USD"}, "not_allowed", "$.properties.currency"),
    ({"currency": ["EUR"]}, "not_allowed", "$.properties.currency"),
    ({"pieces": 1.5}, "wrong_type", "$.properties.pieces"),
    ({"note": 7}, "wrong_type", "$.properties.note"),
    ({"gift": 1}, "wrong_type", "$.properties.gift"),
]


@pytest.mark.parametrize(
    "good",
    [GOOD, {"price": 0.01}, {"price": 500, "pieces": 2.0, "currency": None, "more": {"a": 1}}],
)
def test_what_keeps_the_rules_is_accepted(good):
    accepted, refused = check_body(json.dumps(event("e", **good)).encode(), Receipt(NOW), PLAN)
    assert (len(accepted), refused) == (1, [])


@pytest.mark.parametrize(("change", "code", "path"), BROKEN)
def test_what_breaks_one_is_refused_with_code_and_path(change, code, path):
    accepted, refused = check_body(
        json.dumps(event("e", **{**GOOD, **change})).encode(), Receipt(NOW), PLAN
    )
    assert accepted == []
    assert (refused[0].code, refused[0].path) == (code, path)


def test_other_types_and_other_plans_are_not_concerned():
    view = {"event_id": "e", "type": "view", "user_id": "u", "item_id": "i"}
    assert check_body(json.dumps(view).encode(), Receipt(NOW), PLAN)[1] == []
    assert check_body(json.dumps(event("e")).encode(), Receipt(NOW), RoutePlan())[1] == []
    assert PLAN.version != RoutePlan().version


def test_the_collector_responds_with_the_quarantine_reason(tmp_path):
    stream, clock = tmp_path / "stream", SimulatedClock(NOW)
    body = json.dumps(
        [
            event("good", **GOOD),
            *(event(f"e{n}", **{**GOOD, **change}) for n, (change, *_) in enumerate(BROKEN)),
        ]
    ).encode()
    with EventCollector(stream, "collector", PLAN, clock) as collector:
        decided = collector.submit(body)
    assert [each.accepted for each in decided] == [True] + [False] * len(BROKEN)
    answered = [(each.code, each.path) for each in decided[1:]]
    with Router(stream, PLAN, clock=clock) as router:
        assert router.step().accepted == 1
    with open_reader(routed_path(stream)) as reader:
        (block,) = [stored.block for stored in reader.read(1) if stored.block.kind == "quarantine"]
    rows = to_table(block).to_pylist()
    assert (
        [(row["code"], row["path"]) for row in rows]
        == answered
        == [(code, path) for _, code, path in BROKEN]
    )
    assert json.loads(rows[0]["body"])["event_id"] == "e0", "it is kept whole"
