"""The lake's tables without some people: which rows change, into what, and which go.

    events       their rows become those of strangers; of others' rows mentions go
    quarantine   their rows are replaced whole, with the reason kept
    duplicates   ids of their events are replaced
    users        their profiles go; a mention in another's goes
    items        mentions go
    answers      theirs go; of others', mentions; what read counts that may have moved is exempt from parity

Each method of `changes` gives a table's rows anew, or None where none of them changes.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events.contract.contract import ERASED_BODY
from tailorbird.events.contract.schema import micros
from tailorbird.events.keys import hash64s
from tailorbird.events.suppression import subject_of
from tailorbird.features.migration.erase import Sensitivity
from tailorbird.features.parity.recompute import ERASED_EXEMPTION
from tailorbird.features.request import pack_sequences, unpack_sequences
from tailorbird.lake.quarantine import row_keys
from tailorbird.privacy.footprint import (
    JSON,
    REFERENCE_COLUMNS,
    TEXT_COLUMNS,
    Footprint,
    changed_rows,
)
from tailorbird.privacy.mentions import Mentions
from tailorbird.privacy.people import Mask, People, is_any
from tailorbird.privacy.rewrite_events import EventRewriter

Change = Callable[[pa.Table], pa.Table | None]


class TableRewriter:
    """The changes of an erasure by table; `counts` has how many rows each made."""

    def __init__(
        self,
        people: People,
        footprint: Footprint,
        rewriter: EventRewriter,
        mentions: Mentions,
        sensitivity: Sensitivity,
    ) -> None:
        self._people, self._rewriter, self._mentions = people, rewriter, mentions
        self._footprint, self._sensitivity = footprint, sensitivity
        self._places, self._refused_rows = (
            frozenset(footprint.places),
            frozenset(footprint.refused_rows),
        )
        self._event_ids = frozenset(id_ for _, _, id_ in footprint.events)
        self._hashes = frozenset(hash64s(sorted(people.ids)).view(np.int64).tolist())
        self.counts: Counter[str] = Counter()

    def changes(self) -> dict[str, Change]:
        """Return the change of each table."""
        return {
            "events": self.events,
            "quarantine": self.quarantine,
            "duplicates": self.duplicates,
            "users": self.users,
            "items": self.items,
            "answers": self.answers,
        }

    def events(self, rows: pa.Table) -> pa.Table | None:
        """Return events whose owner is unknown, and others' without mentions."""
        requests = self._rewriter.requests
        changed = np.flatnonzero(_mask(changed_rows(rows, self._people, self._mentions, requests)))
        if not len(changed):
            return None
        old_rows = rows.take(pa.array(changed))
        owned = _mask(self._people.owns(old_rows)).tolist()
        decided = _mask(self._people.decided(old_rows)).tolist()
        renames = self._choose_renames(old_rows, REFERENCE_COLUMNS)
        new: list[dict[str, Any]] = []
        for row, is_owned, is_decided in zip(old_rows.to_pylist(), owned, decided, strict=True):
            if is_owned:
                subject = subject_of(row["user_id"], row["anonymous_id"], row["item_id"])
                row = self._rewriter.rewrite_row(row, (*subject, row["event_id"]))
                row["item_profile"] = self._without_mentions(row["item_profile"])
                if row["type"] == "item":
                    row = self._drop_mentions(row, renames)
                new.append(row)
                continue
            if row["request_id"] in requests:
                row |= {"request_id": self._rewriter.rename_request(row["request_id"])}
                row |= {"answer_query": None}
            if is_decided:  # another's who was one with them for a while, and is itself again
                cleared = {"user_version": None, "user_profile": None}
                row |= {"person": row["user_id"]} | cleared
                if row["type"] == "merge":
                    row |= self._rewriter.rewrite_merge_row(row)
            new.append(self._drop_mentions(row, renames))
        self.counts["events"] += sum(owned)
        self.counts["mentions"] += len(changed) - sum(owned)
        return _put(rows, changed, new)

    def _drop_mentions(
        self, row: dict[str, Any], renames: Mapping[str, Mapping[str, str]]
    ) -> dict[str, Any]:
        for name in TEXT_COLUMNS:
            if row[name] is not None and self._mentions.in_text(row[name]):
                row[name] = None
        row |= {name: self._without_mentions(row[name]) for name in JSON}
        return _replace_values(row, renames)

    def quarantine(self, rows: pa.Table) -> pa.Table | None:
        """Return refused rows with an empty body in place of theirs."""
        changed = np.flatnonzero([row_key in self._refused_rows for row_key in row_keys(rows)])
        if not len(changed):
            return None
        self.counts["quarantine"] += len(changed)
        blank = {"path": "$", "message": "", "body": ERASED_BODY}
        old_rows = rows.take(pa.array(changed)).to_pylist()
        return _put(rows, changed, [row | blank for row in old_rows])

    def duplicates(self, rows: pa.Table) -> pa.Table | None:
        """Return repeats with hashes in place of the ids of their events."""
        columns = ("first_partition", "first_offset", "first_row")
        first_columns = zip(*(rows[name].to_pylist() for name in columns), strict=True)
        ids = rows["event_id"].to_pylist()
        renames = self._choose_renames(rows, ("event_id",))["event_id"]
        owned = [
            row_key in self._places or (row_key[0] is None and id_ in self._event_ids)
            for row_key, id_ in zip(first_columns, ids, strict=True)
        ]
        changed = np.flatnonzero(
            [value or id_ in renames for value, id_ in zip(owned, ids, strict=True)]
        )
        if not len(changed):
            return None
        self.counts["duplicates"] += len(changed)
        new = rows.take(pa.array(changed)).to_pylist()
        for index, row in zip(changed.tolist(), new, strict=True):
            row_key = (row["raw_partition"], row["raw_offset"], row["raw_row"])
            id_ = row["event_id"]
            row["event_id"] = (
                self._rewriter.rename_duplicate(id_, *row_key) if owned[index] else renames[id_]
            )
        return _put(rows, changed, new)

    def users(self, rows: pa.Table) -> pa.Table | None:
        """Return the profiles of others, without mentions."""
        owned = _mask(is_any(rows["id"], self._people.users))
        other_rows = rows.filter(pa.array(~owned))
        self.counts["profiles"] += int(owned.sum())
        new = self.items(other_rows)
        return new if new is not None else other_rows if owned.any() else None

    def items(self, rows: pa.Table) -> pa.Table | None:
        """Return profiles without mentions."""
        renames = self._choose_renames(rows, ("version",))
        changed = np.flatnonzero(
            self._mentions.in_json(rows["attributes"])
            | _mask(is_any(rows["version"], renames["version"].keys()))
        )
        if not len(changed):
            return None
        self.counts["mentions"] += len(changed)
        new = [
            _replace_values(
                row | {"attributes": self._without_mentions(row["attributes"])}, renames
            )
            for row in rows.take(pa.array(changed)).to_pylist()
        ]
        return _put(rows, changed, new)

    def answers(self, rows: pa.Table) -> pa.Table | None:
        """Return the answers to others, without mentions and with their exemptions."""
        owned = _mask(self._people.owns(rows))
        other_rows = rows.filter(pa.array(~owned))
        self.counts["answers"] += int(owned.sum())
        new = self._responses_of_others(other_rows)
        return new if new is not None else other_rows if owned.any() else None

    def _responses_of_others(self, rows: pa.Table) -> pa.Table | None:
        renames = self._choose_renames(rows, ("request_id", "session_id"))
        is_exempt = self._mark_exempt(rows)
        decided = _mask(self._people.decided(rows))
        mentioned = self._mentions.in_column(rows["query"]) | self._reads_ids(rows)
        for name, new_ids in renames.items():
            mentioned |= _mask(is_any(rows[name], new_ids.keys()))
        changed = np.flatnonzero(is_exempt | decided | mentioned)
        if not len(changed):
            return None
        self.counts["mentions"] += int(mentioned.sum())
        self.counts["exempt from parity"] += int(is_exempt.sum())
        new = rows.take(pa.array(changed)).to_pylist()
        for index, row in zip(changed.tolist(), new, strict=True):
            if decided[index]:
                row["person"] = row["user_id"]
            if row["query"] is not None and self._mentions.in_text(row["query"]):
                row["query"] = None
            if mentioned[index]:
                self._remove_hashes(row)
            if is_exempt[index] and ERASED_EXEMPTION not in (row["degraded"] or ()):
                row["degraded"] = [*(row["degraded"] or ()), ERASED_EXEMPTION]
        return _put(rows, changed, [_replace_values(row, renames) for row in new])

    def _mark_exempt(self, rows: pa.Table) -> np.ndarray:
        """Return which answers may have read values that the erasure moved."""
        footprint, sensitivity = self._footprint, self._sensitivity
        if sensitivity.attributes.intersection(footprint.attributes):
            return np.ones(len(rows), bool)
        is_exempt = np.full(len(rows), sensitivity.beyond_items)
        is_exempt &= micros(rows["ts"]) >= footprint.since
        items = {*footprint.mentioning_items, *(footprint.items if sensitivity.by_item else ())}
        shown = _mask(is_any(pc.list_flatten(rows["items"]), items))
        is_exempt[np.asarray(pc.list_parent_indices(rows["items"].combine_chunks()))[shown]] = True
        is_exempt |= self._mentions.in_column(rows["query"])
        for name in ("user_id", "person"):
            is_exempt |= _mask(is_any(rows[name], footprint.users))
        return is_exempt | self._reads_ids(rows)

    def _reads_ids(self, rows: pa.Table) -> np.ndarray:
        """Return which answers read an erased id as a category, an item's seller, say."""
        values = pc.list_flatten(rows["categorical"])
        owners = np.asarray(pc.list_parent_indices(rows["categorical"].combine_chunks()))
        is_reader = np.zeros(len(rows), bool)
        hashes = pa.array(sorted(self._hashes), values.type)
        is_reader[owners[_mask(pc.fill_null(pc.is_in(values, value_set=hashes), False))]] = True
        return is_reader

    def _remove_hashes(self, row: dict[str, Any]) -> None:
        """Put a missing value in place of hashes of erased ids."""
        removed_hashes = self._hashes | {hash_ % (1 << 64) for hash_ in self._hashes}
        if row["categorical"] is not None:
            row["categorical"] = [
                0 if value in removed_hashes else value for value in row["categorical"]
            ]
        if row["sequences"]:
            sequences = unpack_sequences(row["sequences"]).items()
            row["sequences"] = pack_sequences(
                {
                    name: [
                        [0 if value in removed_hashes else value for value in column]
                        for column in columns
                    ]
                    for name, columns in sequences
                }
            )

    def _choose_renames(self, rows: pa.Table, names: Sequence[str]) -> dict[str, dict[str, str]]:
        """Return by column the ids of others' things that get new ones, and which."""
        return {name: self._mentions.renamed_in(rows[name]) for name in names}

    def _without_mentions(self, text: str | None) -> str | None:
        return text if text is None else self._mentions.rewritten(text) or text


def _replace_values(
    row: dict[str, Any], renames: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    return row | {name: new.get(row[name], row[name]) for name, new in renames.items()}


def _mask(values: Mask) -> np.ndarray:
    if isinstance(values, pa.Array):
        return values.to_numpy(zero_copy_only=False).copy()
    return values.to_numpy().copy()


def _put(rows: pa.Table, changed: np.ndarray, new: list[dict[str, Any]]) -> pa.Table:
    """Return the rows with `new` in the places `changed`."""
    order = np.arange(len(rows))
    order[changed] = len(rows) + np.arange(len(changed))
    tables = [rows, pa.Table.from_pylist(new, schema=rows.schema)]
    return pa.concat_tables(tables).take(pa.array(order))
