"""Read `contract.toml`: additional requirements on a project's events.

    [purchase.price]                 a property of an event type
    required = true
    type = "number"                  number, integer, text or boolean
    min = 0.01
    max = 10000
    [purchase.currency]
    one_of = ["EUR", "NOK"]
    [purchase.order_id]
    unique = true                    `tailorbird checks run` checks it over one day
    [purchase]
    daily_min = 100                  likewise: minimum number of events a day
    fresh_within = "2h"              likewise: maximum age of the newest event at the end of the day

The file is optional and lies next to `tailorbird.toml`.
"""

import math
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from tailorbird.errors import ConfigError, UsageError
from tailorbird.events import parse_duration
from tailorbird.events.contract.envelope import NUMBER_BOUNDS, Event
from tailorbird.events.contract.fields import Bounds, annotations_of
from tailorbird.events.contract.rules import KINDS, Rule, find_violation

FILE = "contract.toml"
_TYPE_KEYS = ("daily_min", "fresh_within")  # of a section [TYPE]
# Of a section [TYPE.PROPERTY].
_PROPERTY_KEYS = ("required", "type", "min", "max", "one_of", "unique")
# Ids and times of the event itself, which a rule on properties cannot mean.
_EVENT_FIELDS = annotations_of(Event, Bounds).keys() - {"properties"}


class EventContract(msgspec.Struct, frozen=True):
    """The content of the file: `rules` go into the route plan, the rest into the daily checks.

    Attributes:
        rules: event type → rules of its properties.
        unique: event type → properties whose values must differ in all events of a day.
        daily_min: event type → minimum number of events a day.
        fresh_within: event type → maximum age of its newest event at the end of a day, µs.
    """

    rules: dict[str, tuple[Rule, ...]] = {}
    unique: dict[str, tuple[str, ...]] = {}
    daily_min: dict[str, int] = {}
    fresh_within: dict[str, int] = {}


def load_contract(file: Path, types: tuple[str, ...]) -> EventContract:
    """Return what the file declares; an empty contract if there is no file.

    Raises:
        ConfigError: the file is invalid; names the event type and the property.
    """
    try:
        tree = tomllib.loads(file.read_text())
    except FileNotFoundError:
        return EventContract()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", where=str(file)) from None
    contract = EventContract({}, {}, {}, {})
    for type_, content in tree.items():
        if type_ not in types:
            raise ConfigError(
                f"[{type_}] is no type of event",
                where=str(file),
                fix="one of your own is declared by events.types",
            )
        if not isinstance(content, dict):
            raise ConfigError(
                f"expected a section [{type_}] or [{type_}.PROPERTY]", where=str(file)
            )
        if type_ == "answer" and (
            properties := [name for name, value in content.items() if isinstance(value, dict)]
        ):
            where = f"{file}: [answer.{properties[0]}]"
            raise ConfigError(
                "answers are the server's own, and would be refused",
                where=where,
                fix="leave it out; [answer] is for days",
            )
        rules = [
            _parse_rule(type_, name, value, file)
            for name, value in content.items()
            if isinstance(value, dict)
        ]
        if rules := [rule for rule in rules if rule != Rule(rule.name)]:
            contract.rules[type_] = tuple(rules)
        if unique := tuple(
            name
            for name, value in content.items()
            if isinstance(value, dict) and value.get("unique")
        ):
            contract.unique[type_] = unique
        _add_type_keys(
            type_,
            {name: value for name, value in content.items() if not isinstance(value, dict)},
            contract,
            file,
        )
    return contract


def _add_type_keys(
    type_: str, content: dict[str, Any], contract: EventContract, file: Path
) -> None:
    for name, value in content.items():
        where = f"{file}: [{type_}] {name}"
        if name == "daily_min" and type(value) is int and value > 0:
            contract.daily_min[type_] = value
        elif name == "fresh_within" and isinstance(value, str):
            try:
                contract.fresh_within[type_] = parse_duration(value)
            except UsageError as error:
                raise ConfigError(error.message, where=where) from None
        elif name in _TYPE_KEYS:
            raise ConfigError(
                "expected "
                f"{'a whole number' if name == 'daily_min' else 'a duration such as 2h'}, "
                f"got {value!r}",
                where=where,
            )
        else:
            fix = (
                f"known: {', '.join(_TYPE_KEYS)}; a property is a section of its own, "
                f"[{type_}.{name}]"
            )
            raise ConfigError(f"unknown key {name}", where=where, fix=fix)


def _parse_rule(type_: str, name: str, content: dict[str, Any], file: Path) -> Rule:
    where = f"{file}: [{type_}.{name}]"
    if name in _EVENT_FIELDS:
        fix = "leave it out: which types need an item or a person is known without it"
        raise ConfigError(
            f"{name} is a field of the event itself, and rules here are for what is in its "
            "properties",
            where=where,
            fix=fix,
        )
    if unknown := [key for key in content if key not in _PROPERTY_KEYS]:
        raise ConfigError(
            f"unknown key {unknown[0]}", where=where, fix=f"known: {', '.join(_PROPERTY_KEYS)}"
        )
    kind = content.get("type", "")
    low = content.get("min")
    high = content.get("max")
    one_of = content.get("one_of", [])
    for key in ("required", "unique"):
        if not isinstance(content.get(key, False), bool):
            raise ConfigError(f"{key} is true or false, got {content[key]!r}", where=where)
    if kind and kind not in KINDS:
        raise ConfigError(f"type is one of {', '.join(KINDS)}, got {kind!r}", where=where)
    for key, bound_value in (("min", low), ("max", high)):
        if bound_value is not None and (
            isinstance(bound_value, bool)
            or not isinstance(bound_value, int | float)
            or not math.isfinite(bound_value)
        ):
            raise ConfigError(f"{key} is a number, got {bound_value!r}", where=where)
    if (low is not None or high is not None) and kind not in ("", "number", "integer"):
        raise ConfigError(f"min and max are for numbers, and the type is {kind}", where=where)
    if low is not None and high is not None and low > high:
        raise ConfigError(f"no number is at least {low} and at most {high}", where=where)
    if not isinstance(one_of, list) or any(
        not isinstance(value, str | int | float | bool) for value in one_of
    ):
        raise ConfigError("one_of is a list of texts and numbers", where=where)
    if one_of == [] and "one_of" in content:
        raise ConfigError(
            "one_of is empty, so that no value would be right",
            where=where,
            fix="name the values, or leave it out",
        )
    if invalid_values := [
        value
        for value in one_of
        if kind and find_violation((Rule(name, kind=kind),), {name: value})
    ]:
        raise ConfigError(f"one_of has {invalid_values[0]!r}, and the type is {kind}", where=where)
    if invalid_values := [
        value
        for value in one_of
        if name in NUMBER_BOUNDS and (isinstance(value, bool) or not isinstance(value, int | float))
    ]:
        raise ConfigError(
            f"{name} is a number everywhere in Tailorbird, and one_of has {invalid_values[0]!r}",
            where=where,
        )
    if name in NUMBER_BOUNDS and kind in ("text", "boolean"):
        raise ConfigError(f"{name} is a number everywhere in Tailorbird", where=where)
    return Rule(name, content.get("required", False), kind, low, high, tuple(one_of))
