"""Accepted events on their way through the router: what they say themselves, as columns, and where
each stands in the raw logs.

Bodies are checked and turned into columns some hundred events at a time, so that the objects of one
piece are gone before the next is read: that is several times as fast as to keep the objects of a
whole step. What is decided of the events stands in `router.route`.

    bodies ──contract──► columns of Python values ──► piece of Arrow columns ──┬──► Arrivals of the step
                              └─► fingerprints, profiles, answers ─────────────┘
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.events import ROUTED, Answer, Context, Receipt
from tailorbird.events.columnwise import Checked, Contract, some
from tailorbird.events.parts import own_rows
from tailorbird.events.plan import MERGED_INTO, PROFILE_TYPES
from tailorbird.router import enrich
from tailorbird.router.columns import Refused
from tailorbird.router.dedup import ENTRY, Entries, fingerprints_of

Int64s = npt.NDArray[np.int64]

PIECE_ROWS = 256
_NUMBERS = ("dwell_ms", "price", "quantity", "rating")
_NO_CONTEXT = Context()
_ids = ("event_id", "type", "user_id", "anonymous_id", "session_id", "item_id", "request_id")
SAID = (
    *_ids,
    "ts_original",
    "sent_at",
    "received_at",
    "items",
    "device",
    "country",
    "page",
    "referrer",
    "agent",
    "query",
    *_NUMBERS,
    "properties",
    "timeless",
)
"""The columns of ROUTED that an event brings along."""


class Body(NamedTuple):
    """A body to check, and where it stands."""

    payload: bytes
    receipt: Receipt
    producer: str
    offset: int
    rows: int


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile among the events: `row` is its place, `text` its properties as JSON."""

    row: int
    type: str
    properties: dict[str, Any]
    text: str


@dataclass(frozen=True, slots=True)
class Given:
    """An answer of ours among the events."""

    row: int
    answer: Answer
    items: list[str]


@dataclass(frozen=True)
class Arrivals:
    """Accepted events in the order in which they are routed. All columns are of length n.

    Attributes:
        said: the columns `SAID`.
        entries: where each stands and came in, and its fingerprint, as the index of repeats knows
            it.
        ts: when it happened, as far as it knows itself.
        utc_offset_min: of the client's clock, 0 where it did not say. profiles, answers,
        identifies: those among them that teach something about what comes after, by row, ascending.
        merges: likewise, each with whom its user is from then on.
        producers: their names, by the number that `entries` has.
        refused: what was not accepted.
    """

    said: dict[str, pa.Array]
    entries: Entries
    ts: Int64s
    utc_offset_min: Int64s
    profiles: Sequence[Profile] = ()
    answers: Sequence[Given] = ()
    identifies: Sequence[int] = ()
    merges: Sequence[tuple[int, str]] = ()
    producers: dict[int, str] = field(default_factory=dict)
    refused: Sequence[Refused] = ()

    @property
    def received_at(self) -> Int64s:
        return self.entries["received_at"]

    def without(self, rows: Sequence[int]) -> "Arrivals":
        """These but for the given rows."""
        kept = np.ones(len(self), bool)
        kept[rows] = False
        mask, places = pa.array(kept), np.cumsum(kept) - 1
        return replace(
            self,
            said={name: column.filter(mask) for name, column in self.said.items()},
            entries=self.entries[kept],
            ts=self.ts[kept],
            utc_offset_min=self.utc_offset_min[kept],
            profiles=[
                replace(one, row=int(places[one.row])) for one in self.profiles if kept[one.row]
            ],
            answers=[
                replace(one, row=int(places[one.row])) for one in self.answers if kept[one.row]
            ],
            identifies=[int(places[row]) for row in self.identifies if kept[row]],
            merges=[(int(places[row]), into) for row, into in self.merges if kept[row]],
        )

    def __len__(self) -> int:
        return len(self.ts)


class Gathering:
    """Bodies, in their order, become the Arrivals of a step.

    Args:
        numbers: of the producers, as the index of repeats knows them.
        share: (number, count) of this router; of logs that all routers read it takes what is its
            own, see `events.parts`.
    """

    def __init__(
        self, contract: Contract, numbers: dict[str, int], share: tuple[int, int] = (0, 1)
    ) -> None:
        self._contract, self._numbers, self._share = contract, numbers, share
        self._waiting: list[Body] = []
        self._waiting_rows = 0
        self._pieces: list[Arrivals] = []
        self._rows = 0
        self._refused: list[Refused] = []

    def add(self, body: Body, *, shared: bool = False) -> None:
        """The next body; `shared` if it is for all routers."""
        if shared and self._share[1] > 1:
            self._flush()
            self._take([body], *self._share)
            return
        self._waiting.append(body)
        self._waiting_rows += body.rows
        if self._waiting_rows >= PIECE_ROWS:
            self._flush()

    def arrivals(self) -> Arrivals:
        """All that was added."""
        self._flush()
        pieces = self._pieces
        names = {number: name for name, number in self._numbers.items()}
        if not pieces:
            nothing = np.empty(0, np.int64)
            said = {name: pa.array([], ROUTED.field(name).type) for name in SAID}
            return Arrivals(
                said, np.empty(0, ENTRY), nothing, nothing, producers=names, refused=self._refused
            )
        return Arrivals(
            {name: pa.concat_arrays([piece.said[name] for piece in pieces]) for name in SAID},
            np.concatenate([piece.entries for piece in pieces]),
            np.concatenate([piece.ts for piece in pieces]),
            np.concatenate([piece.utc_offset_min for piece in pieces]),
            [one for piece in pieces for one in piece.profiles],
            [one for piece in pieces for one in piece.answers],
            [row for piece in pieces for row in piece.identifies],
            [one for piece in pieces for one in piece.merges],
            names,
            self._refused,
        )

    def _flush(self) -> None:
        if self._waiting:
            self._take(self._waiting)
            self._waiting, self._waiting_rows = [], 0

    def _take(self, bodies: list[Body], number: int = 0, count: int = 1) -> None:
        checked = self._contract.check([(body.payload, body.receipt) for body in bodies])
        if count > 1:
            checked = some(checked, own_rows(checked.fields, number, count), refused=number == 0)
        for place, refusal in checked.refused:
            body = bodies[place]
            self._refused.append(
                Refused(
                    refusal,
                    body.receipt.received_at,
                    body.receipt.source,
                    body.producer,
                    body.offset,
                )
            )
        if len(checked):
            self._pieces.append(_piece(checked, bodies, self._numbers, self._rows))
            self._rows += len(checked)


