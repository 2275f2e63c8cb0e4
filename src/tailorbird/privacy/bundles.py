"""Which models learned from a person's events, and until when they are to be replaced: weights do
not forget by themselves.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tailorbird.config import Project
from tailorbird.errors import BundleError
from tailorbird.events import DAY, Clock
from tailorbird.registry import Registry

DUE_US = (
    30 * DAY
    # after the erasure: a month, as the law of the European Union has it for answers to such requests
)


def registries(root: Path) -> dict[str, Path]:
    """The registry of the ranker and those of churn models, by what their versions' names begin
    with.
    """
    churn = root / "churn"
    return {"": root} | (
        {f"churn/{folder.name}/": folder for folder in sorted(churn.iterdir())}
        if churn.is_dir()
        else {}
    )


def whole_versions(root: Path, clock: Clock) -> Iterator[Path]:
    """The folders of all versions that match their manifests; damaged ones serve nobody, and are
    for whoever mends them.
    """
    for folder in registries(root).values() if root.is_dir() else ():
        registry = Registry(folder, clock=clock)
        for info in registry.versions():
            with suppress(BundleError):
                registry.verify(info.version)
                yield info.path


def trained_on(
    project: Project, first: int, last: int, erased_at: int, clock: Clock
) -> list[dict[str, object]]:
    """The bundles whose training window holds a time between `first` and `last`: version, names,
    window, and when they are due.
    """
    if not project.paths.registry.is_dir() or not last:
        return []
    found: list[dict[str, object]] = []
    for prefix, folder in registries(project.paths.registry).items():
        for info in Registry(folder, clock=clock).versions():
            start, end = info.learned_from
            if start <= last and first < end:
                names = list(info.aliases)
                found.append(
                    {
                        "version": f"{prefix}{info.version}",
                        "aliases": names,
                        "from": start,
                        "to": end,
                        "due": erased_at + DUE_US,
                        "what": "train anew and promote" if names else "delete the folder",
                    }
                )
    return found
