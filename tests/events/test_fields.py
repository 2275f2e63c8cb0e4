"""The table of fields: what it says, both checkers do."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tailorbird.events import COLLECTOR, Context, Event, Receipt, RoutePlan, check_body
from tailorbird.events.contract.codes import CODE_DESCRIPTIONS
from tailorbird.events.contract.columnwise import Contract
from tailorbird.events.contract.envelope import COUNTRY_PATTERN, Properties
from tailorbird.events.contract.event_types import FORBIDDEN_TYPES, REQUIRED_FIELDS, RequiredFields
from tailorbird.events.contract.fields import Bounds, annotations_of

NOW = 1_764_072_000_000_000
VIEW = {"event_id": "e1", "type": "view", "user_id": "u1", "item_id": "i1"}
TABLES: dict[str, Any] = {"": Event, "context": Context, "properties": Properties}
BOUNDED = [
    (part, name, bounds)
    for part, table in TABLES.items()
    for name, bounds in annotations_of(table, Bounds).items()
]


@contextmanager
def changed(entry: object, **values: object) -> Iterator[None]:
    """Change an entry of the table for a while."""
    before = {name: getattr(entry, name) for name in values}
    for name, value in values.items():
        object.__setattr__(entry, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            object.__setattr__(entry, name, value)


def refusal(event: dict[str, Any], source: str = "import") -> tuple[str, str] | None:
    """Return code and path by which both checkers refuse an event, or None."""
    body = json.dumps([event, *[VIEW] * 40]).encode()
    receipt = Receipt(NOW, source)
    refused = check_body(body, receipt, RoutePlan())[1]
    columns = Contract(RoutePlan()).check_bodies([(body, receipt)])
    assert [one for _, one in columns.refusals] == refused
    return next(((one.code, one.path) for one in refused if one.row == 0), None)


def sample(bounds: Bounds) -> tuple[Any, int]:
    """Return a value within the bounds, and its size."""
    if bounds.unit == "characters":
        return "xyz", 3
    if bounds.unit == "items":
        return ["i1", "i2", "i3"], 3
    if bounds.unit == "bytes":
        return {"note": "x" * 30}, len('{"note":"') + 30 + len('"}')
    return (NOW, NOW) if bounds.code == "bad_time" else (7, 7)


@pytest.mark.parametrize(("part", "name", "bounds"), BOUNDED, ids=lambda one: str(one)[:20])
def test_both_checkers_follow_the_bounds_of_every_field(part, name, bounds) -> None:
    value, size = sample(bounds)
    event = VIEW | ({part: {name: value}} if part else {name: value})
    path = f"$.{part}.{name}" if part else f"$.{name}"
    assert bounds.code in CODE_DESCRIPTIONS
    assert refusal(event) is None
    with changed(bounds, high=size - 1, code="changed"):
        assert refusal(event) == ("changed", path)
    if bounds.unit != "bytes":
        with changed(bounds, low=size + 1, code="changed"):
            refused = refusal(event)
            # every id is too short then, and the first one is named
            assert refused == ("changed", path) or refused == ("changed", "$.event_id")


def test_both_follow_the_form_of_a_country_what_types_need_and_who_may_send_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    swedish = VIEW | {"context": {"country": "SE"}}
    assert refusal(swedish) is refusal(VIEW) is refusal(VIEW, COLLECTOR) is None
    with changed(COUNTRY_PATTERN, regex=re.compile(r"NO\Z")):
        assert refusal(swedish) == ("bad_country", "$.context.country")
    monkeypatch.setitem(FORBIDDEN_TYPES, COLLECTOR, ("view",))
    assert refusal(VIEW, COLLECTOR) == ("browser_key", "$.type")
    monkeypatch.setitem(
        REQUIRED_FIELDS, "view", (RequiredFields(("session_id", "request_id"), "a visit"),)
    )
    assert refusal(VIEW) == ("missing", "$.session_id")
    assert refusal(VIEW | {"request_id": "r1"}) is None
