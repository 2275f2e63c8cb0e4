"""Enrichment of an event from its own fields: agent class, local hour, properties as text."""

import re
from functools import lru_cache
from typing import Any

import msgspec

from tailorbird.events import HOUR, MINUTE
from tailorbird.events.contract.envelope import PROPERTY_COLUMNS

# User agents of crawlers, monitors and HTTP libraries (a Cubot is a phone). Bots are marked, never
# dropped.
_BOT = re.compile(
    r"(?<!cu)bot(?:\b|_)|crawl|spider|slurp|scrap|headless|phantom|selenium|puppeteer|playwright"
    r"|lighthouse|pingdom|uptime|monitor"
    r"|preview|fetcher|facebookexternalhit|curl/|wget/|libwww"
    r"|python-|python/|aiohttp|httpx|okhttp|go-http"
    r"|java/|axios|node-fetch",
    re.IGNORECASE,
)


@lru_cache(maxsize=4096)
def classify_agent(user_agent: str | None) -> str:
    """Classify a user agent as "bot" or "person"; an absent one counts as a person."""
    return "bot" if user_agent and _BOT.search(user_agent) else "person"


def local_hour(ts: int, utc_offset_minutes: int | None) -> int:
    """Return the local hour of the day, 0 to 23; that of UTC where the offset is unknown."""
    return (ts + (utc_offset_minutes or 0) * MINUTE) // HOUR % 24


def encode_properties(properties: dict[str, Any]) -> str:
    """Encode all properties as JSON with sorted keys."""
    return msgspec.json.encode(properties, order="sorted").decode()


def encode_other_properties(properties: dict[str, Any]) -> str | None:
    """Encode the properties without a column of their own as JSON; None if there are none."""
    remaining = {name: value for name, value in properties.items() if name not in PROPERTY_COLUMNS}
    return encode_properties(remaining) if remaining else None
