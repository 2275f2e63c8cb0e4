"""What accumulators add of a block: the rows of a frame that a source counts, with their entity and
value, and profiles.

    extract(source, frame)    entity key, ts, id, p, value; and item, type, session for sequences
    extract_profiles(…)       who or what it is of, and a value for each attribute

Columns of the block are made by `features.columns`; `features.reference` says in plain Python which
events a source has.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events.keys import hash64
from tailorbird.features.columns import Frame, chosen_of
from tailorbird.features.declare import SQUARE_BITS, Amount
from tailorbird.features.expression import Expression
from tailorbird.features.fields import category_key, parsed_json
from tailorbird.features.layout import PEAKS, Source, kind_and_element
from tailorbird.features.plain import element_of, number_of, time_of, words_of

Int64s = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]
Some = Rows | slice

PEAK_ZERO = 1 << 62  # the code of the value 0


@dataclass(frozen=True)
class Extract:
    """What a source takes out of a frame; arrays of shape (n,), in the frame's order.

    Attributes:
        rows: of the frame, for columns that are made only when asked for.
        value: 1, int64 units, or 64 bits (a float64 or a hash) of the last value; see
            `layout.Source.value`.
    """

    frame: "Frame" = field(repr=False)
    source: Source = field(repr=False)
    rows: Rows
    value: Int64s

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def key(self) -> Keys:
        """Of the entity."""
        return chosen_of(self.frame.key(self.source.entity)[0], self.rows)

    @cached_property
    def ts(self) -> Int64s:
        return chosen_of(self.frame.ts, self.rows)

    def part(self, some: Some) -> "Extract":
        """The extract with some of its rows."""
        return _Part(self.frame, self.source, self.rows[some], self.value[some])

    @property
    def id(self) -> Keys:
        """Breaks ties in time: no two rows of an entity share ts and id."""
        return self.frame.ids(self.rows)

    @property
    def p(self) -> Int64s:
        return self.frame.p[self.rows]

    @property
    def item(self) -> Keys:
        return self.frame.text("item")[self.rows]

    @property
    def type(self) -> Keys:
        return self.frame.text("type")[self.rows]

    @property
    def session(self) -> Keys:
        return self.frame.text("session")[self.rows]

    def of(self, value: Expression) -> Int64s:
        """A further value of each row, as `Frame.bits` has it."""
        return self.frame.bits(value)[self.rows]


class _Part(Extract):
    """Some rows of an extract, in any order."""

    @cached_property
    def key(self) -> Keys:
        return self.frame.key(self.source.entity)[0][self.rows]

    @cached_property
    def ts(self) -> Int64s:
        return self.frame.ts[self.rows]


def extract(source: Source, frame: Frame) -> Extract:
    """The rows of the frame that the source counts, with their entity and value; made once a frame."""
    found = frame.extracts.get(source)
    if found is None:
        found = frame.extracts[source] = extracted(source, frame)
    return found


def extracted(source: Source, frame: Frame) -> Extract:
    """`extract` without keeping it."""
    _, has = frame.key(source.entity)
    mask = frame.counts & frame.of_types(source.types)
    mask &= has
    if frame.is_expanded:
        mask &= frame.once(source.per_item)
    if source.where is not None:
        mask &= frame.holds(source.where)
    if source.value is None:
        rows = np.flatnonzero(mask)
        value = np.ones(len(rows), np.int64)
    elif isinstance(source.value, Amount):
        numbers = source.value.of.numbers(frame.column, len(frame))
        rows = np.flatnonzero(mask)
        rows = rows[~np.isnan(chosen_of(numbers, rows))]
        value = _units(chosen_of(numbers, rows), source.value, frame)
    elif source.value.kind == "text":
        hashes = np.broadcast_to(source.value.columns(frame.column), (len(frame),))
        rows = np.flatnonzero(mask)
        rows = rows[chosen_of(hashes, rows) != 0]
        value = chosen_of(hashes, rows).view(np.int64)
    else:
        numbers = source.value.numbers(frame.column, len(frame))
        rows = np.flatnonzero(mask)
        rows = rows[~np.isnan(chosen_of(numbers, rows))]
        value = chosen_of(numbers, rows).view(np.int64)
    return Extract(frame, source, rows, value)


def measured(measure: str, value: Int64s) -> Int64s:
    """What events put into a tile of a `layout.Ring`; of a peak, a code above 0 whose largest
    stays: 0 is an empty tile.
    """
    if measure == "count":
        return np.ones(len(value), np.int64)
    if measure == "square_low":
        return (value * value) & ((1 << SQUARE_BITS) - 1)
    if measure == "square_high":
        return (value * value) >> SQUARE_BITS
    if measure in PEAKS:
        return PEAK_ZERO + value if measure == "largest" else PEAK_ZERO - value
    return value


@dataclass(frozen=True)
class ProfileExtract:
    """Profile events: the key of their user or item, ts, id, p, and a column of 64-bit values for
    each attribute.
    """

    key: Keys
    ts: Int64s
    id: Keys
    p: Int64s
    values: Int64s  # (n, attributes)

    def part(self, some: Some) -> "ProfileExtract":
        """The extract with some of its profiles."""
        return ProfileExtract(
            self.key[some], self.ts[some], self.id[some], self.p[some], self.values[some]
        )


def extract_profiles(
    type: str, attributes: tuple[tuple[str, str], ...], frame: Frame
) -> ProfileExtract:
    """The profiles in the frame: `attributes` are (name, kind) as in `layout.Profile`."""
    table = frame._table
    mask = pc.and_(pc.equal(table["type"], type), table["counts"])
    events = np.flatnonzero(mask.to_numpy())
    first = np.flatnonzero(frame.index == 0)[events]  # the frame's row of each event
    column = table["item_id" if type == "item" else "user_id"].take(pa.array(events))
    # Profiles come again unchanged, and many are alike: each different text is read once.
    encoded = table["properties"].take(pa.array(events)).combine_chunks().dictionary_encode()
    parsed = [*(parsed_json(text) if text else {} for text in encoded.dictionary.to_pylist()), {}]
    codes = pc.fill_null(encoded.indices, len(parsed) - 1).to_numpy()
    times = np.bincount(codes, minlength=len(parsed))
    values = np.zeros((len(parsed), len(attributes)), np.int64)
    words = {
        name: [words_of(one.get(name)) for one in parsed]
        for name, kind in attributes
        if kind == "word 1"
    }
    for lane, (name, full) in enumerate(attributes):
        kind, element = kind_and_element(full)
        if kind == "word":
            found = [hash64(one[element - 1]) if len(one) >= element else 0 for one in words[name]]
        elif kind == "time":
            found = [time_of(one.get(name)) for one in parsed]
        else:
            given = [element_of(one.get(name), element) for one in parsed]
            found = [(number_of if kind == "numeric" else category_key)(one) for one in given]
            if kind == "numeric":
                raw = given if " " in full else (one.get(name) for one in parsed)
                pairs = zip(raw, found, times, strict=True)
                if converted := sum(
                    int(often)
                    for value, made, often in pairs
                    if isinstance(value, bool | list) and made == made
                ):
                    frame.converted[f"{type}.{name}"] += converted
            lost = sum(
                int(often)
                * (
                    value not in (None, [])
                    and (made == 0 if kind == "categorical" else made != made)
                )
                for value, made, often in zip(given, found, times, strict=True)
            )
            if lost:
                frame.unreadable[f"{type}.{name}"] += lost
        values[:, lane] = np.array(
            found, np.uint64 if kind in ("word", "categorical") else np.float64
        ).view(np.int64)
    if not len(events):
        return ProfileExtract(
            np.zeros(0, np.uint64),
            np.zeros(0, np.int64),
            np.zeros(0, np.uint64),
            np.zeros(0, np.int64),
            values[:0],
        )
    return ProfileExtract(
        frame.profile_keys(column), frame.ts[first], frame.id[first], frame.p[first], values[codes]
    )


_UNITS_AT_ONCE = 1 << 15  # so that what is between stays in the cache


def _units(numbers: Floats, amount: Amount, frame: Frame) -> Int64s:
    limit = float(amount.units_max)
    found = np.empty(len(numbers), np.int64)
    for start in range(0, len(numbers), _UNITS_AT_ONCE):
        with np.errstate(over="ignore"):
            units = numbers[start : start + _UNITS_AT_ONCE] / amount.unit
        if cut := int(np.count_nonzero(np.abs(units) > limit)):
            frame.capped[amount.of.text] += cut
        found[start : start + len(units)] = np.rint(np.clip(units, -limit, limit))
    return found
