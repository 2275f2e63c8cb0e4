"""Facts about a process from Linux."""

import os
from pathlib import Path


def read_cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process, all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
