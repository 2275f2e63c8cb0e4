"""The servers of a project that answer on this machine, by the files that they keep while they run
(`serving.server`).
"""

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import msgspec

_HEALTH_S = 2.0


def addresses(run: Path, *, since_s: float = 0.0) -> Iterator[str]:
    """Yield the addresses that servers have written: of `serve-1`, and of `HOST-serve-1` where the
    logs are topics.

    Args:
        since_s: only those that were written since then, in seconds since 1970; one that was killed
            leaves its file.
    """
    for path in sorted(run.glob("*serve-*.json")):
        try:
            if path.stat().st_mtime < since_s:
                continue
            yield msgspec.json.decode(path.read_bytes())["url"]
        except (OSError, ValueError, KeyError, TypeError):  # gone meanwhile
            continue


def running_servers(run: Path) -> Iterator[str]:
    """Yield the address of each that answers."""
    for address in addresses(run):
        try:
            with urllib.request.urlopen(f"{address}/healthz", timeout=_HEALTH_S):
                yield address
        except OSError:  # gone meanwhile, or without having cleaned up
            continue
