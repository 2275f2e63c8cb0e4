"""A bundle store that counts loads."""

from dataclasses import dataclass


@dataclass
class LoadCounter:
    loaded: list[str]
    refused: int = 0

    def bundle_loaded(self, version: str) -> None:
        self.loaded.append(version)

    def bundle_refused(self) -> None:
        self.refused += 1
