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
    JSON_COLUMNS,
    REFERENCE_COLUMNS,
    TEXT_COLUMNS,
    Footprint,
    changed_mask,
)
from tailorbird.privacy.mentions import Mentions
from tailorbird.privacy.people import Mask, People, isin_mask
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
        self._people = people
        self._rewriter = rewriter
        self._mentions = mentions
        self._footprint = footprint
        self._sensitivity = sensitivity
        self._owned_rows = frozenset(footprint.places)
        self._refused_rows = frozenset(footprint.refused_rows)
        self._event_ids = frozenset(id_ for _, _, id_ in footprint.events)
        self._id_hashes = frozenset(hash64s(sorted(people.ids)).view(np.int64).tolist())
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
        changed_indexes = np.flatnonzero(
            _to_numpy_mask(changed_mask(rows, self._people, self._mentions, requests))
        )
        if not len(changed_indexes):
            return None
        old_rows = rows.take(pa.array(changed_indexes))
        owned_mask = _to_numpy_mask(self._people.owned_mask(old_rows)).tolist()
        attributed_mask = _to_numpy_mask(self._people.attributed_mask(old_rows)).tolist()
        renames = self._choose_renames(old_rows, REFERENCE_COLUMNS)
        new_rows: list[dict[str, Any]] = []
        for row, is_owned, is_attributed in zip(
            old_rows.to_pylist(), owned_mask, attributed_mask, strict=True
        ):
            if is_owned:
                subject = subject_of(row["user_id"], row["anonymous_id"], row["item_id"])
                row = self._rewriter.rewrite_row(row, (*subject, row["event_id"]))
                row["item_profile"] = self._without_mentions(row["item_profile"])
                if row["type"] == "item":
                    row = self._drop_mentions(row, renames)
                new_rows.append(row)
                continue
            if row["request_id"] in requests:
                row |= {"request_id": self._rewriter.rename_request(row["request_id"])}
                row |= {"answer_query": None}
            if is_attributed:  # another's who was one with them for a while, and is itself again
                cleared_fields = {"user_version": None, "user_profile": None}
                row |= {"person": row["user_id"]} | cleared_fields
                if row["type"] == "merge":
                    row |= self._rewriter.rewrite_merge_row(row)
            new_rows.append(self._drop_mentions(row, renames))
        self.counts["events"] += sum(owned_mask)
        self.counts["mentions"] += len(changed_indexes) - sum(owned_mask)
        return _replace_rows(rows, changed_indexes, new_rows)

    def _drop_mentions(
        self, row: dict[str, Any], renames: Mapping[str, Mapping[str, str]]
    ) -> dict[str, Any]:
        for name in TEXT_COLUMNS:
            if row[name] is not None and self._mentions.in_text(row[name]):
                row[name] = None
        row |= {name: self._without_mentions(row[name]) for name in JSON_COLUMNS}
        return _replace_values(row, renames)

    def quarantine(self, rows: pa.Table) -> pa.Table | None:
        """Return refused rows with an empty body in place of theirs."""
        changed_indexes = np.flatnonzero(
            [row_key in self._refused_rows for row_key in row_keys(rows)]
        )
        if not len(changed_indexes):
            return None
        self.counts["quarantine"] += len(changed_indexes)
        blank_fields = {"path": "$", "message": "", "body": ERASED_BODY}
        old_rows = rows.take(pa.array(changed_indexes)).to_pylist()
        return _replace_rows(rows, changed_indexes, [row | blank_fields for row in old_rows])

    def duplicates(self, rows: pa.Table) -> pa.Table | None:
        """Return repeats with hashes in place of the ids of their events."""
        columns = ("first_partition", "first_offset", "first_row")
        first_row_keys = zip(*(rows[name].to_pylist() for name in columns), strict=True)
        ids = rows["event_id"].to_pylist()
        renames = self._choose_renames(rows, ("event_id",))["event_id"]
        owned_mask = [
            row_key in self._owned_rows or (row_key[0] is None and id_ in self._event_ids)
            for row_key, id_ in zip(first_row_keys, ids, strict=True)
        ]
        changed_indexes = np.flatnonzero(
            [is_owned or id_ in renames for is_owned, id_ in zip(owned_mask, ids, strict=True)]
        )
        if not len(changed_indexes):
            return None
        self.counts["duplicates"] += len(changed_indexes)
        new_rows = rows.take(pa.array(changed_indexes)).to_pylist()
        for index, row in zip(changed_indexes.tolist(), new_rows, strict=True):
            row_key = (row["raw_partition"], row["raw_offset"], row["raw_row"])
            id_ = row["event_id"]
            row["event_id"] = (
                self._rewriter.rename_duplicate(id_, *row_key)
                if owned_mask[index]
                else renames[id_]
            )
        return _replace_rows(rows, changed_indexes, new_rows)

    def users(self, rows: pa.Table) -> pa.Table | None:
        """Return the profiles of others, without mentions."""
        owned_mask = _to_numpy_mask(isin_mask(rows["id"], self._people.users))
        other_rows = rows.filter(pa.array(~owned_mask))
        self.counts["profiles"] += int(owned_mask.sum())
        rewritten_rows = self.items(other_rows)
        return (
            rewritten_rows
            if rewritten_rows is not None
            else other_rows
            if owned_mask.any()
            else None
        )

    def items(self, rows: pa.Table) -> pa.Table | None:
        """Return profiles without mentions."""
        renames = self._choose_renames(rows, ("version",))
        changed_indexes = np.flatnonzero(
            self._mentions.json_mask(rows["attributes"])
            | _to_numpy_mask(isin_mask(rows["version"], renames["version"].keys()))
        )
        if not len(changed_indexes):
            return None
        self.counts["mentions"] += len(changed_indexes)
        new_rows = [
            _replace_values(
                row | {"attributes": self._without_mentions(row["attributes"])}, renames
            )
            for row in rows.take(pa.array(changed_indexes)).to_pylist()
        ]
        return _replace_rows(rows, changed_indexes, new_rows)

    def answers(self, rows: pa.Table) -> pa.Table | None:
        """Return the answers to others, without mentions and with their exemptions."""
        owned_mask = _to_numpy_mask(self._people.owned_mask(rows))
        other_rows = rows.filter(pa.array(~owned_mask))
        self.counts["answers"] += int(owned_mask.sum())
        rewritten_rows = self._responses_of_others(other_rows)
        return (
            rewritten_rows
            if rewritten_rows is not None
            else other_rows
            if owned_mask.any()
            else None
        )

    def _responses_of_others(self, rows: pa.Table) -> pa.Table | None:
        renames = self._choose_renames(rows, ("request_id", "session_id"))
        is_exempt = self._exempt_mask(rows)
        is_attributed = _to_numpy_mask(self._people.attributed_mask(rows))
        is_mentioning = self._mentions.column_mask(rows["query"]) | self._id_reader_mask(rows)
        for name, new_ids in renames.items():
            is_mentioning |= _to_numpy_mask(isin_mask(rows[name], new_ids.keys()))
        changed_indexes = np.flatnonzero(is_exempt | is_attributed | is_mentioning)
        if not len(changed_indexes):
            return None
        self.counts["mentions"] += int(is_mentioning.sum())
        self.counts["exempt from parity"] += int(is_exempt.sum())
        new_rows = rows.take(pa.array(changed_indexes)).to_pylist()
        for index, row in zip(changed_indexes.tolist(), new_rows, strict=True):
            if is_attributed[index]:
                row["person"] = row["user_id"]
            if row["query"] is not None and self._mentions.in_text(row["query"]):
                row["query"] = None
            if is_mentioning[index]:
                self._remove_hashes(row)
            if is_exempt[index] and ERASED_EXEMPTION not in (row["degraded"] or ()):
                row["degraded"] = [*(row["degraded"] or ()), ERASED_EXEMPTION]
        return _replace_rows(
            rows, changed_indexes, [_replace_values(row, renames) for row in new_rows]
        )

    def _exempt_mask(self, rows: pa.Table) -> np.ndarray:
        """Return which answers may have read values that the erasure moved."""
        footprint = self._footprint
        sensitivity = self._sensitivity
        if sensitivity.attributes.intersection(footprint.attributes):
            return np.ones(len(rows), bool)
        is_exempt = np.full(len(rows), sensitivity.beyond_items)
        is_exempt &= micros(rows["ts"]) >= footprint.since
        items = {*footprint.mentioning_items, *(footprint.items if sensitivity.by_item else ())}
        is_affected_item = _to_numpy_mask(isin_mask(pc.list_flatten(rows["items"]), items))
        is_exempt[
            np.asarray(pc.list_parent_indices(rows["items"].combine_chunks()))[is_affected_item]
        ] = True
        is_exempt |= self._mentions.column_mask(rows["query"])
        for name in ("user_id", "person"):
            is_exempt |= _to_numpy_mask(isin_mask(rows[name], footprint.users))
        return is_exempt | self._id_reader_mask(rows)

    def _id_reader_mask(self, rows: pa.Table) -> np.ndarray:
        """Return which answers read an erased id as a category, an item's seller, say."""
        values = pc.list_flatten(rows["categorical"])
        row_of_value = np.asarray(pc.list_parent_indices(rows["categorical"].combine_chunks()))
        is_reader = np.zeros(len(rows), bool)
        hashes = pa.array(sorted(self._id_hashes), values.type)
        is_reader[
            row_of_value[_to_numpy_mask(pc.fill_null(pc.is_in(values, value_set=hashes), False))]
        ] = True
        return is_reader

    def _remove_hashes(self, row: dict[str, Any]) -> None:
        """Put a missing value in place of hashes of erased ids."""
        hashes = self._id_hashes | {hash_ % (1 << 64) for hash_ in self._id_hashes}
        if row["categorical"] is not None:
            row["categorical"] = [0 if value in hashes else value for value in row["categorical"]]
        if row["sequences"]:
            sequences = unpack_sequences(row["sequences"]).items()
            row["sequences"] = pack_sequences(
                {
                    name: [
                        [0 if value in hashes else value for value in column] for column in columns
                    ]
                    for name, columns in sequences
                }
            )

    def _choose_renames(self, rows: pa.Table, columns: Sequence[str]) -> dict[str, dict[str, str]]:
        """Return by column the ids of others' things that get new ones, and which."""
        return {name: self._mentions.find_renames(rows[name]) for name in columns}

    def _without_mentions(self, text: str | None) -> str | None:
        return text if text is None else self._mentions.redact_json(text) or text


def _replace_values(
    row: dict[str, Any], renames: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    return row | {
        name: new_id_by_old_id.get(row[name], row[name])
        for name, new_id_by_old_id in renames.items()
    }


def _to_numpy_mask(values: Mask) -> np.ndarray:
    if isinstance(values, pa.Array):
        return values.to_numpy(zero_copy_only=False).copy()
    return values.to_numpy().copy()


def _replace_rows(
    rows: pa.Table, changed_indexes: np.ndarray, new_rows: list[dict[str, Any]]
) -> pa.Table:
    """Return the rows with `new_rows` in the places `changed_indexes`."""
    order = np.arange(len(rows))
    order[changed_indexes] = len(rows) + np.arange(len(changed_indexes))
    tables = [rows, pa.Table.from_pylist(new_rows, schema=rows.schema)]
    return pa.concat_tables(tables).take(pa.array(order))
