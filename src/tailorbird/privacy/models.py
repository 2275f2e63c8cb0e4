"""Models that learned from a person's events, and when they are due: weights do not forget."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tailorbird.config import Project
from tailorbird.errors import BundleError
from tailorbird.events import DAY, Clock
from tailorbird.registry import Registry

DUE_US = 30 * DAY  # after the erasure; the GDPR's month to answer such requests


def find_registries(root: Path) -> dict[str, Path]:
    """Return the registry of the ranker and those of churn models, by prefix of their versions."""
    churn = root / "churn"
    folders = sorted(churn.iterdir()) if churn.is_dir() else []
    return {"": root} | {f"churn/{folder.name}/": folder for folder in folders}


def intact_versions(root: Path, clock: Clock) -> Iterator[Path]:
    """Yield the folders of all versions that match their manifests; damaged ones are not served."""
    for folder in find_registries(root).values() if root.is_dir() else ():
        registry = Registry(folder, clock=clock)
        for version_info in registry.versions():
            with suppress(BundleError):
                registry.verify(version_info.version)
                yield version_info.path


def find_trained_models(
    project: Project, first_ts: int, last_ts: int, erased_at: int, clock: Clock
) -> list[dict[str, object]]:
    """Return the bundles whose training window holds a time between `first_ts` and `last_ts`."""
    if not project.paths.registry.is_dir() or not last_ts:
        return []
    bundles: list[dict[str, object]] = []
    for prefix, folder in find_registries(project.paths.registry).items():
        for version_info in Registry(folder, clock=clock).versions():
            start, end = version_info.data_span
            if start <= last_ts and first_ts < end:
                aliases = list(version_info.aliases)
                bundles.append(
                    {
                        "version": f"{prefix}{version_info.version}",
                        "aliases": aliases,
                        "from": start,
                        "to": end,
                        "due": erased_at + DUE_US,
                        "what": "train anew and promote" if aliases else "delete the folder",
                    }
                )
    return bundles
