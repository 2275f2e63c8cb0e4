"""The writers of all files of a project: an erasure must be alone, since each file has one writer
and no reader may see half of it.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird.candidates.folder import WRITER_LOCK, contract_folders
from tailorbird.config import Project
from tailorbird.config.erasures import READ_LOCK
from tailorbird.errors import LagError, LockedError, UsageError
from tailorbird.events import Clock, parse_duration
from tailorbird.features.schemas import state_folders
from tailorbird.features.state.key_partition import part_folders, part_name
from tailorbird.file_lock import FileLock
from tailorbird.lake import LakeRole
from tailorbird.storage_paths import StoragePath
from tailorbird.stream import (
    EmbeddedWriter,
    open_reader,
    open_writer,
    raw_logs,
    read_released_positions,
    response_logs,
    routed_path,
    scores_path,
)

if TYPE_CHECKING:
    from tailorbird.privacy.rewrite_topics import TopicWriters
    from tailorbird.stream.kafka.topic_reset import TopicSpec

# Files of a table's log, which know of files and not of rows; they are deleted with the history.
LOG_FILE = re.compile(r"(\d{20}\.(json|checkpoint.*\.parquet)|_last_checkpoint)(\.\d+)?\Z")
_SHOWN_MAX = 20  # files in a message
NOT_ALONE_MESSAGE = (
    "a role of this project is running (or an import, or another erasure), and an erasure "
    "must be alone"
)
STOP_REMEDY = (
    "stop `tailorbird up` (Ctrl-C, or SIGTERM) and all single roles, erase, and start them again"
)


@dataclass
class ProjectWriters:
    """The writers of everything.

    Attributes:
        state_locks: locks of the workers, by schema and part; released one by one to rebuild a
            state.
        candidate_locks: locks of the tables of each contract.
    """

    lake: LakeRole
    raw_logs: dict[str, EmbeddedWriter] = field(default_factory=dict)
    response_logs: dict[str, EmbeddedWriter] = field(default_factory=dict)
    routed_log: EmbeddedWriter | None = None
    score_log: EmbeddedWriter | None = None
    topics: "TopicWriters | None" = None
    state_locks: dict[tuple[str, str], FileLock] = field(default_factory=dict)
    candidate_locks: list[FileLock] = field(default_factory=list)


@contextmanager
def open_writers(
    project: Project, clock: Clock, topics: "list[TopicSpec] | None" = None
) -> Iterator[ProjectWriters]:
    """Hold all files until the end of the block; `topics` are those of an erasure that was cut off.

    Raises:
        LockedError: a role is running, or a command that writes down what it read.
        LagError: rows wait in the logs that are not yet in the lake.
        UsageError: files were set aside that cannot be searched.
    """
    with ExitStack() as stack:
        stack.callback(_lock_out_readers(project.paths.run / READ_LOCK).release)
        try:
            writers = _open_all(project, clock, topics, stack)
        except LockedError as error:
            raise LockedError(NOT_ALONE_MESSAGE, where=error.where, fix=STOP_REMEDY) from error
        _require_in_lake(project, writers, check_topics=topics is None)
        _require_readable(project.paths.stream, project.paths.lake)
        yield writers


def _open_all(
    project: Project, clock: Clock, topics: "list[TopicSpec] | None", stack: ExitStack
) -> ProjectWriters:
    paths = project.paths
    stream = project.paths.stream
    stack.callback(FileLock(paths.run / "up").release)
    history_us = parse_duration(project.settings.lake.history)
    role = LakeRole(project.stream, paths.lake, clock=clock, keep_us=history_us)
    writers = ProjectWriters(stack.enter_context(role))
    if (log_topics := project.stream.kafka_logs) is not None:
        from tailorbird.privacy.rewrite_topics import hold_topics

        writers.topics = stack.enter_context(hold_topics(log_topics, paths.data, topics))
    for producer, path in raw_logs(stream).items():
        writers.raw_logs[producer] = stack.enter_context(open_writer(path, partition=producer))
    for producer, path in response_logs(stream).items():
        with open_reader(path) as reader:
            partition = reader.partition
        writers.response_logs[producer] = stack.enter_context(
            open_writer(path, partition=partition)
        )
    if scores_path(stream).exists():
        log = open_writer(scores_path(stream), partition="scores")
        writers.score_log = stack.enter_context(log)
    if routed_path(stream).exists():
        log = open_writer(
            routed_path(stream), partition="routed", first_position=1, on_damaged_tail="stop"
        )
        writers.routed_log = stack.enter_context(log)
    for folder in part_folders(paths.state):
        for schema in state_folders(folder):
            lock = FileLock(folder / schema / "worker")
            writers.state_locks[schema, part_name(folder, paths.state)] = lock
            stack.callback(lock.release)
    for folder in contract_folders(paths.candidates):
        writers.candidate_locks.append(FileLock(folder / WRITER_LOCK))
        stack.callback(writers.candidate_locks[-1].release)
    return writers


def forget_unbegun(project: Project) -> bool:
    """Let roles start again where an erasure died before its first change, and left its marker.

    Returns:
        Whether there was such a marker; the erasure has to be started again.
    Raises:
        LockedError: an erasure is at work, or what must not run beside one.
    """
    topics = project.stream.kafka_logs
    if topics is None:
        return False
    from tailorbird.privacy.rewrite_topics import release_unbegun

    lock = _lock_out_readers(project.paths.run / READ_LOCK)
    try:
        return release_unbegun(topics, project.paths.data)
    finally:
        lock.release()


def _lock_out_readers(path: Path) -> FileLock:
    try:
        return FileLock(path)
    except LockedError as error:
        raise LockedError(
            "a role, an import, another erasure, or a command that writes down what it reads "
            "is at work (train, tune, features backfill, checks run, score churn, …)",
            where=error.where,
            fix="let it end or stop it, then erase: what it writes later would hold whom this "
            "erases",
        ) from error


def _require_in_lake(project: Project, writers: ProjectWriters, *, check_topics: bool) -> None:
    """Raise LagError where rows stand in the logs alone, which are emptied."""
    released_positions = read_released_positions(project.paths.lake)
    logs_behind = [
        name
        for name, log in writers.raw_logs.items()
        if log.end() > released_positions.raw_position(name)
    ]
    logs_behind += [
        name
        for name, log in writers.response_logs.items()
        if log.end() > released_positions.responses_position(name)
    ]
    if writers.routed_log is not None and writers.routed_log.end() > max(
        released_positions.routed_position(), 1
    ):
        logs_behind.append("routed")
    if writers.topics is not None and check_topics:
        logs_behind += writers.topics.logs_behind(released_positions)
    if logs_behind:
        raise LagError(
            f"rows of {', '.join(sorted(set(logs_behind)))} are not yet in the lake",
            where=str(project.paths.stream),
            fix="tailorbird lake erase brings them in",
        )


def find_set_aside(lake: StoragePath) -> list[StoragePath]:
    """Return the files of the lake that were moved away."""
    return [path for path in (lake / "set-aside").rglob("*") if path.is_file()]


def _require_readable(stream: Path, lake: StoragePath) -> None:
    """Raise UsageError where files were set aside: nobody can tell whose rows are in them."""
    data_files = [path for path in find_set_aside(lake) if not LOG_FILE.match(path.name)]
    files = [*data_files, *stream.glob("*.damaged-*")]
    if files:
        paths = sorted(map(str, files))
        more_names = f" and {len(paths) - _SHOWN_MAX:,} more" if len(paths) > _SHOWN_MAX else ""
        raise UsageError(
            f"{len(files)} files were set aside, and nobody can tell whose data are in them",
            where=str(lake / "set-aside" if data_files else stream),
            fix="take out of them what is needed, then delete them: "
            f"{', '.join(paths[:_SHOWN_MAX])}{more_names}",
        )
