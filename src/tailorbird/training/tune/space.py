"""Search spaces as plain data: a range or a list of choices for each setting of an architecture,
from code or from a project's `tune.toml`.

    [gbdt]
    leaves = {low = 4, high = 31, log = true}
    objective = {choices = ["binary", "lambdarank"]}
    rate = 0.05                                        # not looked for: always this

What a file names takes the place of what the architecture would try; other settings are tried as
before. Which settings an architecture has, and what it tries, is in `training.tune.architectures`;
how values are drawn, in `training.tune.study`.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tailorbird.errors import ConfigError, nearest

FILE = "tune.toml"  # in the project's folder
Value = str | int | float | bool


class Range(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Numbers from `low` to `high`, both included; with `log` as many are tried between 1 and 10 as
    between 10 and 100.
    """

    low: float
    high: float
    log: bool = False


class Choices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of several values."""

    choices: tuple[str | int | float | bool, ...]


@dataclass(frozen=True)
class Space:
    """What is tried of an architecture.

    Attributes:
        tried: setting → what values it takes.
        fixed: setting → the one value that it has instead of its default.
        defaults: all settings that can be tried, with their defaults, whose types say what values
            are.
    """

    tried: Mapping[str, Range | Choices]
    fixed: Mapping[str, Value]
    defaults: Mapping[str, Value]

    def clipped(self, settings: Mapping[str, Value]) -> dict[str, Value]:
        """The settings that are tried, each at the nearest value that can be."""
        found: dict[str, Value] = {}
        for name, one in self.tried.items():
            value = settings[name]
            if isinstance(one, Choices):
                found[name] = value if value in one.choices else one.choices[0]
            else:
                near = min(max(float(value), one.low), one.high)
                found[name] = round(near) if self.whole(name) else near
        return found

    def whole(self, name: str) -> bool:
        """Whether a setting is a whole number."""
        return isinstance(self.defaults[name], int) and not isinstance(self.defaults[name], bool)

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "tried": {name: msgspec.to_builtins(one) for name, one in self.tried.items()},
            "fixed": dict(self.fixed),
        }


def overridden(path: Path, spaces: Mapping[str, Space]) -> dict[str, Space]:
    """The spaces with what a file says instead; as they are where there is no such file.

    Raises:
        ConfigError: the file cannot be used; names its line.
    """
    try:
        text = path.read_text()
    except FileNotFoundError:
        return dict(spaces)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", where=str(path)) from None
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not valid TOML: {error}", where=str(path)) from None
    found = dict(spaces)
    for name, section in tree.items():
        if name not in spaces or not isinstance(section, dict):
            raise ConfigError(
                f"unknown architecture {name!r}",
                where=_where(path, text, name),
                fix=_near(name, spaces),
            )
        found[name] = _changed(spaces[name], section, path, text, name)
    return found


def _changed(
    space: Space, section: Mapping[str, Any], path: Path, text: str, architecture: str
) -> Space:
    tried, fixed = dict(space.tried), dict(space.fixed)
    for name, given in section.items():
        where = _where(path, text, architecture, name)
        if name not in space.defaults:
            raise ConfigError(
                f"{architecture} has no setting {name!r}",
                where=where,
                fix=_near(name, space.defaults),
            )
        tried.pop(name, None)
        fixed.pop(name, None)
        if isinstance(given, dict):
            tried[name] = _tried(given, name, space, where)
        else:
            fixed[name] = _typed(given, space.defaults[name], name, where)
    if not tried:
        raise ConfigError(
            f"nothing of {architecture} is left to try", where=_where(path, text, architecture)
        )
    return Space(tried, fixed, space.defaults)


def _tried(given: Mapping[str, Any], name: str, space: Space, where: str) -> Range | Choices:
    try:
        one = msgspec.convert(dict(given), Choices if "choices" in given else Range)
    except msgspec.ValidationError as error:
        fix = f"write {name} = {{low = …, high = …, log = true}}, or {{choices = […]}}"
        raise ConfigError(
            f"{name}: {str(error)[:1].lower()}{str(error)[1:]}", where=where, fix=fix
        ) from None
    default = space.defaults[name]
    if isinstance(one, Choices):
        if not one.choices:
            raise ConfigError(f"{name}: there is nothing to choose from", where=where)
        return Choices(tuple(_typed(each, default, name, where) for each in one.choices))
    if isinstance(default, str | bool):
        raise ConfigError(
            f"{name} is no number, so it has no range",
            where=where,
            fix=f"write {name} = {{choices = […]}}",
        )
    if not one.low < one.high or (one.log and one.low <= 0):
        least = "0 < low < high" if one.log else "low < high"
        raise ConfigError(
            f"{name}: expected {least}, got {one.low:g} and {one.high:g}", where=where
        )
    return one


def _typed(value: Any, default: Value, name: str, where: str) -> Value:
    """The value as its setting holds it."""
    wanted: Any = float if isinstance(default, float) else type(default)
    try:
        return msgspec.convert(value, wanted, strict=not isinstance(default, float))
    except msgspec.ValidationError:
        raise ConfigError(
            f"{name}: expected a value like {default!r}, got {value!r}", where=where
        ) from None


def _near(name: str, known: Mapping[str, Any]) -> str:
    return nearest(name, known, f"use one of {', '.join(known)}")


def _where(path: Path, text: str, section: str, key: str = "") -> str:
    """File and line of a section's heading, or of a key below it."""
    inside, line = False, 0
    for number, row in enumerate(text.splitlines(), 1):
        if heading := re.match(r"\s*\[\s*([^\]]+?)\s*\]", row):
            inside = heading[1] == section
            line = number if inside and not key else line
        elif inside and key and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", row):
            line = number
    return f"{path}:{line}" if line else str(path)
