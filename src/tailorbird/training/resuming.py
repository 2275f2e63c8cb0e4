"""What a long run has found so far, in a folder: arrays by name, so that a run that was cut short goes on where it was.

The folder belongs to one set of settings; another one empties it. It is removed when the run is through.
"""

import os
import shutil
import zipfile
from collections.abc import Callable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

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
        self.resumed = isinstance(found, dict) and found.get("settings") == wanted
        if self.resumed:
            self.now = int(found["now"])
            return
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.now = now
        head.write_bytes(msgspec.json.encode({"settings": wanted, "now": now}))

    def arrays(self, name: str, make: Callable[[], Mapping[str, npt.NDArray]]) -> dict[str, npt.NDArray]:
        """What was kept under a name, made and kept if there is nothing yet."""
        return kept_arrays(self._folder, name, make)

    def array(self, name: str, make: Callable[[], npt.NDArray]) -> npt.NDArray:
        """One array."""
        return self.arrays(name, lambda: {"array": make()})["array"]

    def done(self) -> None:
        """Forget everything: the run is through."""
        shutil.rmtree(self._folder, ignore_errors=True)


def kept_arrays(folder: Path, name: str, make: Callable[[], Mapping[str, npt.NDArray]]) -> dict[str, npt.NDArray]:
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
