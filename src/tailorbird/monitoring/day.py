"""A day of the lake for the daily checks: its events, its context, and counts of the days before.

`monitoring.checks` has the checks, `monitoring.daily` runs them.
"""

from collections import Counter
from dataclasses import dataclass, field
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from tailorbird.events import DAY, HOUR, micros
from tailorbird.events.contract.envelope import PROPERTY_COLUMNS
from tailorbird.events.contract.schema import TIME_TYPE
from tailorbird.lake import Lake

HISTORY_DAYS = 7
IMPORT_PARTITION = "import"  # the raw partition of imported files
PROFILE_TYPES = ("item", "user")
CATEGORY_COLUMNS = ("type", "device", "country", "slot")
NULLABLE_COLUMNS = (
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
EVENT_COLUMNS = (
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
    *PROPERTY_COLUMNS,
    "agent",
    "slot",
    "properties",
    "counts",
    "timeless",
    "raw_partition",
    "raw_offset",
    "raw_row",
)
RAW_POSITION_COLUMNS = ("raw_partition", "raw_offset", "raw_row")
_EPOCH_DATE = date(1970, 1, 1)


@dataclass(frozen=True)
class DayProfile:
    """Counts of one day.

    Attributes:
        number: the day since 1970, UTC.
        event_count, hour_counts, category_counts, bot_count: of people's events
            (`without_profiles`): their number, by hour, by column and value, and of bots.
        type_counts, null_counts, newest_ts_by_type: of all events: by type, nulls by type and
            column, and the newest time by type.
        hour_burst, day_burst: mean burst size, the events of one person within an hour or the day.
    """

    number: int
    event_count: int
    hour_counts: tuple[int, ...]
    type_counts: Counter[str]
    null_counts: Counter[tuple[str, str]]
    category_counts: dict[str, Counter[str]]
    bot_count: int
    newest_ts_by_type: dict[str, int]
    hour_burst: float
    day_burst: float

    @classmethod
    def from_events(cls, events: pa.Table, number: int) -> "DayProfile":
        activity = without_profiles(events)
        hour_of_event = micros(activity["ts"]) % DAY // HOUR
        types = Counter(_value_counts(events["type"]))
        nulls: Counter[tuple[str, str]] = Counter()
        for column in NULLABLE_COLUMNS:
            for type_, count in _value_counts(
                events["type"].filter(pc.is_null(events[column]))
            ).items():
                nulls[type_, column] = count
        person_hour_sizes = _group_sizes(
            activity.append_column("hour", pa.array(hour_of_event)), ["person", "hour"]
        )
        return cls(
            number,
            activity.num_rows,
            tuple(np.bincount(hour_of_event, minlength=24).tolist()),
            types,
            nulls,
            category_counts={
                column: Counter(_value_counts(activity[column])) for column in CATEGORY_COLUMNS
            },
            bot_count=_value_counts(activity["agent"]).get("bot", 0),
            newest_ts_by_type=_newest_by_type(events),
            hour_burst=_burst_size(person_hour_sizes),
            day_burst=_burst_size(_group_sizes(activity, ["person"])),
        )


@dataclass(frozen=True)
class Day:
    """A day with everything that the checks read.

    Attributes:
        number: the day since 1970, UTC.
        until: end of the available data, microseconds; checks of a day in progress stop there.
        earlier_days: profiles of the seven days before that have events of people, newest first.
        newest_before: the newest earlier day with events of people, however long ago.
        received_count, too_late_count: events received on the day, and those too late to count in
            features.
        answered_requests: request ids of responses of this day and the one before; without any,
            because another system serves them, of impressions.
        repeat_count: repeats of the day's events that router or lake dropped.
        refused_by_reason: reason → rows refused on the day.
        accepted_count: rows that arrived with these and were accepted; those of imports may be of
            other days.
        missing_by_partition, repeated_by_partition: by partition, raw rows between the day's first
            and last that are in no table, or in more than one row.
    """

    number: int
    until: int
    events: pa.Table
    profile: DayProfile
    earlier_days: tuple[DayProfile, ...]
    newest_before: int | None = None
    received_count: int = 0
    too_late_count: int = 0
    answered_requests: frozenset[str] = frozenset()
    repeat_count: int = 0
    refused_by_reason: dict[str, int] = field(default_factory=dict)
    accepted_count: int = 0
    missing_by_partition: dict[str, int] = field(default_factory=dict)
    repeated_by_partition: dict[str, int] = field(default_factory=dict)

    @property
    def start(self) -> int:
        return self.number * DAY

    @property
    def week_ago(self) -> DayProfile | None:
        """Profile of the same weekday a week ago, if it has events of people."""
        return next(
            (profile for profile in self.earlier_days if profile.number == self.number - 7), None
        )

    @property
    def name(self) -> str:
        return (_EPOCH_DATE + timedelta(days=self.number)).isoformat()


def load_day(lake: Lake, day_number: int, now: int) -> Day:
    """Read a day and the days that it is compared with. Raises NotReadyError without a lake."""
    start = day_number * DAY
    until = min((day_number + 1) * DAY, now)
    events = _read_events(lake, day_number, list(EVENT_COLUMNS))
    events = events.filter(pc.less(events["ts"], pa.scalar(until, TIME_TYPE)))
    profile_columns = list(
        dict.fromkeys(
            ("type", "ts", "agent", "person", "timeless", *CATEGORY_COLUMNS, *NULLABLE_COLUMNS)
        )
    )
    day_profiles = (
        DayProfile.from_events(_read_events(lake, earlier_day, profile_columns), earlier_day)
        for earlier_day in range(day_number - 1, day_number - 1 - HISTORY_DAYS, -1)
    )
    earlier_days = tuple(profile for profile in day_profiles if profile.event_count)
    has_request_id = (
        ds.field("type").isin(("answer", "impression")) & ds.field("request_id").is_valid()
    )
    responses_and_impressions = lake.table(
        "events",
        ["type", "request_id"],
        _is_time_between(start - DAY, start + DAY) & has_request_id,
    )
    responses = responses_and_impressions.filter(
        pc.equal(responses_and_impressions["type"], "answer")
    )
    received = lake.table(
        "events", ["counts"], _is_time_between(start, until, "received_at") & ~ds.field("timeless")
    )["counts"]
    missing_by_partition, repeated_by_partition = _count_unaccounted(lake, events, start)
    refused, accepted = _count_refused(lake, events, start)
    return Day(
        day_number,
        until,
        events,
        DayProfile.from_events(events, day_number),
        earlier_days,
        newest_before=earlier_days[0].number
        if earlier_days
        else _newest_day(lake, day_number - HISTORY_DAYS),
        received_count=len(received),
        too_late_count=len(received) - int(pc.sum(received).as_py() or 0),
        answered_requests=frozenset(
            (responses if responses.num_rows else responses_and_impressions)[
                "request_id"
            ].to_pylist()
        ),
        repeat_count=_count_repeats(lake, events),
        refused_by_reason=refused,
        accepted_count=accepted,
        missing_by_partition=missing_by_partition,
        repeated_by_partition=repeated_by_partition,
    )


def without_profiles(events: pa.Table) -> pa.Table:
    """Return the events without item and user profiles, which are no visitors' actions."""
    return events.filter(pc.invert(pc.is_in(events["type"], value_set=pa.array(PROFILE_TYPES))))


def _read_events(lake: Lake, day_number: int, columns: list[str]) -> pa.Table:
    """Read the events of a day, without profiles that have no time of their own (`timeless`)."""
    return lake.events(columns, day_number * DAY, (day_number + 1) * DAY).filter(
        ~ds.field("timeless")
    )


def _is_on_day(day_number: int) -> ds.Expression:
    return ds.field("day") == pa.scalar(_EPOCH_DATE + timedelta(days=day_number), pa.date32())


def _is_time_between(start: int, end: int, column: str = "ts") -> ds.Expression:
    return (ds.field(column) >= pa.scalar(start, TIME_TYPE)) & (
        ds.field(column) < pa.scalar(end, TIME_TYPE)
    )


def _count_repeats(lake: Lake, events: pa.Table) -> int:
    if not events.num_rows or not lake.exists("duplicates"):
        return 0
    repeats = lake.table("duplicates", ["event_id"])["event_id"]
    return int(
        pc.sum(pc.is_in(repeats, value_set=events["event_id"].combine_chunks())).as_py() or 0
    )


def _count_refused(lake: Lake, events: pa.Table, start: int) -> tuple[dict[str, int], int]:
    """Count rows refused on the day by reason, and accepted rows."""
    if not lake.exists("quarantine"):
        return {}, events.num_rows
    rows = lake.table(
        "quarantine",
        ["code", "raw_partition", "raw_offset"],
        _is_time_between(start, start + DAY, "received_at"),
    )
    last_offset = pc.max(
        rows["raw_offset"].filter(pc.equal(rows["raw_partition"], IMPORT_PARTITION))
    ).as_py()
    if last_offset is None:
        return _value_counts(rows["code"]), events.num_rows
    # An imported event records when it happened, not when it was imported. An import ends with its
    # refused rows.
    is_imported = ds.field("raw_partition") == IMPORT_PARTITION
    offset = ds.field("raw_offset")
    earlier_offsets = lake.table(
        "quarantine",
        ["raw_offset"],
        is_imported & (ds.field("received_at") < pa.scalar(start, TIME_TYPE)),
    )["raw_offset"]
    imported_rows = lake.count_matching(
        "events",
        is_imported & (offset > (pc.max(earlier_offsets).as_py() or -1)) & (offset <= last_offset),
    )
    return _value_counts(rows["code"]), events.filter(
        pc.not_equal(events["raw_partition"], IMPORT_PARTITION)
    ).num_rows + imported_rows


def _newest_day(lake: Lake, end: int) -> int | None:
    """Return the newest day before `end` with events of people."""
    files = lake.row_counts_by_file("events", lake.version("events"))
    days = {
        (date.fromisoformat(path.split("/")[0].removeprefix("day=")) - _EPOCH_DATE).days
        for path in files
    }
    is_activity = ~ds.field("type").isin(PROFILE_TYPES) & ~ds.field("timeless")
    return next(
        (
            day
            for day in sorted(days, reverse=True)
            if day < end and lake.count_matching("events", _is_on_day(day) & is_activity)
        ),
        None,
    )


def _count_unaccounted(
    lake: Lake, events: pa.Table, start: int
) -> tuple[dict[str, int], dict[str, int]]:
    """Count raw rows of the day that are in no table, and in more than one, by partition."""
    received_rows = events.filter(_is_time_between(start, start + DAY, "received_at"))
    missing_by_partition = {}
    repeated_by_partition = {}
    for partition in _value_counts(received_rows["raw_partition"]):
        rows = received_rows.filter(pc.equal(received_rows["raw_partition"], partition))
        row_numbers = _row_numbers(rows)
        first_row = int(row_numbers.min())
        last_row = int(row_numbers.max())
        batch_offset = int(rows["raw_offset"].to_numpy()[row_numbers.argmin()])
        is_in_range = (
            (ds.field("raw_partition") == partition)
            & (ds.field("raw_offset") >= batch_offset)
            & (ds.field("raw_offset") <= last_row)
        )
        tables = [name for name in ("events", "quarantine", "duplicates") if lake.exists(name)]
        numbers_in_tables = np.concatenate(
            [
                _row_numbers(lake.table(name, list(RAW_POSITION_COLUMNS), is_in_range))
                for name in tables
            ]
        )
        occurrences = np.bincount(
            numbers_in_tables[(numbers_in_tables >= first_row) & (numbers_in_tables <= last_row)]
            - first_row,
            minlength=last_row - first_row + 1,
        )
        missing_by_partition[partition] = int(np.sum(occurrences == 0))
        repeated_by_partition[partition] = int(np.sum(occurrences > 1))
    return missing_by_partition, repeated_by_partition


def _row_numbers(rows: pa.Table) -> np.ndarray:
    """Return the number of each row in its partition: that of its batch, plus its place in it."""
    return rows["raw_offset"].to_numpy() + rows["raw_row"].to_numpy().astype(np.int64)


def _group_sizes(events: pa.Table, group_columns: list[str]) -> np.ndarray:
    """Return the number of events by group, without bots and unknown persons."""
    human_events = events.filter(
        pc.and_(
            pc.is_valid(events["person"]), pc.fill_null(pc.not_equal(events["agent"], "bot"), True)
        )
    )
    return (
        human_events.group_by(group_columns).aggregate([([], "count_all")])["count_all"].to_numpy()
    )


def _burst_size(group_sizes: np.ndarray) -> float:
    """Return the ratio of variance to mean of a sum of independent bursts."""
    return float(np.sum(group_sizes**2) / np.sum(group_sizes)) if len(group_sizes) else 1.0


def _newest_by_type(events: pa.Table) -> dict[str, int]:
    """Return the time of the newest event of each type, microseconds."""
    newest = events.select(["type", "ts"]).group_by("type").aggregate([("ts", "max")])
    return dict(zip(newest["type"].to_pylist(), micros(newest["ts_max"]).tolist(), strict=True))


def _value_counts(column: pa.ChunkedArray) -> dict[str, int]:
    """Return the count of each value, without nulls."""
    value_counts = pc.value_counts(pc.drop_null(column))
    return dict(
        zip(
            value_counts.field("values").to_pylist(),
            value_counts.field("counts").to_pylist(),
            strict=True,
        )
    )
