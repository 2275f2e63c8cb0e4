"""A day of the lake as the daily checks look at it: its events, what came with them, and the days
before as counts.

The checks themselves are `monitoring.checks`; running, keeping and telling them is
`monitoring.daily`.
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
IMPORTS = "import"  # the raw partition of imported files
PROFILES = ("item", "user")
OWN_COLUMNS = (
    "query",
    *NUMBERS,
)  # properties that do not stand among the others, but in a column of their own
CATEGORIES = ("type", "device", "country", "slot")
NULLABLE = (
    "user_id",
    "session_id",
    "item_id",
    "request_id",
    "device",
    "country",
    "page",
    "query",
    "price",
)
COLUMNS = (
    "p",
    "event_id",
    "type",
    "ts",
    "sent_at",
    "received_at",
    "user_id",
    "person",
    "session_id",
    "item_id",
    "items",
    "request_id",
    "device",
    "country",
    "page",
    *OWN_COLUMNS,
    "agent",
    "slot",
    "properties",
    "counts",
    "timeless",
    "raw_partition",
    "raw_offset",
    "raw_row",
)
RAW = ("raw_partition", "raw_offset", "raw_row")
_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True)
class Profile:
    """Counts of one day.

    Attributes:
        number: the day since 1970, UTC. rows, hours, categories, bots: of what people did
        (`by_people`): events, by hour, by column how often each value occurs, of bots. types,
        nulls, newest: of all: events by type, by type and column how many are null, when the newest
        was. hour_burst, day_burst: how many events come together, being of one person within an
        hour, or the day.
    """

    number: int
    rows: int
    hours: tuple[int, ...]
    types: Counter[str]
    nulls: Counter[tuple[str, str]]
    categories: dict[str, Counter[str]]
    bots: int
    newest: dict[str, int]
    hour_burst: float
    day_burst: float

    @classmethod
    def of(cls, events: pa.Table, number: int) -> "Profile":
        done = by_people(events)
        hour = micros(done["ts"]) % DAY // HOUR
        types = Counter(_counts(events["type"]))
        nulls: Counter[tuple[str, str]] = Counter()
        for column in NULLABLE:
            for type_, count in _counts(events["type"].filter(pc.is_null(events[column]))).items():
                nulls[type_, column] = count
        by_hour = _events_each(done.append_column("hour", pa.array(hour)), ["person", "hour"])
        return cls(
            number,
            done.num_rows,
            tuple(np.bincount(hour, minlength=24).tolist()),
            types,
            nulls,
            categories={column: Counter(_counts(done[column])) for column in CATEGORIES},
            bots=_counts(done["agent"]).get("bot", 0),
            newest=_newest(events),
            hour_burst=_burst(by_hour),
            day_burst=_burst(_events_each(done, ["person"])),
        )


@dataclass(frozen=True)
class Day:
    """What the checks of a day look at.

    Attributes:
        number: the day since 1970, UTC.
        until: up to where the day is over, microseconds: the checks of a day that goes on look no
            further.
        before: the profiles of the seven days before on which people did something, the newest
            first.
        newest_before: the newest day before on which they did, however long ago. came, too_late:
        events that came in on the day, whenever they happened; how many of them no feature counts
        for that.
        answered: request ids of answers of this day and the one before; where there are none, since
            another system gave them, of what was reported as seen.
        repeats: how many repeats of the day's events the router or the lake dropped.
        refused: reason → rows that were refused on the day.
        taken: rows that came in with these and were not refused; those of imports happened on other
        days. missing, repeated: raw rows between the day's first and last, by partition, that no
        table or more than one row holds.
    """

    number: int
    until: int
    events: pa.Table
    profile: Profile
    before: tuple[Profile, ...]
    newest_before: int | None = None
    came: int = 0
    too_late: int = 0
    answered: frozenset[str] = frozenset()
    repeats: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    taken: int = 0
    missing: dict[str, int] = field(default_factory=dict)
    repeated: dict[str, int] = field(default_factory=dict)

    @property
    def start(self) -> int:
        return self.number * DAY

    @property
    def week_ago(self) -> Profile | None:
        """The same weekday a week ago, if people did something."""
        return next((profile for profile in self.before if profile.number == self.number - 7), None)

    @property
    def name(self) -> str:
        return (_EPOCH + timedelta(days=self.number)).isoformat()


def load_day(lake: Lake, number: int, now: int) -> Day:
    """Read a day and what it is compared with. Raises NotReadyError if there is no lake."""
    start, until = number * DAY, min((number + 1) * DAY, now)
    events = _events(lake, number, list(COLUMNS))
    events = events.filter(pc.less(events["ts"], pa.scalar(until, TIME)))
    needed = list(
        dict.fromkeys(("type", "ts", "agent", "person", "timeless", *CATEGORIES, *NULLABLE))
    )
    earlier = (
        Profile.of(_events(lake, before, needed), before)
        for before in range(number - 1, number - 1 - HISTORY_DAYS, -1)
    )
    before = tuple(profile for profile in earlier if profile.rows)
    said = ds.field("type").isin(("answer", "impression")) & ds.field("request_id").is_valid()
    shown = lake.table("events", ["type", "request_id"], _between(start - DAY, start + DAY) & said)
    answers = shown.filter(pc.equal(shown["type"], "answer"))
    came = lake.table(
        "events", ["counts"], _between(start, until, "received_at") & ~ds.field("timeless")
    )["counts"]
    missing, repeated = _accounted(lake, events, start)
    refused, taken = _refused(lake, events, start)
    return Day(
        number,
        until,
        events,
        Profile.of(events, number),
        before,
        newest_before=before[0].number if before else _newest_day(lake, number - HISTORY_DAYS),
        came=len(came),
        too_late=len(came) - int(pc.sum(came).as_py() or 0),
        answered=frozenset((answers if answers.num_rows else shown)["request_id"].to_pylist()),
        repeats=_repeats(lake, events),
        refused=refused,
        taken=taken,
        missing=missing,
        repeated=repeated,
    )


def by_people(events: pa.Table) -> pa.Table:
    """Without the profiles of items and users: a catalogue that is sent anew is no visitor."""
    return events.filter(pc.invert(pc.is_in(events["type"], value_set=pa.array(PROFILES))))


def _events(lake: Lake, number: int, columns: list[str]) -> pa.Table:
    return lake.events(columns, number * DAY, (number + 1) * DAY).filter(~ds.field("timeless"))


def _day(number: int) -> ds.Expression:
    return ds.field("day") == pa.scalar(_EPOCH + timedelta(days=number), pa.date32())


def _between(start: int, end: int, column: str = "ts") -> ds.Expression:
    return (ds.field(column) >= pa.scalar(start, TIME)) & (ds.field(column) < pa.scalar(end, TIME))


def _repeats(lake: Lake, events: pa.Table) -> int:
    if not events.num_rows or not lake.exists("duplicates"):
        return 0
    repeats = lake.table("duplicates", ["event_id"])["event_id"]
    return int(
        pc.sum(pc.is_in(repeats, value_set=events["event_id"].combine_chunks())).as_py() or 0
    )


def _refused(lake: Lake, events: pa.Table, start: int) -> tuple[dict[str, int], int]:
    """Of what came in on the day: how many rows were refused by reason, and how many were not."""
    if not lake.exists("quarantine"):
        return {}, events.num_rows
    rows = lake.table(
        "quarantine",
        ["code", "raw_partition", "raw_offset"],
        _between(start, start + DAY, "received_at"),
    )
    last = pc.max(rows["raw_offset"].filter(pc.equal(rows["raw_partition"], IMPORTS))).as_py()
    if last is None:
        return _counts(rows["code"]), events.num_rows
    # An imported event tells when it happened, not when it was imported. An import ends with what
    # is refused of it.
    of_imports, offset = ds.field("raw_partition") == IMPORTS, ds.field("raw_offset")
    before = lake.table(
        "quarantine",
        ["raw_offset"],
        of_imports & (ds.field("received_at") < pa.scalar(start, TIME)),
    )["raw_offset"]
    imported = lake.rows(
        "events", of_imports & (offset > (pc.max(before).as_py() or -1)) & (offset <= last)
    )
    return _counts(rows["code"]), events.filter(
        pc.not_equal(events["raw_partition"], IMPORTS)
    ).num_rows + imported


def _newest_day(lake: Lake, end: int) -> int | None:
    """The newest day before `end` on which people did something."""
    files = lake.files("events", lake.version("events"))
    days = {
        (date.fromisoformat(path.split("/")[0].removeprefix("day=")) - _EPOCH).days
        for path in files
    }
    done = ~ds.field("type").isin(PROFILES) & ~ds.field("timeless")
    return next(
        (
            day
            for day in sorted(days, reverse=True)
            if day < end and lake.rows("events", _day(day) & done)
        ),
        None,
    )


def _accounted(lake: Lake, events: pa.Table, start: int) -> tuple[dict[str, int], dict[str, int]]:
    """Of the raw rows from the first to the last that came in on the day: how many are in no table,
    how many more than once.
    """
    came = events.filter(_between(start, start + DAY, "received_at"))
    missing, repeated = {}, {}
    for partition in _counts(came["raw_partition"]):
        rows = came.filter(pc.equal(came["raw_partition"], partition))
        number = _numbers(rows)
        first, last = int(number.min()), int(number.max())
        body = int(rows["raw_offset"].to_numpy()[number.argmin()])
        where = (
            (ds.field("raw_partition") == partition)
            & (ds.field("raw_offset") >= body)
            & (ds.field("raw_offset") <= last)
        )
        tables = [name for name in ("events", "quarantine", "duplicates") if lake.exists(name)]
        held = np.concatenate([_numbers(lake.table(name, list(RAW), where)) for name in tables])
        times = np.bincount(
            held[(held >= first) & (held <= last)] - first, minlength=last - first + 1
        )
        missing[partition], repeated[partition] = int(np.sum(times == 0)), int(np.sum(times > 1))
    return missing, repeated


def _numbers(rows: pa.Table) -> np.ndarray:
    return rows["raw_offset"].to_numpy() + rows["raw_row"].to_numpy().astype(np.int64)


def _events_each(events: pa.Table, by: list[str]) -> np.ndarray:
    """How many events each has, bots and events of nobody aside."""
    human = events.filter(
        pc.and_(
            pc.is_valid(events["person"]), pc.fill_null(pc.not_equal(events["agent"], "bot"), True)
        )
    )
    return human.group_by(by).aggregate([([], "count_all")])["count_all"].to_numpy()


def _burst(events_each: np.ndarray) -> float:
    """What the variance of the sum of independent bursts is, over its mean."""
    return float(np.sum(events_each**2) / np.sum(events_each)) if len(events_each) else 1.0


def _newest(events: pa.Table) -> dict[str, int]:
    """When the newest event of each type was, microseconds."""
    found = events.select(["type", "ts"]).group_by("type").aggregate([("ts", "max")])
    return dict(zip(found["type"].to_pylist(), micros(found["ts_max"]).tolist(), strict=True))


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each value occurs; nulls are left out."""
    found = pc.value_counts(pc.drop_null(column))
    return dict(
        zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True)
    )
