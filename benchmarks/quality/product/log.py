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

CLICKS_MAX = 20  # of a session whose last item is asked for
GAP_US = 30 * MINUTE  # a pause that ends a session where the data name none
QUESTIONS_SEED = 0


@dataclass(frozen=True)
class Log:
    """Rows of a training and a test part, in the order in which they are delivered.

    Attributes:
        ts: microseconds.
        person, session, item: codes, -1 where the row names none.
        valid: whether a row may be part of a truth, and is counted by baselines.
        people, items: the ids that the codes stand for, ascending.
        context: code of what a row's request says, by `DataSet.context`; None without it.
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
    """What is asked, in order of time.

    Attributes:
        at: how many rows of the log each question knows.
        now: when it is asked, microseconds.
        asker: position of the row that says who asks, in which session and context.
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
    kept = np.ones(len(table), bool)
    if small:
        part = data_set.small
        begin = max(cut.begin, cut.at - part.train_us) if part.train_us else cut.begin
        cut = Cut(begin, cut.at, cut.end)
        person = pc.fill_null(table[data_set.person], 1).cast(pa.int64()).to_numpy()
        kept = person % part.every == 0
    kept &= (times >= cut.begin) & (times < cut.end)
    places = np.flatnonzero(kept)
    return table.take(pa.array(places[np.argsort(times[places], kind="stable")])), cut


def make_log(data_set: DataSet, rows: pa.Table, cut: Cut) -> Log:
    """Return rows, which are in order of time, as codes."""
    ts = micros(rows[data_set.time])
    person, people = _encode(rows[data_set.person])
    item, items = _encode(rows[data_set.item])
    if data_set.session is None:
        session = runs(person, ts)
    else:
        session, _ = _encode(rows[data_set.session])
    valid = np.ones(len(rows), bool) if data_set.valid is None else data_set.valid(rows)
    test_from = int(np.searchsorted(ts, cut.at))
    context = _contexts(rows, data_set.context) if data_set.context else None
    return Log(ts, person, session, item, valid, people, items, test_from, cut, context)


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


def runs(person: Ints, ts: Ints) -> Ints:
    """Return the session of each row: a run of a person's rows without a pause of `GAP_US`."""
    order = np.lexsort((np.arange(len(ts)), person))
    begins = np.ones(len(ts), bool)
    same = person[order][1:] == person[order][:-1]
    begins[1:] = ~same | (np.diff(ts[order]) >= GAP_US)
    session = np.empty(len(ts), np.int64)
    session[order] = np.cumsum(begins) - 1
    return session


def draw_questions(data_set: DataSet, log: Log, most: int) -> Questions:
    """Return at most `most` questions, drawn evenly over the test part by a fixed seed."""
    may = log.valid & (log.item >= 0) & (log.person >= 0)
    may[: log.test_from] = False
    if data_set.truth == "last":
        return _about_last_items(log, most)
    if data_set.truth == "item":
        at = _drawn(np.flatnonzero(may), most)
        return Questions.before(log, at, np.arange(len(at) + 1), log.item[at])
    return _about_sessions(log, may, most)


def _about_sessions(log: Log, may: Mask, most: int) -> Questions:
    """Return questions about all items of sessions that begin in the test part."""
    session, first = np.unique(log.session, return_index=True)
    fresh = session[(session >= 0) & (first >= log.test_from)]
    rows = np.flatnonzero(may & np.isin(log.session, fresh))
    asked, place = np.unique(log.session[rows], return_index=True)
    begin = first[np.searchsorted(session, asked)]
    chosen = np.argsort(begin, kind="stable")[_drawn(np.arange(len(asked)), most)]
    pairs = np.unique(np.stack([log.session[rows], log.item[rows]]), axis=1)
    low, high = (np.searchsorted(pairs[0], asked[chosen], side=side) for side in ("left", "right"))
    offsets = np.concatenate(([0], np.cumsum(high - low)))
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - low, high - low)
    at, asker = begin[chosen], rows[place[chosen]]
    return Questions(at, just_before(log, at), asker, offsets, pairs[1][within])


def _about_last_items(log: Log, most: int) -> Questions:
    """Return questions about sessions' last items, as many of each hour that sessions begin in."""
    order = np.lexsort((np.arange(len(log)), log.session))
    session, first, size = np.unique(log.session[order], return_index=True, return_counts=True)
    last = order[first + np.minimum(size, CLICKS_MAX) - 1]
    asker = order[first + np.maximum(np.minimum(size, CLICKS_MAX) - 2, 0)]
    kept = np.flatnonzero((session >= 0) & (size >= 2) & (order[first] >= log.test_from))
    hour = log.ts[order[first[kept]]] // HOUR
    each = most // max(1, len(np.unique(hour)))
    chosen = [_drawn(kept[hour == at], each, at) for at in np.unique(hour).tolist()]
    which = np.concatenate(chosen) if chosen else kept
    which = which[np.argsort(asker[which], kind="stable")]
    asker, truth = asker[which], log.item[last[which]]
    return Questions(asker + 1, log.ts[asker] + 1, asker, np.arange(len(which) + 1), truth)


def _drawn(places: Ints, most: int, part: int = 0) -> Ints:
    """Return at most `most` of some ascending positions, still ascending."""
    if len(places) <= most:
        return places
    rng = np.random.default_rng((QUESTIONS_SEED, part) if part else QUESTIONS_SEED)
    return np.sort(rng.choice(places, most, replace=False))


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
