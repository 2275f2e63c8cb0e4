"""Paths of a project: the folders and files that its roles write."""

from dataclasses import dataclass
from pathlib import Path

from tailorbird.config.settings import Settings
from tailorbird.errors import ConfigError
from tailorbird.storage_paths import StoragePath, open_storage


@dataclass(frozen=True)
class Paths:
    """The folders and files of a project; each has one writer (see ARCHITECTURE.md)."""

    data: Path
    lake_storage: StoragePath | None = None  # Set if the lake is not below `data`.

    @property
    def stream(self) -> Path:
        """The folder of the log files, raw and routed."""
        return self.data / "stream"

    @property
    def import_tables(self) -> Path:
        """The folder of tables that an import has unpacked, while it runs."""
        return self.stream / "import-tables"

    @property
    def routed(self) -> Path:
        """The routed log, if logs are files."""
        return self.stream / "routed.db"

    @property
    def state(self) -> Path:
        """The folder of online feature states, by key partition and schema."""
        return self.data / "state"

    @property
    def candidates(self) -> Path:
        """The folder of the candidate tables."""
        return self.data / "candidates"

    @property
    def lake(self) -> StoragePath:
        return self.lake_storage or self.data / "lake"

    @property
    def registry(self) -> Path:
        return self.data / "registry"

    def churn(self, name: str) -> Path:
        """Return the registry of a churn model, which is separate from the ranker's registry."""
        return self.registry / "churn" / name

    @property
    def run(self) -> Path:
        """The folder of what running roles share: locks and `roles.json`."""
        return self.data / "run"

    @property
    def checks(self) -> Path:
        """The folder of the results of daily data checks."""
        return self.data / "checks"

    @property
    def monitoring(self) -> Path:
        return self.data / "monitoring"

    @property
    def reports(self) -> Path:
        return self.data / "reports"


def paths_of(root: Path, settings: Settings) -> Paths:
    """Return the paths of the project in `root`; raises ConfigError if `lake.url` is invalid."""
    data = (root / settings.project.data).resolve()
    try:
        return Paths(data, open_storage(settings.lake.url, data) if settings.lake.url else None)
    except ConfigError as error:
        raise ConfigError(error.message, where=error.where or "lake.url", fix=error.fix) from None
