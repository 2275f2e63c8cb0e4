"""The lake's tables without some people: which rows change, into what, and which go.

    events       theirs are unlinked; another's that named their request, or mentions their id, loses that
    quarantine   theirs are replaced whole, with the reason kept
    duplicates   ids of events are replaced
    users        the versions of their profiles go; a mention in another's goes
    answers      what their requests read goes: features, scores and the lists of what they had seen are about them
    items        a mention goes

Each function gives a table's rows anew, or None where none of them changes.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events.contract import ERASED
from tailorbird.lake.refused import places
from tailorbird.privacy.marks import Marks, subject_of
from tailorbird.privacy.mention import Mentions
from tailorbird.privacy.person import People, is_any
from tailorbird.privacy.unlink import Unlinked

_FREE = ("page", "referrer", "query", "answer_query")
_JSON = ("properties", "user_profile")
Change = Callable[[pa.Table], pa.Table | None]


class Rows:
    """The changes, by table, and how many rows each made in `counts`."""

    def __init__(self, people: People, marks: Marks, unlinked: Unlinked) -> None:
        self._people, self._unlinked = people, unlinked
        self._places, self._refused = frozenset(marks.places), frozenset(marks.refused)
        self._event_ids = {event for event in (id_ for _, _, id_ in marks.events) if event in frozenset(marks.own)}
        self._mentions = Mentions(people.own_ids)
        self.counts: Counter[str] = Counter()

    def changes(self) -> dict[str, Change]:
        return {
            "events": self.events,
            "quarantine": self.quarantine,
            "duplicates": self.duplicates,
            "users": self.users,
            "items": self.items,
            "answers": self.answers,
        }

    def events(self, rows: pa.Table) -> pa.Table | None:
        mine = _mask(self._people.of(rows))
        linked = _mask(is_any(rows["request_id"], self._unlinked.requests)) & ~mine
        mentions = {name: _mask(self._mentions.in_column(rows[name])) & ~mine for name in (*_FREE, *_JSON)}
        changed = np.flatnonzero(mine | linked | np.logical_or.reduce(list(mentions.values())))
        if not len(changed):
            return None
        new: list[dict[str, Any]] = []
        for index, row in zip(changed.tolist(), rows.take(pa.array(changed)).to_pylist(), strict=True):
            if mine[index]:
                new.append(self._unlinked.row(row, (*subject_of(row["user_id"], row["anonymous_id"]), row["event_id"])))
                continue
            row = self._unlinked.linked(row) if linked[index] else row
            row |= {name: None for name in _FREE if mentions[name][index]}
            row |= {name: self._without(row[name]) for name in _JSON if mentions[name][index]}
            new.append(row)
        self.counts["events"] += int(mine.sum())
        self.counts["mentions"] += len(changed) - int(mine.sum())
        return _put(rows, changed, new)

    def quarantine(self, rows: pa.Table) -> pa.Table | None:
        theirs = [place in self._refused for place in places(rows)]
        changed = np.flatnonzero(theirs)
        if not len(changed):
            return None
        self.counts["quarantine"] += len(changed)
        blank = {"path": "$", "message": "", "body": ERASED}
        return _put(rows, changed, [row | blank for row in rows.take(pa.array(changed)).to_pylist()])

    def duplicates(self, rows: pa.Table) -> pa.Table | None:
        first = zip(*(rows[name].to_pylist() for name in ("first_partition", "first_offset", "first_row")), strict=True)
        ids = rows["event_id"].to_pylist()
        theirs = [place in self._places or id_ in self._event_ids for place, id_ in zip(first, ids, strict=True)]
        changed = np.flatnonzero(theirs)
        if not len(changed):
            return None
        self.counts["duplicates"] += len(changed)
        new = rows.take(pa.array(changed)).to_pylist()
        return _put(rows, changed, [row | {"event_id": self._unlinked.repeat(row["event_id"], *place)} for row, place in _placed(new)])

    def users(self, rows: pa.Table) -> pa.Table | None:
        theirs = _mask(is_any(rows["id"], self._people.users))
        kept = rows.filter(pa.array(~theirs))
        self.counts["profiles"] += int(theirs.sum())
        found = self.items(kept)
        return found if found is not None else kept if theirs.any() else None

    def items(self, rows: pa.Table) -> pa.Table | None:
        changed = np.flatnonzero(_mask(self._mentions.in_column(rows["attributes"])))
        if not len(changed):
            return None
        self.counts["mentions"] += len(changed)
        new = rows.take(pa.array(changed)).to_pylist()
        return _put(rows, changed, [row | {"attributes": self._without(row["attributes"])} for row in new])

    def answers(self, rows: pa.Table) -> pa.Table | None:
        theirs = _mask(pc.or_(self._people.of(rows), is_any(rows["anonymous_id"], self._people.visitors)))
        theirs |= _mask(is_any(rows["request_id"], self._unlinked.requests))
        if not theirs.any():
            return None
        self.counts["answers"] += int(theirs.sum())
        return rows.filter(pa.array(~theirs))

    def _without(self, text: str | None) -> str | None:
        if text is None:
            return None
        return msgspec.json.encode(self._mentions.without(msgspec.json.decode(text)), order="sorted").decode()


def _placed(rows: list[dict[str, Any]]) -> list[tuple[dict[str, Any], tuple]]:
    return [(row, (row["raw_partition"], row["raw_offset"], row["raw_row"])) for row in rows]


def _mask(found: pa.ChunkedArray | pa.Array) -> np.ndarray:
    return found.to_numpy(zero_copy_only=False) if isinstance(found, pa.Array) else found.to_numpy()


def _put(rows: pa.Table, changed: np.ndarray, new: list[dict[str, Any]]) -> pa.Table:
    """The rows with others in the place of some."""
    order = np.arange(len(rows))
    order[changed] = len(rows) + np.arange(len(changed))
    return pa.concat_tables([rows, pa.Table.from_pylist(new, schema=rows.schema)]).take(pa.array(order))
