"""Which rows are a person's to be told of, where a device is that of several people: nobody is told
what another did on it.

    a row that names a user                     that user's, whatever device it names beside
    a row that has the device's id alone        theirs while the device was theirs, or nobody's yet: see `privacy.shared`
    a row that nobody could read                theirs, unless it seems to name another user
    a row whose person was decided              as the router decided; of the device itself, while it was theirs

An erasure takes more: of what nobody can tell whose it is, nothing of theirs must be left
(`privacy.marks`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events import Receipt
from tailorbird.events.contract import ANONYMOUS_PREFIX, Breach, resolve, to_micros, unread_of
from tailorbird.events.erased import Span, whose_of
from tailorbird.events.free import NAME, leaves, said
from tailorbird.events.schema import micros
from tailorbird.privacy.person import Mask, People, is_any

_WHO = "user\0"  # the name of such a field, and nobody's id
_USER = re.compile(
    r'"user_?id\\*"\s*:\s*(?:\\*"([^"\\]+)|([0-9]+))', re.IGNORECASE
)  # within a text of JSON, too


class _Times(msgspec.Struct):
    ts: Any = None
    sent_at: Any = None
    received_at: Any = None


_times = msgspec.json.Decoder(_Times).decode


@dataclass(frozen=True)
class Theirs:
    """Whose rows are `people`'s; `spans`: by anonymous id, when a device that others used too was
    theirs, see `privacy.shared`.
    """

    people: People
    spans: Mapping[str, Sequence[Span]]

    def decided(self, rows: pa.Table) -> Mask:
        """Which rows of `events`, or alike, are theirs; needs the columns `person`, `user_id` and
        `ts`.
        """
        devices = [f"{ANONYMOUS_PREFIX}{id_}" for id_ in {*self.people.shared, *self.spans}]
        found = self.people.of(rows)
        of_device = pc.and_(
            is_any(rows["person"], devices), pc.invert(is_any(rows["user_id"], self.people.users))
        )
        places = np.flatnonzero(of_device.to_numpy())
        if not len(places):
            return found
        some = rows.take(pa.array(places))
        keeps = found.to_numpy().copy()
        for place, person, ts in zip(
            places.tolist(), some["person"].to_pylist(), micros(some["ts"]).tolist(), strict=True
        ):
            keeps[place] = self._had(person.removeprefix(ANONYMOUS_PREFIX), ts)
        return pa.array(keeps)

    def answers(self, rows: pa.Table) -> Mask:
        """Which rows of `answers` are theirs: also those to a visitor of theirs alone, unless
        somebody else asked on it.
        """
        people = self.people
        alone = is_any(rows["anonymous_id"], people.visitors - self.spans.keys())
        theirs = _is_none_or_any(rows["user_id"], people.users)
        known = _is_none_or_any(rows["person"], people.persons | people.into)
        return pc.or_(self.decided(rows), pc.and_(alone, pc.and_(theirs, known)))

    def scored(self, person: str, user_id: str | None, ts: int) -> bool:
        """Whether what was computed of a person after an event is theirs, as that event is."""
        if user_id in self.people.users:
            return True
        if person not in self.people.persons:
            return False
        return not person.startswith(ANONYMOUS_PREFIX) or self._had(
            person.removeprefix(ANONYMOUS_PREFIX), ts
        )

    def says(self, body: bytes, receipt: Receipt, ts: int | None = None) -> bool:
        """Whether a row as it came in says that it is theirs, or at least names nobody else; `ts`:
        when it was, if it was accepted.
        """
        whose = whose_of(body)
        if whose is None or unread_of(body) is not None:
            said_by = {
                text or number for text, number in _USER.findall(body.decode(errors="replace"))
            }
            return said_by <= self.people.users
        if _is_given(whose.user_id):
            return not _ids_in(whose.user_id).isdisjoint(self.people.users)
        if not _is_given(whose.anonymous_id):
            return True
        ids, moment = _ids_in(whose.anonymous_id), _moment_of(body, receipt) if ts is None else ts
        odd = not isinstance(
            whose.anonymous_id, str
        )  # what no visitor's id can be may hold the user's
        return any(self._had(id_, moment) for id_ in ids) or (
            odd and not ids.isdisjoint(self.people.users)
        )

    def _had(self, visitor: str, moment: int | None) -> bool:
        if (spans := self.spans.get(visitor)) is None:
            return visitor in self.people.visitors
        return moment is not None and any(first <= moment < end for first, end in spans)


def names_nobody(body: bytes) -> bool:
    """Whether a row has neither a user nor a visitor, as those of items have none, or cannot be
    read.
    """
    whose = whose_of(body)
    return whose is None or not (_is_given(whose.user_id) or _is_given(whose.anonymous_id))


def _moment_of(body: bytes, receipt: Receipt) -> int | None:
    """When a row may have been that was refused, microseconds: by its own time, else when it came
    in.

    None for a row of a file that says no time: when it came in says nothing. Needs what `whose_of`
    could read.
    """
    times = _times(body)
    ts, sent_at, said_at = _micros(times.ts), _micros(times.sent_at), _micros(times.received_at)
    if ts is None and said_at is None and receipt.source == "import":
        return None
    moment, received_at = resolve(
        ts, sent_at, said_at if receipt.source == "import" else None, receipt, timeless=False
    )
    return min(moment, received_at)


def _micros(value: Any) -> int | None:
    try:
        return (
            to_micros(value, "")
            if isinstance(value, int | str) and not isinstance(value, bool)
            else None
        )
    except (Breach, OverflowError):
        return None


def _is_given(id_: Any) -> bool:
    return id_ is not None and id_ != ""


def _ids_in(value: Any) -> set[str]:
    """What may be the id in a field that says who somebody is: a text, a number, or that within
    something else which holds just one.
    """
    found = [(name, one) for name, one in leaves({_WHO: value}) if one != _WHO]
    if sum(name != NAME for name, _ in found) != 1:
        return set()
    return {text for name, one in found if (text := said(name, one)) is not None}


def _is_none_or_any(column: pa.ChunkedArray, values: frozenset[str]) -> Mask:
    return pc.or_(pc.is_null(column), is_any(column, values))
