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
from tailorbird.features.event_columns.fields import category_key, parse_json
from tailorbird.features.expr.expression import Expression
from tailorbird.features.layout.layout import PEAK_MEASURES, Source, kind_and_element

Int64s = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]
RowSelection = Rows | slice

# A peak, the largest or smallest value, is stored as a code above 0; this is the code of 0.
PEAK_ZERO = 1 << 62


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

    def take(self, rows: RowSelection) -> "Extract":
        """Return the extract with some of its rows."""
        return _PartialExtract(self.frame, self.source, self.rows[rows], self.value[rows])

    @property
    def id(self) -> Keys:
        """Ids that break ties in time: no two rows of an entity share ts and id."""
        return self.frame.ids(self.rows)

    @property
    def log_position(self) -> Int64s:
        return self.frame.log_position[self.rows]

    @property
    def item(self) -> Keys:
        return self.frame.text("item")[self.rows]

    @property
    def type(self) -> Keys:
        return self.frame.text("type")[self.rows]

    @property
    def session(self) -> Keys:
        return self.frame.text("session")[self.rows]

    def value_bits(self, value: Expression) -> Int64s:
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
    return frame.compute_once(source, lambda: compute_extract(source, frame))


def compute_extract(source: Source, frame: Frame) -> Extract:
    """Compute an extract without caching it in the frame."""
    _, has_entity = frame.key(source.entity)
    is_counted = frame.is_counted & frame.has_type(source.types)
    is_counted &= has_entity
    if frame.is_expanded:
        is_counted &= frame.is_counted_row(source.per_item)
    if source.where is not None:
        is_counted &= frame.matches(source.where)
    if source.value is None:
        rows = np.flatnonzero(is_counted)
        value = np.ones(len(rows), np.int64)
    elif isinstance(source.value, Amount):
        numbers = source.value.of.numbers(frame.column, len(frame))
        rows = np.flatnonzero(is_counted)
        rows = rows[~np.isnan(take_rows(numbers, rows))]
        value = _to_units(take_rows(numbers, rows), source.value, frame)
    elif source.value.kind == "text":
        hashes = np.broadcast_to(source.value.columns(frame.column), (len(frame),))
        rows = np.flatnonzero(is_counted)
        rows = rows[take_rows(hashes, rows) != 0]
        value = take_rows(hashes, rows).view(np.int64)
    else:
        numbers = source.value.numbers(frame.column, len(frame))
        rows = np.flatnonzero(is_counted)
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
    if measure in PEAK_MEASURES:
        return PEAK_ZERO + value if measure == "largest" else PEAK_ZERO - value
    return value


@dataclass(frozen=True)
class ProfileExtract:
    """Profile events: key of the user or item, ts, id, p, and 64-bit values of each attribute."""

    key: Keys
    ts: Int64s
    id: Keys
    log_position: Int64s
    values: Int64s  # (n, attributes)

    def take(self, rows: RowSelection) -> "ProfileExtract":
        """Return the extract with some of its profiles."""
        return ProfileExtract(
            self.key[rows], self.ts[rows], self.id[rows], self.log_position[rows], self.values[rows]
        )


def extract_profiles(
    type: str, attributes: tuple[tuple[str, str], ...], frame: Frame
) -> ProfileExtract:
    """Return the profiles in the frame; `attributes` are (name, kind) as in `layout.Profile`."""
    table = frame._table
    is_profile = pc.and_(pc.equal(table["type"], type), table["counts"])
    event_indexes = np.flatnonzero(is_profile.to_numpy())
    first_rows = np.flatnonzero(frame.index == 0)[event_indexes]  # the frame's row of each event
    ids = table["item_id" if type == "item" else "user_id"].take(pa.array(event_indexes))
    # Profiles recur and many are alike, so each distinct text is parsed once.
    encoded = table["properties"].take(pa.array(event_indexes)).combine_chunks().dictionary_encode()
    profiles = [*(parse_json(text) if text else {} for text in encoded.dictionary.to_pylist()), {}]
    profile_codes = pc.fill_null(encoded.indices, len(profiles) - 1).to_numpy()
    occurrences = np.bincount(profile_codes, minlength=len(profiles))
    values = np.zeros((len(profiles), len(attributes)), np.int64)
    words_by_attribute = {
        name: [words_of(profile.get(name)) for profile in profiles]
        for name, kind in attributes
        if kind == "word 1"
    }
    for attribute_index, (name, full_kind) in enumerate(attributes):
        kind, element = kind_and_element(full_kind)
        if kind == "word":
            attribute_values = [
                hash64(words[element - 1]) if len(words) >= element else 0
                for words in words_by_attribute[name]
            ]
        elif kind == "time":
            attribute_values = [time_of(profile.get(name)) for profile in profiles]
        else:
            elements = [element_of(profile.get(name), element) for profile in profiles]
            attribute_values = [
                (number_of if kind == "numeric" else category_key)(element) for element in elements
            ]
            if kind == "numeric":
                raw_values = (
                    elements if " " in full_kind else (profile.get(name) for profile in profiles)
                )
                conversions = zip(raw_values, attribute_values, occurrences, strict=True)
                if converted_count := sum(
                    int(count)
                    for value, converted_value, count in conversions
                    if isinstance(value, bool | list) and converted_value == converted_value
                ):
                    frame.converted_counts[f"{type}.{name}"] += converted_count
            unreadable_count = sum(
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
                    elements, attribute_values, occurrences, strict=True
                )
            )
            if unreadable_count:
                frame.unreadable_counts[f"{type}.{name}"] += unreadable_count
        values[:, attribute_index] = np.array(
            attribute_values, np.uint64 if kind in ("word", "categorical") else np.float64
        ).view(np.int64)
    if not len(event_indexes):
        return ProfileExtract(
            np.zeros(0, np.uint64),
            np.zeros(0, np.int64),
            np.zeros(0, np.uint64),
            np.zeros(0, np.int64),
            values[:0],
        )
    return ProfileExtract(
        frame.profile_keys(ids),
        frame.ts[first_rows],
        frame.id[first_rows],
        frame.log_position[first_rows],
        values[profile_codes],
    )


_CHUNK_ROWS = 1 << 15  # so that intermediates stay in the cache


def _to_units(numbers: Floats, amount: Amount, frame: Frame) -> Int64s:
    limit = float(amount.units_max)
    units_of_rows = np.empty(len(numbers), np.int64)
    for start in range(0, len(numbers), _CHUNK_ROWS):
        with np.errstate(over="ignore"):
            units = numbers[start : start + _CHUNK_ROWS] / amount.unit
        if capped_count := int(np.count_nonzero(np.abs(units) > limit)):
            frame.capped_counts[amount.of.text] += capped_count
        units_of_rows[start : start + len(units)] = np.rint(np.clip(units, -limit, limit))
    return units_of_rows
