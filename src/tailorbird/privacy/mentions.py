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
from tailorbird.events.contract.envelope import NUMBERS, PROPERTY_COLUMNS
from tailorbird.events.contract.plan import RoutePlan
from tailorbird.events.free_text import (
    EMBEDDED_ID_LENGTH_MIN,
    FIELD_NAME,
    SITE_IDS,
    as_text,
    identifying_text,
    is_number,
    leaves,
)
from tailorbird.privacy.matching import IdMatcher

_CONTRACT_FIELDS = ("type", "item_id", "items")
_BATCH = 1 << 16  # texts that are searched at once
_decode = msgspec.json.Decoder().decode


def attribute_names(plan: RoutePlan) -> frozenset[str]:
    """Return the names of fields that a project declares, which name nobody."""
    return frozenset({*PROPERTY_COLUMNS, *plan.user_attributes, *plan.item_attributes})


class Mentions:
    """Recognises and removes mentions of some ids.

    Args:
        ids: ids of the people.
        known: names of fields that are never mentions, see `attribute_names`.
        rename: gives the new id of another's event, session or request whose id holds one of
            `ids`.
    """

    def __init__(
        self,
        ids: Collection[str],
        known: Collection[str] = (),
        rename: Callable[[str], str] = lambda id_: "",
    ) -> None:
        self._ids, self._known, self._rename = frozenset(ids), frozenset(known), rename
        self._matcher = IdMatcher(ids)
        self._names = IdMatcher([id_ for id_ in ids if not is_number(id_)])
        self._numbers = {
            id_ for id_ in ids if len(id_) >= EMBEDDED_ID_LENGTH_MIN and is_number(id_)
        }
        self._needs_values = bool(self._numbers) or any(
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
        return any(self._is_mentioned(name, one) for name, one in leaves(value))

    def in_column(self, column: pa.ChunkedArray) -> np.ndarray:
        """Return a mask of the texts of a column that hold an id."""
        return self._mask(column, self._find_matches(column, self._matcher) | self._equal(column))

    def in_json(self, column: pa.ChunkedArray) -> np.ndarray:
        """Return a mask of the JSON values of a column that hold an id."""
        texts = column.unique().drop_null().to_pylist()
        if not self._needs_values:
            texts = sorted(self._find_matches(column, self._matcher))
        return self._mask(column, {text for text in texts if self.rewritten(text) is not None})

    def renamed(self, id_: str) -> str:
        """Return the id of another's event, session or request, a new one if it holds an id."""
        return self._rename(id_) if self._names.find(_to_bytes(id_)) else id_

    def renamed_in(self, column: pa.ChunkedArray) -> dict[str, str]:
        """Return by the old one the new ids of a column of ids, or of JSON lists of ids."""
        matches = self._find_matches(column, self._names)
        return {old: self._renamed_list(old) for old in matches}

    def of_another(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Return an event of somebody else, as it came in, without mentions."""
        event = free_text.redact_event(event, self._is_mentioned, self._is_name)
        site_ids = {name: event[name] for name in SITE_IDS if isinstance(event.get(name), str)}
        return event | {name: self.renamed(id_) for name, id_ in site_ids.items()}

    def without(self, value: object) -> object:
        """Return a JSON value with null for each mention, without fields named after an id."""
        return free_text.redact(value, self._is_mentioned, self._is_name)

    def rewritten(self, text: str) -> str | None:
        """Return a JSON text `without` mentions; None where it has none."""
        if not self.may_be_in(_to_bytes(text)):
            return None
        value = _decode(text)
        new = self.without(value)
        return None if new == value else msgspec.json.encode(new, order="sorted").decode()

    def _is_mentioned(self, name: str, value: object) -> bool:
        if name == FIELD_NAME:
            return isinstance(value, str) and self._is_name(value)
        if not isinstance(value, str) and name not in NUMBERS and as_text(value) in self._numbers:
            return True
        text = identifying_text(name, value)
        return text is not None and self.in_text(text)

    def _is_name(self, name: str) -> bool:
        return name not in self._known and bool(self._names.find(_to_bytes(name)))

    def _renamed_list(self, text: str) -> str:
        if text[:1] != "[":
            return self.renamed(text)
        ids = [value and self.renamed(value) for value in _decode(text)]
        return msgspec.json.encode(ids).decode()

    def _equal(self, column: pa.ChunkedArray) -> set[str]:
        return set(self._ids).intersection(column.unique().drop_null().to_pylist())

    def _find_matches(self, column: pa.ChunkedArray, matcher: IdMatcher) -> set[str]:
        """Return the texts of a column that hold an id of six characters or more."""
        texts = column.unique().drop_null().to_pylist()
        matches: set[str] = set()
        for batch_start in range(0, len(texts), _BATCH):
            parts = [_to_bytes(text) for text in texts[batch_start : batch_start + _BATCH]]
            ends = np.cumsum([len(part) + 1 for part in parts])
            starts = [start for start, _ in matcher.find(b"\n".join(parts))]
            rows = np.unique(np.searchsorted(ends, starts, side="right"))
            matches.update(texts[batch_start + row] for row in rows.tolist())
        return matches

    def _mask(self, column: pa.ChunkedArray, texts: Collection[str]) -> np.ndarray:
        mask = pc.is_in(column, value_set=pa.array(sorted(texts), pa.string()))
        return pc.fill_null(mask, False).to_numpy()


def _to_bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")
