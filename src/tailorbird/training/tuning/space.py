"""Search spaces as plain data: a range or choices for each setting, from code or `tune.toml`.

    [gbdt]
    leaves = {low = 4, high = 31, log = true}
    objective = {choices = ["binary", "lambdarank"]}
    rate = 0.05                                        # fixed

A setting in the file replaces the architecture's own dimension; other settings are searched as
before. `training.tuning.architectures` lists the settings of each architecture, and
`training.tuning.study` draws values.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tailorbird.errors import ConfigError, suggest_name
from tailorbird.models.space import Choices, Range, Value

SPACE_FILE = "tune.toml"  # in the project's folder


@dataclass(frozen=True)
class SearchSpace:
    """The search space of an architecture.

    Attributes:
        dimensions: setting → its possible values.
        fixed: setting → its value in place of the default.
        defaults: all tunable settings with their defaults, which also give the types.
    """

    dimensions: Mapping[str, Range | Choices]
    fixed: Mapping[str, Value]
    defaults: Mapping[str, Value]

    def clip(self, settings: Mapping[str, Value]) -> dict[str, Value]:
        """Return the searched settings, each clipped to the nearest allowed value."""
        clipped_settings: dict[str, Value] = {}
        for name, dimension in self.dimensions.items():
            value = settings[name]
            if isinstance(dimension, Choices):
                clipped_settings[name] = (
                    value if value in dimension.choices else dimension.choices[0]
                )
            else:
                clamped = min(max(float(value), dimension.low), dimension.high)
                clipped_settings[name] = round(clamped) if self.is_integer(name) else clamped
        return clipped_settings

    def is_integer(self, name: str) -> bool:
        """Return whether a setting takes integers."""
        return isinstance(self.defaults[name], int) and not isinstance(self.defaults[name], bool)

    def to_dict(self) -> dict[str, Any]:
        """Return the space as JSON."""
        return {
            "tried": {
                name: msgspec.to_builtins(dimension) for name, dimension in self.dimensions.items()
            },
            "fixed": dict(self.fixed),
        }


def override_spaces(path: Path, spaces: Mapping[str, SearchSpace]) -> dict[str, SearchSpace]:
    """Return the spaces with a file's overrides; unchanged if there is no such file.

    Raises:
        ConfigError: the file is invalid; the message names its line.
    """
    try:
        text = path.read_text()
    except FileNotFoundError:
        return dict(spaces)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", where=str(path)) from None
    try:
        sections = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not valid TOML: {error}", where=str(path)) from None
    merged_spaces = dict(spaces)
    for architecture, section in sections.items():
        if architecture not in spaces or not isinstance(section, dict):
            raise ConfigError(
                f"unknown architecture {architecture!r}",
                where=_locate_key(path, text, architecture),
                fix=_suggest(architecture, spaces),
            )
        merged_spaces[architecture] = _override_space(
            spaces[architecture], section, path, text, architecture
        )
    return merged_spaces


def _override_space(
    space: SearchSpace, section: Mapping[str, Any], path: Path, text: str, architecture: str
) -> SearchSpace:
    dimensions = dict(space.dimensions)
    fixed = dict(space.fixed)
    for setting, override in section.items():
        where = _locate_key(path, text, architecture, setting)
        if setting not in space.defaults:
            raise ConfigError(
                f"{architecture} has no setting {setting!r}",
                where=where,
                fix=_suggest(setting, space.defaults),
            )
        dimensions.pop(setting, None)
        fixed.pop(setting, None)
        if isinstance(override, dict):
            dimensions[setting] = _parse_dimension(override, setting, space, where)
        else:
            fixed[setting] = _convert_value(override, space.defaults[setting], setting, where)
    if not dimensions:
        raise ConfigError(
            f"nothing of {architecture} is left to try", where=_locate_key(path, text, architecture)
        )
    return SearchSpace(dimensions, fixed, space.defaults)


def _parse_dimension(
    override: Mapping[str, Any], setting: str, space: SearchSpace, where: str
) -> Range | Choices:
    try:
        dimension = msgspec.convert(dict(override), Choices if "choices" in override else Range)
    except msgspec.ValidationError as error:
        fix = f"write {setting} = {{low = …, high = …, log = true}}, or {{choices = […]}}"
        raise ConfigError(
            f"{setting}: {str(error)[:1].lower()}{str(error)[1:]}", where=where, fix=fix
        ) from None
    default = space.defaults[setting]
    if isinstance(dimension, Choices):
        if not dimension.choices:
            raise ConfigError(f"{setting}: there is nothing to choose from", where=where)
        return Choices(
            tuple(_convert_value(choice, default, setting, where) for choice in dimension.choices)
        )
    if isinstance(default, str | bool):
        raise ConfigError(
            f"{setting} is no number, so it has no range",
            where=where,
            fix=f"write {setting} = {{choices = […]}}",
        )
    if not dimension.low < dimension.high or (dimension.log and dimension.low <= 0):
        expected_order = "0 < low < high" if dimension.log else "low < high"
        raise ConfigError(
            f"{setting}: expected {expected_order}, got {dimension.low:g} and {dimension.high:g}",
            where=where,
        )
    return dimension


def _convert_value(value: Any, default: Value, setting: str, where: str) -> Value:
    """Convert a value to the type of its setting."""
    target_type: Any = float if isinstance(default, float) else type(default)
    try:
        return msgspec.convert(value, target_type, strict=not isinstance(default, float))
    except msgspec.ValidationError:
        raise ConfigError(
            f"{setting}: expected a value like {default!r}, got {value!r}", where=where
        ) from None


def _suggest(name: str, valid_names: Mapping[str, Any]) -> str:
    return suggest_name(name, valid_names, f"use one of {', '.join(valid_names)}")


def _locate_key(path: Path, text: str, section: str, key: str = "") -> str:
    """Return file and line of a section's heading, or of a key below it."""
    is_in_section = False
    key_line = 0
    for line_number, text_line in enumerate(text.splitlines(), 1):
        if heading := re.match(r"\s*\[\s*([^\]]+?)\s*\]", text_line):
            is_in_section = heading[1] == section
            key_line = line_number if is_in_section and not key else key_line
        elif is_in_section and key and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", text_line):
            key_line = line_number
    return f"{path}:{key_line}" if key_line else str(path)
