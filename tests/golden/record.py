"""Renew the recordings: `python -m tests.golden.record` all of them, with names only those.

A name is that of the file, without its ending: `metrics`, or `commands/lake-verify`.
"""

import sys
import tempfile
from pathlib import Path

from tests.golden.recordings import FOLDER, RECORDINGS, file_name, path_of
from tests.golden.site import make_shop


def main(files: list[str]) -> None:
    """Make a shop and write what is recorded of it."""
    names = {file_name(name): name for name in RECORDINGS}
    if unknown := set(files) - names.keys():
        names_text = ", ".join(names)
        sys.exit(f"no recording is called {', '.join(sorted(unknown))}; there are {names_text}")
    with tempfile.TemporaryDirectory() as folder:
        shop = make_shop(Path(folder))
        for file in files or names:
            _write(path_of(names[file]), RECORDINGS[names[file]](shop))
    if not files:
        _remove_obsolete()


def _write(path: Path, text: str) -> None:
    before = path.read_text() if path.exists() else None
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    if text != before:
        sys.stdout.write(f"renewed {path.relative_to(FOLDER)}\n")


def _remove_obsolete() -> None:
    """Remove the files of recordings that no longer exist."""
    for path in set(FOLDER.rglob("*.json")) - {path_of(name) for name in RECORDINGS}:
        path.unlink()
        sys.stdout.write(f"removed {path.relative_to(FOLDER)}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
