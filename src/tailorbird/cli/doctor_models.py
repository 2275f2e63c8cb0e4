"""What `tailorbird doctor` finds of models: versions that servers refuse, or would if they had to
load them now.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tailorbird.cli.doctor_elsewhere import Finding
from tailorbird.errors import TailorbirdError

if TYPE_CHECKING:
    from tailorbird.config import Project

_NAMES = ("champion", "previous", "canary", "shadow")


def damaged_models(project: "Project") -> Iterator[Finding]:
    """Versions behind a name of a registry, the ranker's and those of churn models, of which a byte
    is not as it was added.
    """
    from tailorbird.events import SystemClock
    from tailorbird.registry import Registry

    folders = {"model": project.paths.registry} | {
        f"churn model {name}": project.paths.churn(name) for name in project.churn
    }
    for what, folder in folders.items():
        registry = Registry(folder, clock=SystemClock())
        of = "" if what == "model" else f" --churn {what.rpartition(' ')[2]}"
        try:
            aliases = registry.aliases()
        except TailorbirdError as error:
            yield what, "error", f"{error.where}: {error.message}", error.fix
            continue
        for name in _NAMES:
            version = aliases.previous if name == "previous" else aliases.version_named(name)
            if not version:
                continue
            try:
                registry.verify(version)
            except TailorbirdError as error:
                another = (
                    f"tailorbird models rollback{of} --why …"
                    if name == "champion"
                    else "promote another version"
                )
                text = (
                    f"{version}, the {name}, is refused by servers that load it now: "
                    f"{error.message}"
                )
                yield (
                    what,
                    "error" if name == "champion" else "warning",
                    text,
                    f"{another}, or train again",
                )
