"""Ids in bytes: as they are written, JSON-escaped and URL-encoded, where they stand alone.

An id stands alone between what ids are not made of: letters of any script, digits, `_` and `-`.
"martin" is not found in "martinique". What a percent or a backslash encodes is no part of a word.
"""

import json
import re
import string
from collections import Counter
from collections.abc import Collection, Iterator
from urllib.parse import quote, quote_plus

import msgspec
import numpy as np

from tailorbird.events.free_text import EMBEDDED_ID_LENGTH_MIN, is_number

_TABLE_BITS = 22
_HASH_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_SAMPLE_SIZE = 20_000  # strings whose ends are counted to find rare ones
_WORD_BYTES = frozenset(string.ascii_letters.encode() + string.digits.encode() + b"_-")
_ENCODED_BEFORE = re.compile(rb"%[0-9A-Fa-f]{2}\Z|\\[bfnrt]\Z|\\u[0-9A-Fa-f]{4}\Z")
_NUMBER_BEFORE = re.compile(rb"[:,\[]\s?-?\Z|[0-9]\.\Z")  # of JSON, without quotes: a measure


def encoded_forms(text: str) -> set[bytes]:
    """Return the text as it is, as JSON escapes it and as URLs encode it."""
    utf8 = text.encode(errors="surrogatepass")
    escaped_text = json.dumps(text)[1:-1]
    quoted_forms = [quote(utf8, safe=""), quote(utf8), quote_plus(utf8)]
    lowercase_forms = [
        re.sub("%..", lambda digits: digits[0].lower(), text) for text in quoted_forms
    ]
    texts = [escaped_text, escaped_text.replace("/", "\\/"), *quoted_forms, *lowercase_forms]
    return {utf8, msgspec.json.encode(text)[1:-1], *(text.encode() for text in texts)}


class StringMatcher:
    """Finds many strings of six bytes or more at once; its cost hardly depends on their number.

    Each string is looked up by its first or its last six bytes, whichever fewer others share.

    >>> list(StringMatcher([b"user-12", b"user-1"]).find(b"of user-12"))
    [(3, b'user-1'), (3, b'user-12')]
    """

    def __init__(self, strings: Collection[bytes]) -> None:
        self._strings = frozenset(
            needle for needle in strings if len(needle) >= EMBEDDED_ID_LENGTH_MIN
        )
        self.length_max = max(map(len, self._strings), default=0)
        sample = list(self._strings)[:_SAMPLE_SIZE]
        end_counts = Counter(
            end
            for text in sample
            for end in (text[:EMBEDDED_ID_LENGTH_MIN], text[-EMBEDDED_ID_LENGTH_MIN:])
        )
        self._offsets_by_key: dict[int, set[tuple[int, int]]] = {}
        for needle in self._strings:
            uses_prefix = (
                end_counts[needle[:EMBEDDED_ID_LENGTH_MIN]]
                <= end_counts[needle[-EMBEDDED_ID_LENGTH_MIN:]]
            )
            start = 0 if uses_prefix else len(needle) - EMBEDDED_ID_LENGTH_MIN
            key = int.from_bytes(needle[start : start + EMBEDDED_ID_LENGTH_MIN], "little")
            self._offsets_by_key.setdefault(key, set()).add((start, len(needle)))
        self._keys = np.array(sorted(self._offsets_by_key), np.uint64)
        self._hash_table = np.zeros(1 << _TABLE_BITS if len(self._keys) else 0, bool)
        if len(self._keys):
            self._hash_table[_hash_slot(self._keys)] = True

    def find(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield each place where a string stands, in order, with the string."""
        if len(data) < EMBEDDED_ID_LENGTH_MIN or not len(self._keys):
            return
        padded_data = data + bytes(8)
        window_mask = np.uint64((1 << 8 * EMBEDDED_ID_LENGTH_MIN) - 1)
        windows = np.ndarray((len(data),), np.dtype("<u8"), padded_data, strides=(1,)) & window_mask
        positions = np.flatnonzero(self._hash_table[_hash_slot(windows)])
        positions = positions[np.isin(windows[positions], self._keys)]
        matches: set[tuple[int, bytes]] = set()
        for position, key in zip(positions.tolist(), windows[positions].tolist(), strict=True):
            for offset, length in self._offsets_by_key[key]:
                start = position - offset
                if start >= 0 and (text := data[start : start + length]) in self._strings:
                    matches.add((start, text))
        yield from sorted(matches)


def _hash_slot(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return ((values * _HASH_MULTIPLIER) >> np.uint64(64 - _TABLE_BITS)).astype(np.intp)


class IdMatcher:
    """Finds ids of six characters or more, in their three forms, where they stand alone."""

    def __init__(self, ids: Collection[str]) -> None:
        long_ids = [id_ for id_ in ids if len(id_) >= EMBEDDED_ID_LENGTH_MIN]
        self._numeric_forms = frozenset(
            long_id.encode() for long_id in long_ids if is_number(long_id)
        )
        self._matcher = StringMatcher(
            {form for long_id in long_ids for form in encoded_forms(long_id)}
        )
        self.length_max = self._matcher.length_max

    def find(self, data: bytes) -> list[tuple[int, int]]:
        """Return where ids stand, as (start, end)."""
        matches = ((start, start + len(form), form) for start, form in self._matcher.find(data))
        return [
            (start, end)
            for start, end, form in matches
            if _stands_alone(data, start, end) and not self._is_measure(data, start, end, form)
        ]

    def _is_measure(self, data: bytes, start: int, end: int, form: bytes) -> bool:
        """Return whether digits are a JSON number or part of a decimal, and not an id."""
        if form not in self._numeric_forms:
            return False
        follows_number = _NUMBER_BEFORE.search(data, max(0, start - 3), start) is not None
        return follows_number or (data[end : end + 1] == b"." and data[end + 1 : end + 2].isdigit())


def _stands_alone(data: bytes, start: int, end: int) -> bool:
    if any(_is_word(data[end : end + size]) for size in range(1, 5)):
        return False
    if not any(_is_word(data[max(0, start - size) : start]) for size in range(1, 5)):
        return True
    return _ENCODED_BEFORE.search(data, max(0, start - 6), start) is not None


def _is_word(character: bytes) -> bool:
    """Return whether some bytes are one character of a word; lengths in binary files are not."""
    if len(character) < 2:
        return bool(character) and character[0] in _WORD_BYTES
    try:
        text = character.decode()
    except UnicodeDecodeError:
        return False
    return len(text) == 1 and text.isalnum()
