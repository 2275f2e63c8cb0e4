"""Extracts of a block: the rows of a frame that a source counts, with their entity and value.

    extract(source, frame)    entity key, ts, id, p, value; and item, type, session for sequences
    extract_profiles(…)       key of the user or item, and a value for each attribute

`features.event_columns.columns` computes the columns of a block. `features.reference.reference`
defines in plain Python which events a source has.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events.keys import hash64
from tailorbird.features.declare.declarations import Amount
from tailorbird.features.declare.limits import SQUARE_BITS
from tailorbird.features.declare.scalars import element_of, number_of, time_of, words_of
from tailorbird.features.event_columns.columns import Frame, take_rows
from tailorbird.features.event_columns.fields import category_key, parsed_json
from tailorbird.features.expr.expression import Expression
from tailorbird.features.layout.layout import PEAKS, Source, kind_and_element

Int64s = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]
Some = Rows | slice

PEAK_ZERO = 1 << 62  # the code of the value 0


@dataclass(frozen=True)
class Extract:
    """The rows of a frame that a source counts; arrays of shape (n,), in the frame's order.

    Attributes:
        rows: rows of the frame, for columns that are computed on first use.
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
        """The keys of the entity."""
        return take_rows(self.frame.key(self.source.entity)[0], self.rows)

    @cached_property
    def ts(self) -> Int64s:
        return take_rows(self.frame.ts, self.rows)

    def take(self, rows: Some) -> "Extract":
        """Return the extract with some of its rows."""
        return _PartialExtract(self.frame, self.source, self.rows[rows], self.value[rows])

    @property
    def id(self) -> Keys:
        """Ids that break ties in time: no two rows of an entity share ts and id."""
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
        """Return a further value of each row, encoded as by `Frame.bits`."""
        return self.frame.bits(value)[self.rows]


class _PartialExtract(Extract):
    """Some rows of an extract, in any order."""

    @cached_property
    def key(self) -> Keys:
        return self.frame.key(self.source.entity)[0][self.rows]

    @cached_property
    def ts(self) -> Int64s:
        return self.frame.ts[self.rows]


def extract(source: Source, frame: Frame) -> Extract:
    """Return the rows of the frame that the source counts, computed once per frame."""
    return frame.derive(source, lambda: compute_extract(source, frame))


def compute_extract(source: Source, frame: Frame) -> Extract:
    """Compute an extract without caching it in the frame."""
    _, has = frame.key(source.entity)
    mask = frame.counts & frame.of_types(source.types)
    mask &= has
    if frame.is_expanded:
        mask &= frame.counted_rows(source.per_item)
    if source.where is not None:
        mask &= frame.holds(source.where)
    if source.value is None:
        rows = np.flatnonzero(mask)
        value = np.ones(len(rows), np.int64)
    elif isinstance(source.value, Amount):
        numbers = source.value.of.numbers(frame.column, len(frame))
        rows = np.flatnonzero(mask)
        rows = rows[~np.isnan(take_rows(numbers, rows))]
        value = _to_units(take_rows(numbers, rows), source.value, frame)
    elif source.value.kind == "text":
        hashes = np.broadcast_to(source.value.columns(frame.column), (len(frame),))
        rows = np.flatnonzero(mask)
        rows = rows[take_rows(hashes, rows) != 0]
        value = take_rows(hashes, rows).view(np.int64)
    else:
        numbers = source.value.numbers(frame.column, len(frame))
        rows = np.flatnonzero(mask)
        rows = rows[~np.isnan(take_rows(numbers, rows))]
        value = take_rows(numbers, rows).view(np.int64)
    return Extract(frame, source, rows, value)


