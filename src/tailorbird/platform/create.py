"""Create a project: from templates, from data, or from a backup."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird.errors import UsageError
from tailorbird.events import SystemClock
from tailorbird.events.guess import MappingHints
from tailorbird.pages.notebook import notebook_repr
from tailorbird.platform.progress import Progress, no_progress
from tailorbird.proposal import Proposal, propose
from tailorbird.storage_paths import reject_percent_escapes

if TYPE_CHECKING:
    from tailorbird.backup import RestoreReport

FILES = ("tailorbird.toml", "features.py", "slots.py")
_GITIGNORE = "data/\nkeys.json\n"


@notebook_repr
@dataclass(frozen=True)
class CreatedProject:
    """A new project.

    Attributes:
        folder: folder of the project.
        files: names of its files.
        proposal: the proposal from its data; None without data.
    """

    folder: Path
    files: tuple[str, ...]
    proposal: Proposal | None = None


def propose_from(data: Path, columns: Sequence[str] = (), ts_format: str = "") -> Proposal:
    """Propose a mapping and declarations from files of events.

    Args:
        columns: column names of a file without a header line.
        ts_format: strptime format of times, needed if day and month are ambiguous.


    Raises:
        AskError: the data are ambiguous; the error has the choices.
        InputError: the files have no row that could be an event.
    """
    return propose(data, SystemClock().now(), MappingHints(tuple(columns), ts_format))


def check_folder(folder: Path) -> None:
    """Raise UsageError if a project cannot be created in this folder."""
    reject_percent_escapes(folder.resolve())
    if existing_files := [name for name in FILES if (folder / name).exists()]:
        raise UsageError(
            f"{', '.join(existing_files)} already there; nothing was written",
            where=str(folder),
            fix="choose another folder",
        )


def create_project(folder: Path, proposal: Proposal | None = None) -> CreatedProject:
    """Write the files of a new project; existing files are not touched.

    Raises:
        UsageError: the folder has a project already, or its path cannot be used.
    """
    check_folder(folder)
    text_by_file_name = {
        name: (files("tailorbird.platform") / "templates" / name).read_text() for name in FILES
    }
    setting_by_key: dict[str, object] = {"name": folder.resolve().name}
    if proposal is not None:
        text_by_file_name |= {"features.py": proposal.features, "slots.py": proposal.slots}
        if proposal.mapping:
            text_by_file_name["mapping.toml"] = proposal.mapping
        setting_by_key |= {"types": proposal.types, "window": proposal.train_window}
    for key, value in setting_by_key.items():
        text_by_file_name["tailorbird.toml"] = _set_value(
            text_by_file_name["tailorbird.toml"], key, value
        )
    if proposal is not None:
        text_by_file_name["tailorbird.toml"] += _render_canary(proposal)
    folder.mkdir(parents=True, exist_ok=True)
    if not (data_folder := folder / "data").exists():
        data_folder.mkdir(mode=0o700)  # Other accounts of this machine must not read personal data.
    for file_name, text in {**text_by_file_name, ".gitignore": _GITIGNORE}.items():
        if not (folder / file_name).exists():
            (folder / file_name).write_text(text)
    return CreatedProject(folder, tuple(text_by_file_name), proposal)


def _render_canary(proposal: Proposal) -> str:
    """Return the settings of canaries for the traffic of the log, and note the reason."""
    from tailorbird.monitoring.canary_plan import choose_margin

    clicks = proposal.clicks_a_day
    answers = proposal.answers_a_day
    plan = choose_margin(clicks, answers)
    traffic = f"{clicks:,.0f} events and {answers:,.0f} visits a day"
    if plan is None:
        why = f"{traffic} are too few: the gate alone decides"
        proposal.reasons.append(("new models", "without a canary", why))
        return ""
    why = (
        f"{traffic}: {plan.days:.1f} days from {plan.share:.0%} of the people on, of at most "
        f"{plan.limit_days:.0f}"
    )
    choice = f"a canary excludes a fall by {plan.margin:.0%}"
    proposal.reasons.append(("new models", choice, why))
    return f"""
[canary]
margin = {plan.margin}             # {choice}; docs/how-to/monitor.md has the table

[rollout]
limit = "{plan.limit_days:.0f}d"             # {why}
"""


def _set_value(toml_text: str, key: str, value: object) -> str:
    """Give a key of the template another value than the template's."""
    encoded_value = json.dumps(value, ensure_ascii=False)
    toml_text, count = re.subn(
        rf"(?m)^({key} = )\S+", lambda match: match[1] + encoded_value, toml_text
    )
    assert count == 1, f"{key} is in the template {count} times"
    return toml_text


def restore(
    uri: str | Path, folder: str | Path, *, at: str = "", progress: Progress = no_progress
) -> "RestoreReport":
    """Restore a backup into an empty folder.

        report = tailorbird.restore("s3://backups/shop", "shop", at="2026-11-25T12:00:00")

    People who were erased after the backup are erased again.

    Args:
        at: restore the newest backup of this ISO 8601 time or earlier; "" is the newest of all.

    Raises:
        NotReadyError: there is no backup.
        UsageError: the folder is not empty, or all backups are later.
        DamageError: a file of the backup is missing or damaged; names it.
    """
    from tailorbird.backup import open_backup_storage, restore_backup
    from tailorbird.platform.clocks import parse_time
    from tailorbird.platform.runtime.roles import drain

    return restore_backup(
        open_backup_storage(str(uri)),
        Path(folder),
        SystemClock(),
        drain=lambda project, clock, report_progress: drain(
            project, clock, progress=report_progress
        ),
        at=parse_time(at, "--at") if at else None,
        progress=progress,
    )
