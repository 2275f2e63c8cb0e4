"""Fields of events as columns of numbers and hashes.

Covers texts, integers, queries and their words, weekdays, and attributes in JSON.
`features.declare.scalars` defines the same conversions for one value.
"""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events.clock import HOUR
from tailorbird.events.keys import hash64, hash64s
from tailorbird.features.declare.limits import WORDS_MAX
from tailorbird.features.declare.scalars import query_text, text_of, words_of

Int64s = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]
RowSelection = Rows | slice


class JsonColumn:
    """A column of JSON objects, or lists with one object per item; each distinct text is parsed
    once.
    """

    def __init__(
        self, column: pa.ChunkedArray, event_of_row: Rows | slice, item_index: Int64s
    ) -> None:
        codes = column.combine_chunks().dictionary_encode()
        codes = codes.combine_chunks() if isinstance(codes, pa.ChunkedArray) else codes
        objects_by_code = [parse_json(text) for text in codes.dictionary.to_pylist()]
        self._objects: list[dict | None] = []
        offsets = np.zeros(len(objects_by_code) + 1, np.int64)
        lengths = np.zeros(len(objects_by_code) + 1, np.int64)
        for code, value in enumerate(objects_by_code):
            offsets[code] = len(self._objects)
            lengths[code] = len(value) if isinstance(value, list) else -1
            self._objects += value if isinstance(value, list) else [value]
        missing_index = len(self._objects)
        code_of_row = (
            pc.fill_null(codes.indices, len(objects_by_code))
            .to_numpy()[event_of_row]
            .astype(np.int64)
        )
        length_of_row = lengths[code_of_row]
        object_index = offsets[code_of_row] + np.where(length_of_row >= 0, item_index, 0)
        self._object_index = np.where(
            (code_of_row == len(objects_by_code))
            | ((length_of_row >= 0) & (item_index >= length_of_row)),
            missing_index,
            object_index,
        )

    def convert(
        self, attribute: str, convert: "Callable[[object], float]", missing: float
    ) -> tuple[npt.NDArray, int, int]:
        """Convert the attribute in each row.

        Returns:
            The values, the number of rows whose value cannot be converted, and the number of rows
            whose list or truth was converted to a number.
        """
        attribute_values = [
            object_.get(attribute) if isinstance(object_, dict) else None
            for object_ in self._objects
        ]
        converted_values = np.array(
            [*(missing if item is None else convert(item) for item in attribute_values), missing],
            np.uint64 if missing == 0 else np.float64,
        )
        is_unreadable = np.array(
            [*(item is not None and item != [] for item in attribute_values), False]
        ) & (np.isnan(converted_values) if missing != 0 else converted_values == 0)
        is_converted = np.zeros(len(converted_values), np.bool_)
        if missing != 0:
            is_converted = np.array(
                [*(isinstance(item, bool | list) for item in attribute_values), False]
            ) & ~np.isnan(converted_values)
        return (
            converted_values[self._object_index],
            self._count_rows(is_unreadable),
            self._count_rows(is_converted),
        )

    def _count_rows(self, is_selected: Bools) -> int:
        return int(np.count_nonzero(is_selected[self._object_index])) if is_selected.any() else 0


def parse_json(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:  # such as NaN, or numbers beyond a float64
        return json.loads(text)


def category_key(value: object) -> int:
    text = text_of(value)
    return 0 if text is None else hash64(text)


def to_floats(column: pa.ChunkedArray) -> Floats:
    return pc.fill_null(column.cast(pa.float64()), np.nan).to_numpy()


def compute_weekdays(ts: Int64s, local_hour: Floats) -> Floats:
    """Return `scalars.local_weekday` for arrays."""
    hours = ts // HOUR
    has_hour = ~np.isnan(local_hour)
    utc_offset = np.where(
        has_hour, (np.where(has_hour, local_hour, 0).astype(np.int64) - hours + 12) % 24 - 12, 0
    )
    return (((hours + utc_offset) // 24 + 3) % 7).astype(np.float64)


def integer_keys(numbers: Floats) -> Keys:
    """Return hash64 of each integer as text, 0 where missing; each distinct one is hashed once."""
    is_present = ~np.isnan(numbers)
    unique, inverse = np.unique(numbers[is_present].astype(np.int64), return_inverse=True)
    keys = np.zeros(len(numbers), np.uint64)
    keys[is_present] = hash64s(str(number) for number in unique.tolist())[inverse]
    return keys


def query_keys(column: pa.ChunkedArray | pa.Array) -> Keys:
    """Return hash64 of each query normalised by `scalars.query_text`, 0 for none."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    dictionary = array.dictionary_encode()
    texts = [query_text(query) for query in dictionary.dictionary.to_pylist()]
    hashes = np.array([*(0 if text is None else hash64(text) for text in texts), 0], np.uint64)
    return hashes[pc.fill_null(dictionary.indices, len(texts)).to_numpy(zero_copy_only=False)]


def query_words(column: pa.ChunkedArray | pa.Array) -> Keys:
    """Return the hashes of each query's first distinct words, 0-padded; shape (n, WORDS_MAX)."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    dictionary = array.dictionary_encode()
    hashes = np.zeros((len(dictionary.dictionary) + 1, WORDS_MAX), np.uint64)
    for row, text in enumerate(dictionary.dictionary.to_pylist()):
        words = words_of(text)
        hashes[row, : len(words)] = hash64s(words)
    return hashes[pc.fill_null(dictionary.indices, len(hashes) - 1).to_numpy(zero_copy_only=False)]


def text_keys(column: pa.ChunkedArray | pa.Array) -> Keys:
    """Return hash64 of each text, 0 for null; each distinct text is hashed once."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    dictionary = array.dictionary_encode()
    hashes = np.append(hash64s(dictionary.dictionary.to_pylist()), np.uint64(0))
    return hashes[pc.fill_null(dictionary.indices, len(hashes) - 1).to_numpy(zero_copy_only=False)]


class TextHashCache:
    """`text_keys` with a cache: ids of people, items and sessions recur in most events.

    Past `size_max` entries the cache is cleared. That costs one hash per recurring text, and needs
    no bookkeeping of ages.
    """

    def __init__(self, size_max: int = 200_000) -> None:
        self._size_max = size_max
        self._cache: dict[str, int] = {}

    def __call__(self, column: pa.ChunkedArray | pa.Array) -> Keys:
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        dictionary = array.dictionary_encode()
        texts = dictionary.dictionary.to_pylist()
        keys = [self._cache.get(text) for text in texts]
        if missing_texts := [text for text, key in zip(texts, keys, strict=True) if key is None]:
            if len(self._cache) + len(missing_texts) > self._size_max:
                self._cache = {}
            new_hashes = dict(zip(missing_texts, hash64s(missing_texts).tolist(), strict=True))
            self._cache.update(new_hashes)
            keys = [
                new_hashes[text] if key is None else key
                for text, key in zip(texts, keys, strict=True)
            ]
        hashes = np.array([*keys, 0], np.uint64)
        return hashes[pc.fill_null(dictionary.indices, len(texts)).to_numpy(zero_copy_only=False)]
