"""A day of the lake as the daily checks look at it: its events, what came with them, and the days before as counts.

The checks themselves are `monitoring.checks`; running, keeping and telling them is `monitoring.daily`.
"""

from collections import Counter
from dataclasses import dataclass, field
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from tailorbird.events import DAY, HOUR, micros
from tailorbird.events.contract import NUMBERS
from tailorbird.events.schema import TIME
from tailorbird.lake import Lake

HISTORY_DAYS = 7
OWN_COLUMNS = ("query", *NUMBERS)  # properties that do not stand among the others, but in a column of their own
CATEGORIES = ("type", "device", "country", "slot")
NULLABLE = ("user_id", "session_id", "item_id", "request_id", "device", "country", "page", "query", "price")
COLUMNS = (
    "p", "event_id", "type", "ts", "sent_at", "received_at", "user_id", "person", "session_id", "item_id", "items", "request_id", "device",
    "country", "page", *OWN_COLUMNS, "agent", "slot", "properties", "counts", "timeless", "raw_partition", "raw_offset", "raw_row",
)  # fmt: skip
RAW = ("raw_partition", "raw_offset", "raw_row")
_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True)
class Profile:
    """Counts of one day: rows by hour; by type and column how many are null; by column how often each value occurs; the newest by type."""

    rows: int
    hours: tuple[int, ...]
    types: Counter[str]
    nulls: Counter[tuple[str, str]]
    categories: dict[str, Counter[str]]
    bots: int
    newest: dict[str, int]

    @classmethod
    def of(cls, events: pa.Table) -> "Profile":
        hours = np.bincount(micros(events["ts"]) % DAY // HOUR, minlength=24)
        types = Counter(_counts(events["type"]))
        nulls: Counter[tuple[str, str]] = Counter()
        for column in NULLABLE:
            for type_, count in _counts(events["type"].filter(pc.is_null(events[column]))).items():
                nulls[type_, column] = count
        categories = {column: Counter(_counts(events[column])) for column in CATEGORIES}
        return cls(
            events.num_rows, tuple(hours.tolist()), types, nulls, categories, _counts(events["agent"]).get("bot", 0), _newest(events)
        )


@dataclass(frozen=True)
class Day:
    """What the checks of a day look at.

    Attributes:
        number: the day since 1970, UTC.
        until: up to where the day is over, microseconds: the checks of a day that goes on look no further.
        before: the profiles of the days before that have events, the newest first.
        answered: request ids of answers of this day and the one before.
        repeats: how many repeats of the day's events the router or the lake dropped.
        refused: reason → rows that were refused on the day.
        missing, repeated: raw rows between the day's first and last, by partition, that no table or more than one row holds.
    """

    number: int
    until: int
    events: pa.Table
    profile: Profile
    before: tuple[Profile, ...]
    answered: frozenset[str] = frozenset()
    repeats: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    repeated: dict[str, int] = field(default_factory=dict)

    @property
    def start(self) -> int:
        return self.number * DAY

    @property
    def name(self) -> str:
        return (_EPOCH + timedelta(days=self.number)).isoformat()


def load_day(lake: Lake, number: int, now: int) -> Day:
    """Read a day and what it is compared with. Raises NotReadyError if there is no lake."""
    start, until = number * DAY, min((number + 1) * DAY, now)
    events = _events(lake, number, list(COLUMNS))
    events = events.filter(pc.less(events["ts"], pa.scalar(until, TIME)))
    needed = list(dict.fromkeys(("type", "ts", "agent", "timeless", *CATEGORIES, *NULLABLE)))
    earlier = (_events(lake, before, needed) for before in range(number - 1, number - 1 - HISTORY_DAYS, -1))
    answers = lake.table("events", ["request_id"], _between(start - DAY, start + DAY) & (ds.field("type") == "answer"))
    missing, repeated = _accounted(lake, events, start)
    return Day(
        number,
        until,
        events,
        Profile.of(events),
        tuple(Profile.of(table) for table in earlier if table.num_rows),
        frozenset(answers["request_id"].to_pylist()),
        _repeats(lake, events),
        _refused(lake, start),
        missing,
        repeated,
    )


def _events(lake: Lake, number: int, columns: list[str]) -> pa.Table:
    return lake.events(columns, number * DAY, (number + 1) * DAY).filter(~ds.field("timeless"))


def _between(start: int, end: int, column: str = "ts") -> ds.Expression:
    return (ds.field(column) >= pa.scalar(start, TIME)) & (ds.field(column) < pa.scalar(end, TIME))


def _repeats(lake: Lake, events: pa.Table) -> int:
    if not events.num_rows or not lake.exists("duplicates"):
        return 0
    repeats = lake.table("duplicates", ["event_id"])["event_id"]
    return int(pc.sum(pc.is_in(repeats, value_set=events["event_id"].combine_chunks())).as_py() or 0)


def _refused(lake: Lake, start: int) -> dict[str, int]:
    if not lake.exists("quarantine"):
        return {}
    return _counts(lake.table("quarantine", ["code"], _between(start, start + DAY, "received_at"))["code"])


def _accounted(lake: Lake, events: pa.Table, start: int) -> tuple[dict[str, int], dict[str, int]]:
    """Of the raw rows from the first to the last that came in on the day: how many are in no table, how many more than once."""
    came = events.filter(_between(start, start + DAY, "received_at"))
    missing, repeated = {}, {}
    for partition in _counts(came["raw_partition"]):
        rows = came.filter(pc.equal(came["raw_partition"], partition))
        number = _numbers(rows)
        first, last = int(number.min()), int(number.max())
        body = int(rows["raw_offset"].to_numpy()[number.argmin()])
        where = (ds.field("raw_partition") == partition) & (ds.field("raw_offset") >= body) & (ds.field("raw_offset") <= last)
        tables = [name for name in ("events", "quarantine", "duplicates") if lake.exists(name)]
        held = np.concatenate([_numbers(lake.table(name, list(RAW), where)) for name in tables])
        times = np.bincount(held[(held >= first) & (held <= last)] - first, minlength=last - first + 1)
        missing[partition], repeated[partition] = int(np.sum(times == 0)), int(np.sum(times > 1))
    return missing, repeated


def _numbers(rows: pa.Table) -> np.ndarray:
    return rows["raw_offset"].to_numpy() + rows["raw_row"].to_numpy().astype(np.int64)


def _newest(events: pa.Table) -> dict[str, int]:
    """When the newest event of each type was, microseconds."""
    found = events.select(["type", "ts"]).group_by("type").aggregate([("ts", "max")])
    return dict(zip(found["type"].to_pylist(), micros(found["ts_max"]).tolist(), strict=True))


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each value occurs; nulls are left out."""
    found = pc.value_counts(pc.drop_null(column))
    return dict(zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True))
