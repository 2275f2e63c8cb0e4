"""Read a data set as one log in order of time, and draw the questions about its test part."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.quality.product.sets import Cut, DataSet, Mask, micros
from tailorbird.events import HOUR, MINUTE

Ints = npt.NDArray[np.int64]
Texts = npt.NDArray[np.str_]

SESSION_CLICKS_MAX = 20  # of a session whose last item is asked for
SESSION_GAP_US = 30 * MINUTE  # a pause that ends a session where the data name none
QUESTIONS_SEED = 0


@dataclass(frozen=True)
class Log:
    """Rows of a training and a test part, in the order in which they are delivered.

    Attributes:
        ts: microseconds.
        person, session, item: codes, -1 where the row names none.
        valid: True for rows that may be part of a truth and that baselines count.
        people, items: the ids of the codes, ascending.
        context: code of the request's own columns, by `DataSet.context`; None without it.
        test_from: position of the first row of the test part.
        cut: its times.
    """

    ts: Ints
    person: Ints
    session: Ints
    item: Ints
    valid: Mask
    people: Texts
    items: Texts
    test_from: int
    cut: Cut
    context: Ints | None = None

    def __len__(self) -> int:
        return len(self.ts)


@dataclass(frozen=True)
class Questions:
    """Questions to the product and the baselines, in order of time.

    Attributes:
        at: how many rows of the log each question knows.
        now: its time, microseconds.
        asker: position of the row that gives its person, session and context.
        offsets, truth: the items of question q are truth[offsets[q] : offsets[q + 1]].
    """

    at: Ints
    now: Ints
    asker: Ints
    offsets: Ints
    truth: Ints

    def __len__(self) -> int:
        return len(self.at)

    @classmethod
    def before(cls, log: Log, at: Ints, offsets: Ints, truth: Ints) -> "Questions":
        """Ask just before some rows, about what these begin."""
        return cls(at, just_before(log, at), at, offsets, truth)


def just_before(log: Log, at: Ints) -> Ints:
    """Return times of questions before some rows: 1 µs before, or at the time of the row before it.

    Rows of a day without a time of day have one time.
    """
    return np.maximum(log.ts[at] - 1, log.ts[np.maximum(at - 1, 0)])


def read_rows(data_set: DataSet, data: Path, cut_name: str, small: bool) -> tuple[pa.Table, Cut]:
    """Return the rows of both parts of a cut in order of time, and the times of the cut.

    A small run has the rows of some users, and perhaps a shorter training part.
    """
    table = pq.read_table(data / data_set.events)
    times = micros(table[data_set.time])
    cut = data_set.cuts[cut_name](int(times.min()), int(times.max()))
    is_in_part = np.ones(len(table), bool)
    if small:
        part = data_set.small
        begin = max(cut.begin, cut.at - part.train_us) if part.train_us else cut.begin
        cut = Cut(begin, cut.at, cut.end)
        person = pc.fill_null(table[data_set.person], 1).cast(pa.int64()).to_numpy()
        is_in_part = person % part.every == 0
    is_in_part &= (times >= cut.begin) & (times < cut.end)
    positions = np.flatnonzero(is_in_part)
    return table.take(pa.array(positions[np.argsort(times[positions], kind="stable")])), cut


def make_log(data_set: DataSet, rows: pa.Table, cut: Cut) -> Log:
    """Return rows, which are in order of time, as codes."""
    ts = micros(rows[data_set.time])
    person, people = _encode(rows[data_set.person])
    item, items = _encode(rows[data_set.item])
    if data_set.session is None:
        session = split_sessions(person, ts)
    else:
        session, _ = _encode(rows[data_set.session])
    valid = np.ones(len(rows), bool) if data_set.valid is None else data_set.valid(rows)
    test_from = int(np.searchsorted(ts, cut.at))
    context = _contexts(rows, data_set.context) if data_set.context else None
    return Log(
        ts=ts,
        person=person,
        session=session,
        item=item,
        valid=valid,
        people=people,
        items=items,
        test_from=test_from,
        cut=cut,
        context=context,
    )


def _contexts(rows: pa.Table, names: Sequence[str]) -> Ints:
    """Return a code for each combination of some columns' values."""
    codes = np.stack([_encode(rows[name])[0] for name in names])
    return np.unique(codes, axis=1, return_inverse=True)[1].astype(np.int64).ravel()


def _encode(column: pa.ChunkedArray) -> tuple[Ints, Texts]:
    """Return codes of a column's values, -1 for null, and the values as text, ascending."""
    encoded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    values = np.array(encoded.dictionary.to_pylist(), np.str_)
    rank = np.argsort(np.argsort(values))
    codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
    return np.where(codes >= 0, rank[codes], -1).astype(np.int64), np.sort(values)


