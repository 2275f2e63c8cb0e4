"""What stands in the log of a table and is none of the lake's own: readers take it for true,
whoever wrote it.

    a commit beyond the ledger's last that is torn, or whole and another writer's   → and all that stands on it
    a checkpoint, or another file, of such a version                                → readers begin with it
    a hint to a checkpoint that is not there, or is such a one                      → a table that cannot be opened

`lake.verify` tells of it; `lake.check`, at the start of the role, and `lake.repair` set it aside.
Nothing of it is deleted.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

import msgspec

from tailorbird.lake import durable
from tailorbird.lake.delta import COMMIT_INFO, CommitInfo, commit_path
from tailorbird.lake.ledger import Line
from tailorbird.places import ObjectPath, Place

CHECKPOINT = re.compile(r"(\d{20})\.checkpoint.*\.parquet\Z")
HINT = "_last_checkpoint"
FOREIGN = "is none of the lake's own"
NOT_THERE = "names a checkpoint that is not there"

_COMMIT = re.compile(r"(\d{20})\.json\Z")
_ASIDE_COMMIT = re.compile(r"\d{20}\.json(\.\d+)?\Z")
_BESIDE = re.compile(
    r"(\d{20})\.(?!json\Z).+\Z"
)  # checkpoints, and what other writers put beside a commit
_BY_HAND = (
    "move it and what is named beside it out of _delta_log, the newest first, then start "
    "the lake role"
)


@dataclass(frozen=True)
class Stranger:
    """A file of a table's log that readers take for true and nothing vouches for: which, what is
    wrong with it, and what mends it.
    """

    file: Place
    version: int
    what: str
    remedy: str


def versions(path: Place) -> list[int]:
    """The versions of which the log of a table has a commit file."""
    log = path / "_delta_log"
    names = [entry.name for entry in log.iterdir()] if log.is_dir() else []
    return sorted(int(match[1]) for name in names if (match := _COMMIT.match(name)))


def torn(data: bytes, version: int) -> str | None:
    """What is wrong with a commit that the ledger does not know; None if nothing. The lake's own
    say how many files and rows they have.
    """
    if not data:
        return "is empty"
    try:
        actions = [json.loads(line) for line in data.splitlines()]
        keys = [next(iter(action)) for action in actions]
        if version == 0:
            return None if {"protocol", "metaData"} <= set(keys) else "is not whole"
        told = actions[keys.index("commitInfo")]["commitInfo"]
        if COMMIT_INFO not in told:
            return FOREIGN
        info = msgspec.convert(told[COMMIT_INFO], CommitInfo)
        rows = [
            json.loads(action["add"]["stats"])["numRecords"]
            for action in actions
            if "add" in action
        ]
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        StopIteration,
        msgspec.ValidationError,
    ):
        return "is not whole"
    whole = (
        len(rows) == info.files and sum(rows) == info.rows and keys.count("remove") == info.removed
    )
    of_use = "txn" in keys or info.removed or (info.columns and "metaData" in keys)
    return None if whole and of_use else "is not whole"


def strange_commits(path: Place, known: Mapping[int, Line]) -> list[tuple[int, str]]:
    """Commits beyond the ledger's last, from the first that is none of the lake's own on, with what
    is wrong.

    A whole one of the lake's own that the ledger does not know was made just now, or just before a
    crash.
    """
    beyond = [version for version in versions(path) if version > max(known, default=-1)]
    faults = [
        (version, torn(commit_path(path, version).read_bytes(), version)) for version in beyond
    ]
    first = next((version for version, fault in faults if fault is not None), None)
    return [
        (version, fault or f"stands on one that {FOREIGN}")
        for version, fault in faults
        if first is not None and version >= first
    ]


def of_others(commits: list[tuple[int, str]]) -> bool:
    """Whether all of these are whole and another writer's, so that nobody needs them; of one that
    is torn, that is not known.
    """
    return all(fault == FOREIGN for _, fault in commits)


def remedy(path: Place, *, at_start: bool) -> str:
    """What mends the log of a table where something in it is none of the lake's own; `at_start`:
    whether the role does when it starts.
    """
    if not isinstance(path, ObjectPath):
        return "tailorbird lake repair sets it aside"
    return "the lake role sets it aside when it starts" if at_start else _BY_HAND


def strangers(path: Place, known: Mapping[int, Line]) -> list[Stranger]:
    """What is none of the lake's own in the log of a table, and the hint to it.

    Set aside from the last to the first: then a crash in between hides none that are left.

    Args:
        known: the table's commits, by the ledger.
    """
    if not (log := path / "_delta_log").is_dir():
        return []
    commits = strange_commits(path, known)
    mends = remedy(
        path, at_start=of_others(commits) or len(commits) == 1
    )  # a crash may leave one that is torn
    found = [
        Stranger(
            commit_path(path, version),
            version,
            f"version {version} {fault}, and the ledger does not know it",
            mends,
        )
        for version, fault in commits
    ]
    newest, first = max(known, default=-1), min((version for version, _ in commits), default=None)
    beside: dict[str, int] = {
        entry.name: int(match[1]) for entry in log.iterdir() if (match := _BESIDE.match(entry.name))
    }
    strange = {
        name
        for name, version in beside.items()
        if version > newest
        and ((first is not None and version >= first) or not commit_path(path, version).exists())
    }
    found += [
        Stranger(log / name, beside[name], f"is of version {beside[name]}, which {FOREIGN}", mends)
        for name in sorted(strange)
    ]
    hinted = hinted_version(log / HINT)
    if hinted is not None:
        of_it = {
            name for name, version in beside.items() if version == hinted and CHECKPOINT.match(name)
        }
        if not of_it - strange:
            what = f"names a checkpoint that {FOREIGN}" if of_it else NOT_THERE
            found.append(Stranger(log / HINT, -1, f"{what}, of version {hinted}", mends))
    return found


def hinted_version(hint: Place) -> int | None:
    """The version of the checkpoint that readers are told to begin with; None where nothing is
    told, or nothing that they can read.
    """
    try:
        version = json.loads(hint.read_bytes())["version"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return version if isinstance(version, int) else None


def set_aside(file: Place, named: Collection[str], folder: Place) -> Place:
    """Move a stranger into `folder`, of a commit first the data files that it brought: the role
    deletes what no commit names.

    Args:
        named: the data files of the lake's own commits, which stay.
    Returns:
        where it is now.
    """
    for path in data_files(file, named):
        durable.move_aside(file.parent.parent / path, folder)
    return durable.move_aside(file, folder)


def data_files(file: Place, named: Collection[str]) -> list[str]:
    """Return the data files that an orphan commit brought, but those that the lake's own name."""
    if not _COMMIT.match(file.name) or torn(data := file.read_bytes(), -1) != FOREIGN:
        return []
    table = file.parent.parent
    return [path for path in _added(data) if path not in named and (table / path).is_file()]


def brought(folder: Place) -> set[Place]:
    """The data files in a folder that `set_aside` moved there with a commit of another writer's:
    the lake never had a row of them.
    """
    files = [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    commits = [
        data
        for path in files
        if _ASIDE_COMMIT.match(path.name) and torn(data := path.read_bytes(), -1) == FOREIGN
    ]
    names = {path.rpartition("/")[2] for data in commits for path in _added(data)}
    return {path for path in files if {path.name, path.name.rpartition(".")[0]} & names}


def _added(data: bytes) -> Iterator[str]:
    """The data files that a commit names, as far as they are below the table's folder."""
    for action in map(json.loads, data.splitlines()):
        path = unquote(str(action.get("add", {}).get("path", "")))
        if path and ":" not in path and not path.startswith("/") and ".." not in path.split("/"):
            yield path
