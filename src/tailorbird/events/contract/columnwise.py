"""The contract applied to columns: accept ordinary events in bulk, check the rest row by row.

A decoder with bounds for each field reads a body at once, and each condition is tested on a column
of many events. Rows that are not cleared go to `contract.check_row`, which is authoritative. A
column test may raise a false alarm, which costs time, but must never clear a row that the contract
refuses. `tests/events/test_columnwise.py` verifies equal verdicts.

    bodies ──decode──► columns ──test──► cleared rows ───────────┬──► CheckedBatch, in row order
                └─ rejected by decoder or test ──► check_row ────┘
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Literal

import msgspec
import pyarrow as pa

from tailorbird.events.contract.checked_batch import CheckedBatch, EventColumns
from tailorbird.events.contract.codes import DECODE_ERRORS, ContractViolation
from tailorbird.events.contract.contract import check_body, check_row, split_body
from tailorbird.events.contract.envelope import TIME_BOUNDS, Context, Event
from tailorbird.events.contract.event_types import FORBIDDEN_TYPES, TRUSTED_SOURCES
from tailorbird.events.contract.fields import ServerOwned, annotations_of, bounded_fields
from tailorbird.events.contract.plan import SERVER_TYPES, RoutePlan
from tailorbird.events.contract.schema import TIME_TYPE
from tailorbird.events.contract.suspects import find_suspect_rows
from tailorbird.events.contract.times import resolve_times, to_micros
from tailorbird.events.contract.verdict import Accepted, Receipt, Refusal

# a body below it is decided on row by row: columns of a few values cost more than they spare
_ROWWISE_BYTES_MAX = 1_500
_YEAR_US = 31_536_000_000_000
_TIME_TEXT_LENGTHS = frozenset(
    (20, 24, 25, 27, 29)
)  # lengths of the usual forms: 2026-11-25T12:00:00Z, with .123, with +01:00, …
_SERVER_OWNED_FIELDS = annotations_of(Event, ServerOwned)
_astuple = msgspec.structs.astuple


assert EventColumns._fields == Event.__struct_fields__


class Contract:
    """The contract compiled for one plan.

    Safe to call from any thread.
    """

    def __init__(self, plan: RoutePlan) -> None:
        self._plan = plan
        self._decoders = {
            source: _Decoders.for_source(plan, source)
            for source in (*FORBIDDEN_TYPES, *TRUSTED_SOURCES)
        }

    def check_bodies(self, bodies: Sequence[tuple[bytes, Receipt]]) -> CheckedBatch:
        """Check every event of some bodies, with the same verdicts as `contract.check_body`."""
        if len(bodies) == 1 and len(bodies[0][0]) < _ROWWISE_BYTES_MAX:
            return self._check_row_by_row(*bodies[0])
        batch = _Batch(bodies, self._plan)
        for body_index, (body, receipt) in enumerate(bodies):
            batch.decode_body(body_index, body, self._decoders.get(receipt.source))
        return batch.check_rows()

    def _check_row_by_row(self, body: bytes, receipt: Receipt) -> CheckedBatch:
        accepted, refused = check_body(body, receipt, self._plan)
        return _to_checked_batch(
            [(0, event.row, _flatten_accepted(event)) for event in accepted],
            [(0, refusal) for refusal in refused],
        )


@dataclass(frozen=True, slots=True)
class _Decoders:
    """The JSON decoders of one source, for one event and for a list of events.

    A field or type that the source may not send fails to decode.
    """

    single: msgspec.json.Decoder
    batch: msgspec.json.Decoder

    @classmethod
    def for_source(cls, plan: RoutePlan, source: str) -> "_Decoders":
        forbidden_types = (
            () if source in TRUSTED_SOURCES else (*SERVER_TYPES, *FORBIDDEN_TYPES[source])
        )
        type_names = tuple(name for name in plan.event_types if name not in forbidden_types)
        type_literal: Any = Literal[type_names]  # pyrefly: ignore
        context_struct = msgspec.defstruct(
            "Context", bounded_fields(Context), forbid_unknown_fields=True, frozen=True, gc=False
        )
        type_by_field: dict[str, Any] = {"type": type_literal, "context": context_struct | None}
        if source not in TRUSTED_SOURCES:
            type_by_field |= dict.fromkeys(_SERVER_OWNED_FIELDS)
        fields = [
            (name, type_by_field.get(name, type_), default)
            for name, type_, default in bounded_fields(Event)
        ]
        event_struct = msgspec.defstruct(
            "Cleared", fields, forbid_unknown_fields=True, frozen=True, gc=False
        )
        return cls(msgspec.json.Decoder(event_struct), msgspec.json.Decoder(list[event_struct]))


class _Batch:
    """Bodies on their way through the decoders and the column tests."""

    def __init__(self, bodies: Sequence[tuple[bytes, Receipt]], plan: RoutePlan) -> None:
        self._bodies = bodies
        self._plan = plan
        self._decoded_rows: list[tuple] = []  # rows of all bodies, concatenated
        self._body_indexes: list[int] = []  # the body of each row
        self._row_indexes: list[int] = []  # its row in the body
        self._receipt_times: list[int] = []  # the arrival time of its body
        self._has_imports = any(receipt.source == "import" for _, receipt in bodies)
        self._undecoded_rows: list[tuple[int, int]] = []  # body and row of undecodable rows
        self._rows_by_body: dict[int, Sequence[bytes | memoryview]] = {}

    def decode_body(self, body_index: int, body: bytes, decoders: _Decoders | None) -> None:
        """Decode a body at once if possible, else row by row."""
        receipt = self._bodies[body_index][1]
        if (
            decoders is not None and b"\\u0000" not in body
        ):  # An escape is the only way to write NUL, which no id may contain.
            try:
                if receipt.encoding != "ndjson" and body.lstrip()[:1] == b"[":
                    events = decoders.batch.decode(body)
                else:
                    events = [decoders.single.decode(line) for line in self._split_rows(body_index)]
            except DECODE_ERRORS:
                pass
            else:
                if events:
                    self._decoded_rows += map(_astuple, events)
                    self._body_indexes += [body_index] * len(events)
                    self._row_indexes += range(len(events))
                    self._receipt_times += [receipt.received_at] * len(events)
                    return
        self._decode_rows(body_index, decoders)

    def _decode_rows(self, body_index: int, decoders: _Decoders | None) -> None:
        for row, raw in enumerate(self._split_rows(body_index)):
            try:
                if decoders is None or b"\\u0000" in bytes(raw):
                    raise msgspec.ValidationError
                self._decoded_rows.append(_astuple(decoders.single.decode(raw)))
            except DECODE_ERRORS:
                self._undecoded_rows.append((body_index, row))
            else:
                self._body_indexes.append(body_index)
                self._row_indexes.append(row)
                self._receipt_times.append(self._bodies[body_index][1].received_at)

    def _split_rows(self, body_index: int) -> Sequence[bytes | memoryview]:
        if (rows := self._rows_by_body.get(body_index)) is None:
            body, receipt = self._bodies[body_index]
            rows = self._rows_by_body[body_index] = split_body(body, receipt.encoding)
        return rows

    def check_rows(self) -> CheckedBatch:
        """Run the column tests, then the contract itself on the rows that they do not clear."""
        fields = EventColumns.from_rows(self._decoded_rows)
        suspects = find_suspect_rows(fields, self._plan, max(len(body) for body, _ in self._bodies))
        times = self._resolve_times(fields, suspects)
        if not suspects and not self._undecoded_rows:
            return CheckedBatch(self._body_indexes, self._row_indexes, fields, *times, ())
        uncleared_rows = {
            *self._undecoded_rows,
            *((self._body_indexes[index], self._row_indexes[index]) for index in suspects),
        }
        # A body may be nested so deeply that it was decoded here but cannot be split a few calls
        # further down the stack. The contract regards it as one row.
        too_deep_bodies = {
            body_index
            for body_index, row in uncleared_rows
            if row >= len(self._split_rows(body_index))
        }
        entries = enumerate(
            zip(
                self._body_indexes,
                self._row_indexes,
                zip(self._decoded_rows, *times, strict=True),
                strict=True,
            )
        )
        accepted: list[_CheckedRow] = [
            entry
            for index, entry in entries
            if index not in suspects and entry[0] not in too_deep_bodies
        ]
        refused: list[tuple[int, Refusal]] = []
        for body_index, row in sorted(
            {(index, 0 if index in too_deep_bodies else row) for index, row in uncleared_rows}
        ):
            verdict = check_row(
                row, self._split_rows(body_index)[row], self._bodies[body_index][1], self._plan
            )
            if isinstance(verdict, Accepted):
                accepted.append((body_index, row, _flatten_accepted(verdict)))
            else:
                refused.append((body_index, verdict))
        accepted.sort(key=itemgetter(0, 1))
        return _to_checked_batch(accepted, refused)

    def _resolve_times(self, fields: EventColumns, suspects: set[int]) -> "_EventTimes":
        """Resolve ts, ts_original, sent_at and received_at of each row.

        Rows without a valid time are added to `suspects`.
        """
        ts_original, sent_at, stated_received_at = (
            _parse_time_column(column, suspects)
            for column in (fields.ts, fields.sent_at, fields.received_at)
        )
        received_at: Sequence[int] = self._receipt_times
        ts: Sequence[Any] = ts_original
        # Usual rows state `ts` and neither of the others, and need no resolution.
        usual_count = (
            len(ts) - ts.count(None) + sent_at.count(None) + stated_received_at.count(None)
        )
        if usual_count < 3 * len(ts) or True in fields.timeless or self._has_imports:
            receipts = (self._bodies[body_index][1] for body_index in self._body_indexes)
            rows = zip(
                ts_original, sent_at, stated_received_at, receipts, fields.timeless, strict=True
            )
            resolved_times = [
                resolve_times(stated_ts, sent, stated_arrival, receipt, timeless=timeless)
                for stated_ts, sent, stated_arrival, receipt, timeless in rows
            ]
            ts = [at for at, _ in resolved_times]
            received_at = [arrival for _, arrival in resolved_times]
        skew_us = self._plan.skew_us
        if ts and not (max(ts) <= min(received_at) + skew_us and min(ts) > 0):
            resolved_rows = enumerate(zip(ts, received_at, fields.timeless, strict=True))
            suspects.update(
                row
                for row, (at, arrival, timeless) in resolved_rows
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


def _to_checked_batch(
    accepted: Sequence[_CheckedRow], refused: Sequence[tuple[int, Refusal]]
) -> CheckedBatch:
    if not accepted:
        return CheckedBatch((), (), EventColumns.from_rows(()), (), (), (), (), refused)
    body_indexes, row_indexes, flat_events = zip(*accepted, strict=True)
    events, ts, ts_original, sent_at, received_at = zip(*flat_events, strict=True)
    return CheckedBatch(
        body_indexes,
        row_indexes,
        EventColumns.from_rows(events),
        ts,
        ts_original,
        sent_at,
        received_at,
        refused,
    )


def _parse_time_column(
    column: Sequence[int | str | None], suspects: set[int]
) -> Sequence[int | None]:
    """Convert a column of times to microseconds.

    Rows with an invalid time get None and are added to `suspects`.
    """
    if str not in set(map(type, column)):
        return column  # type: ignore[return-value]  # the decoder has held integers to their bounds
    texts = {row: value for row, value in enumerate(column) if type(value) is str}
    times = list(column)
    parsed_times = _parse_usual_times(list(texts.values()))
    for (row, text), parsed_us in zip(texts.items(), parsed_times, strict=True):
        if parsed_us is None:
            try:
                parsed_us = to_micros(text, "")
            except ContractViolation:
                suspects.add(row)
        times[row] = parsed_us
    return times  # type: ignore[return-value]


def _parse_usual_times(texts: list[str]) -> Sequence[int | None]:
    """Parse texts of the usual time formats with Arrow.

    An entry is None where it has to be parsed on its own.
    """
    if not _TIME_TEXT_LENGTHS.issuperset(map(len, texts)):
        return [None] * len(texts)
    try:
        parsed_times = (
            pa.array(texts, pa.string()).cast(TIME_TYPE).cast(pa.int64()).to_numpy().tolist()
        )
    except pa.ArrowInvalid:
        return [None] * len(texts)
    return (
        parsed_times
        if min(parsed_times) > _YEAR_US and max(parsed_times) < TIME_BOUNDS.high - _YEAR_US
        else [None] * len(texts)
    )
