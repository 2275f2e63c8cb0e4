"""Every kind of file that a command writes below a project's data, and what an erasure does with
it; and what is written elsewhere.

    rewritten    logs, tables, archive: written anew
    emptied      the log of scores, whole
    rebuilt      states and candidate tables: made anew from the lake; what stands beside them names declarations alone
    derived      can be made again: deleted where it holds something of theirs; see `derived`
    scratch      of a command that was cut short, or what the next training would begin with: deleted in any case, see `scratch`
    models       named, with when they are due; the search looks through them
    erasure      the stop list, receipts: keyed hashes
    nobody       holds nothing of people: locks, names, settings

All of it is searched, whatever its kind. A file of no kind is one that somebody forgot here:
`unknown` names it, and a test fails. What a command writes where its user says (`--out`) is known
by what it says of itself: `made_by`.
"""

import re
from collections.abc import Collection, Iterator
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tailorbird.config import Project
from tailorbird.errors import TailorbirdError
from tailorbird.events.contract import ANONYMOUS_PREFIX
from tailorbird.features import parts
from tailorbird.lake.made import MADE
from tailorbird.training.resuming import UNFINISHED

KINDS = {
    r"stream/(raw|answers)-[^/]+\.db(-wal|-shm)?": "rewritten",
    r"stream/(routers/\d+/)?routed(-index(\.\d+)?)?\.db(-wal|-shm)?": "rewritten",
    r"stream/routed-items\.db(-wal|-shm)?": "rewritten",
    r"stream/scores\.db(-wal|-shm)?": "emptied",
    r"stream/import-runs/.+": "scratch",
    r"stream/.+\.damaged-\d+": "nobody can tell: an erasure refuses to begin",
    r"stream/.*answers-[^/]+\.(given|count|ledger)": "nobody",
    r"stream/.*reserve.*": "nobody",
    r"lake/[a-z]+/(_delta_log/.+|(day=[^/]+/)?[^/]+\.parquet)": "rewritten",
    r"lake/archive/.+": "rewritten",
    r"lake/(ledger\.jsonl|positions\.json|erasures\.json|pseudonyms\.json)": "nobody",
    r"lake/set-aside/.+": "rewritten",
    r"state/([^/]+/)?[0-9a-f]{12}/(data|lock)\.mdb(\.damaged)?": "rebuilt",
    r"state/(([^/]+/)?[0-9a-f]{12}/[a-z-]+\.json|applied\.json|score\.json)": "nobody",
    r"candidates/[0-9a-f]{12}/((data|lock)\.mdb(\.damaged)?|state-\d+\.npz)": "rebuilt",
    r"candidates/current\.json": "nobody",
    r"registry/(churn/[^/]+/)?(v\d+/.+)": "models",
    r"registry/(churn/[^/]+/)?(aliases\.json|formulas\.json|audit\.jsonl|lock)": "nobody",
    r"registry/(churn/[^/]+/)?\.incoming/.+": "scratch",
    r"(reports|checks)/.+": "derived",
    r"tune/[^/]+/unfinished/.+": "scratch",
    r"tune/[^/]+/lock": "nobody",
    r"training/(unfinished|warm)/.+": "scratch",
    r"training/logs/.+": "nobody: figures by epoch",
    r"run/.+": "derived",
    r"erasure/.+": "erasure",
    r"pseudonyms\.json": "nobody",
    r"project-id": "nobody",
    r".+\.lock": "nobody",
}
_SCRATCH = re.compile(
    r"(.+\.(new|part|copy|fresh)|\..+\.\d+)\Z"
)  # what is renamed into its place once it is whole
_TRAINING_SET = (
    "rows-*.parquet",
    "requests-*.parquet",
    "categories.parquet",
    "*.new",
)  # what a backfill writes for its users
_EXPORT = b'{"source":"person"'
_WHO = ("person", "user_id")


class _Exported(msgspec.Struct):
    """The first line of an export: whose it is."""

    asked: list[str] = []
    users: list[str] = []
    visitors: list[str] = []


def local_roots(project: Project) -> list[Path]:
    """Where a project keeps things on this machine: its folder, and that of its data where it is
    elsewhere.
    """
    data = project.paths.data
    return [project.root, *([] if project.root in data.parents else [data])]


