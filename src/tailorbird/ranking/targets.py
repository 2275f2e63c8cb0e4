"""What the name of a head means, where it is no type of event.

dwell_30s             a view of at least 30 seconds
dwell_s               no chance but an amount: the seconds that are expected to be spent viewing, 0 for who does not come. A view counts for
                      at most half an hour: a page that was left open for a day shows no interest of a day
return_7d             who was answered is there again, between one and seven days later
return_7d_gap_12h     the same from 12 hours on
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from tailorbird.errors import DeclarationError
from tailorbird.events.clock import DAY, HOUR

DWELL = re.compile(r"dwell_(\d+)s")
DWELL_S = "dwell_s"
DWELL_MAX_S = 1_800.0
_RETURN = re.compile(r"return_(\d+)d(?:_gap_(\d+)h)?")
_GAP_H = 24  # the visit that goes on is no return


@dataclass(frozen=True)
class Return:
    """Whether somebody comes back in [t + gap, t + until), microseconds: of a request, and so the
    same for all that it showed.
    """

    gap: int
    until: int


def return_of(head: str) -> Return | None:
    """What a head of returning asks for; None for any other head.

    Raises:
        DeclarationError: the gap is as long as the window.
    """
    match = _RETURN.fullmatch(head)
    if match is None:
        return None
    gap, until = int(match[2] or _GAP_H) * HOUR, int(match[1]) * DAY
    if not gap < until:
        raise DeclarationError(
            f"{head} has nothing between its gap and its end",
            fix="name a longer window, such as return_7d_gap_12h",
        )
    return Return(gap, until)


def is_amount(head: str) -> bool:
    """Whether a head is an expected amount, and no chance."""
    return head == DWELL_S


def of_items(heads: Iterable[str]) -> list[str]:
    """The heads that tell the items of one answer apart, in order."""
    return [head for head in heads if return_of(head) is None]


def chances_of_items(heads: Iterable[str]) -> list[str]:
    """Those that are something that happens or does not, whose labels are true or false."""
    return [head for head in of_items(heads) if not is_amount(head)]
