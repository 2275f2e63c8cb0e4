"""Versions of a registry as they are listed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tailorbird.registry.aliases import Aliases
from tailorbird.registry.manifest import MANIFEST, Manifest


@dataclass(frozen=True)
class VersionInfo:
    """A version as listed, from its manifest alone; its files are not verified."""

    version: str
    path: Path
    created_at: int
    schema_hash: str
    heads: tuple[str, ...]
    metrics: dict[str, Any]
    aliases: tuple[str, ...]
    data_span: tuple[int, int] = (
        0,
        0,
    )  # time span of the data of model and index, microseconds; zeros for none
    is_readable: bool = True  # whether its manifest is readable
    sources: tuple[str, ...] = ()  # candidate sources whose tables it reads
    baseline: str = ""  # sources that order its items, if it has no heads
    learned_until: int = 0  # end of the training window, microseconds

    @property
    def arm(self) -> str:
        """The arm on whose log alone it was trained, as EXPERIMENT:ARM; "" for the whole log."""
        return self.metrics.get("about", {}).get("arm", "")


def read_version(folder: Path, aliases: Aliases) -> VersionInfo:
    """Return a version as its manifest describes it, unverified."""
    name = folder.name
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return VersionInfo(
            name,
            folder,
            created_at=0,
            schema_hash="",
            heads=(),
            metrics={"damaged": True},
            aliases=aliases.aliases_of(name),
            is_readable=False,
        )
    heads = tuple(head.name for head in manifest.heads)
    data_span = manifest.window.ts_from, max(manifest.window.ts_to, manifest.index_as_of)
    fields = (
        manifest.created_at,
        manifest.schema_hash,
        heads,
        manifest.metrics,
        aliases.aliases_of(name),
        data_span,
    )
    return VersionInfo(
        name,
        folder,
        *fields,
        sources=manifest.sources,
        baseline=manifest.baseline,
        learned_until=manifest.window.ts_to,
    )


def version_number(name: str) -> int:
    """Return the number of a version's name, or 0 if it is none."""
    return (
        int(name[1:])
        if name[:1] == "v" and name[1:].isascii() and name[1:].isdigit() and len(name) >= 5
        else 0
    )
