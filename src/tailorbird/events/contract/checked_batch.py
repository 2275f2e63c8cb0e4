"""Columns of the events of a body, and the batch that the contract makes of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tailorbird.events.contract.envelope import ResponseDetails
from tailorbird.events.contract.verdict import Refusal


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
    answer: Sequence[ResponseDetails | None]

    @classmethod
    def from_rows(cls, rows: Sequence[tuple]) -> "EventColumns":
        """Transpose tuples of all fields into columns."""
        return cls(*(zip(*rows, strict=True) if rows else [()] * len(cls._fields)))


@dataclass(frozen=True, slots=True)
class CheckedBatch:
    """The verdict on a batch of bodies.

    The accepted events are columns of equal length, in the order in which they arrived.

    Attributes:
        body_indexes, rows: in which of the bodies, and at which row of it, each accepted event
            stood.
        ts, ts_original, sent_at, received_at: their times, resolved as in `contract.Accepted`.
        refusals: each refusal with its body.
    """

    body_indexes: Sequence[int]
    rows: Sequence[int]
    fields: EventColumns
    ts: Sequence[int]
    ts_original: Sequence[int | None]
    sent_at: Sequence[int | None]
    received_at: Sequence[int]
    refusals: Sequence[tuple[int, Refusal]]

    def __len__(self) -> int:
        return len(self.rows)


def select_rows(checked: CheckedBatch, rows: Sequence[int], *, with_refusals: bool) -> CheckedBatch:
    """Select the accepted events at `rows`, with or without the refusals."""
    columns: list[Any] = [
        checked.body_indexes,
        checked.rows,
        checked.ts,
        checked.ts_original,
        checked.sent_at,
        checked.received_at,
    ]
    body_indexes, row_indexes, ts, ts_original, sent_at, received_at = (
        [column[row] for row in rows] for column in columns
    )
    selected_columns: list[Any] = [[column[row] for row in rows] for column in checked.fields]
    return CheckedBatch(
        body_indexes,
        row_indexes,
        EventColumns(*selected_columns),
        ts,
        ts_original,
        sent_at,
        received_at,
        checked.refusals if with_refusals else (),
    )
