"""What the quality benchmarks share: their options, where the data lie, and the machine they ran
on.
"""

import argparse
import os
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import lightgbm
import numpy
import pyarrow as pa

from tailorbird.version import __version__

PROJECTS = Path(__file__).with_name("projects")
SEED = 7  # of the first training; the others' follow


@dataclass(frozen=True)
class Counted:
    """One figure of the lake beside what the data set's description says."""

    query: str
    found: int
    expected: int


def options(name: str, about: str, *, small: str, keep: str) -> argparse.ArgumentParser:
    """What every benchmark over real data may be told; it adds what is its own.

    Args:
        small, keep: what `--small` leaves of it, and what `--keep` is good for.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.quality.{name}", description=about)
    parser.add_argument(
        "--data",
        type=Path,
        default=default_data(),
        help="the folder that holds the data sets, or this one",
    )
    parser.add_argument("--small", action="store_true", help=small)
    parser.add_argument("--keep", type=Path, help=keep)
    parser.add_argument(
        "--json", action="store_true", help="one JSON object on stdout and nothing else"
    )
    return parser


def default_data() -> Path | None:
    """The folder of data sets: TAILORBIRD_DATA, or `shared/data` beside the repository."""
    named = os.environ.get("TAILORBIRD_DATA")
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    return Path(named) if named else beside if beside.is_dir() else None


def folder_of(folder: str, data: Path | None) -> Path | None:
    """Where the data set lies that is kept in `folder`, or None."""
    if data is None or not folder:
        return None
    if (data / folder).is_dir():
        return data / folder
    return data if data.is_dir() and data.name == folder else None


def folder_or_skip(folder: str, data: Path | None) -> Path:
    """Where the data set lies; ends the command with status 3, saying so, where it is not here."""
    found = folder_of(folder, data)
    if found is None:
        print(
            f"skipped: no {folder} in {data or 'any folder'}; name it by --data or TAILORBIRD_DATA",
            file=sys.stderr,
        )
        raise SystemExit(3)
    return found


def environment() -> dict[str, str]:
    """Versions, machine and day."""
    versions = {
        "tailorbird": __version__,
        "python": platform.python_version(),
        "lightgbm": lightgbm.__version__,
    }
    machine = {
        "numpy": numpy.__version__,
        "pyarrow": str(pa.__version__),
        "cpu": _cpu(),
        "cores": str(os.cpu_count()),
    }
    return versions | machine | {"day": time.strftime("%Y-%m-%d")}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )
