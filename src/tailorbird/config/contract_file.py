"""`contract.toml`: what a project's events must be beyond what Tailorbird asks of them. An optional
file beside `tailorbird.toml`.

[purchase.price]                 a property of a type of event
required = true
type = "number"                  number, integer, text or boolean
min = 0.01
max = 10000
[purchase.currency]
one_of = ["EUR", "NOK"]
[purchase.order_id]
unique = true                    checked by `tailorbird checks run`, over a day
[purchase]
daily_min = 100                  likewise: events a day, at least
fresh_within = "2h"              likewise: the newest is no older at the end of the day
"""

import math
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from tailorbird.errors import ConfigError, UsageError
from tailorbird.events import parse_duration
from tailorbird.events.contract import NUMBERS
from tailorbird.events.rules import KINDS, Rule, find_violation

FILE = "contract.toml"
_OF_TYPE = ("daily_min", "fresh_within")
_OF_PROPERTY = ("required", "type", "min", "max", "one_of", "unique")
# What stands in an event beside its properties, under names that nobody gives a property by
# intention.
_OF_EVENT = (
    "event_id",
    "ts",
    "sent_at",
    "received_at",
    "user_id",
    "anonymous_id",
    "session_id",
    "item_id",
    "items",
    "request_id",
)


class Declared(msgspec.Struct, frozen=True):
    """The file's content. `rules` go into the route plan; the rest is for the daily checks.

    Attributes:
        rules: type → what its properties must be.
        unique: type → properties whose values are different in all events of a day.
        daily_min: type → events a day, at least.
        fresh_within: type → how old its newest event may be at the end of a day, microseconds.
    """

    rules: dict[str, tuple[Rule, ...]] = {}
    unique: dict[str, tuple[str, ...]] = {}
    daily_min: dict[str, int] = {}
    fresh_within: dict[str, int] = {}


def load_contract(file: Path, types: tuple[str, ...]) -> Declared:
    """What the file declares; nothing if it is not there.

    Raises:
        ConfigError: it cannot be used; names the type and the property.
    """
    try:
        tree = tomllib.loads(file.read_text())
    except FileNotFoundError:
        return Declared()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", where=str(file)) from None
    found = Declared({}, {}, {}, {})
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
            _rule(type_, name, value, file)
            for name, value in content.items()
            if isinstance(value, dict)
        ]
        if rules := [rule for rule in rules if rule != Rule(rule.name)]:
            found.rules[type_] = tuple(rules)
        if unique := tuple(
            name
            for name, value in content.items()
            if isinstance(value, dict) and value.get("unique")
        ):
            found.unique[type_] = unique
        _take_of_type(
            type_,
            {name: value for name, value in content.items() if not isinstance(value, dict)},
            found,
            file,
        )
    return found


def _take_of_type(type_: str, content: dict[str, Any], found: Declared, file: Path) -> None:
    for name, value in content.items():
        where = f"{file}: [{type_}] {name}"
        if name == "daily_min" and type(value) is int and value > 0:
            found.daily_min[type_] = value
        elif name == "fresh_within" and isinstance(value, str):
            try:
                found.fresh_within[type_] = parse_duration(value)
            except UsageError as error:
                raise ConfigError(error.message, where=where) from None
        elif name in _OF_TYPE:
            raise ConfigError(
                "expected "
                f"{'a whole number' if name == 'daily_min' else 'a duration such as 2h'}, "
                f"got {value!r}",
                where=where,
            )
        else:
            fix = (
                f"known: {', '.join(_OF_TYPE)}; a property is a section of its own, "
                f"[{type_}.{name}]"
            )
            raise ConfigError(f"unknown key {name}", where=where, fix=fix)


def _rule(type_: str, name: str, content: dict[str, Any], file: Path) -> Rule:
    where = f"{file}: [{type_}.{name}]"
    if name in _OF_EVENT:
        fix = "leave it out: which types need an item or a person is known without it"
        raise ConfigError(
            f"{name} is a field of the event itself, and rules here are for what is in its "
            "properties",
            where=where,
            fix=fix,
        )
    if unknown := [key for key in content if key not in _OF_PROPERTY]:
        raise ConfigError(
            f"unknown key {unknown[0]}", where=where, fix=f"known: {', '.join(_OF_PROPERTY)}"
        )
    kind, low, high, one_of = (
        content.get("type", ""),
        content.get("min"),
        content.get("max"),
        content.get("one_of", []),
    )
    for key in ("required", "unique"):
        if not isinstance(content.get(key, False), bool):
            raise ConfigError(f"{key} is true or false, got {content[key]!r}", where=where)
    if kind and kind not in KINDS:
        raise ConfigError(f"type is one of {', '.join(KINDS)}, got {kind!r}", where=where)
    for key, bound in (("min", low), ("max", high)):
        if bound is not None and (
            isinstance(bound, bool)
            or not isinstance(bound, int | float)
            or not math.isfinite(bound)
        ):
            raise ConfigError(f"{key} is a number, got {bound!r}", where=where)
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
    if wrong := [
        value
        for value in one_of
        if kind and find_violation((Rule(name, kind=kind),), {name: value})
    ]:
        raise ConfigError(f"one_of has {wrong[0]!r}, and the type is {kind}", where=where)
    if wrong := [
        value
        for value in one_of
        if name in NUMBERS and (isinstance(value, bool) or not isinstance(value, int | float))
    ]:
        raise ConfigError(
            f"{name} is a number everywhere in Tailorbird, and one_of has {wrong[0]!r}", where=where
        )
    if name in NUMBERS and kind in ("text", "boolean"):
        raise ConfigError(f"{name} is a number everywhere in Tailorbird", where=where)
    return Rule(name, content.get("required", False), kind, low, high, tuple(one_of))
