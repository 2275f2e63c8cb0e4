"""Where ids stand that are not in a column of their own: in free text, in addresses of pages, in JSON that nobody could read.

A text mentions an id when it is the id, or holds it between characters that ids are not made of. Short ids are looked for as whole
texts alone: "42" stands everywhere.
"""

import re
from collections.abc import Collection

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events.erased import texts_in

WITHIN_MIN = 6  # characters from which on an id is looked for within texts
_EDGE = "[A-Za-z0-9_-]"
_any = msgspec.json.Decoder().decode


class Mentions:
    """What mentions one of some ids."""

    def __init__(self, ids: Collection[str]) -> None:
        self._ids = frozenset(ids)
        long = sorted(one for one in ids if len(one) >= WITHIN_MIN)
        self._within = re.compile(f"(?<!{_EDGE})(?:{'|'.join(map(re.escape, long))})(?!{_EDGE})") if long else None
        escaped = sorted({msgspec.json.encode(one).decode()[1:-1] for one in long} | set(long))
        plain = [msgspec.json.encode(one)[1:-1] for one in sorted(ids)]
        self._bytes = re.compile(b"|".join(map(re.escape, plain))) if plain else None
        # RE2 looks neither behind nor ahead: the edges are part of the match, which is as good for a yes or no.
        self._columns = f"(?:^|[^A-Za-z0-9_-])(?:{'|'.join(map(re.escape, escaped))})(?:[^A-Za-z0-9_-]|$)" if long else None

    def in_text(self, text: str) -> bool:
        return text in self._ids or (self._within is not None and self._within.search(text) is not None)

    def may_be_in(self, body: bytes) -> bool:
        """False where no row of a body can mention one; cheap, and right for texts that are written as escapes, too."""
        return self._bytes is not None and (b"\\" in body or self._bytes.search(body) is not None)

    def in_body(self, body: bytes) -> bool:
        """Whether a row as it came in mentions one, whatever it is."""
        try:
            return any(self.in_text(text) for text in texts_in(_any(body)))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            text = body.decode(errors="replace")
            return any(f'"{id_}"' in text for id_ in self._ids) or (self._within is not None and self._within.search(text) is not None)

    def in_column(self, column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
        """Which texts of a column, JSON or not, mention one; a mask without nulls."""
        found = pc.fill_null(pc.is_in(column, value_set=pa.array(sorted(self._ids), pa.string())), False)
        if self._columns is None:
            return found
        encoded = column.combine_chunks().dictionary_encode()
        matches = pc.match_substring_regex(encoded.dictionary, self._columns)
        return pc.or_(found, pc.fill_null(pc.take(matches, encoded.indices), False))

    def without(self, value: object) -> object:
        """A JSON value with null in place of each text that mentions one."""
        if isinstance(value, str):
            return None if self.in_text(value) else value
        if isinstance(value, list):
            return [self.without(one) for one in value]
        if isinstance(value, dict):
            return {name: self.without(one) for name, one in value.items()}
        return value