def _piece(
    checked: Checked, bodies: Sequence[Body], numbers: dict[str, int], first: int
) -> Arrivals:
    """Some checked events as columns; rows are counted from `first`."""
    fields = checked.fields
    types = set(fields.type)
    profiles: list[Profile] = []
    if not types.isdisjoint(PROFILE_TYPES):
        for row, (type_, properties) in enumerate(zip(fields.type, fields.properties, strict=True)):
            if type_ in PROFILE_TYPES:
                profiles.append(
                    Profile(row, type_, properties or {}, enrich.as_text(properties or {}))
                )
    answers: list[Given] = []
    if "answer" in types:
        given = zip(fields.type, fields.answer, fields.items, strict=True)
        answers = [
            Given(first + row, answer, items)
            for row, (type_, answer, items) in enumerate(given)
            if type_ == "answer" and answer is not None and items is not None
        ]
    identifies = (
        [first + row for row, type_ in enumerate(fields.type) if type_ == "identify"]
        if "identify" in types
        else []
    )
    merges: list[tuple[int, str]] = []
    if "merge" in types:
        said_of = zip(fields.type, fields.properties, strict=True)
        merges = [
            (first + row, (properties or {})[MERGED_INTO])
            for row, (type_, properties) in enumerate(said_of)
            if type_ == "merge"
        ]
    said = {name: pa.array(getattr(fields, name), ROUTED.field(name).type) for name in _ids}
    said |= {
        name: pa.array(getattr(checked, name), ROUTED.field(name).type)
        for name in ("ts_original", "sent_at", "received_at")
    }
    said["items"] = pa.array(fields.items, ROUTED.field("items").type)
    said["timeless"] = pa.array(fields.timeless, pa.bool_())
    said |= _of_properties(fields.properties, profiles)
    of_context, utc_offset_min = _of_contexts(fields.context)
    return Arrivals(
        said | of_context,
        _entries(checked, bodies, numbers),
        np.array(checked.ts, np.int64),
        utc_offset_min,
        [replace(one, row=first + one.row) for one in profiles],
        answers,
        identifies,
        merges,
    )


def _of_contexts(contexts: Sequence[Any]) -> tuple[dict[str, pa.Array], Int64s]:
    """Device, country, page, referrer and agent; and the client's offset from UTC."""
    whole = [context or _NO_CONTEXT for context in contexts] if None in contexts else contexts
    device, country, page, referrer, user_agent, offset = zip(
        *map(msgspec.structs.astuple, whole), strict=True
    )
    upper = {text: text and text.upper() for text in set(country)}
    agents = {text: enrich.agent_class(text) for text in set(user_agent)}
    columns = {
        "device": device,
        "country": [upper[text] for text in country],
        "page": page,
        "referrer": referrer,
        "agent": [agents[text] for text in user_agent],
    }
    offsets = (
        np.zeros(len(whole), np.int64)
        if offset.count(None) == len(offset)
        else np.array([one or 0 for one in offset], np.int64)
    )
    return {name: pa.array(column, pa.string()) for name, column in columns.items()}, offsets


def _of_properties(
    column: Sequence[dict[str, Any] | None], profiles: Sequence[Profile]
) -> dict[str, pa.Array]:
    """The properties that have a column of their own, and the others as text; a profile keeps all
    of them there.
    """
    texts: list[str | None] = [None] * len(column)
    given: list[dict[str, Any]] = [properties or {} for properties in column]
    for one in profiles:
        texts[one.row], given[one.row] = one.text, {}
    names = set().union(*given)
    if not names <= enrich.COLUMNS:
        for row, properties in enumerate(given):
            if properties:
                texts[row] = enrich.rest_as_text(properties)
    columns = {"properties": pa.array(texts, pa.string())}
    for name in ("query", *_NUMBERS):
        kind = ROUTED.field(name).type
        columns[name] = (
            pa.array([properties.get(name) for properties in given], kind)
            if name in names
            else pa.nulls(len(given), kind)
        )
    return columns


def _entries(checked: Checked, bodies: Sequence[Body], numbers: dict[str, int]) -> Entries:
    """The events as the index of repeats knows them, shape (n,)."""
    entries = np.empty(len(checked), ENTRY)
    fields = checked.fields
    prints = fingerprints_of(fields.user_id, fields.anonymous_id, fields.item_id, fields.event_id)
    place = np.array(checked.bodies, np.intp)
    entries["key"], entries["check"] = prints[:, 0], prints[:, 1]
    entries["received_at"] = checked.received_at
    entries["offset"] = np.array([body.offset for body in bodies], np.int64)[place]
    entries["producer"] = np.array([numbers[body.producer] for body in bodies], np.int32)[place]
    entries["row"] = checked.rows
    return entries
