"""The route plan: what collector and router need of a project's declarations, as plain data.

`config` compiles it from `tailorbird.toml`, `features.py` and `slots.py`, so that neither collector
nor router imports the project's Python. It is stored with the logs, and each routed block names its
`version` (a hash of its content).
"""

from hashlib import blake2b

import msgspec

from tailorbird.events.clock import ATTRIBUTION_WINDOW, DAY, HOUR, MINUTE
from tailorbird.events.contract.rules import Rule

EVENT_TYPES = (
    "answer",
    "impression",
    "click",
    "view",
    "search",
    "cart",
    "purchase",
    "rating",
    "like",
    "dislike",
    "hide",
    "share",
    "user",
    "item",
    "identify",
    "merge",
)
SERVER_TYPES = ("answer",)  # no client may send them
PROFILE_TYPES = ("user", "item")
# Their content affects events of any user: every router follows them, no browser may send them.
SHARED_TYPES = (*PROFILE_TYPES, "merge")
MERGED_INTO = "merged_into"  # the property of a `merge` with the new user id
# set on a merge into an erased user, which now is a merge into itself
INTO_ERASED = "into_erased"


class SlotPlan(msgspec.Struct, frozen=True):
    """The settings of a slot that the router needs.

    Attributes:
        attribution_us: how long after an answer a click belongs to it.
        denominator: what counts as shown, "impression" or "answer".
    """

    attribution_us: int = ATTRIBUTION_WINDOW
    denominator: str = "impression"


class RoutePlan(msgspec.Struct, frozen=True):
    """Everything besides the events themselves that their routing depends on.

    Attributes:
        event_types: the types that this project knows, the built-in ones included.
        user_attributes, item_attributes: profile attributes that are kept with each event.
        skew_us: how far a client's `ts` may lie in the future before the event is quarantined.
        lateness_us: how late an event may be and still count.
        horizon_us: an event older than this on arrival does not count.
        dedup_us: how long the router remembers an event's id.
        answer_us: how long the router remembers an answer.
        rules: type → what the project declares of its properties.
    """

    event_types: tuple[str, ...] = EVENT_TYPES
    user_attributes: tuple[str, ...] = ()
    item_attributes: tuple[str, ...] = ()
    skew_us: int = 5 * MINUTE
    lateness_us: int = 1 * DAY
    horizon_us: int = 400 * DAY
    dedup_us: int = 7 * DAY
    answer_us: int = 2 * HOUR
    slots: dict[str, SlotPlan] = {}
    rules: dict[str, tuple[Rule, ...]] = {}

    @property
    def version(self) -> str:
        """A hash of the plan's content: twelve hexadecimal digits."""
        return blake2b(msgspec.json.encode(self, order="sorted"), digest_size=6).hexdigest()
