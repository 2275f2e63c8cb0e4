"""Checks of the declarations and settings of a project. They touch no data."""

import os
import shlex
from dataclasses import dataclass
from importlib.util import find_spec
from shutil import which
from typing import TYPE_CHECKING, Any

from tailorbird.errors import ConfigError
from tailorbird.pages.notebook import text_html

if TYPE_CHECKING:
    from tailorbird.config import Project


@dataclass(frozen=True, repr=False)
class CheckResult:
    """What a project declares; all of it is valid.

    Attributes:
        notice: how features.py differs from what is applied, or "".
    """

    project: "Project"
    notice: str

    def to_dict(self) -> dict[str, Any]:
        """Return what `tailorbird check --json` prints."""
        features = self.project.features
        slots = self.project.slots
        return {
            "project": str(self.project.root),
            "schema_hash": features.schema_hash,
            "numeric": list(features.numeric),
            "categorical": list(features.categorical),
            "sequences": list(features.sequences),
            "similarities": [similarity.name for similarity in features.similarities],
            "transforms": {
                transform.output: {"column": transform.column, "gives": list(transform.outputs)}
                for transform in features.transforms
            },
            "slots": list(slots),
            "experiments": {
                name: slot.experiment.name for name, slot in slots.items() if slot.experiment
            },
            "churn": list(self.project.churn),
        }

    def __repr__(self) -> str:
        features = self.project.features
        counts = (
            f"{len(features.numeric)} numeric, {len(features.categorical)} categorical, "
            f"{len(features.sequences)} sequences"
        )
        lines = [
            f"{self.project.root}: all declarations load.",
            f"  features   {counts} (schema {features.schema_hash})",
        ]
        if self.notice:
            lines.append(f"             {self.notice}")
        for similarity in features.similarities:
            lines.append(f"  similarity {similarity.name}: {similarity.description}")
        for transform in features.transforms:
            outputs = ", ".join(transform.outputs)
            lines.append(f"  transform  {transform.column}: gives a model {outputs}")
        for name, slot in self.project.slots.items():
            experiment = f", experiment {slot.experiment.name}" if slot.experiment else ""
            sources = ", ".join(slot.sources)
            lines.append(f"  slot       {name}: {slot.size} items from {sources}{experiment}")
        for name, churn in self.project.churn.items():
            lines.append(f"  churn      {name}: {churn.describe()}")
        return "\n".join(lines)

    _repr_html_ = text_html


def check_declarations(project: "Project") -> CheckResult:
    """Check what a project declares, and what its settings refer to.

    Raises:
        DeclarationError: a rule, or who is eligible for an experiment, is invalid.
        ConfigError: a setting is invalid; names the setting.
    """
    from tailorbird.config.schemas import describe_schema_difference

    check_slots(project)
    check_churn(project)
    check_settings(project)
    return CheckResult(project, describe_schema_difference(project))


def check_slots(project: "Project") -> None:
    """Check the rules of slots against the declarations, unless the extra `serve` is missing.

    Raises:
        DeclarationError: a rule, or who is eligible for an experiment, is invalid; names slot, rule
            and column.
    """
    if find_spec("tantivy") is None:  # Part of the extra `serve`.
        return
    from tailorbird.ranking.policy.condition import compile_condition
    from tailorbird.ranking.policy.rules import check_slot
    from tailorbird.serving.pipeline.editorial import LISTS_FILE, check_lists

    check_lists(project.root / LISTS_FILE, project.slots.values())
    user_fields = project.features.user_fields
    for slot in project.slots.values():
        check_slot(slot, user_fields=user_fields, sequences=project.features.sequences)
    for name, experiment in project.experiments.items():
        if experiment.where:
            compile_condition(experiment.where, user_fields=user_fields, where=f"experiment {name}")


def check_churn(project: "Project") -> None:
    """Check the columns that churn models name against the declarations.

    Raises:
        DeclarationError, NotReadyError: see `churn_columns`.
    """
    from tailorbird.ranking.churn.columns import churn_columns

    for churn in project.churn.values():
        churn_columns(churn, project.features)


def check_settings(project: "Project") -> None:
    """Check what settings refer to, as `up` and its roles do when they start. Writes nothing.

    Raises:
        ConfigError: a setting is invalid; names the setting.
    """
    from tailorbird.events.pseudonyms import Pseudonyms
    from tailorbird.store import server_address

    settings = project.settings
    require_gorse_slot(project)
    if find_spec("starlette") is not None:  # Part of the extra `serve`.
        from tailorbird.serving.auth.networks import Networks

        Networks(settings.serve.trusted_proxies)
        _check_access(project)
    if settings.events.pseudonym_key:
        Pseudonyms(settings.events.pseudonym_key)
    for name in ("url", "replica"):
        if url := getattr(settings.store, name):
            server_address(url, f"store.{name}")
    # Part of the extra `kafka`.
    if settings.stream.url and find_spec("confluent_kafka") is not None:
        _check_brokers(project)
    existing_folder = next(
        path for path in (project.paths.data, *project.paths.data.parents) if path.exists()
    )
    if not os.access(existing_folder, os.W_OK):
        raise ConfigError(
            f"{existing_folder} cannot be written",
            where="project.data",
            fix="make it writable, or set project.data to another folder",
        )
    alert_target = settings.checks.alert
    if alert_target and not alert_target.startswith(("http://", "https://")):
        program = next(iter(_split_command(alert_target)), "")
        if which(program) is None:
            raise ConfigError(
                "there is no such program on this machine",
                where="checks.alert",
                fix="name one by its whole path, or an address",
            )


def _check_access(project: "Project") -> None:
    from tailorbird.serving.auth.keys import Keys
    from tailorbird.serving.http.access import require_origins, require_safe_bind

    serve_settings = project.settings.serve
    keys = Keys(
        serve_settings.write_keys,
        serve_settings.read_keys,
        serve_settings.admin_keys,
        file=project.root / serve_settings.keys_file,
    )
    require_safe_bind(serve_settings.host, keys)
    require_origins(serve_settings.allowed_origins)


def _check_brokers(project: "Project") -> None:
    """Validate the settings of the cluster without connecting to a broker."""
    stream_settings = project.settings.stream
    for name in ("ca_file", "cert_file", "key_file"):
        file = getattr(stream_settings, name)
        if file and not os.access(file, os.R_OK):
            raise ConfigError(f"{file} is not there, or cannot be read", where=f"stream.{name}")
    project.stream.check_settings()


def require_gorse_slot(project: "Project") -> None:
    """Raise ConfigError if `serve.gorse_slot` names no slot."""
    name = project.settings.serve.gorse_slot
    if name and name not in project.slots:
        raise ConfigError(
            f"there is no slot {name!r}",
            where="serve.gorse_slot",
            fix=f"use one of {', '.join(project.slots)}",
        )


def _split_command(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"is no command: {error}", where="checks.alert") from None
