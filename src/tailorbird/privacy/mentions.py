"""What others wrote about erased people: texts that hold one of their ids, which become null.

An id shorter than six characters counts only as a whole value. Event types and item ids are never
mentions. Ids that a site makes (sessions, requests, events) and that hold an erased id are replaced
by a hash.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events import free_text
from tailorbird.events.contract.envelope import NUMBER_BOUNDS, PROPERTY_COLUMNS
from tailorbird.events.contract.plan import RoutePlan
from tailorbird.events.free_text import (
    EMBEDDED_ID_LENGTH_MIN,
    FIELD_NAME,
    SITE_ID_FIELDS,
    format_number_id,
    get_id_text,
    is_number,
    iterate_leaves,
)
from tailorbird.privacy.matching import IdMatcher

_CONTRACT_FIELDS = ("type", "item_id", "items")
_BATCH_SIZE = 1 << 16  # texts that are searched at once
_decode = msgspec.json.Decoder().decode


def attribute_names(plan: RoutePlan) -> frozenset[str]:
    """Return the names of fields that a project declares, which name nobody."""
    return frozenset({*PROPERTY_COLUMNS, *plan.user_attributes, *plan.item_attributes})


class Mentions:
    """Recognises and removes mentions of some ids.

    Args:
        ids: ids of the people.
        declared_names: names of fields that are never mentions, see `attribute_names`.
        rename_id: gives the new id of another's event, session or request whose id holds one of
            `ids`.
    """

    def __init__(
        self,
        ids: Collection[str],
        declared_names: Collection[str] = (),
        rename_id: Callable[[str], str] = lambda id_: "",
    ) -> None:
        self._ids = frozenset(ids)
        self._declared_names = frozenset(declared_names)
        self._make_new_id = rename_id
        self._matcher = IdMatcher(ids)
        self._name_matcher = IdMatcher([id_ for id_ in ids if not is_number(id_)])
        self._number_ids = {
            id_ for id_ in ids if len(id_) >= EMBEDDED_ID_LENGTH_MIN and is_number(id_)
        }
        # Whether ids must be looked for in decoded values: short ones and numbers.
        self._needs_values = bool(self._number_ids) or any(
            len(id_) < EMBEDDED_ID_LENGTH_MIN for id_ in ids
        )

    def in_text(self, text: str) -> bool:
        """Return whether a text is or holds an id."""
        return text in self._ids or bool(self._matcher.find(_to_bytes(text)))

    def may_be_in(self, body: bytes) -> bool:
        """Return False where no row of a body can hold an id; cheap."""
        if self._needs_values or b"\\" in body:
            return bool(self._ids)
        return bool(self._matcher.find(body))

    def in_body(self, body: bytes) -> bool:
        """Return whether a refused row, as it came in, holds an id."""
        try:
            value = _decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            value = body.decode(errors="replace")
            if any(f'"{id_}"' in value for id_ in self._ids):
                return True
        if isinstance(value, dict):
            value = {name: entry for name, entry in value.items() if name not in _CONTRACT_FIELDS}
        return any(self._is_mentioned(name, leaf) for name, leaf in iterate_leaves(value))

    def column_mask(self, column: pa.ChunkedArray) -> np.ndarray:
        """Return a mask of the texts of a column that hold an id."""
        return self._to_mask(
            column, self._find_matches(column, self._matcher) | self._find_whole_values(column)
        )

    def json_mask(self, column: pa.ChunkedArray) -> np.ndarray:
        """Return a mask of the JSON values of a column that hold an id."""
        texts = column.unique().drop_null().to_pylist()
        if not self._needs_values:
            texts = sorted(self._find_matches(column, self._matcher))
        return self._to_mask(column, {text for text in texts if self.redact_json(text) is not None})

    def rename(self, id_: str) -> str:
        """Return the id of another's event, session or request, a new one if it holds an id."""
        return self._make_new_id(id_) if self._name_matcher.find(_to_bytes(id_)) else id_

    def find_renames(self, column: pa.ChunkedArray) -> dict[str, str]:
        """Return by the old one the new ids of a column of ids, or of JSON lists of ids."""
        matches = self._find_matches(column, self._name_matcher)
        return {old: self._rename_json_ids(old) for old in matches}

    def redact_event(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Return an event of somebody else, as it came in, without mentions."""
        event = free_text.redact_event(event, self._is_mentioned, self._names_somebody)
        site_ids = {
            name: event[name] for name in SITE_ID_FIELDS if isinstance(event.get(name), str)
        }
        return event | {name: self.rename(id_) for name, id_ in site_ids.items()}

    def redact(self, value: object) -> object:
        """Return a JSON value with null for each mention, without fields named after an id."""
        return free_text.redact(value, self._is_mentioned, self._names_somebody)

    def redact_json(self, text: str) -> str | None:
        """Return a JSON text without mentions; None where it has none."""
        if not self.may_be_in(_to_bytes(text)):
            return None
        value = _decode(text)
        redacted_value = self.redact(value)
        return (
            None
            if redacted_value == value
            else msgspec.json.encode(redacted_value, order="sorted").decode()
        )

    def _is_mentioned(self, name: str, value: object) -> bool:
        if name == FIELD_NAME:
            return isinstance(value, str) and self._names_somebody(value)
        if (
            not isinstance(value, str)
            and name not in NUMBER_BOUNDS
            and format_number_id(value) in self._number_ids
        ):
            return True
        text = get_id_text(name, value)
        return text is not None and self.in_text(text)

    def _names_somebody(self, name: str) -> bool:
        return name not in self._declared_names and bool(self._name_matcher.find(_to_bytes(name)))

    def _rename_json_ids(self, text: str) -> str:
        if text[:1] != "[":
            return self.rename(text)
        ids = [value and self.rename(value) for value in _decode(text)]
        return msgspec.json.encode(ids).decode()

    def _find_whole_values(self, column: pa.ChunkedArray) -> set[str]:
        return set(self._ids).intersection(column.unique().drop_null().to_pylist())

    def _find_matches(self, column: pa.ChunkedArray, matcher: IdMatcher) -> set[str]:
        """Return the texts of a column that hold an id of six characters or more."""
        texts = column.unique().drop_null().to_pylist()
        matches: set[str] = set()
        for batch_start in range(0, len(texts), _BATCH_SIZE):
            encoded_texts = [
                _to_bytes(text) for text in texts[batch_start : batch_start + _BATCH_SIZE]
            ]
            ends = np.cumsum([len(encoded_text) + 1 for encoded_text in encoded_texts])
            starts = [start for start, _ in matcher.find(b"\n".join(encoded_texts))]
            rows = np.unique(np.searchsorted(ends, starts, side="right"))
            matches.update(texts[batch_start + row] for row in rows.tolist())
        return matches

    def _to_mask(self, column: pa.ChunkedArray, texts: Collection[str]) -> np.ndarray:
        mask = pc.is_in(column, value_set=pa.array(sorted(texts), pa.string()))
        return pc.fill_null(mask, False).to_numpy()


def _to_bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")
