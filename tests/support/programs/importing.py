"""An import as a process of its own, which a fault point may kill."""

import sys
from pathlib import Path

from tailorbird.events import RoutePlan, SystemClock
from tailorbird.stream.importer import import_files

if __name__ == "__main__":
    stream, path, run_rows = sys.argv[1:]
    import_files(
        Path(stream),
        "tailorbird",
        Path(path),
        plan=RoutePlan(),
        clock=SystemClock(),
        run_rows=int(run_rows),
    )
