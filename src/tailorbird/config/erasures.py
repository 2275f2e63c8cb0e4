"""What a machine has to know of erasures before a role of it starts: that none is half done, and
who was erased from another machine.

Where the logs are topics, other machines keep something of people too: the states of their workers,
the tables of their routers. These are functions of the lake and of the topics, so they are thrown
away here and made again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tailorbird.config.project import Project
from tailorbird.errors import DamageError, LockedError, StorageError
from tailorbird.events.suppression import FILE, FOLDER, JOURNAL, KEY_FILE, TAKEN, require_finished
from tailorbird.features.keypart import part_folders
from tailorbird.features.schemas import state_folders
from tailorbird.lock import FileLock
from tailorbird.whole import finish_shredding, write_private

# held, shared, by roles and by each command that writes down what it read; an erasure holds it
# alone
READ_LOCK = "reading"
_STATE = ("data.mdb", "lock.mdb", "data.mdb.damaged")


def apply_remote_erasures(project: Project) -> bool:
    """Take in what was erased since this machine last looked; whether anything was.

    Raises:
        NotReadyError: an erasure is at work, or was cut short.
        LockedError: a role runs here that has not taken it in.
    """
    require_finished(project.paths.data)
    finish_shredding(project.paths.data / FOLDER / JOURNAL)
    if isinstance(project.stream, Path):
        return False
    from tailorbird.router.retention import FILE as ITEMS
    from tailorbird.stream.kafka import emptied

    erasure = emptied.last_erasure(project.stream.cluster)
    if erasure is None or erasure.number <= taken(project):
        return False
    folder = project.paths.data / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / TAKEN)
    try:
        for path in (*project.stream.index_paths(), project.stream.folder / ITEMS):
            _throw_away(path, [path, Path(f"{path}-wal"), Path(f"{path}-shm")])
        for part in part_folders(project.paths.state):
            for schema in state_folders(part):
                state = part / schema
                _throw_away(state / "worker", [state / name for name in _STATE])
        write_private(folder / KEY_FILE, erasure.key)
        write_private(folder / FILE, erasure.stop)
        write_private(folder / TAKEN, b"%d" % erasure.number)
    finally:
        lock.release()
    return True


@contextmanager
def hold_off_erasures(data: Path, *, make: bool = False) -> Iterator[None]:
    """Keep erasures away from a project's data until the end of the block, which writes what it
    read, or what came in, where an erasure that is through would not look any more.

    Args:
        make: make the folder if it is not there; else nobody can be erased from it, and nothing is
            kept away.
    Raises:
        LockedError: an erasure is at work.
        NotReadyError: one was cut short.
    """
    if not make and not data.is_dir():
        yield
        return
    try:
        lock = FileLock(data / "run" / READ_LOCK, shared=True)
    except StorageError:  # who may only read here is not kept from it
        lock = None
    except LockedError as error:
        raise LockedError(
            "people are being erased, and what this reads or takes in of them would outlast it",
            where=error.where,
            fix="run it again when `tailorbird lake erase` has ended",
        ) from error
    try:
        require_finished(data)
        yield
    finally:
        if lock is not None:
            lock.release()


def taken(project: Project) -> int:
    """The number of the last erasure that this machine knows of; 0 without any. Raises DamageError."""
    path = project.paths.data / FOLDER / TAKEN
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


def _throw_away(of: Path, files: list[Path]) -> None:
    try:
        lock = FileLock(of)
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
