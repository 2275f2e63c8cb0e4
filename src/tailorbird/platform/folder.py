"""The folder of a project: made, opened, and read for its declarations."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tailorbird.config import Project as Declared
from tailorbird.config import open_project

if TYPE_CHECKING:
    from tailorbird.platform.create import CreatedProject
    from tailorbird.ranking import Slot


class ProjectFolder:
    """A folder with tailorbird.toml, features.py and slots.py, and what these declare."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def open(cls, folder: str | Path = ".") -> Self:
        """Open the project in a folder or in a folder above it.

        Raises:
            UsageError: there is no project.
            ConfigError: tailorbird.toml is invalid.
            DeclarationError: features.py or slots.py is invalid; names file and line.
        """
        return cls(open_project(Path(folder)).root)

    @classmethod
    def create(
        cls,
        folder: str | Path,
        *,
        data: str | Path | None = None,
        columns: Sequence[str] = (),
        ts_format: str = "",
    ) -> Self:
        """Create a project, with declarations proposed from `data` if given.

        Args:
            folder: folder of the new project.
            data: a CSV, JSON or Parquet file, or a folder of them.
            columns: column names of a file without a header line.
            ts_format: strptime format of times, needed if day and month are ambiguous.

        Raises:
            UsageError: the folder has a project already.
            AskError: the data are ambiguous; the error has the choices.
        """
        from tailorbird.platform.create import check_folder, create_project, propose_from

        check_folder(Path(folder))
        proposal = propose_from(Path(data), columns, ts_format) if data is not None else None
        project = cls(Path(folder).resolve())
        project.created = create_project(Path(folder), proposal)
        return project

    created: "CreatedProject | None" = None
    """The result of `create`: `created.proposal.reasons` explains the role of each column."""

    @property
    def name(self) -> str:
        """The project's name."""
        return self.declared.settings.project.name

    @property
    def declared(self) -> Declared:
        """The current declarations of its files, validated."""
        return open_project(self.root)

    @property
    def slots(self) -> "dict[str, Slot]":
        """The slots of slots.py by name."""
        return self.declared.slots

    def __repr__(self) -> str:
        return f"Project({str(self.root)!r})"

    def _repr_html_(self) -> str:
        from tailorbird.pages.notebook import notebook_html

        declared = self.declared
        slots = ", ".join(declared.slots)
        return notebook_html([f"{declared.settings.project.name} in {self.root}: slots {slots}"])
