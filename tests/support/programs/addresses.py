"""The address of a started server."""

import json
import subprocess
import time
from pathlib import Path


def address_of(project: Path, process: subprocess.Popen) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None
        for path in (project / "data" / "run").glob("serve*.json"):
            return json.loads(path.read_text())["url"]
        time.sleep(0.05)
    raise AssertionError("no address file")
