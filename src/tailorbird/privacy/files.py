"""Files that commands wrote below a project and that an erasure deletes."""

import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tailorbird.config import Project
from tailorbird.errors import TailorbirdError
from tailorbird.features.offline import parts
from tailorbird.lake.write.labels import COMMAND_KEY
from tailorbird.training.fit.resume import UNFINISHED_FOLDER

_DRAFT_NAME = re.compile(r"(.+\.(new|part|copy|fresh)|\..+\.\d+)\Z")
_TRAINING_SET_PATTERNS = ("rows-*.parquet", "requests-*.parquet", "categories.parquet", "*.new")
_EXPORT_START = b'{"source":"person"'


def local_roots(project: Project) -> list[Path]:
    """Return where a project keeps things on this machine: its folder, and its data if
    elsewhere.
    """
    data = project.paths.data
    return [project.root, *([] if project.root in data.parents else [data])]


def find_scratch_files(data: Path, lake: Path | None) -> Iterator[Path]:
    """Yield what killed commands left, and weights that the next training would begin with."""
    yield from sorted(data.glob("training/warm"))
    yield from (path for path in sorted(data.rglob(UNFINISHED_FOLDER)) if path.is_dir())
    for pattern in (
        "registry/.incoming",
        "registry/churn/*/.incoming",
        "run/verify-*",
        "run/backup-*",
    ):
        yield from sorted(data.glob(pattern))
    for path in sorted(data.rglob("*")):
        is_in_lake = lake is not None and lake in path.parents
        if _DRAFT_NAME.fullmatch(path.name) and path.is_file() and not is_in_lake:
            yield path


def find_derived_files(path: Path, project: Project) -> list[Path]:
    """Return what is deleted with a file that holds an id: the file, or all of its training set;
    nothing if no command of ours can make it again.
    """
    outer_folders = {folder.parent for folder in local_roots(project)}
    for folder in path.parents:
        if folder in outer_folders:
            break
        manifests = (*folder.glob("manifest.json"), *folder.glob("*/manifest.json"))
        backfills = [manifest.parent for manifest in manifests if _is_backfill(manifest.parent)]
        if backfills:
            files = (path for pattern in _TRAINING_SET_PATTERNS for path in folder.glob(pattern))
            return [*backfills, *files]
    paths = project.paths
    is_ours = any(folder in path.parents for folder in (paths.run, paths.checks, paths.reports))
    return [path] if is_ours or writing_command(path) else []


def writing_command(path: Path) -> str:
    """Return which command wrote a file where its user asked for it; "" for any other file."""
    try:
        with path.open("rb") as file:
            file_start = file.read(len(_EXPORT_START))
        if file_start == _EXPORT_START:
            return "lake export-user"
        metadata = pq.read_schema(path).metadata if file_start[:4] == b"PAR1" else None
        return (metadata or {}).get(COMMAND_KEY, b"").decode()
    except (OSError, pa.ArrowException, UnicodeDecodeError):
        return ""


def _is_backfill(folder: Path) -> bool:
    try:
        return bool(parts.read_manifest(folder).format)
    except TailorbirdError:  # it is the manifest of something else
        return False
