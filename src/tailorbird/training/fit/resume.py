"""Resumable runs: intermediate arrays in a folder, so that an interrupted run can continue.

The folder belongs to one set of settings; other settings empty it. It is removed at the end of the
run. A run that stopped before its first result, for instance for lack of data, leaves nothing to
resume: the next run starts as of its own time.
"""

import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from tailorbird.errors import LockedError
from tailorbird.file_lock import acquire_lock

UNFINISHED_FOLDER = "unfinished"  # subfolder of the results folder


class UnfinishedRun:
    """Arrays of an unfinished run.

    Args:
        folder: is created, and emptied if it belongs to other settings.
        settings: everything that the results depend on.
        now: start of a new run; a resumed run keeps its own start.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], now: int) -> None:
        self._folder = folder
        settings_file = folder / "settings.json"
        expected_settings = msgspec.json.decode(msgspec.json.encode(dict(settings)))
        try:
            saved_run = msgspec.json.decode(settings_file.read_bytes())
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            saved_run = {}
        self.is_resumed = (
            isinstance(saved_run, dict)
            and saved_run.get("settings") == expected_settings
            and any(path != settings_file for path in folder.iterdir())
        )
        if self.is_resumed:
            self.started_at = int(saved_run["now"])
            return
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.started_at = now
        settings_file.write_bytes(msgspec.json.encode({"settings": expected_settings, "now": now}))

    def load_or_compute_arrays(
        self, name: str, compute: Callable[[], Mapping[str, npt.NDArray]]
    ) -> dict[str, npt.NDArray]:
        """Return the arrays saved under a name; compute and save them if there are none."""
        return load_or_compute_arrays(self._folder, name, compute)

    def load_or_compute(self, name: str, compute: Callable[[], npt.NDArray]) -> npt.NDArray:
        """Return the array saved under a name; compute and save it if there is none."""
        return self.load_or_compute_arrays(name, lambda: {"array": compute()})["array"]

    def discard(self) -> None:
        """Delete all saved arrays at the end of the run."""
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def hold_exclusive(lock: Path, activity: str) -> Iterator[None]:
    """Hold a lock between processes; the kernel releases it when a process dies.

    Args:
        lock: lock file, which stays, with the process id of its last holder; outside a folder that
            a run may empty.
        activity: description for error messages, such as "a net for slot home is trained".

    Raises:
        LockedError: another process holds the lock; names it.
        StorageError: the file cannot be created.
    """

    def busy_error(other: str) -> LockedError:
        fix = f"wait for process {other} to end, or stop it: what it has done so far is kept"
        return LockedError(
            f"{activity} by process {other} already", where=str(lock.parent), fix=fix
        )

    descriptor = acquire_lock(lock, busy_error)
    try:
        yield
    finally:
        os.close(descriptor)


def load_or_compute_arrays(
    folder: Path, name: str, compute: Callable[[], Mapping[str, npt.NDArray]]
) -> dict[str, npt.NDArray]:
    """Return the arrays of a name in a folder; compute and save them if there are none."""
    path = folder / f"{blake2b(name.encode(), digest_size=10).hexdigest()}.npz"
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except (OSError, ValueError, zipfile.BadZipFile):
        arrays = dict(compute())
    temporary = path.with_suffix(f".{os.getpid()}.part")
    with temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    temporary.rename(path)
    return arrays
