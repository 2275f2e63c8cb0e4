"""`tuned.toml` in a project's folder: what tuning chose for each slot, where `tailorbird train`
takes it from.

    [home]
    architecture = "gbdt"
    until = "2026-11-20T08:00:00Z"        # nothing later had a say
    gain = "+0.0041 (spread 0.0019)"
    [home.settings]
    leaves = 9
    rate = 0.021

The file is the project's: it is kept with the code, changed by hand if need be, and removed to go
back to the defaults.
"""

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from tailorbird.errors import ConfigError, UsageError
from tailorbird.events import to_iso
from tailorbird.models.architectures import DEEP
from tailorbird.models.deep.parameters import settled
from tailorbird.models.gbdt import GbdtSettings
from tailorbird.training.settings import AUTO, TrainSettings
from tailorbird.whole import write_whole

FILE = "tuned.toml"
Value = str | int | float | bool

_HEAD = """# What `tailorbird tune` chose, by slot. `tailorbird train` and the trainer take it; `tailorbird train --untuned` does not.
# To undo it, remove the section of a slot, or this file.
"""


class Tuned(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was chosen for a slot.

    Attributes:
        until: the moment that nothing that had a say was later than.
        gain: over the defaults, on the rows that it was chosen by, for people.
        settings: those that differ from the defaults, or were tried.
    """

    architecture: str
    until: str
    settings: dict[str, str | int | float | bool]
    gain: str = ""

    @property
    def until_us(self) -> int:
        return round(datetime.fromisoformat(self.until).timestamp() * 1e6)


def read_tuned(path: Path) -> dict[str, Tuned]:
    """What a file holds by slot; nothing where there is none.

    Raises:
        ConfigError: the file cannot be used.
    """
    try:
        tree = tomllib.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"cannot be read: {error}", where=str(path), fix="mend it, or remove it and tune again"
        ) from None
    try:
        return {
            slot: _checked(msgspec.convert(section, Tuned), slot, path)
            for slot, section in tree.items()
        }
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"{error}", where=str(path), fix="mend it, or remove it and tune again"
        ) from None


def _checked(one: Tuned, slot: str, path: Path) -> Tuned:
    try:
        moment = datetime.fromisoformat(one.until)
    except ValueError:
        raise ConfigError(
            f"{slot}.until: expected a time, got {one.until!r}", where=str(path)
        ) from None
    if moment.tzinfo is None:
        raise ConfigError(
            f"{slot}.until: expected a time with a zone, such as {one.until}Z", where=str(path)
        )
    return one


def write_tuned(path: Path, slot: str, one: Tuned) -> None:
    """Put what was chosen for a slot in the place of what stood there; other slots stay as they
    are.
    """
    found = {**read_tuned(path), slot: one}
    parts = [_HEAD]
    for name, each in sorted(found.items()):
        key = name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)
        parts.append(
            f"\n[{key}]\narchitecture = {_toml(each.architecture)}\nuntil = {_toml(each.until)}\n"
        )
        parts.append(f"gain = {_toml(each.gain)}\n\n[{key}.settings]\n")
        parts += [f"{setting} = {_toml(value)}\n" for setting, value in each.settings.items()]
    write_whole(path, "".join(parts).encode())


def _toml(value: Value) -> str:
    return json.dumps(value) if isinstance(value, str | bool) else repr(value)


def with_tuned(
    settings: TrainSettings, slot: str, path: Path, *, asked: bool = False
) -> TrainSettings:
    """The settings with what a file holds for a slot.

    Args:
        asked: whether the architecture of the settings was asked for: a tuned net then takes no
            other's place, that of trees neither.
    Raises:
        ConfigError: it holds what no training can take.
    """
    one = read_tuned(path).get(slot)
    if one is None:
        return settings
    where = f"{path}: [{slot}.settings]"
    told = {
        "tuned": f"{one.architecture} as tuned on what came before {one.until} ({path.name})",
        "tuned_until": one.until_us,
    }
    if one.architecture == "gbdt":  # which `auto` compares nets with
        used = settings.architecture in ("gbdt", AUTO)
        return (
            replace(settings, gbdt=_gbdt(settings.gbdt, one.settings, where), **told)
            if used
            else settings
        )
    if one.architecture not in DEEP:
        fix = "train without it: tailorbird train --untuned"
        raise ConfigError(
            f"{slot}.architecture: training does not know {one.architecture!r}",
            where=str(path),
            fix=fix,
        )
    if settings.architecture not in (
        *(() if asked else ("gbdt",)),
        one.architecture,
    ):  # another one was asked for
        return settings
    try:
        settled(one.architecture, one.settings)
    except UsageError as error:
        raise ConfigError(error.message, where=where, fix=error.fix) from None
    return replace(
        settings,
        architecture=one.architecture,
        parameters={**one.settings, **settings.parameters},
        **told,
    )


def _gbdt(base: GbdtSettings, given: Mapping[str, Any], where: str) -> GbdtSettings:
    names = {name: type(getattr(base, name)) for name in base.__dataclass_fields__}
    for name, value in given.items():
        if name not in names:
            raise ConfigError(
                f"trees have no setting {name!r}", where=where, fix=f"use {', '.join(names)}"
            )
        kinds = (int, float) if names[name] is float else (names[name],)
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise ConfigError(
                f"{name}: expected a {names[name].__name__}, got {value!r}", where=where
            )
    return replace(base, **given)


def tuned_of(architecture: str, settings: Mapping[str, Value], until: int, gain: str) -> Tuned:
    """What is written of a choice; figures with as many digits as say something."""
    rounded = {
        name: float(f"{value:.6g}") if isinstance(value, float) else value
        for name, value in settings.items()
    }
    return Tuned(architecture, to_iso(until), rounded, gain)
