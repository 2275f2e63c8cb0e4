"""Load settings: `tailorbird.toml`, overlaid by environment variables.

    [serve]                      TAILORBIRD_SERVE__PORT=9000
    port = 8642

The name of a variable is the path in the file in upper case, with `__` between section and key.
Unknown keys are refused with a suggestion. Durations are written `30m`, `6h`, `7d`. Projects are
found and loaded by `config.project`.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from tailorbird.config.data_settings import (
    EventsSection,
    FeaturesSection,
    LakeSection,
    RouterSection,
    StoreSection,
    StreamSection,
)
from tailorbird.config.rollout_settings import (
    EACH_STEP,
    CanarySection,
    MonitoringSection,
    NotifySection,
    RegistrySection,
    RolloutSection,
)
from tailorbird.config.serve_settings import ServeSection
from tailorbird.config.training_settings import (
    ChecksSection,
    ScoreSection,
    SearchSection,
    TrainSection,
)
from tailorbird.errors import ConfigError, UsageError, suggest_name
from tailorbird.events import parse_duration
from tailorbird.events.schedule import check_schedule

ENV_PREFIX = "TAILORBIRD_"
# Variables that are not settings of a project.
_NON_SETTING_NAMES = (
    "CHROMIUM",
    "DATA",
    "DEBUG",
    "FAULTS",
    "HEARTBEAT",
    "LISTENER",
    "KEY",
    "PARENT",
    "PEERS",
    "PROJECT",
    "TEST_KAFKA",
)
NON_SETTING_VARIABLES = frozenset(f"TAILORBIRD_{name}" for name in _NON_SETTING_NAMES)


class ProjectSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: Annotated[str, Meta(description="name of the project on pages and in reports")] = "shop"
    owner: Annotated[
        str,
        Meta(description="owner of the models, such as a team's address; printed in model cards"),
    ] = ""
    data: Annotated[str, Meta(description="folder of all stored data, relative to the project")] = (
        "data"
    )


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    project: ProjectSection = ProjectSection()
    events: EventsSection = EventsSection()
    serve: ServeSection = ServeSection()
    stream: StreamSection = StreamSection()
    router: RouterSection = RouterSection()
    store: StoreSection = StoreSection()
    features: FeaturesSection = FeaturesSection()
    lake: LakeSection = LakeSection()
    score: ScoreSection = ScoreSection()
    checks: ChecksSection = ChecksSection()
    search: SearchSection = SearchSection()
    train: TrainSection = TrainSection()
    canary: CanarySection = CanarySection()
    rollout: RolloutSection = RolloutSection()
    monitoring: MonitoringSection = MonitoringSection()
    notify: NotifySection = NotifySection()
    registry: RegistrySection = RegistrySection()


SECRET_SETTINGS = frozenset(
    (
        "serve.write_keys",
        "serve.read_keys",
        "serve.admin_keys",
        "store.url",
        "store.replica",
        "store.password",
        "events.pseudonym_key",
        "checks.alert",
        "stream.key_password",
        "stream.sasl_password",
        "stream.client",
        "notify.urls",
    )
)
_DURATION_SETTINGS = (
    "events.skew",
    "events.lateness",
    "events.dedup",
    "events.answer",
    "serve.drain_for",
    "serve.keep_alive",
    "stream.timeout",
    "stream.session",
    "store.stale_after",
    "lake.commit_every",
    "lake.history",
    "score.keep",
    "checks.after",
    "train.window",
    "train.check_every",
    "train.every",
    "rollout.limit",
    "rollout.cooldown",
    "notify.repeat",
)
_OPTIONAL_DURATION_SETTINGS = ("train.every",)
_SCHEDULE_SETTINGS = ("train.every",)  # a duration, or a cron expression


class SettingWithSource(msgspec.Struct, frozen=True):
    """A setting as `config show` prints it."""

    key: str
    value: Any
    source: str
    description: str


def load_settings(
    file: Path, environ: Mapping[str, str] | None = None
) -> tuple[Settings, list[SettingWithSource]]:
    """Return the settings of a project and the source of each value.

    Raises:
        ConfigError: the file is not TOML, or a key or value is invalid; names file and line, or
            the variable.
    """
    environ = os.environ if environ is None else environ
    text = _read_settings_file(file)
    try:
        settings_tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not valid TOML: {error}", where=str(file)) from None
    line_by_key = _line_numbers(text)
    source_by_key = {key: f"{file.name}:{line}" for key, line in line_by_key.items()}
    _check_keys(settings_tree, file, line_by_key)
    _overlay_environment(settings_tree, source_by_key, environ)
    if settings_tree.get("rollout", {}).get("approval") in (EACH_STEP, [EACH_STEP]):
        settings_tree["rollout"]["approval"] = _allowed_values("rollout.approval")
    try:
        settings = msgspec.convert(settings_tree, Settings, strict=False)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$.")
        key = path.rstrip("`").partition("[")[0]
        raise ConfigError(
            f"{key}: {message[:1].lower()}{message[1:]}",
            where=_locate_setting(key, file, source_by_key),
            fix=f"use {', '.join(values)}" if (values := _allowed_values(key)) else "",
        ) from None
    _check_durations(settings, file, source_by_key)
    return settings, _list_settings(settings, source_by_key)


def _read_settings_file(file: Path) -> str:
    try:
        return file.read_text()
    except FileNotFoundError:
        raise ConfigError(
            "no such file", where=str(file), fix="tailorbird init DIR makes a project"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", where=str(file)) from None


def _line_numbers(text: str) -> dict[str, int]:
    """Return the line of each section and of each `section.key`.

    Only flat sections are parsed, because a project's file has nothing else.
    """
    section = ""
    line_numbers = {}
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith("[") and "]" in stripped:
            section = stripped[1 : stripped.index("]")].strip()
            line_numbers[section] = number
        elif "=" in stripped and not stripped.startswith("#"):
            key = stripped.partition("=")[0].strip()
            line_numbers[f"{section}.{key}" if section else key] = number
    return line_numbers


def _allowed_keys_by_section() -> dict[str, list[str]]:
    return {
        section.name: [entry.name for entry in msgspec.structs.fields(section.type)]  # type: ignore[arg-type]
        for section in msgspec.structs.fields(Settings)
    }


def _check_keys(settings_tree: dict[str, Any], file: Path, line_by_key: dict[str, int]) -> None:
    keys_by_section = _allowed_keys_by_section()
    for section, content in settings_tree.items():
        if section not in keys_by_section:
            raise _unknown_name(
                "section", section, list(keys_by_section), f"{file}:{line_by_key.get(section, 1)}"
            )
        if not isinstance(content, dict):
            raise ConfigError(
                f"expected a section [{section}]", where=f"{file}:{line_by_key.get(section, 1)}"
            )
        for key in content:
            if key not in keys_by_section[section]:
                raise _unknown_name(
                    "key",
                    f"{section}.{key}",
                    [f"{section}.{name}" for name in keys_by_section[section]],
                    f"{file}:{line_by_key.get(f'{section}.{key}', 1)}",
                )


def _allowed_values(setting: str) -> list[str]:
    """Return the values that a setting allows, or that each of its list does; [] for any."""
    section, _, key = setting.partition(".")
    type_hint = get_type_hints(type(getattr(Settings(), section, None))).get(key)
    literals = [
        type_hint_part
        for type_hint_part in (type_hint, *get_args(type_hint))
        if get_origin(type_hint_part) is Literal
    ]
    return [str(value) for type_hint_part in literals for value in get_args(type_hint_part)]


def _unknown_name(kind: str, name: str, names: list[str], where: str) -> ConfigError:
    hint = suggest_name(name, names, f"known: {', '.join(names)}", cutoff=0.5)
    return ConfigError(f"unknown {kind} {name}; {hint}", where=where)


def _overlay_environment(
    settings_tree: dict[str, Any], source_by_key: dict[str, str], environ: Mapping[str, str]
) -> None:
    keys_by_section = _allowed_keys_by_section()
    for variable, value in environ.items():
        if not variable.startswith(ENV_PREFIX) or variable in NON_SETTING_VARIABLES:
            continue
        section, _, key = variable[len(ENV_PREFIX) :].lower().partition("__")
        if section not in keys_by_section or key not in keys_by_section[section]:
            names = [
                f"{ENV_PREFIX}{section_name}__{key_name}".upper()
                for section_name, keys in keys_by_section.items()
                for key_name in keys
            ]
            raise _unknown_name("variable", variable, names, "environment")
        is_list = isinstance(getattr(getattr(Settings(), section), key), list)
        settings_tree.setdefault(section, {})[key] = (
            [part.strip() for part in value.split(",") if part.strip()] if is_list else value
        )
        source_by_key[f"{section}.{key}"] = f"environment {variable}"


def _check_durations(settings: Settings, file: Path, source_by_key: dict[str, str]) -> None:
    for setting in _DURATION_SETTINGS:
        section, _, key = setting.partition(".")
        value = getattr(getattr(settings, section), key)
        if not value and setting in _OPTIONAL_DURATION_SETTINGS:
            continue
        try:
            (check_schedule if setting in _SCHEDULE_SETTINGS else parse_duration)(value)
        except UsageError as error:
            raise ConfigError(
                f"{setting}: {error.message}",
                where=_locate_setting(setting, file, source_by_key),
                fix=error.fix,
            ) from None


def _locate_setting(key: str, file: Path, source_by_key: dict[str, str]) -> str:
    source = source_by_key.get(key, file.name)
    return source if source.startswith("environment") else str(file.parent / source)


def _list_settings(settings: Settings, source_by_key: dict[str, str]) -> list[SettingWithSource]:
    settings_with_source = []
    for section in msgspec.structs.fields(Settings):
        for entry in msgspec.structs.fields(section.type):  # type: ignore[arg-type]
            key = f"{section.name}.{entry.name}"
            value = getattr(getattr(settings, section.name), entry.name)
            settings_with_source.append(
                SettingWithSource(
                    key,
                    _redact_secret(value, key),
                    source_by_key.get(key, "default"),
                    _describe_setting(entry.type),
                )
            )
    return settings_with_source


def _redact_secret(value: Any, key: str) -> Any:
    if key not in SECRET_SETTINGS or not value:
        return value
    return "***" if isinstance(value, str) else ["***"] * len(value)


def _describe_setting(annotated: Any) -> str:
    return next(
        (
            str(meta.description)
            for meta in getattr(annotated, "__metadata__", ())
            if meta.description
        ),
        "",
    )
