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
UNKNOWN_SPAN = 30.0  # days, of times that are text
_PROBE_MOMENTS, _NEXT_EVENTS, _TOP_ITEMS = (
    60,
    200,
    20,
)  # moments, events after each, items of the list that is judged
_MICROSECONDS_PER = {"s": 1e6, "ms": 1e3, "us": 1.0}


@dataclass(frozen=True)
class LogStatistics:
    """Statistics of a file of events.

    Attributes:
        events, people, items: how many there are; events may be of a sample of the people.
        span_days: the days that the events cover; 0 if unknown.
        repeats: share of the events whose user had the item before.
        session_events: events of a session, as a mean.
        person_events: events of a person, exceeded by one of ten.
        new_items: share of the events in the last fifth of the time about items that first occur in
            it.
        window_shares: window → share of the next events about its twenty most popular items.
        visits_a_day: sessions of all people, per day.
    """

    events: int = 0
    people: int = 0
    items: int = 0
    span_days: float = 0.0
    repeats: float = 0.0
    session_events: float = 1.0
    person_events: int = 1
    new_items: float = 0.0
    window_shares: dict[int, float] | None = None
    visits_a_day: float = 0.0

    @property
    def best_window(self) -> int:
        """The window whose most popular items best predict the next events; a week by default."""
        if not self.window_shares:
            return 7 * DAY
        best = max(self.window_shares.values())
        return max(
            window for window, share in self.window_shares.items() if share >= _TIE_SHARE * best
        )


def measure_log(guess: SourceGuess, values: Sequence[str]) -> LogStatistics:
    """Measure a file of events.

    Args:
        guess: what its columns are.
        values: the values of its type column that count; empty for all rows.
    """
    roles = {
        column.role: column.column for column in guess.columns if column.column
    }  # without a time, rows count as of their import
    person, item, session = (
        roles.get("user_id") or roles.get("anonymous_id"),
        roles.get("item_id"),
        roles.get("session_id"),
    )
    if "ts" not in roles or person is None or item is None:
        return LogStatistics()
    ts, columns = _read_events(
        guess,
        [roles["ts"], person, item, *([session] if session else [])],
        roles.get("type"),
        values,
    )
    if not len(ts):
        return LogStatistics(span_days=UNKNOWN_SPAN)
    users, items, *session_codes = columns
    return statistics_of(
        ts, users, items, session_codes[0] if session_codes else None, _sampling_interval(guess)
    )


def statistics_of(
    ts: Ints, users: Ints, items: Ints, sessions: Ints | None, sample_every: int = 1
) -> LogStatistics:
    """Compute the statistics of events.

    Args:
        ts, users, items: (n,): times in microseconds, codes of users and items.
        sessions: session codes; None splits sessions at pauses.
        sample_every: one user in so many is included.
    """
    order = np.argsort(ts, kind="stable")
    ts, users, items = ts[order], users[order], items[order]
    sessions = sessions[order] if sessions is not None else _split_sessions(ts, users)
    span = (int(ts[-1]) - int(ts[0])) / DAY
    user_events = np.bincount(users)
    distinct_pairs = np.unique(users * (items.max() + 1) + items).size
    visits = np.unique(sessions).size
    return LogStatistics(
        events=len(ts),
        people=int((user_events > 0).sum()),
        items=int(np.unique(items).size),
        span_days=span,
        repeats=1 - distinct_pairs / len(ts),
        session_events=len(ts) / visits,
        person_events=int(np.quantile(user_events[user_events > 0], 0.9)),
        new_items=_new_items(ts, items),
        window_shares=_window_shares(ts, items),
        visits_a_day=visits * sample_every / max(span, 1.0),
    )


