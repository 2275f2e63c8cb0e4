"""Remember which bundles a child process has loaded, so that a restarted server need not ask again.

run/probed.json   {"data/registry/v0002": "stamps of its files and versions of the libraries"}
"""

import hashlib
import logging
import platform
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime

from tailorbird.atomic_write import atomic_write, file_stamp
from tailorbird.version import __version__

RECORD_FILE = "probed.json"
log = logging.getLogger(__name__)


class ProbedBundles:
    """Probes a bundle unless the same files passed with the same libraries before.

    Args:
        run_folder: folder of the record.
        probe: loads a folder in a child process, and raises BundleError.
    """

    def __init__(self, run_folder: Path, probe: Callable[[Path], None]) -> None:
        self._path = run_folder / RECORD_FILE
        self._probe = probe

    def __call__(self, folder: Path) -> None:
        digest = _digest_files(folder)
        if self._read().get(str(folder)) == digest:
            return
        self._probe(folder)
        digest_by_folder = {
            path: file_digest for path, file_digest in self._read().items() if Path(path).is_dir()
        }
        digest_by_folder[str(folder)] = digest
        try:
            atomic_write(self._path, msgspec.json.encode(digest_by_folder))
        except OSError as error:
            log.warning("%s cannot be written: %s", self._path, error)

    def _read(self) -> dict[str, str]:
        with suppress(OSError, msgspec.MsgspecError):
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, str])
        return {}


def _digest_files(folder: Path) -> str:
    """Return a digest of what decides whether a bundle can be loaded."""
    versions = (__version__, platform.python_version(), np.__version__, onnxruntime.__version__)
    try:
        files = [
            (str(path.relative_to(folder)), file_stamp(path))
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ]
    except OSError:  # An unreadable folder is for the probe to name.
        files = []
    return hashlib.sha256(repr((versions, files)).encode()).hexdigest()