def split_sessions(person: Ints, ts: Ints) -> Ints:
    """Return the session of each row: a run of a person's rows without a pause of `SESSION_GAP_US`."""
    order = np.lexsort((np.arange(len(ts)), person))
    is_session_start = np.ones(len(ts), bool)
    is_same_person = person[order][1:] == person[order][:-1]
    is_session_start[1:] = ~is_same_person | (np.diff(ts[order]) >= SESSION_GAP_US)
    session = np.empty(len(ts), np.int64)
    session[order] = np.cumsum(is_session_start) - 1
    return session


def draw_questions(data_set: DataSet, log: Log, max_questions: int) -> Questions:
    """Return at most `most` questions, drawn evenly over the test part by a fixed seed."""
    is_candidate = log.valid & (log.item >= 0) & (log.person >= 0)
    is_candidate[: log.test_from] = False
    if data_set.truth == "last":
        return _last_item_questions(log, max_questions)
    if data_set.truth == "item":
        at = _sample(np.flatnonzero(is_candidate), max_questions)
        return Questions.before(log, at, np.arange(len(at) + 1), log.item[at])
    return _session_questions(log, is_candidate, max_questions)


def _session_questions(log: Log, is_candidate: Mask, max_questions: int) -> Questions:
    """Return questions about all items of sessions that begin in the test part."""
    session, first_rows = np.unique(log.session, return_index=True)
    new_sessions = session[(session >= 0) & (first_rows >= log.test_from)]
    rows = np.flatnonzero(is_candidate & np.isin(log.session, new_sessions))
    target_sessions, row_index = np.unique(log.session[rows], return_index=True)
    begin_rows = first_rows[np.searchsorted(session, target_sessions)]
    chosen_sessions = np.argsort(begin_rows, kind="stable")[
        _sample(np.arange(len(target_sessions)), max_questions)
    ]
    pairs = np.unique(np.stack([log.session[rows], log.item[rows]]), axis=1)
    low, high = (
        np.searchsorted(pairs[0], target_sessions[chosen_sessions], side=side)
        for side in ("left", "right")
    )
    offsets = np.concatenate(([0], np.cumsum(high - low)))
    pair_index = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - low, high - low)
    at, asker = begin_rows[chosen_sessions], rows[row_index[chosen_sessions]]
    return Questions(at, just_before(log, at), asker, offsets, pairs[1][pair_index])


def _last_item_questions(log: Log, max_questions: int) -> Questions:
    """Return questions about sessions' last items, as many of each hour that sessions begin in."""
    order = np.lexsort((np.arange(len(log)), log.session))
    session, first, size = np.unique(log.session[order], return_index=True, return_counts=True)
    last_rows = order[first + np.minimum(size, SESSION_CLICKS_MAX) - 1]
    asker = order[first + np.maximum(np.minimum(size, SESSION_CLICKS_MAX) - 2, 0)]
    chosen_sessions = np.flatnonzero((session >= 0) & (size >= 2) & (order[first] >= log.test_from))
    hour = log.ts[order[first[chosen_sessions]]] // HOUR
    per_hour = max_questions // max(1, len(np.unique(hour)))
    sampled_sessions = [
        _sample(chosen_sessions[hour == at], per_hour, at) for at in np.unique(hour).tolist()
    ]
    session_rows = np.concatenate(sampled_sessions) if sampled_sessions else chosen_sessions
    session_rows = session_rows[np.argsort(asker[session_rows], kind="stable")]
    asker, truth = asker[session_rows], log.item[last_rows[session_rows]]
    return Questions(asker + 1, log.ts[asker] + 1, asker, np.arange(len(session_rows) + 1), truth)


def _sample(positions: Ints, max_questions: int, part: int = 0) -> Ints:
    """Return at most `most` of some ascending positions, still ascending."""
    if len(positions) <= max_questions:
        return positions
    rng = np.random.default_rng((QUESTIONS_SEED, part) if part else QUESTIONS_SEED)
    return np.sort(rng.choice(positions, max_questions, replace=False))


def write_files(
    data_set: DataSet, data: Path, rows: pa.Table, cut: Cut, folder: Path, *, test: bool
) -> None:
    """Write one part as files: the training part as a user has them, or the events to replay.

    Profiles go with the training part as they are, dated files trimmed to its times.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ts = micros(rows[data_set.time])
    pq.write_table(rows.filter(pa.array((ts >= cut.at) == test)), folder / data_set.events)
    if test:
        return
    for name in data_set.profiles:
        (folder / name).write_bytes((data / name).read_bytes())
    for name, column in data_set.dated.items():
        table = pq.read_table(data / name)
        times = micros(table[column])
        pq.write_table(
            table.filter(pa.array((times >= cut.begin) & (times < cut.at))), folder / name
        )
