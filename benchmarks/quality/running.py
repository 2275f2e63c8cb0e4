"""Options, data folders and machine facts that the quality benchmarks share."""

import argparse
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import lightgbm
import numpy
import pyarrow as pa

from tailorbird.experiments.statistics import proportion_interval
from tailorbird.version import __version__

PROJECTS = Path(__file__).with_name("projects")
SEED = 7  # of the first training; the others' follow


@dataclass(frozen=True)
class QueryCount:
    """One figure of the lake beside the one in the data set's description."""

    query: str
    found: int
    expected: int


def make_parser(name: str, description: str, *, small: str, keep: str) -> argparse.ArgumentParser:
    """Make the parser of a benchmark over real data; the caller adds its own options.

    Args:
        small: help of `--small`: the part that it keeps.
        keep: help of `--keep`.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.quality.{name}", description=description
    )
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
    """Return the folder of data sets: TAILORBIRD_DATA, or `shared/data` beside the repository."""
    configured = os.environ.get("TAILORBIRD_DATA")
    sibling = Path(__file__).resolve().parents[3] / "shared" / "data"
    return Path(configured) if configured else sibling if sibling.is_dir() else None


def find_data_set(folder: str, data: Path | None) -> Path | None:
    """Return the path of the data set that is kept in `folder`, or None."""
    if data is None or not folder:
        return None
    if (data / folder).is_dir():
        return data / folder
    return data if data.is_dir() and data.name == folder else None


def require_data_set(folder: str, data: Path | None) -> Path:
    """Return the path of a data set; exit with status 3 and a message if it is missing."""
    path = find_data_set(folder, data)
    if path is None:
        print(
            f"skipped: no {folder} in {data or 'any folder'}; name it by --data or TAILORBIRD_DATA",
            file=sys.stderr,
        )
        raise SystemExit(3)
    return path


def share_with_interval(hits: int, runs: int) -> dict[str, float]:
    """Return a share with Wilson's 95 % interval."""
    low, high = proportion_interval(hits, runs)
    return {"value": hits / runs, "low": low, "high": high, "n": runs}


def revision(*options: str) -> str:
    """Return the commit that is measured; `--short` abbreviates it."""
    command = ["git", "rev-parse", *options, "HEAD"]
    here = Path(__file__).parent
    return subprocess.run(
        command, cwd=here, capture_output=True, text=True, check=False
    ).stdout.strip()


def environment() -> dict[str, str]:
    """Return versions, machine and day."""
    versions = {
        "tailorbird": __version__,
        "python": platform.python_version(),
        "lightgbm": lightgbm.__version__,
    }
    machine = {
        "numpy": numpy.__version__,
        "pyarrow": str(pa.__version__),
        "cpu": _cpu_name(),
        "cores": str(os.cpu_count()),
    }
    return versions | machine | {"day": time.strftime("%Y-%m-%d")}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )
