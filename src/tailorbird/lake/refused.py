"""What was refused: the table `quarantine`, chosen by reason, path and time. Sending it again is
`lake.replay`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from tailorbird.events.schema import TIME, micros
from tailorbird.lake.lake import Lake

SLICE_ROWS = 10_000
PLACE = ("raw_partition", "raw_offset", "raw_row")

Place = tuple[str, int, int]


@dataclass(frozen=True)
class Choice:
    """Which refused rows.

    Attributes:
        reasons: these codes; all of them if there is none.
        path: the field that was wrong, `$.properties.price`, or one above it, `$.properties`.
        since: received at this time (microseconds) or later.
    """

    reasons: tuple[str, ...] = ()
    path: str = ""
    since: int | None = None

    def filter(self) -> ds.Expression | None:
        """The choice as a filter; None if it takes all."""
        parts: list[ds.Expression] = []
        if self.reasons:
            parts.append(ds.field("code").isin(list(self.reasons)))
        if self.path:
            below = [
                pc.starts_with(ds.field("path"), pattern=self.path + end) for end in (".", "[")
            ]
            parts.append((ds.field("path") == self.path) | below[0] | below[1])
        if self.since is not None:
            parts.append(ds.field("received_at") >= pa.scalar(self.since, TIME))
        return _all_of(parts)


@dataclass
class Reason:
    """What was refused for one reason.

    Attributes:
        replayed: how many of the rows were sent again since, and taken or found to be there
        already. first, last: when the first and the last of them was received, microseconds.
        paths: the fields that were wrong, most frequent first.
    """

    code: str
    rows: int = 0
    replayed: int = 0
    first: int = 0
    last: int = 0
    paths: dict[str, int] = field(default_factory=dict)


def reasons(lake: Lake, choice: Choice, replayed: frozenset[Place]) -> list[Reason]:
    """The reasons among the chosen rows, most frequent first."""
    table = lake.table("quarantine", ["code", "path", "received_at", *PLACE], choice.filter())
    found: list[Reason] = []
    for code in pc.unique(table.column("code")).to_pylist():
        rows = table.filter(pc.equal(table.column("code"), code))
        times = micros(rows.column("received_at"))
        counted = (
            rows.group_by("path")
            .aggregate([("path", "count")])
            .sort_by([("path_count", "descending"), ("path", "ascending")])
        )
        paths = dict(
            zip(
                counted.column("path").to_pylist(),
                counted.column("path_count").to_pylist(),
                strict=True,
            )
        )
        again = sum(place in replayed for place in places(rows)) if replayed else 0
        found.append(Reason(code, len(rows), again, int(times.min()), int(times.max()), paths))
    return sorted(found, key=lambda reason: (-reason.rows, reason.code))


def samples(lake: Lake, choice: Choice, limit: int) -> list[dict[str, Any]]:
    """Some of the chosen rows, the newest first."""
    table = lake.table("quarantine", where=choice.filter()).sort_by(
        [("received_at", "descending"), ("raw_offset", "descending")]
    )
    return table.slice(0, max(0, limit)).to_pylist()


def slices(lake: Lake, choice: Choice, rows_max: int = SLICE_ROWS) -> Iterator[pa.Table]:
    """The chosen rows in order of receipt, in pieces of about `rows_max`; rows of one body stay
    together.
    """
    chosen = choice.filter()
    table = lake.table("quarantine", ["received_at", "raw_offset"], chosen)
    times, offsets = micros(table.column("received_at")), table.column("raw_offset").to_numpy()
    order = np.lexsort((offsets, times))[::rows_max]
    starts = list(dict.fromkeys(zip(times[order].tolist(), offsets[order].tolist(), strict=True)))
    for number, start in enumerate(starts):
        parts = [part for part in (chosen, _behind(*start)) if part is not None]
        if number + 1 < len(starts):
            parts.append(~_behind(*starts[number + 1]))
        yield lake.table("quarantine", where=_all_of(parts)).sort_by(
            [(name, "ascending") for name in ("received_at", *PLACE)]
        )


def _behind(received_at: int, offset: int) -> ds.Expression:
    """Rows at this time and offset, or behind."""
    moment = pa.scalar(received_at, TIME)
    return (ds.field("received_at") > moment) | (
        (ds.field("received_at") == moment) & (ds.field("raw_offset") >= offset)
    )


def count(lake: Lake, choice: Choice) -> int:
    """How many rows are chosen."""
    return lake.table("quarantine", ["code"], choice.filter()).num_rows


def places(rows: pa.Table) -> list[Place]:
    """Where each row stands in the raw logs."""
    return list(zip(*(rows.column(name).to_pylist() for name in PLACE), strict=True))


def _all_of(parts: Sequence[ds.Expression]) -> ds.Expression | None:
    found: ds.Expression | None = None
    for part in parts:
        found = part if found is None else found & part
    return found
