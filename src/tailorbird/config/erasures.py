"""Bring a machine up to date with erasures before one of its roles starts.

An erasure must not be half done, and erasures that ran on another machine must be applied here. If
the logs are topics, each machine stores personal data in worker states and router tables. Both are
derived from the lake and the topics, so they are deleted here and rebuilt.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tailorbird.atomic_write import finish_shredding, write_private
from tailorbird.config.project import Project
from tailorbird.errors import DamageError, LockedError, StorageError
from tailorbird.events.suppression import (
    ERASURE_FOLDER,
    JOURNAL_FILE,
    LAST_ERASURE_FILE,
    SUPPRESSION_FILE,
    SUPPRESSION_KEY_FILE,
    require_finished_erasure,
)
from tailorbird.features.schemas import state_folders
from tailorbird.features.state.key_partition import part_folders
from tailorbird.file_lock import FileLock

# Held shared by roles and by each command that stores what it reads; an erasure holds it
# exclusively.
READ_LOCK = "reading"
_STATE_FILES = ("data.mdb", "lock.mdb", "data.mdb.damaged")


def apply_remote_erasures(project: Project) -> bool:
    """Apply erasures since the last call on this machine; return whether there were any.

    Raises:
        NotReadyError: an erasure is running or was interrupted.
        LockedError: a role runs here that started before the erasure.
    """
    require_finished_erasure(project.paths.data)
    finish_shredding(project.paths.data / ERASURE_FOLDER / JOURNAL_FILE)
    topics = project.stream.kafka_logs
    if topics is None:
        return False
    from tailorbird.router.routed_log.retention import SUMMARY_FILE as ITEM_SUMMARY_FILE
    from tailorbird.stream.kafka import topic_reset

    erasure = topic_reset.last_erasure(topics.cluster)
    if erasure is None or erasure.number <= last_applied_erasure(project):
        return False
    folder = project.paths.data / ERASURE_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LAST_ERASURE_FILE)
    try:
        for path in (*topics.index_paths(), topics.folder / ITEM_SUMMARY_FILE):
            _discard_states(path, [path, Path(f"{path}-wal"), Path(f"{path}-shm")])
        # A worker keeps the states of its part of the keys, one folder for each schema.
        for key_part in part_folders(project.paths.state):
            for schema_folder_name in state_folders(key_part):
                state_folder = key_part / schema_folder_name
                _discard_states(
                    state_folder / "worker", [state_folder / name for name in _STATE_FILES]
                )
        write_private(folder / SUPPRESSION_KEY_FILE, erasure.key)
        write_private(folder / SUPPRESSION_FILE, erasure.suppression_list)
        write_private(folder / LAST_ERASURE_FILE, b"%d" % erasure.number)
    finally:
        lock.release()
    return True


@contextmanager
def hold_off_erasures(data: Path, *, create: bool = False) -> Iterator[None]:
    """Keep erasures from starting until the end of the block.

    A block that writes data that it read or received could otherwise restore a person behind a
    finished erasure.

    Args:
        create: create the folder if it is missing; without a folder there is nothing to erase and
            no lock is taken.
    Raises:
        LockedError: an erasure is running.
        NotReadyError: an erasure was interrupted.
    """
    if not create and not data.is_dir():
        yield
        return
    try:
        lock = FileLock(data / "run" / READ_LOCK, shared=True)
    except StorageError:  # A user who may only read here is not kept from it.
        lock = None
    except LockedError as error:
        raise LockedError(
            "people are being erased, and what this reads or takes in of them would outlast it",
            where=error.where,
            fix="run it again when `tailorbird lake erase` has ended",
        ) from error
    try:
        require_finished_erasure(data)
        yield
    finally:
        if lock is not None:
            lock.release()


def last_applied_erasure(project: Project) -> int:
    """Return the number of the last erasure that this machine applied; 0 without any.

    Raises DamageError if the file with the number is unreadable.
    """
    path = project.paths.data / ERASURE_FOLDER / LAST_ERASURE_FILE
    try:
        return int(path.read_bytes())
    except FileNotFoundError:
        return 0
    except (OSError, ValueError) as error:
        raise DamageError(
            f"cannot be read: {error}",
            where=str(path),
            fix="delete it: what was erased is taken in again",
        ) from error


def _discard_states(lock_path: Path, files: list[Path]) -> None:
    try:
        lock = FileLock(lock_path)
    except LockedError as error:
        raise LockedError(
            "people were erased from another machine, and a role that started before holds "
            "what is left of them here",
            where=error.where,
            fix="stop all roles of this machine, and start them again",
        ) from error
    try:
        for path in files:
            path.unlink(missing_ok=True)
    finally:
        lock.release()
