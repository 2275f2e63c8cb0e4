"""The servers of a project that answer on this machine, by the files that they keep while they run (`serving.server`)."""

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import msgspec

_HEALTH_S = 2.0


def running_servers(run: Path) -> Iterator[str]:
    """The address of each: of `serve-1`, and of `HOST-serve-1` where the logs are topics."""
    for path in sorted(run.glob("*serve-*.json")):
        try:
            address = msgspec.json.decode(path.read_bytes())["url"]
            with urllib.request.urlopen(f"{address}/healthz", timeout=_HEALTH_S):
                yield address
        except (OSError, ValueError, KeyError, TypeError):  # gone meanwhile, or without having cleaned up
            continue
