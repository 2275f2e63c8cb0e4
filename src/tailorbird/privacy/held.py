"""All of a project's files for one writer: an erasure must be alone, since each file has one writer
and no reader may see half of it.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird.candidates.folder import ROLE, contract_folders
from tailorbird.config import Project
from tailorbird.config.erasures import READING
from tailorbird.errors import BehindError, LockedError, UsageError
from tailorbird.events import Clock, duration
from tailorbird.features.keypart import part_folders, part_name
from tailorbird.features.schemas import state_folders
from tailorbird.lake import LakeRole
from tailorbird.lake.foreign import brought
from tailorbird.lock import FileLock
from tailorbird.places import Place
from tailorbird.stream import (
    EmbeddedWriter,
    answer_logs,
    open_reader,
    open_writer,
    raw_logs,
    read_released,
    routed_path,
    scores_path,
)

if TYPE_CHECKING:
    from tailorbird.privacy.topics import Topics
    from tailorbird.stream.kafka.emptied import Emptying

# Of a table's log, which knows of no rows, only of files: these are deleted with the past.
LOG_FILE = re.compile(r"(\d{20}\.(json|checkpoint.*\.parquet)|_last_checkpoint)(\.\d+)?\Z")
_NAMED = 20  # files in a message
ALONE = (
    "a role of this project is running (or an import, or another erasure), and an erasure "
    "must be alone"
)
STOP = "stop `tailorbird up` (Ctrl-C, or SIGTERM) and all single roles, erase, and start them again"


@dataclass
class Held:
    """The writers of everything.

    Attributes:
        states: the locks of the workers, by schema and part; given up one by one to make a state
            anew.
        candidates: those of the tables of each contract.
    """

    lake: LakeRole
    raw: dict[str, EmbeddedWriter] = field(default_factory=dict)
    answers: dict[str, EmbeddedWriter] = field(default_factory=dict)
    routed: EmbeddedWriter | None = None
    scores: EmbeddedWriter | None = None
    topics: "Topics | None" = None
    states: dict[tuple[str, str], FileLock] = field(default_factory=dict)
    candidates: list[FileLock] = field(default_factory=list)


@contextmanager
def hold(project: Project, clock: Clock, topics: "list[Emptying] | None" = None) -> Iterator[Held]:
    """Hold everything until the end of the block. `topics`: those of an erasure that was cut short.

    Raises:
        LockedError: a role is running, or a command that writes down what it read.
        BehindError: rows wait in the logs that are not yet in the lake.
        UsageError: files were set aside that nobody can search.
    """
    stream, paths = project.paths.stream, project.paths
    with ExitStack() as stack:
        stack.callback(_without_readers(paths.run / READING).release)
        try:
            up = FileLock(paths.run / "up")
            stack.callback(up.release)
            held = Held(
                stack.enter_context(
                    LakeRole(
                        project.stream,
                        paths.lake,
                        clock=clock,
                        keep_us=duration(project.settings.lake.history),
                    )
                )
            )
            if not isinstance(project.stream, Path):
                from tailorbird.privacy.topics import hold_topics

                held.topics = stack.enter_context(hold_topics(project.stream, paths.data, topics))
            for producer, path in raw_logs(stream).items():
                held.raw[producer] = stack.enter_context(open_writer(path, partition=producer))
            for producer, path in answer_logs(stream).items():
                held.answers[producer] = stack.enter_context(
                    open_writer(path, partition=_partition(path))
                )
            if scores_path(stream).exists():
                held.scores = stack.enter_context(
                    open_writer(scores_path(stream), partition="scores")
                )
            if routed_path(stream).exists():
                held.routed = stack.enter_context(
                    open_writer(
                        routed_path(stream), partition="routed", first=1, damaged_tail="stop"
                    )
                )
            for folder in part_folders(paths.state):
                for schema in state_folders(folder):
                    name = part_name(folder, paths.state)
                    held.states[schema, name] = FileLock(folder / schema / "worker")
                    stack.callback(held.states[schema, name].release)
            for folder in contract_folders(paths.candidates):
                held.candidates.append(FileLock(folder / ROLE))
                stack.callback(held.candidates[-1].release)
        except LockedError as error:
            raise LockedError(ALONE, where=error.where, fix=STOP) from error
        _check_whole(project, held, check_topics=topics is None)
        yield held


def forget_unbegun(project: Project) -> bool:
    """Let roles in again where an erasure died before its first change, with nothing but its marker
    left in the cluster.

    Returns:
        Whether there was one; it is to be begun again.
    Raises:
        LockedError: an erasure is at work, or what must not run beside one.
    """
    if isinstance(project.stream, Path):
        return False
    from tailorbird.privacy.topics import release_left

    lock = _without_readers(project.paths.run / READING)
    try:
        return release_left(project.stream, project.paths.data)
    finally:
        lock.release()


def _without_readers(path: Path) -> FileLock:
    try:
        return FileLock(path)
    except LockedError as error:
        raise LockedError(
            "a role, an import, another erasure, or a command that writes down what it reads "
            "is at work (train, tune, features backfill,"
            " checks run, score churn, …)",
            where=error.where,
            fix="let it end or stop it, then erase: what it writes later would hold whom this "
            "erases",
        ) from error


def set_aside(lake: Place) -> list[Place]:
    """Damaged files of the lake that were moved away."""
    return [path for path in (lake / "set-aside").rglob("*") if path.is_file()]


def _partition(path: Path) -> str:
    with open_reader(path) as reader:
        return reader.partition


def _check_whole(project: Project, held: Held, *, check_topics: bool) -> None:
    """That nothing stands in the logs alone, and that there is no file with damaged blocks, which
    cannot be searched.
    """
    paths = project.paths
    released = read_released(paths.lake)
    behind = [name for name, log in held.raw.items() if log.end() > released.raw(name)]
    behind += [name for name, log in held.answers.items() if log.end() > released.answers(name)]
    if held.routed is not None and held.routed.end() > max(released.of_routed(), 1):
        behind.append("routed")
    behind += held.topics.behind(released) if held.topics is not None and check_topics else []
    if behind:
        raise BehindError(
            f"rows of {', '.join(sorted(set(behind)))} are not yet in the lake",
            where=str(paths.stream),
            fix="tailorbird lake erase brings them in",
        )
    _check_aside(paths.stream, paths.lake)


def _check_aside(stream: Path, lake: Place) -> None:
    """That no file was set aside that may hold rows: what is damaged cannot be searched, and what
    others wrote is not ours to delete.
    """
    rows = [path for path in set_aside(lake) if not LOG_FILE.match(path.name)]
    foreign = set().union(*(brought(folder) for folder in {path.parent for path in rows}))
    others, damaged = (
        [path for path in rows if path in foreign],
        [path for path in rows if path not in foreign],
    )
    damaged += stream.glob("*.damaged-*")
    if not damaged and not others:
        return
    fixes = []
    if damaged:
        fixes.append(
            "take out of what is damaged what is needed, then delete it "
            f"({_named(damaged)}); see tailorbird doctor"
        )
    if others:
        fixes.append(
            "delete what another writer had put into a table of the lake, which never read "
            f"it ({_named(others)}), or move it out of "
            "the project and erase these people there"
        )
    raise UsageError(
        f"{len(damaged) + len(others)} files were set aside, and nobody can tell whose data "
        "are in them",
        where=str(lake / "set-aside" if rows else stream),
        fix=". ".join(fixes),
    )


def _named(paths: Sequence[Path | Place]) -> str:
    more = f" and {len(paths) - _NAMED:,} more beside them" if len(paths) > _NAMED else ""
    return ", ".join(sorted(map(str, paths))[:_NAMED]) + more
