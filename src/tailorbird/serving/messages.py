"""Messages of the HTTP API besides events: queries and answers, whose JSON Schemas form
`/openapi.json`.

Bounds are part of the types, so that an invalid value is refused with its path before anything else
reads it.
"""

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from tailorbird.errors import UsageError
from tailorbird.events import Context
from tailorbird.events.contract.envelope import ID_BOUNDS, ITEMS_BOUNDS
from tailorbird.serving.auth.keys import KeyFigures

T = TypeVar("T")

SIZE_MAX = 200  # items of an answer
Id = Annotated[str, ID_BOUNDS.meta()]
Ids = Annotated[list[Id], ITEMS_BOUNDS.meta()]
Size = Annotated[int, Meta(ge=1, le=SIZE_MAX)]
Attributes = Annotated[
    list[Annotated[str, Meta(min_length=1, max_length=128)]], Meta(max_length=50)
]
Filters = Annotated[
    dict[str, Any],
    Meta(
        max_length=20,
        description="attribute → the value it must have, a list of allowed values, or of a number "
        "{min, max}",
    ),
]

# Explanations of the codes of `RecommendResponse.degraded` for people, with what to do.
DEGRADED = {
    "model": "no model could score: tailorbird train learns one",
    "candidates": "no candidate tables are published yet: the role `candidates` reads the log, "
    "wait for it or start it with up",
    "stale_candidates": "candidate tables are behind the log: is the role `candidates` running?",
    "features": "too little is known of this person and these items",
    "items": "rules, lists and hide_seen of the slot leave no item: tailorbird doctor names the "
    "rule",
}


class Query(
    msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, omit_defaults=True
):
    """Common fields of all queries: who asks, and what may be shown.

    Without `user_id` and `anonymous_id` the answer is for a stranger, and is not remembered for
    anybody. `arm` forces an arm of an experiment, to test it; no analysis counts the answer. It is
    `EXPERIMENT:ARM` where several experiments of the slot have such an arm.
    """

    user_id: Id | None = None
    anonymous_id: Id | None = None
    session_id: Id | None = None
    size: Size | None = None
    context: Context = Context()
    exclude: Ids = []
    filters: Filters = {}
    attributes: Attributes = []
    explain: bool = False
    arm: Id | None = None


class RecommendQuery(Query, frozen=True, kw_only=True):
    """Fill a slot: candidates are retrieved, ranked and chosen."""

    slot: Id


class RankQuery(Query, frozen=True, kw_only=True):
    """Order the caller's own candidates for a slot."""

    slot: Id
    items: Annotated[Ids, Meta(min_length=1)]


class SearchQuery(Query, frozen=True, kw_only=True):
    """Find items by words, ordered for this person. `facets` names attributes by which all hits are
    counted.
    """

    query: Annotated[str, Meta(max_length=512)]
    slot: Id | None = None
    facets: Annotated[list[Id], Meta(max_length=10)] = []


class Explanation(msgspec.Struct, frozen=True, omit_defaults=True):
    """The explanation of one item's score: features as read, calibrated probability of each head,
    contributions.

    `method` is `tree_shap` (exact: `base`, `contributions` and `rest` add up to `value`) or
    `occlusion`. `value` and all of `moved` (the search, and each boost) add up to the score;
    `placed` names the pin and the promotions of the item.
    """

    features: dict[str, float | str | None] = {}
    heads: dict[str, float] = {}
    contributions: dict[str, float] = {}
    method: str = ""
    base: float | None = None
    rest: float | None = None
    value: float | None = None
    moved: dict[str, float] = {}
    placed: list[str] = []


class ShownItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One item of an answer. `position` counts from 1; `source` is what proposed the item.

    `reason_code` is one of a list that only grows (docs/how-to/explain.md), `reason_item` the item
    that led here, if one did.
    """

    item_id: str
    position: int
    score: float | None
    reason: str
    reason_code: str
    source: str
    reason_item: str = ""
    propensity: float = 1.0
    attributes: dict[str, Any] | None = None
    explanation: Explanation | None = None


class FacetCounts(msgspec.Struct, frozen=True, omit_defaults=True):
    """The distribution of hits over an attribute: `counts` of the most frequent values, or `low` to
    `high` of a number; `missing` have none.
    """

    counts: dict[str, int] = {}
    missing: int = 0
    low: float | None = None
    high: float | None = None


class RecommendResponse(msgspec.Struct, frozen=True, kw_only=True):
    """An answer. Send its `request_id` with the impressions and clicks that follow it.

    `degraded` names what was missing, by the stable codes of docs/reference/degraded.md:
    `last_known`, `features`, `freshness`, `previous_model`, `model`, `index`, `candidates`,
    `stale_candidates`, `items`, `vectors`, `retrieval`, `ranking`, `policy`, `rules`, `log`. The
    answer is then less personal. `t` is the time for which its features hold, `commit` the version
    of the state that they were read from. `facets` are those that a search requested. `arm` and
    `experiment` are "" outside an experiment.
    """

    request_id: str
    slot: str
    items: list[ShownItem]
    arm: str
    model: str
    degraded: list[str]
    t: int
    commit: int = 0
    experiment: str = ""
    facets: dict[str, FacetCounts] | msgspec.UnsetType = msgspec.UNSET


class Similar(msgspec.Struct, frozen=True, kw_only=True):
    """Items that go with an item. Not personal and not logged, so that it may be cached."""

    item_id: str
    items: list[ShownItem]
    model: str
    degraded: list[str] = []


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """An item as the live index knows it."""

    item_id: str
    attributes: dict[str, Any]


class ChurnReason(msgspec.Struct, frozen=True):
    """A column that moves a churn score: `effect` in log-odds, above 0 for leaving."""

    column: str
    effect: float
    text: str


class ChurnResponse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The probability that a person leaves.

    `gone` is the probability that they stay away for the window that churn.py declares, `purchases`
    the expected number within it, null where the model does not count. `known` is false where the
    features say nothing about them; `gone` is then that of a stranger. `as_of` is the time for
    which that holds, `model` the version that computed it.
    """

    user_id: str
    name: str
    model: str
    gone: float
    purchases: float | None
    known: bool
    as_of: int
    reasons: list[ChurnReason] = []


class SlotFormula(msgspec.Struct, frozen=True, kw_only=True):
    """The value of an item to a slot: `formula` is in force, `declared` is the one in slots.py.

    `version` is that of a formula that was set without a new model, by whom, why and when
    (microseconds); "" where the declared one holds. `missing` are heads that the champion does not
    have, whose terms are left out.
    """

    slot: str
    formula: str
    version: str
    declared: str
    by: str = ""
    why: str = ""
    at: int = 0
    missing: list[str] = []


class FormulaQuery(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A formula to put in force, such as `1.0*click + 8.0*purchase`; "" restores the slot's own.

    `why` is recorded in the audit log.
    """

    formula: Annotated[str, Meta(max_length=1_000)]
    why: Annotated[str, Meta(min_length=1, max_length=500)]


class EventDecision(msgspec.Struct, frozen=True, omit_defaults=True):
    """The decision on one event; a refused one has the reason and its path."""

    accepted: bool
    code: str = ""
    path: str = ""
    message: str = ""


class Receipts(msgspec.Struct, frozen=True):
    """The decision on each event of a body, in order. Everything counted here is on the disk."""

    accepted: int
    refused: int
    events: list[EventDecision]


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a server for its operator. Counters since its start; `keys` by id, with how
    often each was used.
    """

    producer: str
    draining: bool
    missing: list[str]
    waiting: int
    collector: dict[str, Any]
    refused: dict[str, int]
    limited: dict[str, int]
    keys: list[KeyFigures]


class Fault(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error: a stable code, a sentence, the path in the document, and how to fix it.

    `request_id` is that of the header `X-Request-Id` and of the server's log; an answer has another
    one.
    """

    code: str
    message: str
    path: str = ""
    fix: str = ""
    request_id: str = ""


class QueryError(UsageError):
    """A query that cannot be answered."""

    code = "bad_query"

    def __init__(
        self, message: str, *, path: str = "", code: str = "bad_query", fix: str = ""
    ) -> None:
        super().__init__(message, where=path, fix=fix)
        self.code = code
        self.path = path


def decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode a query from JSON. Raise QueryError with the path of the error."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `")
        raise QueryError(text[:1].lower() + text[1:], path=path.rstrip("`") or "$") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise QueryError(f"expected JSON: {error}", path="$", code="malformed_json") from None
