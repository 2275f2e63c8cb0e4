"""Where ids stand that are not in a column of their own: in free text, in addresses of pages, in
JSON that nobody could read.

A text mentions an id when it is the id, or holds it in one of the forms that `privacy.forms` knows,
which are those that the search through every byte looks for: in any case of its letters between
characters that ids are not made of (letters of any script, digits, marks, "_" and "-"; in an
address also between what "%2F" and the like stand for), and encoded wherever it stands. An id of
digits alone only has to stand between what are no digits: "ord-417650" mentions it, a time that
happens to hold these digits does not. Short ids are looked for as whole texts alone: "42" stands
everywhere. Numbers of JSON are texts, too, where a field says who it was, or where they are long.

An id may be a word that means something else: the name of a field, a type, the id of an item. So
nothing is looked for where an event says what it is (`_STRUCTURE`), only in what people and sites
wrote: addresses, queries, properties, attributes. Ids of sessions, requests and events of others
that mention one are given new ones (`Mentions.renamed`).
"""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any
from urllib.parse import unquote

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events import free
from tailorbird.events.contract import NUMBERS
from tailorbird.events.envelope import Answer, Context, Event
from tailorbird.events.free import (
    NAME,
    NO_DIGIT_BEFORE,
    NO_DIGIT_BEHIND,
    THINGS,
    WITHIN_MIN,
    WORD,
    as_text,
    is_number,
    leaves,
    said,
)
from tailorbird.events.plan import EVENT_TYPES, RoutePlan
from tailorbird.privacy.forms import cases, forms
from tailorbird.privacy.spots import Spots

_STRUCTURE = ("type", "item_id", "items", "ts", "sent_at", "received_at", "timeless")
_MEASURES = frozenset(
    {"ts", "sent_at", "received_at", "price", "quantity", "rating", "dwell_ms", "utc_offset_min"}
)  # numbers, never ids
_BEFORE, _BEHIND = re.compile(rb"(?<![0-9])(?<![0-9]\.)$"), re.compile(rb"[0-9]|\.[0-9]")
_MEASURED = re.compile(rf'\\*"(?:{"|".join(sorted(_MEASURES))})\\*"\s*:\s*-?$'.encode())
_QUOTES = (b'"', b"\\")
_ESCAPES = re.compile(r'\\+[bfnrt"/]')  # of JSON, as text: what is no part of a word
_CELLS = re.compile(r"[\t,;|]")  # between the values of a line of a table
_NAMELESS = 1 << 16  # texts of a column that are looked through at once
_any = msgspec.json.Decoder().decode


def field_names(plan: RoutePlan, kept: Collection[str] = ()) -> frozenset[str]:
    """The names of fields that a project knows: those of the contract, of its rules and of
    attributes, and `kept` ("properties.colour").
    """
    found = {
        field.name for part in (Event, Context, Answer) for field in msgspec.structs.fields(part)
    } | {"query", *NUMBERS}
    found |= {
        *plan.user_attributes,
        *plan.item_attributes,
        *(name.rpartition(".")[2] for name in kept),
    }
    return frozenset(found | {rule.name for rules in plan.rules.values() for rule in rules})


