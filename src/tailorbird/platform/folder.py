"""The folder of a project: made, opened, and read for its declarations."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tailorbird.config import Project as DeclaredProject
from tailorbird.config import open_project
from tailorbird.errors import UsageError
from tailorbird.platform.progress import Progress, no_progress

if TYPE_CHECKING:
    from tailorbird.backup import BackupReport
    from tailorbird.events.tables.locations import TableData
    from tailorbird.platform.create import CreatedProject
    from tailorbird.platform.diagnostics.daily_checks import DayCheck
    from tailorbird.platform.diagnostics.declarations import CheckResult
    from tailorbird.platform.diagnostics.diagnose import Diagnosis
    from tailorbird.platform.frames import Frame
    from tailorbird.ranking import Slot


class ProjectFolder:
    """A folder with tailorbird.toml, features.py and slots.py, and what these declare."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).resolve()

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
        data: "str | Path | TableData | None" = None,
        items: "TableData | None" = None,
        users: "TableData | None" = None,
        columns: Sequence[str] = (),
        ts_format: str = "",
        time: str = "",
        person: str = "",
        item: str = "",
        type: str = "",
        session: str = "",
    ) -> Self:
        """Create a project, with declarations proposed from `data` if given.

        Args:
            folder: folder of the new project.
            data: the events: a frame of pandas, Polars, PyArrow or DuckDB, or a list of dicts; or
                a file, or a folder of files.
            items, users: profiles of items and users, tables like `data`.
            columns: column names of a file without a header line.
            ts_format: strptime format of times, needed if day and month are ambiguous.
            time, person, item, type, session: the column of each, where the data leave it open; in
                one of several files `FILE:COLUMN`; `none` if there is none.

        Raises:
            UsageError: the folder has a project already.
            AskError: the data are ambiguous; the error has the choices.
        """
        from tailorbird.platform.create import (
            check_folder,
            create_project,
            propose_from,
            propose_from_tables,
        )

        check_folder(Path(folder))
        stated = {"time": time, "person": person, "item": item, "type": type, "session": session}
        proposal = None
        if isinstance(data, str | Path):
            if items is not None or users is not None:
                raise UsageError(
                    "items and users are tables in memory, and data is a file",
                    where="Project.create",
                    fix="put all files into one folder, or read the file into a frame",
                )
            proposal = propose_from(Path(data), columns, ts_format, stated)
        elif data is not None:
            tables = {"events": data, "items": items, "users": users}
            proposal = propose_from_tables(tables, ts_format, stated)
        project = cls(Path(folder).resolve())
        project.created_project = create_project(Path(folder), proposal)
        return project

    created_project: "CreatedProject | None" = None
    """The result of `create`; its `proposal.reasons` explains the role of each column."""

    @property
    def name(self) -> str:
        """The project's name."""
        return self.declarations.settings.project.name

    @property
    def declarations(self) -> DeclaredProject:
        """The current declarations of its files, validated."""
        return open_project(self.root)

    @property
    def slots(self) -> "dict[str, Slot]":
        """The slots of slots.py by name."""
        return self.declarations.slots

    def settings(self) -> "Frame":
        """Return each setting with its value and its source; secrets are stars."""
        from tailorbird.config import SETTINGS_FILE, load_settings
        from tailorbird.platform.frames import Frame

        _, described_settings = load_settings(self.root / SETTINGS_FILE)
        return Frame.from_rows(
            ["setting", "value", "source", "description"],
            [
                (setting.key, repr(setting.value), setting.source, setting.description)
                for setting in described_settings
            ],
        )

    def check(self) -> "CheckResult":
        """Check the declarations and settings; touches no data.

        Raises:
            DeclarationError: a declaration is invalid; names file and line.
            ConfigError: a setting is invalid; names the setting.
        """
        from tailorbird.platform.diagnostics.declarations import check_declarations

        return check_declarations(self.declarations)

    def diagnose(self) -> "Diagnosis":
        """Say what is wrong with this machine and this project, and what to do."""
        from tailorbird.platform.diagnostics.diagnose import diagnose

        return diagnose(self.root)

    def check_day(self, day: str = "") -> "DayCheck":
        """Check the data of a day: volume, repeats, gaps, lateness, nulls, drift and more.

        Args:
            day: ISO 8601, in UTC; "" is yesterday.
        """
        from tailorbird.platform.diagnostics.daily_checks import check_day

        return check_day(self.declarations, day)

    def scores(self, *, start_position: int = 0) -> "Frame":
        """Return the scores of the score role.

        Args:
            start_position: position in the log of scores.

        Raises:
            NotReadyError: nothing has been scored yet.
        """
        from tailorbird.platform.models.score_log import read_scores

        return read_scores(open_project(self.root, use_applied=True), start_position)

    def backup(
        self, uri: str | Path, *, keep: int = 0, progress: Progress = no_progress
    ) -> "BackupReport":
        """Back up the project to a folder or an `s3://` URI, whether or not its roles run.

        Args:
            uri: where earlier backups of the project are; what they hold is not copied again.
            keep: number of backups to keep, this one included; 0 keeps all.

        Raises:
            UsageError: the URI holds backups of another project.
            LockedError: another backup, or an erasure, is running.
            DamageError: a file of the lake is damaged; names it.
        """
        from tailorbird.backup import create_backup, open_backup_storage
        from tailorbird.events import SystemClock

        declarations = open_project(self.root, use_applied=True)
        backup_storage = open_backup_storage(str(uri))
        return create_backup(
            declarations, backup_storage, SystemClock(), keep=keep, progress=progress
        )

    def __repr__(self) -> str:
        return f"Project({str(self.root)!r})"

    def _repr_html_(self) -> str:
        from tailorbird.pages.notebook import notebook_html

        declarations = self.declarations
        slots = ", ".join(declarations.slots)
        return notebook_html(
            [f"{declarations.settings.project.name} in {self.root}: slots {slots}"]
        )
