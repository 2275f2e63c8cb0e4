"""The contract applied to columns: accept ordinary events in bulk, check the rest row by row.

A decoder with bounds for each field reads a body at once, and each condition is tested on a column
of many events. Rows that are not cleared go to `contract.check_row`, which is authoritative. A
column test may raise a false alarm, which costs time, but must never clear a row that the contract
refuses. `tests/events/test_columnwise.py` verifies equal verdicts.

    bodies ──decode──► columns ──test──► cleared rows ───────────┬──► CheckedBatch, in row order
                └─ rejected by decoder or test ──► check_row ────┘
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import pyarrow as pa

from tailorbird.events.contract import contract
from tailorbird.events.contract.contract import (
    Accepted,
    Receipt,
    Refusal,
    check,
    check_row,
    resolve_times,
    split_body,
    to_micros,
)
from tailorbird.events.contract.envelope import Answer, Event
from tailorbird.events.contract.plan import PROFILE_TYPES, SHARED_TYPES, RoutePlan
from tailorbird.events.contract.rules import all_satisfy, find_violation
from tailorbird.events.contract.schema import TIME

# a body below it is decided on row by row: columns of a few values cost more than they spare
_FEW_BYTES = 1_500
_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=contract.ID_LENGTH_MAX)]
_Text = Annotated[str, msgspec.Meta(max_length=contract.TEXT_LENGTH_MAX)]
_Time = (
    Annotated[int, msgspec.Meta(ge=contract.MICROSECONDS_MIN, lt=contract.MICROSECONDS_END)]
    | str
    | None
)
_Items = Annotated[list[_Id], msgspec.Meta(max_length=contract.ITEMS_MAX)]
_NEED_ITEM = contract.NEEDS_ITEM | {"item"}
_COLUMNS = frozenset(("query", *contract.NUMBERS))  # properties that the contract itself validates
_NEWLINE_ANONYMOUS = f"\n{contract.ANONYMOUS_PREFIX}"
_YEAR_1971 = 31_536_000_000_000
_TEXT_TIMES = frozenset(
    (20, 24, 25, 27, 29)
)  # lengths of the usual forms: 2026-11-25T12:00:00Z, with .123, with +01:00, …
_astuple = msgspec.structs.astuple
_encode = msgspec.json.encode


class _Context(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    device: _Text | None = None
    country: str | None = None
    page: _Text | None = None
    referrer: _Text | None = None
    user_agent: _Text | None = None
    utc_offset_min: Annotated[int, msgspec.Meta(ge=-840, le=840)] | None = None


class EventColumns(NamedTuple):
    """The columns of events, all of the same length, in the order of the fields of `Event`."""

    event_id: Sequence[str]
    type: Sequence[str]
    ts: Sequence[int | str | None]
    sent_at: Sequence[int | str | None]
    user_id: Sequence[str | None]
    anonymous_id: Sequence[str | None]
    session_id: Sequence[str | None]
    item_id: Sequence[str | None]
    items: Sequence[list[str] | None]
    request_id: Sequence[str | None]
    context: Sequence[Any]
    properties: Sequence[dict[str, Any] | None]
    timeless: Sequence[bool]
    received_at: Sequence[int | str | None]
    answer: Sequence[Answer | None]

    @classmethod
    def from_rows(cls, rows: Sequence[tuple]) -> "EventColumns":
        """Transpose tuples of all fields into columns."""
        return cls(*(zip(*rows, strict=True) if rows else [()] * len(cls._fields)))


assert EventColumns._fields == Event.__struct_fields__


@dataclass(frozen=True, slots=True)
class CheckedBatch:
    """The verdict on a batch of bodies.

    The accepted events are columns of equal length, in the order in which they arrived.

    Attributes:
        bodies, rows: in which of the bodies, and at which row of it, each accepted event stood.
        ts, ts_original, sent_at, received_at: their times, resolved as in `contract.Accepted`.
        refused: each refusal with its body.
    """

    bodies: Sequence[int]
    rows: Sequence[int]
    fields: EventColumns
    ts: Sequence[int]
    ts_original: Sequence[int | None]
    sent_at: Sequence[int | None]
    received_at: Sequence[int]
    refused: Sequence[tuple[int, Refusal]]

    def __len__(self) -> int:
        return len(self.rows)


class Contract:
    """The contract compiled for one plan.

    Safe to call from any thread.
    """

    def __init__(self, plan: RoutePlan) -> None:
        self._plan = plan
        self._decoders = {
            source: _Decoders.for_source(plan, source)
            for source in (*_UNTRUSTED, *contract.TRUSTED)
        }

    def check(self, bodies: Sequence[tuple[bytes, Receipt]]) -> CheckedBatch:
        """Check every event of some bodies, with the same verdicts as `contract.check`."""
        if len(bodies) == 1 and len(bodies[0][0]) < _FEW_BYTES:
            return self._check_row_by_row(*bodies[0])
        batch = _Batch(bodies, self._plan)
        for number, (body, receipt) in enumerate(bodies):
            batch.decode_body(number, body, self._decoders.get(receipt.source))
        return batch.check_rows()

    def _check_row_by_row(self, body: bytes, receipt: Receipt) -> CheckedBatch:
        accepted, refused = check(body, receipt, self._plan)
        return _to_columns(
            [(0, event.row, _flatten_accepted(event)) for event in accepted],
            [(0, refusal) for refusal in refused],
        )


_UNTRUSTED = (contract.COLLECTOR, contract.BROWSER, contract.BROWSER_IDENTIFY)


@dataclass(frozen=True, slots=True)
class _Decoders:
    """The JSON decoders of one source, for one event and for a list of events.

    A field or type that the source may not send fails to decode.
    """

    single: msgspec.json.Decoder
    batch: msgspec.json.Decoder

    @classmethod
    def for_source(cls, plan: RoutePlan, source: str) -> "_Decoders":
        trusted = source in contract.TRUSTED
        forbidden_types: set[str] = set() if trusted else {"answer"}
        if source in (contract.BROWSER, contract.BROWSER_IDENTIFY):
            forbidden_types.update(
                SHARED_TYPES if source == contract.BROWSER_IDENTIFY else ("identify", *SHARED_TYPES)
            )
        names = tuple(name for name in plan.event_types if name not in forbidden_types)
        types: Any = Literal[names]  # pyrefly: ignore
        fields = [
            ("event_id", _Id),
            ("type", types),
            ("ts", _Time, None),
            ("sent_at", _Time, None),
            *(
                (name, _Id | None, None)
                for name in ("user_id", "anonymous_id", "session_id", "item_id")
            ),
            ("items", _Items | None, None),
            ("request_id", _Id | None, None),
            ("context", _Context | None, None),
            ("properties", dict[str, Any] | None, None),
            ("timeless", bool, False),
            ("received_at", _Time if trusted else None, None),
            ("answer", Answer | None if trusted else None, None),
        ]
        event_struct = msgspec.defstruct(
            "Cleared", fields, forbid_unknown_fields=True, frozen=True, gc=False
        )
        return cls(msgspec.json.Decoder(event_struct), msgspec.json.Decoder(list[event_struct]))


class _Batch:
    """Bodies on their way through the decoders and the column tests."""

    def __init__(self, bodies: Sequence[tuple[bytes, Receipt]], plan: RoutePlan) -> None:
        self._bodies, self._plan = bodies, plan
        self._decoded: list[tuple] = []  # rows of all bodies, concatenated
        self._body_indices: list[int] = []  # the body of each row
        self._row_indices: list[int] = []  # its row in the body
        self._receipt_times: list[int] = []  # the arrival time of its body
        self._imports = any(receipt.source == "import" for _, receipt in bodies)
        self._undecoded: list[tuple[int, int]] = []  # body and row of undecodable rows
        self._rows_by_body: dict[int, Sequence[bytes | memoryview]] = {}

    def decode_body(self, number: int, body: bytes, decoders: _Decoders | None) -> None:
        """Decode a body at once if possible, else row by row."""
        receipt = self._bodies[number][1]
        if (
            decoders is not None and b"\\u0000" not in body
        ):  # An escape is the only way to write NUL, which no id may contain.
            try:
                if receipt.encoding != "ndjson" and body.lstrip()[:1] == b"[":
                    events = decoders.batch.decode(body)
                else:
                    events = [decoders.single.decode(line) for line in self._rows(number)]
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                pass
            else:
                if events:
                    self._decoded += map(_astuple, events)
                    self._body_indices += [number] * len(events)
                    self._row_indices += range(len(events))
                    self._receipt_times += [receipt.received_at] * len(events)
                    return
        self._decode_rows(number, decoders)

    def _decode_rows(self, number: int, decoders: _Decoders | None) -> None:
        for row, raw in enumerate(self._rows(number)):
            try:
                if decoders is None or b"\\u0000" in bytes(raw):
                    raise msgspec.ValidationError
                self._decoded.append(_astuple(decoders.single.decode(raw)))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                self._undecoded.append((number, row))
            else:
                self._body_indices.append(number)
                self._row_indices.append(row)
                self._receipt_times.append(self._bodies[number][1].received_at)

    def _rows(self, number: int) -> Sequence[bytes | memoryview]:
        if (rows := self._rows_by_body.get(number)) is None:
            body, receipt = self._bodies[number]
            rows = self._rows_by_body[number] = split_body(body, receipt.encoding)
        return rows

    def check_rows(self) -> CheckedBatch:
        """Run the column tests, then the contract itself on the rows that they do not clear."""
        fields = EventColumns.from_rows(self._decoded)
        suspects = suspect_rows(fields, self._plan, max(len(body) for body, _ in self._bodies))
        times = self._times(fields, suspects)
        if not suspects and not self._undecoded:
            return CheckedBatch(self._body_indices, self._row_indices, fields, *times, ())
        unresolved = {
            *self._undecoded,
            *((self._body_indices[index], self._row_indices[index]) for index in suspects),
        }
        # A body may be nested so deeply that it was decoded here but cannot be split a few calls
        # further down the stack. The contract regards it as one row.
        too_deep = {body for body, row in unresolved if row >= len(self._rows(body))}
        entries = enumerate(
            zip(
                self._body_indices,
                self._row_indices,
                zip(self._decoded, *times, strict=True),
                strict=True,
            )
        )
        accepted: list[_CheckedRow] = [
            entry for index, entry in entries if index not in suspects and entry[0] not in too_deep
        ]
        refused: list[tuple[int, Refusal]] = []
        for body, row in sorted(
            {(body, 0 if body in too_deep else row) for body, row in unresolved}
        ):
            verdict = check_row(row, self._rows(body)[row], self._bodies[body][1], self._plan)
            if isinstance(verdict, Accepted):
                accepted.append((body, row, _flatten_accepted(verdict)))
            else:
                refused.append((body, verdict))
        accepted.sort(key=itemgetter(0, 1))
        return _to_columns(accepted, refused)

    def _times(self, fields: EventColumns, suspects: set[int]) -> "_EventTimes":
        """Resolve ts, ts_original, sent_at and received_at of each row.

        Rows without a valid time are added to `suspects`.
        """
        ts_original, sent_at, stated_received_at = (
            _micros(column, suspects) for column in (fields.ts, fields.sent_at, fields.received_at)
        )
        received_at: Sequence[int] = self._receipt_times
        ts: Sequence[Any] = ts_original
        stated = len(ts) - ts.count(None) + sent_at.count(None) + stated_received_at.count(None)
        if stated < 3 * len(ts) or True in fields.timeless or self._imports:
            receipts = (self._bodies[number][1] for number in self._body_indices)
            rows = zip(
                ts_original, sent_at, stated_received_at, receipts, fields.timeless, strict=True
            )
            moments = [
                resolve_times(at, sent, stated, receipt, timeless=timeless)
                for at, sent, stated, receipt, timeless in rows
            ]
            ts, received_at = [at for at, _ in moments], [arrival for _, arrival in moments]
        skew_us = self._plan.skew_us
        if ts and not (max(ts) <= min(received_at) + skew_us and min(ts) > 0):
            late = enumerate(zip(ts, received_at, fields.timeless, strict=True))
            suspects.update(
                row
                for row, (at, arrival, timeless) in late
                if not (timeless or 0 < at <= arrival + skew_us)
            )
        return ts, ts_original, sent_at, received_at


_EventTimes = tuple[Sequence[int], Sequence[int | None], Sequence[int | None], Sequence[int]]
_CheckedRow = tuple[
    int, int, tuple
]  # body, row, and (fields, ts, ts_original, sent_at, received_at)


def _flatten_accepted(accepted: Accepted) -> tuple:
    return (
        _astuple(accepted.event),
        accepted.ts,
        accepted.ts_original,
        accepted.sent_at,
        accepted.received_at,
    )


def _to_columns(
    accepted: Sequence[_CheckedRow], refused: Sequence[tuple[int, Refusal]]
) -> CheckedBatch:
    if not accepted:
        return CheckedBatch((), (), EventColumns.from_rows(()), (), (), (), (), refused)
    bodies, rows, rest = zip(*accepted, strict=True)
    events, ts, ts_original, sent_at, received_at = zip(*rest, strict=True)
    return CheckedBatch(
        bodies, rows, EventColumns.from_rows(events), ts, ts_original, sent_at, received_at, refused
    )


def some(checked: CheckedBatch, rows: Sequence[int], *, refused: bool) -> CheckedBatch:
    """Select the accepted events at `rows`, with or without the refusals."""
    columns: list[Any] = [
        checked.bodies,
        checked.rows,
        checked.ts,
        checked.ts_original,
        checked.sent_at,
        checked.received_at,
    ]
    bodies, numbers, ts, ts_original, sent_at, received_at = (
        [column[row] for row in rows] for column in columns
    )
    picked: list[Any] = [[column[row] for row in rows] for column in checked.fields]
    return CheckedBatch(
        bodies,
        numbers,
        EventColumns(*picked),
        ts,
        ts_original,
        sent_at,
        received_at,
        checked.refused if refused else (),
    )


def suspect_rows(fields: EventColumns, plan: RoutePlan, body_bytes_max: int) -> set[int]:
    """Return the rows that the column tests do not clear, times aside.

    No body of theirs is longer than `body_bytes_max`.
    """
    suspects: set[int] = set()
    if fields.type:
        types = set(fields.type)
        suspects.update(
            _without_subject(fields, types),
            _without_item(fields, types),
            _bad_answers(fields, types),
        )
        suspects.update(
            _bad_contexts(fields.context), _bad_properties(fields.properties, body_bytes_max)
        )
        for type_ in types & plan.rules.keys():
            suspects.update(_rule_breakers(fields, type_, plan))
    return suspects


def _without_subject(fields: EventColumns, types: set[str]) -> Iterable[int]:
    users = fields.user_id
    if None in users or "identify" in types:
        for row, (type_, user, visitor) in enumerate(
            zip(fields.type, users, fields.anonymous_id, strict=True)
        ):
            if type_ == "identify":
                clear = user is not None and visitor is not None
            else:
                clear = (
                    user is not None or type_ == "item" or (visitor is not None and type_ != "user")
                )
            if not clear:
                yield row
    if "merge" in types:  # Merges are rare, and name their target among the properties.
        yield from (row for row, type_ in enumerate(fields.type) if type_ == "merge")
    names: Any = [user for user in users if user is not None] if None in users else users
    if _NEWLINE_ANONYMOUS in "\n" + "\n".join(
        names
    ):  # One search over all ids is cheaper than a test per id.
        yield from (
            row
            for row, user in enumerate(users)
            if user and user.startswith(contract.ANONYMOUS_PREFIX)
        )


def _without_item(fields: EventColumns, types: set[str]) -> Iterable[int]:
    if None in fields.item_id and not types.isdisjoint(_NEED_ITEM):
        yield from (
            row
            for row, item in enumerate(fields.item_id)
            if item is None and fields.type[row] in _NEED_ITEM
        )
    if True in fields.timeless:
        yield from (
            row
            for row, timeless in enumerate(fields.timeless)
            if timeless and fields.type[row] not in PROFILE_TYPES
        )


def _bad_answers(fields: EventColumns, types: set[str]) -> Iterable[int]:
    if "answer" not in types:
        return
    for row, (type_, answer, items) in enumerate(
        zip(fields.type, fields.answer, fields.items, strict=True)
    ):
        if type_ == "answer":
            propensities = () if answer is None else answer.propensities
            is_complete = (
                answer is not None and items is not None and fields.request_id[row] is not None
            )
            if not is_complete or (
                propensities
                and not (
                    len(propensities) == len(items or ())
                    and min(propensities) > 0.0
                    and max(propensities) <= 1.0
                )
            ):
                yield row


def _bad_contexts(contexts: Sequence[Any]) -> Iterable[int]:
    countries = {context.country for context in contexts if context is not None}
    bad = {
        country
        for country in countries
        if country is not None and not contract.COUNTRY.match(country)
    }
    if bad:
        yield from (
            row
            for row, context in enumerate(contexts)
            if context is not None and context.country in bad
        )


def _bad_properties(column: Sequence[dict[str, Any] | None], body_bytes_max: int) -> Iterable[int]:
    nonempty = [properties for properties in column if properties]
    if not nonempty:
        return
    names = set(chain.from_iterable(nonempty))
    types = set(map(type, chain.from_iterable(map(dict.values, nonempty))))
    alarm = (
        body_bytes_max * contract.GROWTH_MAX > contract.PROPERTIES_BYTES_MAX
        and len(_encode(nonempty)) > contract.PROPERTIES_BYTES_MAX
    )
    alarm = alarm or not types.isdisjoint(contract.NESTED)
    if body_bytes_max > contract.FLOAT_DIGITS_MAX and int in types:
        integers = [
            value for value in chain.from_iterable(map(dict.values, nonempty)) if type(value) is int
        ]
        alarm = (
            alarm
            or not -contract.INTEGER_BOUND < min(integers) <= max(integers) < contract.INTEGER_BOUND
        )
    for name in names & _COLUMNS:
        values = [value for properties in nonempty if (value := properties.get(name)) is not None]
        alarm = alarm or (bool(values) and not _fits(name, values))
    if alarm:
        yield from (
            row for row, properties in enumerate(column) if properties and _is_bad(properties)
        )


def _fits(name: str, values: Sequence[Any]) -> bool:
    types = set(map(type, values))
    if name == "query":
        return types == {str}
    low, high = contract.NUMBERS[name]
    return types <= {int, float} and low <= min(values) and max(values) <= high


def _is_bad(properties: dict[str, Any]) -> bool:
    values = ((name, properties.get(name)) for name in _COLUMNS)
    return (
        any(value is not None and not _fits(name, (value,)) for name, value in values)
        or contract.find_too_deep(properties) is not None
        or contract.find_oversized_integer(properties) is not None
        or len(_encode(properties)) > contract.PROPERTIES_BYTES_MAX
    )


def _rule_breakers(fields: EventColumns, type_: str, plan: RoutePlan) -> Iterable[int]:
    rules = plan.rules[type_]
    rows = [row for row, event_type in enumerate(fields.type) if event_type == type_]
    property_rows = [fields.properties[row] or {} for row in rows]
    if not all(
        all_satisfy(rule, [properties.get(rule.name) for properties in property_rows])
        for rule in rules
    ):
        yield from (
            row
            for row, properties in zip(rows, property_rows, strict=True)
            if find_violation(rules, properties) is not None
        )


def _micros(column: Sequence[int | str | None], suspects: set[int]) -> Sequence[int | None]:
    """Convert a column of times to microseconds.

    Rows with an invalid time get None and are added to `suspects`.
    """
    if str not in set(map(type, column)):
        return column  # type: ignore[return-value]  # the decoder has held integers to their bounds
    texts = {row: value for row, value in enumerate(column) if type(value) is str}
    times = list(column)
    parsed = _usual_times(list(texts.values()))
    for (row, text), moment in zip(texts.items(), parsed, strict=True):
        if moment is None:
            try:
                moment = to_micros(text, "")
            except contract.ContractViolation:
                suspects.add(row)
        times[row] = moment
    return times  # type: ignore[return-value]


def _usual_times(texts: list[str]) -> Sequence[int | None]:
    """Parse texts of the usual time formats with Arrow.

    An entry is None where it has to be parsed on its own.
    """
    if not _TEXT_TIMES.issuperset(map(len, texts)):
        return [None] * len(texts)
    try:
        moments = pa.array(texts, pa.string()).cast(TIME).cast(pa.int64()).to_numpy().tolist()
    except pa.ArrowInvalid:
        return [None] * len(texts)
    return (
        moments
        if min(moments) > _YEAR_1971 and max(moments) < contract.MICROSECONDS_END - _YEAR_1971
        else [None] * len(texts)
    )
