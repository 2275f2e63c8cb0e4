"""Kill parts while a client sends requests: `make drills`, or python -m tests.faults.drills.

    --requests N    of each drill (default 30,000)
    --drill NAME    only this one; may be given again
    --json PATH     the results, for docs/reference/drills.md; drills that are not played keep their
                    earlier results there

The exit status is 1 if an expectation was missed; the lines and the file name it.
"""

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from tests.faults.chaos.__main__ import revision_of
from tests.faults.drills import loads, scenes
from tests.faults.drills.judging import DrillResult

REQUESTS = 30_000
DRILLS: dict[str, Callable[[Path, int], DrillResult]] = {
    drill.__name__: drill
    for drill in (
        scenes.broker,
        scenes.disk,
        scenes.index,
        scenes.model,
        loads.overload,
        scenes.scores,
        scenes.server,
        loads.slow,
        scenes.store,
        scenes.swap,
    )
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--drill", action="append", choices=list(DRILLS), default=[])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    missed = False
    for name in options.drill or DRILLS:
        folder, load = Path(tempfile.mkdtemp(prefix=f"drill-{name}-")), os.getloadavg()[0]
        try:
            result = DRILLS[name](folder / "site", options.requests)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        print_result(result)
        missed |= bool(result.missed)
        if options.json is not None:
            save_result(options.json, result, (load + os.getloadavg()[0]) / 2)
    return int(missed)


def print_result(result: DrillResult) -> None:
    verdict = f"MISSED: {'; '.join(result.missed)}" if result.missed else "as expected"
    sys.stdout.write(
        f"{result.name}: {result.answered:,} of {result.requests:,} answered with items "
        f"({result.availability:.4%}), "
        f"{result.retried} tried again, p99 {milliseconds(result.p99_ms_rest)}, in the fault "
        f"{milliseconds(result.p99_ms_fault)}; "
        f"lacked {result.lacked}; {result.failures}; {result.events_lost} of {result.events:,} "
        f"events lost; {result.more}. {verdict}\n"
    )
    sys.stdout.flush()


def milliseconds(value: float | None) -> str:
    """Format a time; a dash if there is none."""
    return "–" if value is None else f"{value:.0f} ms"


def save_result(file: Path, result: DrillResult, load: float) -> None:
    """Add a result to a file.

    `load`: how many processes wanted a core, those of the drill included, on average.
    """
    results = json.loads(file.read_text()) if file.exists() else {}
    results[result.name] = {
        **asdict(result),
        "availability": result.availability,
        "at": datetime.now(UTC).date().isoformat(),
        "revision": revision_of(Path(__file__)),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load": load,
    }
    file.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    sys.exit(main())
