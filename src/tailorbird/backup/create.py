"""Back up a project while its roles run."""

import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from tailorbird.backup.manifest import (
    DATA_PREFIX,
    LAKE_PREFIX,
    PROJECT_PREFIX,
    LogSpan,
    Manifest,
    StoredFile,
    manifest_name,
)
from tailorbird.backup.pace import pace_calls
from tailorbird.backup.snapshot import (
    LakeSnapshot,
    OpenLog,
    SnapshotMovedError,
    open_log_snapshots,
    read_lake,
    require_connected,
)
from tailorbird.backup.storage import BackupStorage
from tailorbird.backup.topics import retain_topic_rows
from tailorbird.config import Project
from tailorbird.config.erasures import hold_off_erasures
from tailorbird.errors import StorageError, UsageError
from tailorbird.events import Clock, to_iso
from tailorbird.events.suppression import ERASURE_FOLDER, JOURNAL_FILE, SuppressionList
from tailorbird.file_lock import FileLock
from tailorbird.pages.notebook import text_html
from tailorbird.version import __version__

Progress = Callable[[str, int, int | None], None]
PART_BYTES = 1 << 20  # A changed page of a log costs a part of this size in the next backup.
_ATTEMPTS = 5
_SCRATCH_PREFIX = "backup-"  # Folders below `run`; an erasure deletes them too.
_THREAD_COUNT = 4
_PARTS_AT_ONCE = 16
_DECLARATION_SUFFIXES = (".py", ".toml", ".json")
# Below `data`: what no other file of the backup can bring back.
_DATA_PATTERNS = (
    "pseudonyms.json",
    "project-id",
    "clock.json",
    f"{ERASURE_FOLDER}/**/*",
    "state/applied.json",
    "state/*/features.json",
    "registry/**/*",
    "checks/**/*",
    "stream/*.count",
    "stream/*.damaged-*",
)
_EXCLUDED_NAMES = (JOURNAL_FILE, "lock")  # Files of these patterns that are not copied.
_VERSION_NAME = re.compile(r"v\d{4,}")


@dataclass(frozen=True, repr=False)
class BackupReport:
    """A backup that was made.

    Attributes:
        name: its name at the URI.
        taken_at: every event that was acknowledged before this time is in it, microseconds.
        size_bytes: size of all files, in `files` files.
        written_bytes: what was new and had to be written.
        log_rows: number of rows of each log file.
        cluster: address of the logs if they are topics, which the backup does not hold.
        pruned: number of older backups that were deleted.
    """

    uri: str
    name: str
    taken_at: int
    files: int
    size_bytes: int
    written_bytes: int
    seconds: float
    log_rows: dict[str, int] = field(default_factory=dict)
    cluster: str = ""
    pruned: int = 0

    def __repr__(self) -> str:
        lines = [
            f"Backup of {to_iso(self.taken_at)} at {self.uri}",
            f"  {self.files:,} files, {self.size_bytes:,} bytes, of which "
            f"{self.written_bytes:,} were new, in {self.seconds:.1f} s",
        ]
        if self.cluster:
            lines.append(
                f"  The logs are topics of {self.cluster} and stay there; this holds the lake, "
                "the registry, settings and positions."
            )
        if self.pruned:
            lines.append(f"  {self.pruned:,} older backups were deleted")
        return "\n".join(lines)

    _repr_html_ = text_html

    def to_dict(self) -> dict[str, Any]:
        """Return what `tailorbird backup --json` prints."""
        return {**msgspec.to_builtins(self), "taken_at": to_iso(self.taken_at)}


def create_backup(
    project: Project,
    backup_storage: BackupStorage,
    clock: Clock,
    *,
    keep: int = 0,
    progress: Progress = lambda stage, done, total: None,
) -> BackupReport:
    """Back up a project, whether or not its roles run.

    Args:
        keep: number of backups to keep, this one included; 0 keeps all.

    Raises:
        UsageError: the URI holds backups of another project, or lies in the project's folder.
        LockedError: another backup of the project, or an erasure, is running.
        DamageError: a file of the lake is damaged; names it.
        StorageError: there is no space for a copy of the logs.
    """
    if keep < 0:
        raise UsageError(f"expected 0 or more, got {keep}", where="--keep")
    _require_own_target(project, backup_storage)
    paths = project.paths
    paths.run.mkdir(parents=True, exist_ok=True)
    with hold_off_erasures(paths.data, create=True):
        lock = FileLock(paths.run / "backup")
        try:
            for leftover_folder in paths.run.glob(
                f"{_SCRATCH_PREFIX}*"
            ):  # A killed backup left its logs.
                shutil.rmtree(leftover_folder, ignore_errors=True)
            report = _back_up_with_retries(project, backup_storage, clock, progress)
            pruned_count = backup_storage.prune(keep) if keep else 0
        finally:
            lock.release()
    return replace(report, pruned=pruned_count)


