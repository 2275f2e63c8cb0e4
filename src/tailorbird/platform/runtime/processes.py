"""What the kernel says of a process."""

from pathlib import Path


def stat_fields(pid: int) -> list[str]:
    """Return the fields of `/proc/PID/stat` from the state on; raises OSError if it has ended."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()


def state_of(pid: int) -> str:
    """Return the letter of a process's state, such as `Z`; "" if it has ended, or without /proc."""
    try:
        return stat_fields(pid)[0]
    except (OSError, IndexError):
        return ""
