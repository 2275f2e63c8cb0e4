"""`tailorbird.js`, which pages load to send what people do (docs/how-to/tracker.md); its source is
`static/tailorbird.js`.
"""

from functools import cache
from importlib.resources import files

HEADERS = {
    "cache-control": "public, max-age=600"
}  # long enough for a visit, short enough for a mended one


@cache
def script() -> bytes:
    """The script, as it is sent."""
    return (files("tailorbird.serving") / "static" / "tailorbird.js").read_bytes()
