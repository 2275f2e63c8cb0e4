"""The script `tailorbird.js`, which pages load to send events (docs/how-to/tracker.md)."""

from functools import cache
from importlib.resources import files

HEADERS = {
    "cache-control": "public, max-age=600"
}  # long enough for a visit, short enough for a bug fix


@cache
def read_script() -> bytes:
    """Return the script as it is sent."""
    return (files("tailorbird.serving") / "static" / "tailorbird.js").read_bytes()