class Mentions:
    """What mentions one of some ids.

    Args:
        known: names of fields that mention nobody, see `field_names`.
        rename: the new id of a session, a request or an event of somebody else whose id mentions
            one; without it, these stay.
    """

    def __init__(
        self,
        ids: Collection[str],
        known: Collection[str] = (),
        rename: Callable[[str], str] | None = None,
    ) -> None:
        self._ids, self._known, self._rename = frozenset(ids), frozenset(known), rename
        long = sorted(one for one in ids if len(one) >= WITHIN_MIN)
        self._numbers = frozenset(one for one in long if is_number(one))
        self._cased = {
            case.encode(errors="surrogatepass"): case for one in long for case in cases(one)
        }
        self._spots = Spots({form for one in long for form in forms(one)})
        self._short = self._ids - frozenset(long)
        short = [msgspec.json.encode(one)[1:-1] for one in sorted(self._short)]
        self._bytes = re.compile(b"|".join(map(re.escape, short))) if short else None
        who = "|".join(map(re.escape, sorted(ids)))
        self._named = (
            re.compile(rf'"(?:user_id|anonymous_id)"\s*:\s*(?:"(?:{who})"|(?:{who})(?![\w.]))')
            if who
            else None
        )
        # What may mention a short one; only a first look, since RE2 looks neither behind nor ahead.
        quoted = [msgspec.json.encode(one).decode() for one in sorted(self._short)]
        self._json = "|".join(map(re.escape, quoted)) or None

    def in_text(self, text: str) -> bool:
        return text in self._ids or self._is_within(text)

    def may_be_in(self, body: bytes) -> bool:
        """False where no row of a body can mention one; cheap, and right for texts that are written
        as escapes, too.
        """
        if not self._ids:
            return False
        return (
            b"\\" in body
            or (self._bytes is not None and self._bytes.search(body) is not None)
            or any(True for _ in self._spots.at(body))
        )

    def renamed(self, id_: str) -> str:
        """The id of an event, a session or a request of somebody else: a new one, if it holds a
        person's of six letters or more.
        """
        return self._rename(id_) if self._rename is not None and self._is_name(id_) else id_

    def renamed_in(self, column: pa.ChunkedArray) -> dict[str, str]:
        """By the old one, the new ids of a column of such ids, or of JSON lists of them; empty
        where none changes.
        """
        if self._rename is None:
            return {}
        texts = [one.as_py() for one in column.unique().drop_null()]
        found = {
            text: self._renamed_list(text) if text[:1] == "[" else self.renamed(text)
            for text in self.seen(texts)
        }
        return {old: new for old, new in found.items() if new != old}

    def names_in(self, column: pa.ChunkedArray) -> np.ndarray:
        """Which ids of a column are given new ones; booleans, False where there is none."""
        found = pc.is_in(column, value_set=pa.array(sorted(self.renamed_in(column)), pa.string()))
        return pc.fill_null(found, False).to_numpy()

    def _renamed_list(self, text: str) -> str:
        try:
            ids = _any(text)
        except msgspec.MsgspecError:
            return self.renamed(text)
        new = [self.renamed(one) if isinstance(one, str) else one for one in ids]
        return text if new == ids else msgspec.json.encode(new).decode()

    def _is_name(self, text: str) -> bool:
        """Whether an id that is no person's says who somebody is; numbers are taken for what they
        count.
        """
        return text not in self._numbers and self._is_within(text, numbers=False)

    def in_body(self, body: bytes) -> bool:
        """Whether a row as it came in, and was refused, mentions one."""
        try:
            value = _any(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            text = _ESCAPES.sub(" ", body.decode(errors="replace"))
            return self._is_within(text) or self._is_a_value_in(text)
        row = (
            value["unread"].get("record")
            if isinstance(value, dict) and isinstance(value.get("unread"), dict)
            else value
        )
        if isinstance(row, str) and self._is_a_value_in(row):
            return True
        return any(self._is_said(name, one) for name, one in leaves(self._written(value)))

    def left_in(self, body: bytes) -> set[str]:
        """Ids that a refused row, which mentions nobody, has where it says what it is about: an
        item's, say. There they stay.
        """
        if not self.may_be_in(body) or self.in_body(body):
            return set()
        try:
            value = _any(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return set()
        said_of = [value.get(name) for name in _STRUCTURE] if isinstance(value, dict) else []
        plain = [one for each in said_of for one in (each if isinstance(each, list) else [each])]
        return {
            text
            for one in plain
            if (text := one if isinstance(one, str) else as_text(one)) in self._ids
        }

    def _is_a_value_in(self, row: str) -> bool:
        """Whether a short one is a value of a row that nobody could read: a cell, between quotes,
        or behind a field's name.
        """
        if self._named is not None and self._named.search(row) is not None:
            return True
        short = self._short - self._known
        return not short.isdisjoint(cell.strip(' "\r') for cell in _CELLS.split(row)) or any(
            f'"{id_}"' in row for id_ in short
        )

    def in_column(self, column: pa.ChunkedArray) -> np.ndarray:
        """Which texts of a column mention one; booleans, False where there is none."""
        return self._mask(column, None, self.in_text)

    def in_json(self, column: pa.ChunkedArray) -> np.ndarray:
        """Which values of a column of JSON hold a text, a number or a name of a field that mentions
        one.
        """
        return self._mask(column, self._json, self._changes)

    def of_another(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """An event of somebody else that was accepted, as it came in, with null in place of each
        text that mentions one.
        """
        found = free.of_another(event, self._is_in, self._is_said_by_name)
        if self._rename is None:
            return found
        return found | {
            name: self.renamed(found[name]) for name in THINGS if isinstance(found.get(name), str)
        }

    def without(self, value: object, name: str = "") -> object:
        """A JSON value with null in place of each text and number that mentions one, and without
        fields whose names do.
        """
        return free.without(value, self._is_in, self._is_said_by_name, name)

    def rewritten(self, text: str) -> str | None:
        """A JSON value, as text, as `without` has it; None where nothing of it mentions one."""
        if not self.may_be_in(text.encode(errors="surrogatepass")):
            return None
        value = msgspec.json.decode(text)
        found = self.without(value)
        return None if found == value else msgspec.json.encode(found, order="sorted").decode()

    def _changes(self, text: str) -> bool:
        return self.rewritten(text) is not None

    def _mask(
        self, column: pa.ChunkedArray, look: str | None, is_one: Callable[[str], bool]
    ) -> np.ndarray:
        encoded = column.combine_chunks().dictionary_encode()
        texts = encoded.dictionary.to_pylist()
        found = pc.is_in(encoded.dictionary, value_set=pa.array(sorted(self._ids), pa.string()))
        if look is not None:
            found = pc.or_(found, pc.match_substring_regex(encoded.dictionary, look))
        seen = self.seen(texts)
        exact = [
            (bool(may) or text in seen) and is_one(text)
            for may, text in zip(found.to_pylist(), texts, strict=True)
        ]
        return pc.fill_null(pc.take(pa.array(exact, pa.bool_()), encoded.indices), False).to_numpy(
            zero_copy_only=False
        )

    def seen(self, texts: list[str]) -> set[str]:
        """Those that hold a form of an id of six letters or more, wherever: one look at many, since
        each look has its price.
        """
        found: set[str] = set()
        for first in range(0, len(texts), _NAMELESS):
            parts = [one.encode(errors="surrogatepass") for one in texts[first : first + _NAMELESS]]
            ends = np.cumsum([len(part) + 1 for part in parts])
            places = np.array([place for place, _ in self._spots.at(b"\n".join(parts))], np.int64)
            found.update(
                texts[first + index]
                for index in np.unique(np.searchsorted(ends, places, side="right")).tolist()
            )
        return found

    def _written(self, value: object) -> object:
        """Of a refused row what people and sites wrote: without what says what it is, and without
        names of fields that are known.
        """
        if not isinstance(value, dict):
            return value
        if isinstance(unread := value.get("unread"), dict):
            return {name: one for name, one in unread.items() if name not in ("format", "code")}
        return {name: one for name, one in value.items() if not self._says_what(name, one)}

    def _says_what(self, name: str, value: object) -> bool:
        """Whether a field of a refused row says what it is about, and not who somebody is."""
        if name not in _STRUCTURE and name not in THINGS:
            return False
        if not _is_plain(value):
            return False
        texts = [
            one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)
        ]
        if name in THINGS:
            return len(texts) == 1 and not self._is_within(texts[0])
        return not any(
            self._is_name(one) for one in texts if name != "type" or one not in EVENT_TYPES
        )

    def _is_said(self, name: str, value: object) -> bool:
        if name == NAME:
            return value not in self._known and isinstance(value, str) and self.in_text(value)
        text = said(name, value)
        return self._is_in(name, value) or (text is not None and self.in_text(text))

    def _is_in(self, name: str, value: object) -> bool:
        if isinstance(value, str):
            return self.in_text(value)
        return name not in _MEASURES and (as_text(value) or "").removeprefix("-") in self._numbers

    def _is_said_by_name(self, name: str) -> bool:
        return name not in self._known and self._is_within(name)

    def _is_within(self, text: str, *, numbers: bool = True) -> bool:
        if len(text) < WITHIN_MIN:
            return False
        for form in dict.fromkeys(
            form for _, form in self._spots.at(text.encode(errors="surrogatepass"))
        ):
            case = self._cased.get(form)
            if case is None or (case not in self._numbers and _stands_in(text, case)):
                return True
            if (
                numbers
                and case in self._numbers
                and re.search(f"{NO_DIGIT_BEFORE}{case}{NO_DIGIT_BEHIND}", text)
            ):
                return True
        return False


def _stands_in(text: str, case: str) -> bool:
    """Whether a name stands in a text between what names are not made of; in one with "%2F" and the
    like, also between what they mean.
    """
    alone = re.compile(f"(?<!{WORD}){re.escape(case)}(?!{WORD})")
    return alone.search(text) is not None or (
        "%" in text and alone.search(unquote(text)) is not None
    )


def _is_plain(value: object) -> bool:
    return not isinstance(value, dict) and not (
        isinstance(value, list) and any(isinstance(one, dict | list) for one in value)
    )


def stands_alone(data: bytes, start: int, end: int, *, counted: bool) -> bool:
    """Whether the digits at a place in some bytes are an id's: not a part of a longer number, nor
    the value of a field that measures.

    Args:
        counted: whether numbers without quotes are what is counted there, as in files of our own
            about files of our own.
    """
    before, behind = data[max(0, start - 40) : start], data[end : end + 2]
    if not _BEFORE.search(before) or _BEHIND.match(behind) or _MEASURED.search(before):
        return False
    return not counted or before[-1:] in _QUOTES or behind[:1] in _QUOTES
