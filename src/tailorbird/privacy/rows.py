"""The lake's tables without some people: which rows change, into what, and which go.

    events       theirs are unlinked; another's that named their request, or mentions their id, loses that
    quarantine   theirs are replaced whole, with the reason kept
    duplicates   ids of events are replaced
    users        the versions of their profiles go; a mention in another's goes
    answers      what their requests read goes: features, scores and the lists of what they had seen are about them; of others', a mention;
                 where features of others' were made of an attribute that goes, the answer says so (`degraded`), and is not recomputed
    items        a mention goes

Each function gives a table's rows anew, or None where none of them changes.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events.contract import ERASED
from tailorbird.events.erased import subject_of
from tailorbird.events.keys import hash64s
from tailorbird.features.erase import Needs
from tailorbird.features.recompute import UNLINKED
from tailorbird.features.request import pack_sequences, unpack_sequences
from tailorbird.lake.refused import places
from tailorbird.privacy.marks import Marks
from tailorbird.privacy.mention import Mentions
from tailorbird.privacy.person import People, is_any
from tailorbird.privacy.unlink import Unlinked

FREE = ("page", "referrer", "query", "answer_query")
THINGS = (
    "event_id",
    "session_id",
    "request_id",
    "user_version",
    "item_version",
)  # of others: a new id where one mentions somebody
JSON = ("properties", "user_profile", "item_profile")
Change = Callable[[pa.Table], pa.Table | None]


class Rows:
    """The changes, by table, and how many rows each made in `counts`."""

    def __init__(
        self, people: People, marks: Marks, unlinked: Unlinked, mentions: Mentions, needs: Needs
    ) -> None:
        self._people, self._unlinked = people, unlinked
        self._then = marks.then
        self._places, self._refused = frozenset(marks.places), frozenset(marks.refused)
        self._event_ids = frozenset(marks.own).intersection(id_ for _, _, id_ in marks.events)
        self._mentions = mentions
        self._hashes = pa.array(hash64s(sorted(people.own_ids)).view(np.int64), pa.int64())
        self._keyed_items, self._keyed_users = (
            frozenset(marks.keyed_items),
            frozenset(marks.keyed_users),
        )
        self._read_counts, self._query_counts = (
            marks.read,
            bool({"query", "answer_query"} & (needs.keyed | needs.read)),
        )
        self._lost = marks.lost
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
        theirs = _mask(self._people.of(rows))
        kept = theirs & _mask(self._people.kept(rows))
        mine = theirs & ~kept
        linked = _mask(is_any(rows["request_id"], self._unlinked.requests)) & ~mine
        mentions = {name: self._mentions.in_column(rows[name]) & ~mine for name in FREE}
        mentions |= {
            name: self._mentions.in_json(rows[name]) & (~mine | (name == "item_profile"))
            for name in JSON
        }
        things = self._renamed(rows, THINGS)
        renamed = _holding(rows, things)
        changed = np.flatnonzero(
            mine | kept | linked | renamed | np.logical_or.reduce(list(mentions.values()))
        )
        if not len(changed):
            return None
        new: list[dict[str, Any]] = []
        for index, row in zip(
            changed.tolist(), rows.take(pa.array(changed)).to_pylist(), strict=True
        ):
            if mine[index]:
                row = self._unlinked.row(
                    row, (*subject_of(row["user_id"], row["anonymous_id"]), row["event_id"])
                )
            elif linked[index]:
                row = self._unlinked.linked(row)
            if kept[index]:  # with the profile of whom that user was one with
                row |= {
                    "person": self._then.get(row["p"], row["user_id"]),
                    "user_version": None,
                    "user_profile": None,
                }
            row |= {name: None for name in FREE if mentions[name][index]}
            row |= {name: self._without(row[name]) for name in JSON if mentions[name][index]}
            new.append(row if mine[index] and row["type"] != "item" else _with(row, things))
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
        return _put(
            rows, changed, [row | blank for row in rows.take(pa.array(changed)).to_pylist()]
        )

    def duplicates(self, rows: pa.Table) -> pa.Table | None:
        first = zip(
            *(rows[name].to_pylist() for name in ("first_partition", "first_offset", "first_row")),
            strict=True,
        )
        ids = rows["event_id"].to_pylist()
        things = self._renamed(rows, ("event_id",))["event_id"]
        theirs = [
            place in self._places or id_ in self._event_ids
            for place, id_ in zip(first, ids, strict=True)
        ]
        changed = np.flatnonzero(
            [one or id_ in things for one, id_ in zip(theirs, ids, strict=True)]
        )
        if not len(changed):
            return None
        self.counts["duplicates"] += len(changed)
        new = rows.take(pa.array(changed)).to_pylist()
        fresh = [
            self._unlinked.repeat(row["event_id"], *place)
            if theirs[index]
            else things[row["event_id"]]
            for index, (row, place) in zip(changed.tolist(), _placed(new), strict=True)
        ]
        return _put(
            rows, changed, [row | {"event_id": id_} for row, id_ in zip(new, fresh, strict=True)]
        )

    def users(self, rows: pa.Table) -> pa.Table | None:
        theirs = _mask(is_any(rows["id"], self._people.users))
        kept = rows.filter(pa.array(~theirs))
        self.counts["profiles"] += int(theirs.sum())
        found = self.items(kept)
        return found if found is not None else kept if theirs.any() else None

    def items(self, rows: pa.Table) -> pa.Table | None:
        things = self._renamed(rows, ("version",))
        changed = np.flatnonzero(
            self._mentions.in_json(rows["attributes"]) | _holding(rows, things)
        )
        if not len(changed):
            return None
        self.counts["mentions"] += len(changed)
        new = rows.take(pa.array(changed)).to_pylist()
        return _put(
            rows,
            changed,
            [_with(row | {"attributes": self._without(row["attributes"])}, things) for row in new],
        )

    def answers(self, rows: pa.Table) -> pa.Table | None:
        theirs = _mask(
            pc.or_(self._people.of(rows), is_any(rows["anonymous_id"], self._people.visitors))
        )
        theirs |= _mask(is_any(rows["request_id"], self._unlinked.requests))
        kept = rows.filter(pa.array(~theirs))
        self.counts["answers"] += int(theirs.sum())
        found = self._unsaid_answers(kept)
        return found if found is not None else kept if theirs.any() else None

    def _unsaid_answers(self, rows: pa.Table) -> pa.Table | None:
        """Those of others without what they asked about them, and with a missing value where an
        item's attribute was one of their ids.
        """
        queries = self._mentions.in_column(rows["query"])
        values, owners = (
            pc.list_flatten(rows["categorical"]),
            pc.list_parent_indices(rows["categorical"].combine_chunks()),
        )
        read = np.zeros(len(rows), bool)
        read[np.asarray(owners)[_mask(pc.is_in(values, value_set=self._hashes))]] = True
        things = self._renamed(rows, ("request_id", "session_id"))
        stale = self._stale(rows) | (queries & self._query_counts)
        changed = np.flatnonzero(queries | read | _holding(rows, things) | stale)
        if not len(changed):
            return None
        self.counts["mentions"] += len(changed)
        theirs = frozenset(self._hashes.to_pylist())
        new = rows.take(pa.array(changed)).to_pylist()
        for row, asks in zip(new, queries[changed].tolist(), strict=True):
            row["query"] = None if asks else row["query"]
            if (values := row["categorical"]) is not None:
                row["categorical"] = [0 if value in theirs else value for value in values]
        for row, one in zip(new, stale[changed].tolist(), strict=True):
            if one and self._read_counts and row["sequences"]:
                row["sequences"] = _sequences_without(row["sequences"], theirs)
            if one and UNLINKED not in (row["degraded"] or ()):
                row["degraded"] = [*(row["degraded"] or ()), UNLINKED]
        return _put(rows, changed, [_with(row, things) for row in new])

    def _stale(self, rows: pa.Table) -> np.ndarray:
        """Which answers read features of what is no longer in the lake: nobody can compute these
        again.
        """
        found = np.full(len(rows), self._read_counts)
        items, owners = (
            pc.list_flatten(rows["items"]),
            np.asarray(pc.list_parent_indices(rows["items"].combine_chunks())),
        )
        found[owners[_mask(is_any(items, self._keyed_items))]] = True
        for name, texts in self._lost.items():
            column = "query" if name == "answer_query" else name
            found |= (
                _mask(is_any(rows[column], frozenset(texts)))
                if column in rows.column_names
                else True
            )
        return (
            found
            | _mask(is_any(rows["user_id"], self._keyed_users))
            | _mask(is_any(rows["person"], self._keyed_users))
        )

    def _renamed(self, rows: pa.Table, names: Sequence[str]) -> dict[str, dict[str, str]]:
        """By column, the ids of things that get new ones, and which."""
        return {name: self._mentions.renamed_in(rows[name]) for name in names}

    def _without(self, text: str | None) -> str | None:
        return text if text is None else self._mentions.rewritten(text) or text


def _sequences_without(packed: bytes, hashes: frozenset[int]) -> bytes:
    """Logged sequences with a missing value in place of each hash of somebody."""
    gone = hashes | {one % (1 << 64) for one in hashes}
    found = {
        name: [[0 if one in gone else one for one in values] for values in columns]
        for name, columns in unpack_sequences(packed).items()
    }
    return pack_sequences(found)


def _holding(rows: pa.Table, things: Mapping[str, Mapping[str, str]]) -> np.ndarray:
    """Which rows hold an id that gets a new one."""
    found = np.zeros(len(rows), bool)
    for name, new in things.items():
        if new:
            found |= _mask(is_any(rows[name], new.keys()))
    return found


def _with(row: dict[str, Any], things: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    return row | {name: new.get(row[name], row[name]) for name, new in things.items()}


def _placed(rows: list[dict[str, Any]]) -> list[tuple[dict[str, Any], tuple]]:
    return [(row, (row["raw_partition"], row["raw_offset"], row["raw_row"])) for row in rows]


def _mask(found: pa.ChunkedArray | pa.Array) -> np.ndarray:
    return found.to_numpy(zero_copy_only=False) if isinstance(found, pa.Array) else found.to_numpy()


def _put(rows: pa.Table, changed: np.ndarray, new: list[dict[str, Any]]) -> pa.Table:
    """The rows with others in the place of some."""
    order = np.arange(len(rows))
    order[changed] = len(rows) + np.arange(len(changed))
    return pa.concat_tables([rows, pa.Table.from_pylist(new, schema=rows.schema)]).take(
        pa.array(order)
    )