def _read_events(
    guess: SourceGuess, names: list[str], type_: str | None, values: Sequence[str]
) -> tuple[Ints, list[Ints]]:
    """Return times and column codes for the events of a sample of users."""
    sample_every = _sampling_interval(guess)
    rows = list(_read_sample(guess, names, type_, values, sample_every))
    if not rows:
        return np.zeros(0, np.int64), [np.zeros(0, np.int64) for _ in names[1:]]
    table = pa.Table.from_batches(rows)
    ts = _to_micros(table.column(0), guess)
    if ts is None:
        return np.zeros(0, np.int64), [np.zeros(0, np.int64) for _ in names[1:]]
    is_complete = pc.is_valid(ts)
    for column in range(1, len(names)):
        is_complete = pc.and_(is_complete, pc.is_valid(table.column(column)))
    codes = [codes_of(table.column(column).filter(is_complete)) for column in range(1, len(names))]
    return pc.filter(ts, is_complete).to_numpy().astype(np.int64), codes


def _read_sample(
    guess: SourceGuess,
    names: list[str],
    type_: str | None,
    values: Sequence[str],
    sample_every: int,
) -> Iterator[pa.RecordBatch]:
    selected = list(dict.fromkeys([*names, *([type_] if type_ else [])]))
    for batch in read_columns(
        guess.file, selected, texts=frozenset(names[1:]), broken=[], form=guess.form
    ):
        if type_ and values:
            batch = batch.filter(pc.is_in(batch.column(type_).cast(pa.string()), pa.array(values)))
        if sample_every > 1:
            people = batch.column(names[1]).cast(pa.string()).dictionary_encode()
            pseudonyms = np.append(
                hash64s(people.dictionary.to_pylist()) % np.uint64(sample_every) == 0, False
            )
            batch = batch.filter(
                pa.array(pseudonyms[pc.fill_null(people.indices, len(pseudonyms) - 1).to_numpy()])
            )
        yield pa.record_batch(
            [batch.column(name) for name in names], [str(column) for column in range(len(names))]
        )


def _sampling_interval(guess: SourceGuess) -> int:
    """Return the sampling interval, by the size of the file: one user in so many is read."""
    file, sample = guess.file, guess.sample
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
        return pc.multiply(times.cast(pa.float64()), _MICROSECONDS_PER[guess.ts_unit]).cast(
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


def _to_epoch_micros(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp() * 1e6)


def codes_of(column: pa.ChunkedArray) -> Ints:
    """Encode values as codes in order of first appearance."""
    return column.combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)


def _split_sessions(ts: Ints, users: Ints) -> Ints:
    """Number sessions that end at pauses."""
    order = np.lexsort((np.arange(len(ts)), users))
    is_session_start = np.ones(len(ts), bool)
    is_session_start[1:] = (np.diff(users[order]) != 0) | (np.diff(ts[order]) > SESSION_GAP)
    sessions = np.empty(len(ts), np.int64)
    sessions[order] = np.cumsum(is_session_start)
    return sessions


def _new_items(ts: Ints, items: Ints) -> float:
    border_ts = int(ts[-1]) - (int(ts[-1]) - int(ts[0])) // 5
    border_row = int(np.searchsorted(ts, border_ts))
    late_items = items[border_row:]
    return (
        float(1 - np.isin(late_items, np.unique(items[:border_row])).mean())
        if 0 < border_row < len(ts)
        else 0.0
    )


def _window_shares(ts: Ints, items: Ints) -> dict[int, float]:
    """Measure how well the top items of each window predict the next events."""
    span, item_count = int(ts[-1] - ts[0]), int(items.max()) + 1
    probe_ends = np.unique(np.linspace(0.6 * len(ts), len(ts) - 1, _PROBE_MOMENTS).astype(np.int64))
    by_window: dict[int, float] = {}
    for window in WINDOWS:
        if by_window and window > 0.75 * span:
            break
        shares = []
        for end in probe_ends.tolist():
            begin = int(np.searchsorted(ts, ts[end] - window))
            count = np.bincount(items[begin:end], minlength=item_count)
            top = np.argsort(-count, kind="stable")[:_TOP_ITEMS]
            shares.append(
                float(np.isin(items[end : end + _NEXT_EVENTS], top[count[top] > 0]).mean())
            )
        by_window[window] = float(np.mean(shares))
    return by_window
