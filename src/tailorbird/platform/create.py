"""Making a project: tailorbird.toml, features.py and slots.py, from templates or from data."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from tailorbird.errors import UsageError
from tailorbird.events import SystemClock
from tailorbird.events.guess import Answers
from tailorbird.places import require_plain_path
from tailorbird.proposal import Proposal, propose

FILES = ("tailorbird.toml", "features.py", "slots.py")
_GITIGNORE = "data/\nkeys.json\n"


@dataclass(frozen=True)
class Created:
    """What was made.

    Attributes:
        folder: of the project.
        files: names of those that it has now.
        proposal: what the data proposed; None without data.
    """

    folder: Path
    files: tuple[str, ...]
    proposal: Proposal | None = None


def propose_from(data: Path, columns: Sequence[str] = (), ts_format: str = "") -> Proposal:
    """Propose a mapping and declarations from files of events.

    Args:
        columns: names of the columns of a file whose first line does not have them.
        ts_format: how times are written, as strptime has it, where day and month cannot be told
            apart.

    Raises:
        AskError: the data leave one thing open; it has the choices.
        InputError: the files hold nothing that could be an event.
    """
    return propose(data, SystemClock().now(), Answers(tuple(columns), ts_format))


def check_folder(folder: Path) -> None:
    """Raise UsageError where a project cannot be made in a folder."""
    require_plain_path(folder.resolve())
    if taken := [name for name in FILES if (folder / name).exists()]:
        raise UsageError(
            f"{', '.join(taken)} already there; nothing was written",
            where=str(folder),
            fix="choose another folder",
        )


def create_project(folder: Path, proposal: Proposal | None = None) -> Created:
    """Write the files of a new project. Files that are already there are not touched.

    Raises:
        UsageError: the folder has a project already, or its path cannot be used.
    """
    check_folder(folder)
    contents = {
        name: (files("tailorbird.platform") / "templates" / name).read_text() for name in FILES
    }
    if proposal is not None:
        contents |= {"features.py": proposal.features, "slots.py": proposal.slots}
        if proposal.mapping:
            contents["mapping.toml"] = proposal.mapping
        contents["tailorbird.toml"] = (
            contents["tailorbird.toml"]
            .replace("types = []", f"types = {json.dumps(proposal.types)}")
            .replace('window = "28d"', f'window = "{proposal.train_window}"')
        )
    name = json.dumps(folder.resolve().name, ensure_ascii=False)
    contents["tailorbird.toml"] = contents["tailorbird.toml"].replace(
        'name = "shop"', f"name = {name}"
    )
    folder.mkdir(parents=True, exist_ok=True)
    if not (data := folder / "data").exists():
        data.mkdir(mode=0o700)  # nobody else on this machine may read what people did
    for file, text in {**contents, ".gitignore": _GITIGNORE}.items():
        if not (folder / file).exists():
            (folder / file).write_text(text)
    return Created(folder, tuple(contents), proposal)
