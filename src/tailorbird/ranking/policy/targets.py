"""Targets: the meaning of head names that are not event types.

dwell_30s             a view of at least 30 seconds
dwell_s               an amount, not a probability: the expected viewing time in seconds, 0
                      without a view; capped at half an hour, since open tabs show no interest
return_7d             the user comes back between one and seven days later
return_7d_gap_12h     the same from 12 hours on
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from tailorbird.errors import DeclarationError
from tailorbird.events.clock import DAY, HOUR

DWELL_PATTERN = re.compile(r"dwell_(\d+)s")
DWELL_SECONDS_HEAD = "dwell_s"
DWELL_MAX_S = 1_800.0
_RETURN_PATTERN = re.compile(r"return_(\d+)d(?:_gap_(\d+)h)?")
_DEFAULT_GAP_H = 24  # the current visit is not a return


@dataclass(frozen=True)
class ReturnTarget:
    """A return of the user in [t + gap_us, t + until_us), microseconds.

    It belongs to a request, and so is the same for all items shown.
    """

    gap_us: int
    until_us: int


def parse_return(head: str) -> ReturnTarget | None:
    """Parse a return head, or return None for any other head.

    Raises:
        DeclarationError: the gap is as long as the window.
    """
    match = _RETURN_PATTERN.fullmatch(head)
    if match is None:
        return None
    gap_us = int(match[2] or _DEFAULT_GAP_H) * HOUR
    until_us = int(match[1]) * DAY
    if not gap_us < until_us:
        raise DeclarationError(
            f"{head} has nothing between its gap and its end",
            fix="name a longer window, such as return_7d_gap_12h",
        )
    return ReturnTarget(gap_us, until_us)


def is_amount_head(head: str) -> bool:
    """Return whether a head is an expected amount rather than a probability."""
    return head == DWELL_SECONDS_HEAD


def item_heads(heads: Iterable[str]) -> list[str]:
    """Return the heads that distinguish the items of one slate, in order."""
    return [head for head in heads if parse_return(head) is None]


def item_probability_heads(heads: Iterable[str]) -> list[str]:
    """Return the item heads with binary labels."""
    return [head for head in item_heads(heads) if not is_amount_head(head)]
