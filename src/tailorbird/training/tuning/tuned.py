"""`tuned.toml` in a project's folder: the tuned settings of each slot, which `tailorbird train`
uses.

    [home]
    architecture = "gbdt"
    until = "2026-11-20T08:00:00Z"        # end of the data that took part in the choice
    gain = "+0.0041 (spread 0.0019)"

    [home.settings]
    leaves = 9
    rate = 0.021

The file belongs to the project: commit it, edit it by hand if needed, and remove it to go back to
the defaults.
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

from tailorbird.atomic_write import atomic_write
from tailorbird.errors import ConfigError, UsageError
from tailorbird.events import to_iso
from tailorbird.models.deep.fitting import NETS
from tailorbird.models.deep.parameters import resolve_parameters
from tailorbird.models.gbdt import GbdtSettings
from tailorbird.ranking.own_models import own_estimator_classes
from tailorbird.training.settings import AUTO, TrainSettings

TUNED_FILE = "tuned.toml"
Value = str | int | float | bool

_HEADER = (
    "# What `tailorbird tune` chose, by slot. `tailorbird train` and the trainer take it; "
    "`tailorbird train --untuned` does not.\n"
    "# To undo it, remove the section of a slot, or this file.\n"
)


class TunedSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tuned settings of a slot.

    Attributes:
        until: end of the data that took part in the choice.
        gain: gain over the defaults on the tuning rows, as text.
        settings: settings that were searched or differ from the defaults.
    """

    architecture: str
    until: str
    settings: dict[str, str | int | float | bool]
    gain: str = ""

    @property
    def until_us(self) -> int:
        return round(datetime.fromisoformat(self.until).timestamp() * 1e6)


def read_tuned(path: Path) -> dict[str, TunedSettings]:
    """Return the tuned settings in a file by slot; empty if there is no file.

    Raises:
        ConfigError: the file is invalid.
    """
    try:
        sections = tomllib.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"cannot be read: {error}", where=str(path), fix="mend it, or remove it and tune again"
        ) from None
    try:
        return {
            slot: _check_until(msgspec.convert(section, TunedSettings), slot, path)
            for slot, section in sections.items()
        }
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"{error}", where=str(path), fix="mend it, or remove it and tune again"
        ) from None


def _check_until(tuned: TunedSettings, slot: str, path: Path) -> TunedSettings:
    try:
        until = datetime.fromisoformat(tuned.until)
    except ValueError:
        raise ConfigError(
            f"{slot}.until: expected a time, got {tuned.until!r}", where=str(path)
        ) from None
    if until.tzinfo is None:
        raise ConfigError(
            f"{slot}.until: expected a time with a zone, such as {tuned.until}Z", where=str(path)
        )
    return tuned


def write_tuned(path: Path, slot: str, tuned: TunedSettings) -> None:
    """Replace a slot's section of the file; other slots keep theirs."""
    sections = {**read_tuned(path), slot: tuned}
    text_parts = [_HEADER]
    for name, section in sorted(sections.items()):
        key = name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)
        text_parts.append(
            f"\n[{key}]\narchitecture = {_format_toml(section.architecture)}\n"
            f"until = {_format_toml(section.until)}\n"
        )
        text_parts.append(f"gain = {_format_toml(section.gain)}\n\n[{key}.settings]\n")
        text_parts += [
            f"{setting} = {_format_toml(value)}\n" for setting, value in section.settings.items()
        ]
    atomic_write(path, "".join(text_parts).encode())


def _format_toml(value: Value) -> str:
    return json.dumps(value) if isinstance(value, str | bool) else repr(value)


def apply_tuned(
    settings: TrainSettings, slot: str, path: Path, *, architecture_requested: bool = False
) -> TrainSettings:
    """Return the training settings with a slot's tuned settings applied.

    Args:
        architecture_requested: whether the user chose the architecture; a tuned net of another
            architecture is then ignored.
    Raises:
        ConfigError: the section is invalid for training.
    """
    tuned = read_tuned(path).get(slot)
    if tuned is None:
        return settings
    where = f"{path}: [{slot}.settings]"
    provenance = {
        "tuned": f"{tuned.architecture} as tuned on what came before {tuned.until} ({path.name})",
        "tuned_until": tuned.until_us,
    }
    if tuned.architecture == "gbdt":  # `auto` compares nets with trees, so it uses them too
        uses_trees = settings.architecture in ("gbdt", AUTO)
        return (
            replace(
                settings,
                gbdt=_apply_gbdt_settings(settings.gbdt, tuned.settings, where),
                **provenance,
            )
            if uses_trees
            else settings
        )
    other_architectures = ("logistic", *own_estimator_classes())
    if tuned.architecture not in (*NETS, *other_architectures):
        fix = "train without it: tailorbird train --untuned"
        raise ConfigError(
            f"{slot}.architecture: training does not know {tuned.architecture!r}",
            where=str(path),
            fix=fix,
        )
    if settings.architecture not in (
        *(() if architecture_requested else ("gbdt",)),
        tuned.architecture,
    ):  # another architecture was requested
        return settings
    try:
        if tuned.architecture in NETS:
            resolve_parameters(tuned.architecture, tuned.settings)
    except UsageError as error:
        raise ConfigError(error.message, where=where, fix=error.fix) from None
    return replace(
        settings,
        architecture=tuned.architecture,
        parameters={**tuned.settings, **settings.parameters},
        **provenance,
    )


def _apply_gbdt_settings(
    base_settings: GbdtSettings, overrides: Mapping[str, Any], where: str
) -> GbdtSettings:
    type_by_setting = {
        setting: type(getattr(base_settings, setting))
        for setting in base_settings.__dataclass_fields__
    }
    for setting, value in overrides.items():
        if setting not in type_by_setting:
            raise ConfigError(
                f"trees have no setting {setting!r}",
                where=where,
                fix=f"use {', '.join(type_by_setting)}",
            )
        accepted_types = (
            (int, float) if type_by_setting[setting] is float else (type_by_setting[setting],)
        )
        if not isinstance(value, accepted_types) or isinstance(value, bool):
            raise ConfigError(
                f"{setting}: expected a {type_by_setting[setting].__name__}, got {value!r}",
                where=where,
            )
    return replace(base_settings, **overrides)


def build_tuned(
    architecture: str, settings: Mapping[str, Value], until: int, gain: str
) -> TunedSettings:
    """Return the section of a choice, with floats rounded to six significant digits."""
    rounded_settings = {
        name: float(f"{value:.6g}") if isinstance(value, float) else value
        for name, value in settings.items()
    }
    return TunedSettings(architecture, to_iso(until), rounded_settings, gain)