def _require_own_target(project: Project, backup_storage: BackupStorage) -> None:
    target = str(backup_storage.storage)
    if any(
        f"{target}/".startswith(f"{own_folder}/")
        for own_folder in (project.paths.data, project.root)
    ):
        raise UsageError(
            "a backup inside the project's folder would be lost with it",
            where=str(backup_storage.storage),
            fix="name a folder on another disk, or a bucket",
        )
    newest = backup_storage.newest_manifest()
    name = project.settings.project.name
    if newest is not None and newest.project != name:
        raise UsageError(
            f"holds backups of project {newest.project}, not of {name}",
            where=str(backup_storage.storage),
            fix="give each project a folder or a prefix of its own",
        )


def _back_up_with_retries(
    project: Project, backup_storage: BackupStorage, clock: Clock, progress: Progress
) -> BackupReport:
    """Back up; start again where the lake moved on too far meanwhile. Blobs stay, so it is
    cheap.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return _BackupAttempt(project, backup_storage, clock, progress).run()
        except (SnapshotMovedError, FileNotFoundError) as error:
            if attempt == _ATTEMPTS:
                raise StorageError(
                    f"the project changed faster than it could be read: {error}",
                    where=str(project.paths.data),
                    fix="raise lake.history, which keeps replaced files, "
                    "or back up at a quiet time",
                ) from error
    raise AssertionError("unreachable")


class _BackupAttempt:
    """One attempt to make a backup, with what it has stored so far."""

    def __init__(
        self, project: Project, backup_storage: BackupStorage, clock: Clock, progress: Progress
    ) -> None:
        self._project = project
        self._backup_storage = backup_storage
        self._clock = clock
        self._progress = progress
        self._done_by_stage: dict[str, int] = {}  # Bytes of logs, files of the lake.
        self._started_at = time.monotonic()
        self._files: list[StoredFile] = []

    def run(self) -> BackupReport:
        paths = self._project.paths
        written_bytes_before = self._backup_storage.written_bytes
        lake_snapshot = read_lake(paths.lake)
        erased_count = len(SuppressionList.load(paths.data))
        with tempfile.TemporaryDirectory(dir=paths.run, prefix=_SCRATCH_PREFIX) as name:
            scratch = Path(name)
            taken_at = self._clock.now()
            retain_topic_rows(self._project, lake_snapshot, taken_at, is_complete=False)
            with open_log_snapshots(self._project.stream.folder) as logs:
                require_connected(lake_snapshot, logs)
                log_spans = self._copy_logs(logs, scratch)
            self._add_lake(lake_snapshot)
            for path in sorted(scratch.iterdir()):
                self._add_log(f"{DATA_PREFIX}/stream/{path.name}", path)
        self._add_files(_project_files(self._project), self._project.root, PROJECT_PREFIX)
        self._add_files(_data_files(paths.data), paths.data, DATA_PREFIX)
        manifest = self._build_manifest(taken_at, lake_snapshot, log_spans, erased_count)
        self._backup_storage.add_manifest(manifest)
        retain_topic_rows(self._project, lake_snapshot, taken_at, is_complete=True)
        return BackupReport(
            uri=str(self._backup_storage.storage),
            name=manifest.name,
            taken_at=taken_at,
            files=len(manifest.files),
            size_bytes=manifest.size_bytes,
            written_bytes=self._backup_storage.written_bytes - written_bytes_before,
            seconds=time.monotonic() - self._started_at,
            log_rows={stem: span.end - span.start for stem, span in log_spans.items()},
            cluster=manifest.cluster,
        )

    def _build_manifest(
        self,
        taken_at: int,
        lake_snapshot: LakeSnapshot,
        log_spans: dict[str, LogSpan],
        erased_count: int,
    ) -> Manifest:
        project = self._project
        return Manifest(
            name=manifest_name(taken_at),
            project=project.settings.project.name,
            taken_at=taken_at,
            tailorbird_version=__version__,
            revision=_read_git_commit(project.root),
            root=str(project.root),
            data=str(project.paths.data),
            host=socket.gethostname(),
            cluster=project.settings.stream.url,
            lake=lake_snapshot.versions,
            archived=lake_snapshot.archive_ends,
            routed=dict(lake_snapshot.positions.routed),
            logs=log_spans,
            erased=erased_count,
            files=self._files,
        )

    def _report_progress(self, stage: str, amount: int, total: int | None) -> None:
        self._done_by_stage[stage] = self._done_by_stage.get(stage, 0) + amount
        self._progress(stage, self._done_by_stage[stage], total)

    def _copy_logs(self, logs: list[OpenLog], scratch: Path) -> dict[str, LogSpan]:
        """Copy the logs to a local folder, in which no reader holds them up."""
        logs_bytes = sum(log.path.stat().st_size for log in logs)
        free_bytes = shutil.disk_usage(scratch).free
        if free_bytes < logs_bytes:
            raise StorageError(
                f"a copy of the logs needs {logs_bytes:,} bytes, and {free_bytes:,} are free",
                where=str(scratch.parent),
                fix="free some space; the copy is deleted after the backup",
            )
        for log in logs:
            log.copy_to(
                scratch / log.path.name,
                lambda done: self._report_progress("copy logs", done, logs_bytes),
            )
        return {log.path.stem: log.span for log in logs}

    def _add_lake(self, lake_snapshot: LakeSnapshot) -> None:
        lake_path = self._project.paths.lake
        total = len(lake_snapshot.files)
        sizes: dict[str, int] = {}

        def store_file(name_and_checksum: tuple[str, str]) -> None:
            name, checksum = name_and_checksum
            file = lake_path / name
            self._backup_storage.put_known_blob(checksum, file.read_bytes, str(file))
            sizes[name] = file.stat().st_size

        with ThreadPoolExecutor(_THREAD_COUNT) as pool:
            for _ in pool.map(pace_calls(store_file), lake_snapshot.files.items()):
                self._report_progress("lake files", 1, total)
        self._files += [
            StoredFile(f"{LAKE_PREFIX}/{name}", sizes[name], (checksum,))
            for name, checksum in lake_snapshot.files.items()
        ]
        for contents, grows in (
            (lake_snapshot.replaced_files, False),
            (lake_snapshot.growing_files, True),
        ):
            for name, content in contents.items():
                blob_names = tuple(
                    self._backup_storage.put_blob(part) for part in _split_parts(content)
                )
                self._files.append(
                    StoredFile(f"{LAKE_PREFIX}/{name}", len(content), blob_names, grows=grows)
                )

    def _add_log(self, name: str, path: Path) -> None:
        """Add a log in parts, of which those that did not change are there already."""
        size = path.stat().st_size
        blob_names = []
        with path.open("rb") as file, ThreadPoolExecutor(_THREAD_COUNT) as pool:
            while parts := [part for _ in range(_PARTS_AT_ONCE) if (part := file.read(PART_BYTES))]:
                blob_names += pool.map(pace_calls(self._backup_storage.put_blob), parts)
                self._report_progress("store logs", sum(map(len, parts)), None)
        self._files.append(StoredFile(name, size, tuple(blob_names)))

    def _add_files(self, paths: Iterable[Path], root: Path, prefix: str) -> None:
        for path in paths:
            try:
                content = path.read_bytes()
                mode = path.stat().st_mode & 0o777
            except FileNotFoundError:  # It was deleted since the folder was listed.
                continue
            blob_names = tuple(
                self._backup_storage.put_blob(part) for part in _split_parts(content)
            )
            name = f"{prefix}/{path.relative_to(root).as_posix()}"
            self._files.append(StoredFile(name, len(content), blob_names, mode))


def _split_parts(content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content), PART_BYTES):
        yield content[start : start + PART_BYTES]


def _project_files(project: Project) -> Iterator[Path]:
    """Yield settings and declarations: files of the project's folder, packages, and the encoder."""
    for path in sorted(project.root.iterdir()):
        if path.is_file() and path.suffix in _DECLARATION_SUFFIXES:
            yield path
        elif path.is_dir() and (path / "__init__.py").is_file():
            yield from sorted(path.rglob("*.py"))
    encoder = project.root / project.settings.search.encoder
    if project.settings.search.encoder and project.root in encoder.resolve().parents:
        files = encoder.rglob("*") if encoder.is_dir() else [encoder]
        yield from (path for path in sorted(files) if path.is_file())


def _data_files(data: Path) -> Iterator[Path]:
    """Yield the files of the data folder outside logs and lake.

    In the registry aliases come before the versions that they name, which are never changed.
    """
    for pattern in _DATA_PATTERNS:
        for path in sorted(data.glob(pattern)):
            path_parts = path.relative_to(data).parts
            is_lock = path.suffix == ".lock" or path.name in _EXCLUDED_NAMES
            if path.is_file() and not _is_unfinished(path_parts) and not is_lock:
                yield path


def _is_unfinished(path_parts: Sequence[str]) -> bool:
    """Return whether a file is a draft, or of a folder that is not in place yet: both are hidden.

    Those within a version are its own.
    """
    is_of_version = any(_VERSION_NAME.fullmatch(part) for part in path_parts[:-1])
    outer_parts = path_parts[:-1] if is_of_version else path_parts
    return any(part.startswith(".") for part in outer_parts)


def _read_git_commit(root: Path) -> str:
    """Return the commit of the project's folder, or "" outside Git."""
    try:
        completed = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True
        )
    except OSError:
        return ""
    return completed.stdout.strip() if completed.returncode == 0 else ""
