"""Parts die while somebody asks: `make drills`, or python -m tests.faults.drills.

    --requests N    of each drill (default 30,000)
    --drill NAME    only this one; may be given again
    --json PATH     what was found, for docs/reference/drills.md; drills that are not played stay as they were there

The exit status is 1 if anything expected was missed; what that is stands in the lines and in the
file.
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
from tests.faults.drills.judging import Found

REQUESTS = 30_000
DRILLS: dict[str, Callable[[Path, int], Found]] = {
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
    asked = parser.parse_args()
    missed = False
    for name in asked.drill or DRILLS:
        folder, load = Path(tempfile.mkdtemp(prefix=f"drill-{name}-")), os.getloadavg()[0]
        try:
            found = DRILLS[name](folder / "site", asked.requests)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        say(found)
        missed |= bool(found.missed)
        if asked.json is not None:
            keep(asked.json, found, (load + os.getloadavg()[0]) / 2)
    return int(missed)


def say(found: Found) -> None:
    verdict = f"MISSED: {'; '.join(found.missed)}" if found.missed else "as expected"
    sys.stdout.write(
        f"{found.name}: {found.answered:,} of {found.requests:,} answered with items "
        f"({found.availability:.4%}), "
        f"{found.retried} tried again, p99 {milliseconds(found.p99_ms_rest)}, in the fault "
        f"{milliseconds(found.p99_ms_fault)}; "
        f"lacked {found.lacked}; {found.failures}; {found.events_lost} of {found.events:,} "
        f"events lost; {found.more}. {verdict}\n"
    )
    sys.stdout.flush()


def milliseconds(value: float | None) -> str:
    """A time; a dash where there is none."""
    return "–" if value is None else f"{value:.0f} ms"


def keep(file: Path, found: Found, load: float) -> None:
    """Add to a file. `load`: how many processes wanted a core, those of the drill included; before
    and after it, on average.
    """
    told = json.loads(file.read_text()) if file.exists() else {}
    told[found.name] = {
        **asdict(found),
        "availability": found.availability,
        "at": datetime.now(UTC).date().isoformat(),
        "revision": revision_of(Path(__file__)),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load": load,
    }
    file.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    sys.exit(main())