def kind_of(path: str) -> str | None:
    """What a file is, by its path below the data folder; None for one that nobody told of here.

    >>> kind_of("stream/raw-serve-1.db"), kind_of("stream/notes.txt")
    ('rewritten', None)
    """
    return next((kind for pattern, kind in KINDS.items() if re.fullmatch(pattern, path)), None)


def unknown(data: Path) -> list[str]:
    """The files below a data folder of which it is not said what an erasure does with them."""
    files = [
        path.relative_to(data).as_posix() for path in sorted(data.rglob("*")) if path.is_file()
    ]
    return [
        path
        for path in files
        if kind_of(path) is None and not _SCRATCH.fullmatch(path.rpartition("/")[2])
    ]


def scratch(data: Path, lake: Path | None) -> Iterator[Path]:
    """Files and folders that nobody is to go on with: of commands that were cut short, and weights
    that learned from everybody.
    """
    yield from sorted(data.glob("training/warm"))
    yield from (path for path in sorted(data.rglob(UNFINISHED)) if path.is_dir())
    yield from (
        sorted(data.glob("registry/.incoming"))
        + sorted(data.glob("registry/churn/*/.incoming"))
        + sorted(data.glob("run/verify-*"))
    )
    for path in sorted(data.rglob("*")):
        if (
            _SCRATCH.fullmatch(path.name)
            and path.is_file()
            and (lake is None or lake not in path.parents)
        ):
            yield path


def derived(path: Path, project: Project) -> list[Path]:
    """What is deleted with a file that holds something: the file, or all of the training set that
    it is part of; nothing if not ours.
    """
    above = {folder.parent for folder in local_roots(project)}
    for folder in path.parents:
        if folder in above:
            break
        works = [
            each.parent
            for each in (*folder.glob("manifest.json"), *folder.glob("*/manifest.json"))
            if _is_backfill(each.parent)
        ]
        if works:
            return [*works, *(each for pattern in _TRAINING_SET for each in folder.glob(pattern))]
    paths = project.paths
    ours = any(folder in path.parents for folder in (paths.run, paths.checks, paths.reports))
    return [path] if ours or made_by(path) else []


def of_persons(project: Project, persons: Collection[str]) -> Iterator[Path]:
    """What commands made that holds rows of one of these persons, by the columns that say whose
    they are: for ids of which a search through bytes tells nothing, since they are short or mean
    something else too.
    """
    lake, stream = project.paths.lake, project.paths.stream
    for path in (path for folder in local_roots(project) for path in sorted(folder.rglob("*"))):
        if (
            not persons
            or lake in path.parents
            or stream in path.parents
            or not path.is_file()
            or path.is_symlink()
        ):
            continue
        if _names(path, persons) and derived(path, project):
            yield path


def _names(path: Path, persons: Collection[str]) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(len(_EXPORT))
            if head == _EXPORT:
                said = msgspec.json.decode(head + file.readline(), type=_Exported)
                return not {
                    *said.asked,
                    *said.users,
                    *(f"{ANONYMOUS_PREFIX}{one}" for one in said.visitors),
                }.isdisjoint(persons)
        if head[:4] != b"PAR1":
            return False
        names = [name for name in _WHO if name in pq.read_schema(path).names]
        values = pa.array(sorted(persons), pa.string())
        for batch in pq.ParquetFile(path).iter_batches(columns=names) if names else ():
            if any(
                pc.any(pc.is_in(column.cast(pa.string()), value_set=values)).as_py()
                for column in batch.columns
            ):
                return True
    except (OSError, pa.ArrowException, msgspec.MsgspecError, UnicodeDecodeError):
        return False
    return False


def made_by(path: Path) -> str:
    """Which command of ours wrote a file where its user said: it can be made again. "" for any
    other.
    """
    try:
        with path.open("rb") as file:
            head = file.read(len(_EXPORT))
        if head == _EXPORT:
            return "lake export-user"
        metadata = pq.read_schema(path).metadata if head[:4] == b"PAR1" else None
        return (metadata or {}).get(MADE, b"").decode()
    except (OSError, pa.ArrowException, UnicodeDecodeError):
        return ""


def _is_backfill(folder: Path) -> bool:
    try:
        return bool(parts.read_manifest(folder).format)
    except TailorbirdError:  # it is the manifest of something else
        return False
