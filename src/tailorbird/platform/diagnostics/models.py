"""Diagnosis of versions that servers refuse or would refuse, and of trainings that cannot run."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tailorbird.errors import TailorbirdError
from tailorbird.platform.diagnostics.external import Finding

if TYPE_CHECKING:
    from tailorbird.config import Project

_ALIASES = ("champion", "previous", "canary", "shadow")


def check_models(project: "Project") -> Iterator[Finding]:
    """Verify the files of aliased versions of the ranker and of churn models."""
    from tailorbird.events import SystemClock
    from tailorbird.registry import Registry

    folder_by_subject = {"model": project.paths.registry} | {
        f"churn model {name}": project.paths.churn(name) for name in project.churn
    }
    for subject, folder in folder_by_subject.items():
        registry = Registry(folder, clock=SystemClock())
        churn_option = "" if subject == "model" else f" --churn {subject.rpartition(' ')[2]}"
        try:
            aliases = registry.aliases()
        except TailorbirdError as error:
            yield subject, "error", f"{error.where}: {error.message}", error.fix
            continue
        for alias in _ALIASES:
            version = aliases.previous if alias == "previous" else aliases.version_named(alias)
            if not version:
                continue
            try:
                registry.verify(version)
            except TailorbirdError as error:
                fix = (
                    f"tailorbird models rollback{churn_option} --why …"
                    if alias == "champion"
                    else "promote another version"
                )
                text = (
                    f"{version}, the {alias}, is refused by servers that load it now: "
                    f"{error.message}"
                )
                yield (
                    subject,
                    "error" if alias == "champion" else "warning",
                    text,
                    f"{fix}, or train again",
                )


def check_trainings(project: "Project") -> Iterator[Finding]:
    """Report trainings that the trainer role cannot run though they are due."""
    from tailorbird.platform.runtime.overdue import read_overdue

    for overdue_training in read_overdue(project, project.clock()):
        fix = overdue_training.fix or f"tailorbird train {overdue_training.slot} says more"
        yield f"training of {overdue_training.slot}", "warning", overdue_training.describe(), fix
