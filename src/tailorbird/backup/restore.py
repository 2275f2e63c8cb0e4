"""Restore a backup into an empty folder, and erase again who was erased after it."""

import os
import shlex
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from tailorbird.backup.erased import Progress, erase_again, is_erasure_file
from tailorbird.backup.manifest import (
    DATA_PREFIX,
    LAKE_PREFIX,
    PROJECT_PREFIX,
    Manifest,
    StoredFile,
)
from tailorbird.backup.origin import record_origin
from tailorbird.backup.storage import BackupStorage
from tailorbird.backup.topics import deleted_rows
from tailorbird.config import SETTINGS_FILE, Paths, Project, load_settings, open_project, paths_of
from tailorbird.errors import TailorbirdError, UsageError
from tailorbird.events import Clock, to_iso
from tailorbird.lake.files import durable
from tailorbird.lake.files.append_only import open_append_only
from tailorbird.pages.notebook import text_html
from tailorbird.storage_paths import StoragePath
from tailorbird.stream import open_reader, raw_logs

_THREAD_COUNT = 4


@dataclass(frozen=True, repr=False)
class RestoreReport:
    """A project that was restored.

    Attributes:
        taken_at: every event that was acknowledged before this time is in it, microseconds.
        log_ends: the row after the last one of each log file.
        acknowledged_after: rows that the original acknowledged after the backup, by log; None if
            the original is not on this machine.
        erased: number of ids that were erased again.
        receipt: file of the erasure; "" if there was none.
        cluster: address of the logs if they are topics.
        deleted: rows after the backup that topics do not have any more, by log; None if the brokers
            do not answer.
        next_commands: what to run now.
    """

    uri: str
    folder: str
    name: str
    taken_at: int
    files: int
    size_bytes: int
    seconds: float
    log_ends: dict[str, int] = field(default_factory=dict)
    acknowledged_after: dict[str, int] | None = None
    erased: int = 0
    receipt: str = ""
    cluster: str = ""
    deleted: dict[str, int] | None = field(default_factory=dict)
    next_commands: tuple[str, ...] = ()

    @property
    def mb_per_s(self) -> float:
        """Megabytes written per second, without the erasure."""
        return self.size_bytes / 1e6 / max(self.seconds, 1e-9)

    def __repr__(self) -> str:
        lines = [
            f"Restored to {self.folder} as of {to_iso(self.taken_at)}",
            f"  {self.files:,} files, {self.size_bytes:,} bytes in {self.seconds:.1f} s "
            f"({self.mb_per_s:,.0f} MB/s), each with its checksum",
        ]
        description_lines = self._describe_topics() if self.cluster else self._describe_lost_rows()
        lines += [f"  {line}" for line in description_lines]
        if self.receipt:
            lines.append(
                f"  {self.erased:,} ids that were erased later were erased again: {self.receipt}"
            )
        lines.append("Next (`up` rebuilds the state):")
        return "\n".join([*lines, *(f"  {command}" for command in self.next_commands)])

    _repr_html_ = text_html

    def _describe_lost_rows(self) -> list[str]:
        end_texts = ", ".join(
            f"{log} row {end:,}" for log, end in self.log_ends.items() if log.startswith("raw-")
        )
        ends_text = f"Logs end at {end_texts}." if end_texts else "There are no logs in it."
        if self.acknowledged_after is None:
            return [f"{ends_text} The original is not here, so what came later is not known."]
        lost_rows = {log: rows for log, rows in self.acknowledged_after.items() if rows}
        if not lost_rows:
            return [f"{ends_text} The original acknowledged nothing after it."]
        event_count = sum(rows for log, rows in lost_rows.items() if log.startswith("raw-"))
        response_count = sum(lost_rows.values()) - event_count
        text = (
            f"{ends_text} The original acknowledged {_format_count(event_count, 'event')} after it"
        )
        responses_text = (
            f", and logged {_format_count(response_count, 'response')}" if response_count else ""
        )
        row_counts_text = ", ".join(f"{log} {count:,}" for log, count in lost_rows.items())
        return [f"{text}{responses_text}: {row_counts_text}."]

    def _describe_topics(self) -> list[str]:
        lines = [
            f"The logs are topics of {self.cluster}: roles go on there from the positions of this "
            "backup."
        ]
        if self.deleted is None:
            lines.append("The brokers do not answer, so whether rows are missing is not known.")
        elif self.deleted:
            row_counts_text = ", ".join(f"{log} {count:,}" for log, count in self.deleted.items())
            lines.append(
                f"Topics lack rows after the backup: {row_counts_text}. Roles refuse to pass "
                'over them: see docs/how-to/kafka.md, "When topics are lost for good".'
            )
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return what `tailorbird restore --json` prints."""
        return {
            **msgspec.to_builtins(self),
            "taken_at": to_iso(self.taken_at),
            "mb_per_s": round(self.mb_per_s, 1),
        }


def restore_backup(
    backup_storage: BackupStorage,
    folder: Path,
    clock: Clock,
    *,
    drain: Callable[[Project, Clock, Progress], object],
    at: int | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> RestoreReport:
    """Restore the newest backup, or the newest of time `at` or earlier, into an empty folder.

    Args:
        drain: brings all rows of the logs into the lake; called only for an erasure.

    Raises:
        NotReadyError: there is no backup.
        UsageError: the folder, its data folder or its lake is not empty.
        DamageError: a file of the backup is missing or damaged; names it.
    """
    folder = folder.resolve()
    _require_empty(folder, "the folder")
    manifest = backup_storage.manifest_at(at)
    newest = manifest if at is None else backup_storage.manifest_at(None)
    started = time.monotonic()
    paths = _FileWriter(backup_storage, manifest, folder, progress).write()
    os.sync()
    seconds = time.monotonic() - started
    project = open_project(folder)
    paths.run.mkdir(parents=True, exist_ok=True)
    paths.data.chmod(0o700)  # As `init` makes it: it has keys and personal data.
    record_origin(project)
    receipt = None
    if _erasure_files(newest) != _erasure_files(manifest):

        def install_newer_list() -> None:
            for file in _erasure_files(newest):
                _write_file(backup_storage, file, paths.data / _path_below(file))

        receipt = erase_again(
            open_project(folder, use_applied=True),
            install_newer_list,
            clock,
            drain=drain,
            progress=progress,
        )
    return RestoreReport(
        uri=str(backup_storage.storage),
        folder=str(folder),
        name=manifest.name,
        taken_at=manifest.taken_at,
        files=len(manifest.files),
        size_bytes=manifest.size_bytes,
        seconds=seconds,
        log_ends={log: span.end for log, span in manifest.logs.items()},
        acknowledged_after=_acknowledged_after(manifest, paths),
        erased=len(receipt.people) if receipt else 0,
        receipt=receipt.path if receipt else "",
        cluster=manifest.cluster,
        deleted=deleted_rows(project, manifest.archived) if manifest.cluster else {},
        next_commands=tuple(
            f"tailorbird -C {shlex.quote(str(folder))} {command}"
            for command in ("lake verify", "up", "features verify")
        ),
    )


def _erasure_files(manifest: Manifest) -> list[StoredFile]:
    return [
        file
        for file in manifest.files
        if file.path.startswith(f"{DATA_PREFIX}/") and is_erasure_file(_path_below(file))
    ]


def _path_below(file: StoredFile) -> str:
    """Return the path of a file without its first part: `project`, `data` or `lake`."""
    return file.path.partition("/")[2]


class _FileWriter:
    """Writes the files of a backup."""

    def __init__(
        self, backup_storage: BackupStorage, manifest: Manifest, folder: Path, progress: Progress
    ) -> None:
        self._backup_storage = backup_storage
        self._manifest = manifest
        self._folder = folder
        self._progress = progress
        self._done_bytes = 0

    def write(self) -> Paths:
        """Write all files; the settings come last, so that a part of a project is none."""
        folder = self._folder
        files = self._manifest.files
        settings_file = next(
            file for file in files if file.path == f"{PROJECT_PREFIX}/{SETTINGS_FILE}"
        )
        draft_file = folder / f"{SETTINGS_FILE}.restoring"
        _write_file(self._backup_storage, settings_file, draft_file)
        settings, _ = load_settings(draft_file)
        paths = paths_of(folder, settings)
        try:
            _require_empty(paths.data, "project.data", variable="TAILORBIRD_PROJECT__DATA")
            _require_empty(paths.lake, "the lake", variable="TAILORBIRD_LAKE__URL")
        except TailorbirdError:
            draft_file.unlink()
            raise
        target_folders: dict[str, StoragePath] = {
            PROJECT_PREFIX: folder,
            DATA_PREFIX: paths.data,
            LAKE_PREFIX: paths.lake,
        }
        self._write_all([file for file in files if file != settings_file], target_folders)
        draft_file.rename(folder / SETTINGS_FILE)
        return paths

    def _write_all(
        self, files: Sequence[StoredFile], target_folders: dict[str, StoragePath]
    ) -> None:
        total = sum(file.size for file in files)

        def write(file: StoredFile) -> int:
            target = target_folders[file.path.partition("/")[0]] / _path_below(file)
            if file.grows:
                durable.make_folder(target.parent)
                open_append_only(target).replace(b"".join(self._backup_storage.read_file(file)))
            else:
                _write_file(self._backup_storage, file, target)
            return file.size

        with ThreadPoolExecutor(_THREAD_COUNT) as pool:
            for size in pool.map(write, files):
                self._done_bytes += size
                self._progress("restore", self._done_bytes, total)


def _write_file(backup_storage: BackupStorage, file: StoredFile, target: StoragePath) -> None:
    """Write a file part by part; what is in memory is one part of a log, or one file of the
    lake.
    """
    if file.path.startswith(f"{LAKE_PREFIX}/"):
        durable.make_folder(target.parent)
        target.write_bytes(b"".join(backup_storage.read_file(file)))
        return
    local_path = Path(str(target))
    local_path.parent.mkdir(parents=True, exist_ok=True)
    with open(
        os.open(local_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, file.mode or 0o644), "wb"
    ) as out:
        for part in backup_storage.read_file(file):
            out.write(part)


def _require_empty(target: StoragePath, target_name: str, *, variable: str = "") -> None:
    """Raise UsageError unless a place is empty or absent: two projects must not share one."""
    if not target.is_dir() or not any(True for _ in target.iterdir()):
        return
    fix = "name a folder that does not exist yet"
    if variable:
        fix = f"move it away, or set {variable} to an empty place, and keep it set for all commands"
    raise UsageError(f"{target_name} is not empty", where=str(target), fix=fix)


def _acknowledged_after(manifest: Manifest, restored_paths: Paths) -> dict[str, int] | None:
    """Return what the original acknowledged after the backup, if it is on this machine."""
    original = Path(manifest.data)
    if (
        manifest.host != socket.gethostname()
        or original == restored_paths.data
        or not (original / "stream").is_dir()
    ):
        return None
    rows_by_log: dict[str, int] = {}
    for path in raw_logs(original / "stream").values():
        try:
            with open_reader(path) as reader:
                span = manifest.logs.get(path.stem)
                rows_by_log[path.stem] = reader.end() - (span.end if span else reader.start())
        except TailorbirdError:  # A log that is damaged may be why this is restored.
            return None
    return rows_by_log


def _format_count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
