"""Statistics of an event log: how fast tastes move, repeat consumption, session lengths.

`init` chooses candidate sources and windows by these figures, and prints them as its reasons.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events import DAY, HOUR, MINUTE, hash64s
from tailorbird.events.clock import SESSION_GAP
from tailorbird.events.guess import SourceGuess
from tailorbird.events.tables.columns import read_columns
from tailorbird.events.tables.times import parse_iso_time, parse_times

Ints = npt.NDArray[np.int64]

ROWS_MAX = 3_000_000  # larger files are sampled by user to about this many rows
WINDOWS = (15 * MINUTE, HOUR, 6 * HOUR, DAY, 7 * DAY, 28 * DAY, 84 * DAY, 365 * DAY, 1825 * DAY)
_TIE_SHARE = 0.97  # of two windows that tell about as much, the longer moves less
UNKNOWN_SPAN_DAYS = 30.0  # days, of times that are text
# moments, events after each, items of the list that is judged
_PROBE_COUNT = 60
_NEXT_EVENTS = 200
_TOP_ITEMS = 20
_MICROSECONDS_BY_UNIT = {"s": 1e6, "ms": 1e3, "us": 1.0}


@dataclass(frozen=True)
class LogStatistics:
    """Statistics of a file of events.

    Attributes:
        events, people, items: how many there are; events may be of a sample of the people.
        span_days: the days that the events cover; 0 if unknown.
        repeat_share: share of the events whose user had the item before.
        mean_session_events: events of a session.
        person_events_p90: events of a person, exceeded by one of ten.
        new_item_share: share of the events in the last fifth of the time about items that first occur in
            it.
        share_by_window: window → share of the next events about its twenty most popular items.
        visits_a_day: sessions of all people, per day.
    """

    events: int = 0
    people: int = 0
    items: int = 0
    span_days: float = 0.0
    repeat_share: float = 0.0
    mean_session_events: float = 1.0
    person_events_p90: int = 1
    new_item_share: float = 0.0
    share_by_window: dict[int, float] | None = None
    visits_a_day: float = 0.0

    @property
    def events_a_day(self) -> float:
        """Events of all people, per day."""
        return self.visits_a_day * self.mean_session_events

    @property
    def best_window(self) -> int:
        """The window whose most popular items best predict the next events; a week by default."""
        if not self.share_by_window:
            return 7 * DAY
        best = max(self.share_by_window.values())
        return max(
            window for window, share in self.share_by_window.items() if share >= _TIE_SHARE * best
        )


def measure_log(guess: SourceGuess, counted_types: Sequence[str]) -> LogStatistics:
    """Measure a file of events.

    Args:
        guess: what its columns are.
        counted_types: the values of its type column that count; empty for all rows.
    """
    column_by_role = {
        column.role: column.column for column in guess.columns if column.column
    }  # without a time, rows count as of their import
    person_column = column_by_role.get("user_id") or column_by_role.get("anonymous_id")
    item_column = column_by_role.get("item_id")
    session_column = column_by_role.get("session_id")
    if "ts" not in column_by_role or person_column is None or item_column is None:
        return LogStatistics()
    ts, code_columns = _read_events(
        guess,
        [
            column_by_role["ts"],
            person_column,
            item_column,
            *([session_column] if session_column else []),
        ],
        column_by_role.get("type"),
        counted_types,
    )
    if not len(ts):
        return LogStatistics(span_days=UNKNOWN_SPAN_DAYS)
    users, items, *session_codes = code_columns
    return compute_statistics(
        ts, users, items, session_codes[0] if session_codes else None, _sampling_interval(guess)
    )


def compute_statistics(
    ts: Ints, users: Ints, items: Ints, sessions: Ints | None, sample_every: int = 1
) -> LogStatistics:
    """Compute the statistics of events.

    Args:
        ts, users, items: (n,): times in microseconds, codes of users and items.
        sessions: session codes; None splits sessions at pauses.
        sample_every: one user in so many is included.
    """
    time_order = np.argsort(ts, kind="stable")
    ts = ts[time_order]
    users = users[time_order]
    items = items[time_order]
    sessions = sessions[time_order] if sessions is not None else _split_sessions(ts, users)
    span_days = (int(ts[-1]) - int(ts[0])) / DAY
    user_events = np.bincount(users)
    distinct_pairs = np.unique(users * (items.max() + 1) + items).size
    visit_count = np.unique(sessions).size
    return LogStatistics(
        events=len(ts),
        people=int((user_events > 0).sum()),
        items=int(np.unique(items).size),
        span_days=span_days,
        repeat_share=1 - distinct_pairs / len(ts),
        mean_session_events=len(ts) / visit_count,
        person_events_p90=int(np.quantile(user_events[user_events > 0], 0.9)),
        new_item_share=_new_item_share(ts, items),
        share_by_window=_measure_window_shares(ts, items),
        visits_a_day=visit_count * sample_every / max(span_days, 1.0),
    )


def _read_events(
    guess: SourceGuess,
    column_names: list[str],
    type_column: str | None,
    counted_types: Sequence[str],
) -> tuple[Ints, list[Ints]]:
    """Return times and column codes for the events of a sample of users."""
    sample_every = _sampling_interval(guess)
    batches = list(_read_sample(guess, column_names, type_column, counted_types, sample_every))
    if not batches:
        return np.zeros(0, np.int64), [np.zeros(0, np.int64) for _ in column_names[1:]]
    table = pa.Table.from_batches(batches)
    ts = _to_micros(table.column(0), guess)
    if ts is None:
        return np.zeros(0, np.int64), [np.zeros(0, np.int64) for _ in column_names[1:]]
    is_complete = pc.is_valid(ts)
    for column_index in range(1, len(column_names)):
        is_complete = pc.and_(is_complete, pc.is_valid(table.column(column_index)))
    codes = [
        encode_codes(table.column(column_index).filter(is_complete))
        for column_index in range(1, len(column_names))
    ]
    return pc.filter(ts, is_complete).to_numpy().astype(np.int64), codes


def _read_sample(
    guess: SourceGuess,
    column_names: list[str],
    type_column: str | None,
    counted_types: Sequence[str],
    sample_every: int,
) -> Iterator[pa.RecordBatch]:
    selected_columns = list(dict.fromkeys([*column_names, *([type_column] if type_column else [])]))
    for batch in read_columns(
        guess.file,
        selected_columns,
        text_columns=frozenset(column_names[1:]),
        broken_rows=[],
        table_spec=guess.table_spec,
    ):
        if type_column and counted_types:
            batch = batch.filter(
                pc.is_in(batch.column(type_column).cast(pa.string()), pa.array(counted_types))
            )
        if sample_every > 1:
            people = batch.column(column_names[1]).cast(pa.string()).dictionary_encode()
            is_sampled = np.append(
                hash64s(people.dictionary.to_pylist()) % np.uint64(sample_every) == 0, False
            )
            batch = batch.filter(
                pa.array(is_sampled[pc.fill_null(people.indices, len(is_sampled) - 1).to_numpy()])
            )
        yield pa.record_batch(
            [batch.column(name) for name in column_names],
            [str(column_index) for column_index in range(len(column_names))],
        )


def _sampling_interval(guess: SourceGuess) -> int:
    """Return the sampling interval, by the size of the file: one user in so many is read."""
    file = guess.file
    sample = guess.sample
    if file.name.endswith(".parquet"):
        import pyarrow.parquet as pq

        rows = pq.ParquetFile(file).metadata.num_rows
    else:
        rows = file.stat().st_size * sample.num_rows // max(sample.nbytes, 1)
    return -(-rows // ROWS_MAX)


def _to_micros(times: pa.ChunkedArray, guess: SourceGuess) -> pa.ChunkedArray | None:
    """Convert times to microseconds; None where their format is unknown."""
    if pa.types.is_timestamp(times.type) or pa.types.is_date(times.type):
        return times.cast(pa.timestamp("us", getattr(times.type, "tz", None)), safe=False).cast(
            pa.int64()
        )
    if pa.types.is_integer(times.type) or pa.types.is_floating(times.type):
        return pc.multiply(times.cast(pa.float64()), _MICROSECONDS_BY_UNIT[guess.ts_unit]).cast(
            pa.int64(), safe=False
        )
    if guess.ts_format:
        return pa.chunked_array(
            [parse_times(chunk, guess.ts_format, "UTC") for chunk in times.chunks], pa.int64()
        )
    return pa.chunked_array(
        [
            pa.array(
                [_to_epoch_micros(parse_iso_time(text, UTC)) for text in times.to_pylist()],
                pa.int64(),
            )
        ]
    )


def _to_epoch_micros(time: datetime | None) -> int | None:
    return None if time is None else int(time.timestamp() * 1e6)


def encode_codes(column: pa.ChunkedArray) -> Ints:
    """Encode values as codes in order of first appearance."""
    return column.combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)


def _split_sessions(ts: Ints, users: Ints) -> Ints:
    """Number sessions that end at pauses."""
    person_time_order = np.lexsort((np.arange(len(ts)), users))
    is_session_start = np.ones(len(ts), bool)
    is_session_start[1:] = (np.diff(users[person_time_order]) != 0) | (
        np.diff(ts[person_time_order]) > SESSION_GAP
    )
    sessions = np.empty(len(ts), np.int64)
    sessions[person_time_order] = np.cumsum(is_session_start)
    return sessions


def _new_item_share(ts: Ints, items: Ints) -> float:
    border_ts = int(ts[-1]) - (int(ts[-1]) - int(ts[0])) // 5
    border_row = int(np.searchsorted(ts, border_ts))
    late_items = items[border_row:]
    return (
        float(1 - np.isin(late_items, np.unique(items[:border_row])).mean())
        if 0 < border_row < len(ts)
        else 0.0
    )


def _measure_window_shares(ts: Ints, items: Ints) -> dict[int, float]:
    """Measure how well the top items of each window predict the next events."""
    span_us = int(ts[-1] - ts[0])
    item_count = int(items.max()) + 1
    probe_rows = np.unique(np.linspace(0.6 * len(ts), len(ts) - 1, _PROBE_COUNT).astype(np.int64))
    share_by_window: dict[int, float] = {}
    for window in WINDOWS:
        if share_by_window and window > 0.75 * span_us:
            break
        shares = []
        for probe_row in probe_rows.tolist():
            window_start = int(np.searchsorted(ts, ts[probe_row] - window))
            item_counts = np.bincount(items[window_start:probe_row], minlength=item_count)
            top_items = np.argsort(-item_counts, kind="stable")[:_TOP_ITEMS]
            shares.append(
                float(
                    np.isin(
                        items[probe_row : probe_row + _NEXT_EVENTS],
                        top_items[item_counts[top_items] > 0],
                    ).mean()
                )
            )
        share_by_window[window] = float(np.mean(shares))
    return share_by_window
