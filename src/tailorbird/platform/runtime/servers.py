"""Find the servers of a project that run on this machine, by their files (`serving.server`)."""

import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

_HEALTH_TIMEOUT_S = 2.0


def server_addresses(run_folder: Path, *, since_s: float = 0.0) -> Iterator[str]:
    """Yield the addresses that servers have written.

    The files are named `serve-1`, and `HOST-serve-1` if the logs are topics.

    Args:
        since_s: skip files written earlier, in seconds since 1970, since a killed server
            leaves its file behind.
    """
    for path in sorted(run_folder.glob("*serve-*.json")):
        try:
            if path.stat().st_mtime < since_s:
                continue
            yield msgspec.json.decode(path.read_bytes())["url"]
        except (OSError, ValueError, KeyError, TypeError):  # The file was deleted in the meantime.
            continue


def running_servers(run_folder: Path) -> Iterator[str]:
    """Yield the address of each server that responds."""
    for address in server_addresses(run_folder):
        try:
            with urllib.request.urlopen(f"{address}/healthz", timeout=_HEALTH_TIMEOUT_S):
                yield address
        except OSError:  # The server has stopped, or was killed and left its file.
            continue


def plain_key(keys: Iterable[str]) -> str:
    """Return the first key that is not only a hash, as settings may hold them; "" without one."""
    return next((key for key in keys if not key.startswith("sha256:")), "")
