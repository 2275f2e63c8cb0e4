"""What a long run has found so far, in a folder: arrays by name, so that a run that was cut short
goes on where it was.

The folder belongs to one set of settings; another one empties it. It is removed when the run is
through. A run that ended before it had found anything, as where there was too little to learn from
yet, leaves nothing to go on with: the next one begins as of its own time.
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
from tailorbird.lock import take

UNFINISHED = "unfinished"  # the folder, in that of the results


class Unfinished:
    """Arrays of an unfinished run.

    Args:
        folder: is made; emptied where it belongs to other settings.
        settings: what decides the results.
        now: when the run begins; an unfinished one goes on as of its own beginning.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], now: int) -> None:
        self._folder = folder
        head = folder / "settings.json"
        wanted = msgspec.json.decode(msgspec.json.encode(dict(settings)))
        try:
            found = msgspec.json.decode(head.read_bytes())
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            found = {}
        self.resumed = (
            isinstance(found, dict)
            and found.get("settings") == wanted
            and any(each != head for each in folder.iterdir())
        )
        if self.resumed:
            self.now = int(found["now"])
            return
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.now = now
        head.write_bytes(msgspec.json.encode({"settings": wanted, "now": now}))

    def arrays(
        self, name: str, make: Callable[[], Mapping[str, npt.NDArray]]
    ) -> dict[str, npt.NDArray]:
        """What was kept under a name, made and kept if there is nothing yet."""
        return kept_arrays(self._folder, name, make)

    def array(self, name: str, make: Callable[[], npt.NDArray]) -> npt.NDArray:
        """One array."""
        return self.arrays(name, lambda: {"array": make()})["array"]

    def done(self) -> None:
        """Forget everything: the run is through."""
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def alone(lock: Path, what: str) -> Iterator[None]:
    """Do something that only one process may do at a time; the kernel lets the next one in when
    this one dies, however it dies.

    Args:
        lock: a file that is made and stays, with the process id of whoever had it last; outside a
            folder that `Unfinished` may empty.
        what: as others are told of it, such as "a net for slot home is trained".
    Raises:
        LockedError: another process does it; says which.
        StorageError: the file cannot be made.
    """

    def busy(other: str) -> LockedError:
        fix = f"wait for process {other} to end, or stop it: what it has done so far is kept"
        return LockedError(f"{what} by process {other} already", where=str(lock.parent), fix=fix)

    held = take(lock, busy)
    try:
        yield
    finally:
        os.close(held)


def kept_arrays(
    folder: Path, name: str, make: Callable[[], Mapping[str, npt.NDArray]]
) -> dict[str, npt.NDArray]:
    """What a folder keeps under a name, made and kept if there is nothing yet."""
    path = folder / f"{blake2b(name.encode(), digest_size=10).hexdigest()}.npz"
    try:
        with np.load(path, allow_pickle=False) as held:
            return dict(held)
    except (OSError, ValueError, zipfile.BadZipFile):
        made = dict(make())
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as file:
        np.savez(file, **made)  # type: ignore[arg-type]
    part.rename(path)
    return made
