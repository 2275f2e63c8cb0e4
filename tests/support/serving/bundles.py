"""A listener that counts which bundles were loaded."""

from dataclasses import dataclass


@dataclass
class LoadCounter:
    """The versions that were loaded; implements `serving.models.bundles.SwapListener`."""

    loaded: list[str]
    refused: int = 0

    def bundle_loaded(self, version: str) -> None:
        self.loaded.append(version)

    def bundle_refused(self) -> None:
        self.refused += 1