def tile_values(measure: str, value: Int64s) -> Int64s:
    """Return what events add to a tile of a `layout.Ring`.

    For a peak this is a code above 0 and the largest one stays: 0 is an empty tile.
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
    """Profile events: key of the user or item, ts, id, p, and 64-bit values of each attribute."""

    key: Keys
    ts: Int64s
    id: Keys
    p: Int64s
    values: Int64s  # (n, attributes)

    def take(self, rows: Some) -> "ProfileExtract":
        """Return the extract with some of its profiles."""
        return ProfileExtract(
            self.key[rows], self.ts[rows], self.id[rows], self.p[rows], self.values[rows]
        )


def extract_profiles(
    type: str, attributes: tuple[tuple[str, str], ...], frame: Frame
) -> ProfileExtract:
    """Return the profiles in the frame; `attributes` are (name, kind) as in `layout.Profile`."""
    table = frame._table
    mask = pc.and_(pc.equal(table["type"], type), table["counts"])
    events = np.flatnonzero(mask.to_numpy())
    first_rows = np.flatnonzero(frame.index == 0)[events]  # the frame's row of each event
    column = table["item_id" if type == "item" else "user_id"].take(pa.array(events))
    # Profiles recur and many are alike, so each distinct text is parsed once.
    encoded = table["properties"].take(pa.array(events)).combine_chunks().dictionary_encode()
    profiles = [*(parsed_json(text) if text else {} for text in encoded.dictionary.to_pylist()), {}]
    codes = pc.fill_null(encoded.indices, len(profiles) - 1).to_numpy()
    occurrences = np.bincount(codes, minlength=len(profiles))
    values = np.zeros((len(profiles), len(attributes)), np.int64)
    words = {
        name: [words_of(profile.get(name)) for profile in profiles]
        for name, kind in attributes
        if kind == "word 1"
    }
    for lane, (name, full_kind) in enumerate(attributes):
        kind, element = kind_and_element(full_kind)
        if kind == "word":
            values_of_lane = [
                hash64(word[element - 1]) if len(word) >= element else 0 for word in words[name]
            ]
        elif kind == "time":
            values_of_lane = [time_of(profile.get(name)) for profile in profiles]
        else:
            elements = [element_of(profile.get(name), element) for profile in profiles]
            values_of_lane = [
                (number_of if kind == "numeric" else category_key)(element) for element in elements
            ]
            if kind == "numeric":
                raw = elements if " " in full_kind else (profile.get(name) for profile in profiles)
                pairs = zip(raw, values_of_lane, occurrences, strict=True)
                if converted := sum(
                    int(count)
                    for value, converted_value, count in pairs
                    if isinstance(value, bool | list) and converted_value == converted_value
                ):
                    frame.converted[f"{type}.{name}"] += converted
            unreadable = sum(
                int(count)
                * (
                    value not in (None, [])
                    and (
                        converted_value == 0
                        if kind == "categorical"
                        else converted_value != converted_value
                    )
                )
                for value, converted_value, count in zip(
                    elements, values_of_lane, occurrences, strict=True
                )
            )
            if unreadable:
                frame.unreadable[f"{type}.{name}"] += unreadable
        values[:, lane] = np.array(
            values_of_lane, np.uint64 if kind in ("word", "categorical") else np.float64
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
        frame.profile_keys(column),
        frame.ts[first_rows],
        frame.id[first_rows],
        frame.p[first_rows],
        values[codes],
    )


_UNITS_CHUNK = 1 << 15  # rows, so that intermediates stay in the cache


def _to_units(numbers: Floats, amount: Amount, frame: Frame) -> Int64s:
    limit = float(amount.units_max)
    units_of_rows = np.empty(len(numbers), np.int64)
    for start in range(0, len(numbers), _UNITS_CHUNK):
        with np.errstate(over="ignore"):
            units = numbers[start : start + _UNITS_CHUNK] / amount.unit
        if capped := int(np.count_nonzero(np.abs(units) > limit)):
            frame.capped[amount.of.text] += capped
        units_of_rows[start : start + len(units)] = np.rint(np.clip(units, -limit, limit))
    return units_of_rows
