"""Renew the recordings: `python -m tests.golden.record` all of them, with names only those.

A name is that of the file, without its ending: `metrics`, or `commands/lake-verify`.
"""

import sys
import tempfile
from pathlib import Path

from tests.golden.recordings import FOLDER, RECORDINGS, file_of, path_of
from tests.golden.site import make


def main(files: list[str]) -> None:
    """Make a shop and write what is recorded of it."""
    names = {file_of(name): name for name in RECORDINGS}
    if unknown := set(files) - names.keys():
        known = ", ".join(names)
        sys.exit(f"no recording is called {', '.join(sorted(unknown))}; there are {known}")
    with tempfile.TemporaryDirectory() as folder:
        made = make(Path(folder))
        for file in files or names:
            _write(path_of(names[file]), RECORDINGS[names[file]](made))
    if not files:
        _remove_others()


def _write(path: Path, text: str) -> None:
    before = path.read_text() if path.exists() else None
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    if text != before:
        sys.stdout.write(f"renewed {path.relative_to(FOLDER)}\n")


def _remove_others() -> None:
    """Remove the files of recordings that there are no more."""
    for path in set(FOLDER.rglob("*.json")) - {path_of(name) for name in RECORDINGS}:
        path.unlink()
        sys.stdout.write(f"removed {path.relative_to(FOLDER)}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
