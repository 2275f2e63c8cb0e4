"""All that a project holds about a person: lines of JSON, each with its source.

    person     the ids under which they are known       profile    each version of their profile
    event      what they did, as routed                 answer     what they were shown, with the features that were read
    arm        which arm of which experiment            refused    rows of the quarantine
    repeat     events that came more than once          mention    fields in which others named them
    waiting    rows that are not yet in the lake        feature    what the features say of them now
    score      what was computed after their events     erased     when they were erased before

What another user did on a shared device is not told. The archive holds the same bodies as `event`,
`refused` and `repeat` come from; models hold no rows.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from tailorbird.config import Project
from tailorbird.config.schemas import active_schemas
from tailorbird.errors import NotReadyError
from tailorbird.events import Clock, Receipt, to_iso
from tailorbird.events.contract.contract import split_body
from tailorbird.events.suppression import read_row_subject
from tailorbird.features import FeatureSet
from tailorbird.features.online.read import Reader
from tailorbird.features.request import ReadRequest
from tailorbird.lake import Lake
from tailorbird.lake.quarantine import ROW_KEY_COLUMNS
from tailorbird.lake.tables import TABLES
from tailorbird.lake.write.positions import load_positions
from tailorbird.privacy.footprint import REFERENCE_COLUMNS, TEXT_COLUMNS, find_refused_rows
from tailorbird.privacy.mentions import Mentions, attribute_names
from tailorbird.privacy.people import Mask, People, find_people, isin_filter, isin_mask
from tailorbird.serving.scores.log import ScoreFeed
from tailorbird.stream import open_reader, read_released_positions

_FEATURE_ITEMS_MAX = 20  # of which the features are told, those touched last
_MENTION_COLUMNS = {  # columns of others' rows that may name somebody: texts, JSON
    "items": (("version",), ("attributes",)),
    "users": (("version",), ("attributes",)),
    "events": ((*REFERENCE_COLUMNS, *TEXT_COLUMNS), ("properties", "user_profile")),
    "answers": (("request_id", "session_id", "query"), ()),
}
_decode_receipt = msgspec.json.Decoder(Receipt).decode

Record = dict[str, Any]


def export_person(project: Project, ids: Sequence[str], clock: Clock) -> Iterator[Record]:
    """Yield the records; reads only, and may run beside the roles.

    Args:
        ids: as `people.pseudonymise_ids` gives them.
    """
    lake = Lake(project.paths.lake)
    people = find_people(lake, ids)
    yield {
        "source": "person",
        "asked": list(ids),
        "users": sorted(people.users),
        "devices": sorted(people.devices),
        "shared": sorted(people.shared),
        "pseudonyms": project.pseudonyms() is not None,
    }
    feature_sets = active_schemas(project)
    mentions = Mentions(people.ids, attribute_names(project.plan))
    waiting_rows = list(
        _read_waiting_rows(project, mentions)
    )  # first: the lake may take them in meanwhile
    events = _read_rows(lake, "events", people.row_filter(), people.exportable_mask)
    responses = _read_rows(lake, "answers", people.row_filter(), people.exportable_mask)
    for row in _read_rows(lake, "users", isin_filter("id", people.users)):
        yield {"source": "profile", **row}
    for row in events:
        yield {
            "source": "event",
            **{name: value for name, value in row.items() if value is not None},
        }
    for row in responses:
        yield {"source": "answer", **_with_features(row, feature_sets)}
    yield from _list_arms(responses)
    sessions = {row["session_id"] for row in events}
    refused_keys = set(
        find_refused_rows(lake, mentions, sessions, {row["request_id"] for row in events})
    )
    for row in _read_rows(lake, "quarantine"):
        if tuple(row[name] for name in ROW_KEY_COLUMNS) in refused_keys and _is_exportable(
            row["body"], people
        ):
            yield {**row, "source": "refused"}
    for row in _read_rows(
        lake, "duplicates", isin_filter("event_id", {event["event_id"] for event in events})
    ):
        yield {"source": "repeat", **row}
    yield from _find_mentions(lake, people, mentions)
    for producer, body in waiting_rows:
        if _is_exportable(body, people):
            text = body.decode(errors="replace")
            yield {"source": "waiting", "producer": producer, "body": text}
    yield from _read_features(project, people, feature_sets, events, clock)
    yield from _read_scores(project, people)
    suppression_list = project.suppression_list()
    for kind, id_ in people.subjects:
        if (erased_at := suppression_list.get_erased_at(kind, id_)) is not None:
            yield {"source": "erased", "id": id_, "at": to_iso(erased_at)}


def _read_rows(
    lake: Lake,
    name: str,
    where: ds.Expression | None = None,
    build_mask: Callable[[pa.Table], Mask] | None = None,
) -> list[Record]:
    if not lake.exists(name):
        return []
    rows = lake.table(name, where=where)
    rows = rows if build_mask is None else rows.filter(build_mask(rows))
    return [{column: _to_plain(value) for column, value in row.items()} for row in rows.to_pylist()]


def _to_plain(value: Any) -> Any:
    if isinstance(value, date):  # or a time
        return value.isoformat()
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _is_exportable(body: str | bytes, people: People) -> bool:
    """Return whether a row as it came in names these people or nobody, and no other user."""
    row_subject = read_row_subject(body.encode() if isinstance(body, str) else body)
    if row_subject is None or row_subject.user_id is None:
        return True
    return str(row_subject.user_id) in people.users


def _with_features(row: Record, feature_sets: Sequence[FeatureSet]) -> Record:
    """Return an answer with its features by name, item by item, if its schema is known."""
    features = next(
        (entry for entry in feature_sets if entry.schema_hash == row["schema_hash"]), None
    )
    record = {name: value for name, value in row.items() if name != "sequences"}
    items = row["items"] or []
    numeric = row["numeric"] or []
    if features is None or not items or len(numeric) != len(items) * len(features.numeric):
        return record
    values = np.array(record.pop("numeric"), np.float64).reshape(len(items), -1)
    named_values = [_name_values(features.numeric, value) for value in values]
    record["features"] = [
        {"item": item, **named_value} for item, named_value in zip(items, named_values, strict=True)
    ]
    return record


def _name_values(names: Sequence[str], values: np.ndarray) -> Record:
    pairs = zip(names, values.tolist(), strict=True)
    return {name: None if np.isnan(value) else value for name, value in pairs}


def _list_arms(responses: list[Record]) -> Iterator[Record]:
    first_ts_by_arm: dict[tuple[str, str], str] = {}
    for row in sorted(responses, key=lambda row: row["ts"]):
        if row["experiment"]:
            first_ts_by_arm.setdefault((row["experiment"], row["arm"]), row["ts"])
    for (experiment, arm), since in first_ts_by_arm.items():
        yield {"source": "arm", "experiment": experiment, "arm": arm, "since": since}


def _find_mentions(lake: Lake, people: People, mentions: Mentions) -> Iterator[Record]:
    """Yield what others wrote about them: items whole, of other rows the fields that name them."""
    for table, (text_columns, json_columns) in _MENTION_COLUMNS.items():
        for batch in lake.batches(table, TABLES[table].schema.names) if lake.exists(table) else ():
            rows = pa.Table.from_batches([batch])
            if table == "users":
                rows = rows.filter(pc.invert(isin_mask(rows["id"], people.users)))
            elif table != "items":
                rows = rows.filter(pc.invert(people.owned_mask(rows)))
            if table == "events":  # of items, the table of items tells
                rows = rows.filter(pc.not_equal(rows["type"], "item"))
            masks = {name: mentions.column_mask(rows[name]) for name in text_columns}
            masks |= {name: mentions.json_mask(rows[name]) for name in json_columns}
            for index in np.flatnonzero(np.logical_or.reduce(list(masks.values()))).tolist():
                row = {
                    name: _to_plain(value)
                    for name, value in rows.slice(index, 1).to_pylist()[0].items()
                }
                if table != "items":
                    fields = [name for name, mask in masks.items() if mask[index]]
                    row = {
                        name: _mentioning_fields(row[name], mentions)
                        if name in json_columns
                        else row[name]
                        for name in (*{"type", "ts", "item_id"}.intersection(row), *fields)
                    }
                yield {"source": "mention", "table": table, **row}


def _mentioning_fields(text: str, mentions: Mentions) -> Record:
    """Return the fields of a JSON object that name somebody."""
    pairs = msgspec.json.decode(text).items()
    return {name: value for name, value in pairs if mentions.redact({name: value}) != {name: value}}


def _read_waiting_rows(project: Project, mentions: Mentions) -> Iterator[tuple[str, bytes]]:
    """Yield the rows of raw logs that name them and are not yet in the lake, with their
    producer.
    """
    released_positions = read_released_positions(project.paths.lake)
    routed_positions = load_positions(project.paths.lake).routed
    for producer, address in project.stream.raw_logs().items():
        try:
            reader = open_reader(address)
        except NotReadyError:
            continue
        with reader:
            position = max(released_positions.raw_position(producer), reader.start())
            while blocks := reader.read(position):
                for stored_block in blocks:
                    if stored_block.block.kind != "body":
                        continue
                    encoding = _decode_receipt(stored_block.block.receipt).encoding
                    rows = [bytes(row) for row in split_body(stored_block.block.payload, encoding)]
                    for number, row in enumerate(rows, stored_block.offset):
                        if number >= routed_positions.get(producer, 0) and mentions.in_body(row):
                            yield producer, row
                position = blocks[-1].end


def _read_features(
    project: Project,
    people: People,
    feature_sets: Sequence[FeatureSet],
    events: list[Record],
    clock: Clock,
) -> Iterator[Record]:
    newest_events = sorted(events, key=lambda row: row["ts"], reverse=True)
    items = list(dict.fromkeys(row["item_id"] for row in newest_events if row["item_id"]))[
        :_FEATURE_ITEMS_MAX
    ]
    for features in feature_sets if items else ():
        reader = _open_reader(project, features)
        if reader is None:
            continue
        try:
            for person in sorted(people.users) or sorted(people.persons):
                rows = reader.read(ReadRequest(person=person, now=clock.now()), items).numeric
                for item, row in zip(items, rows, strict=True):
                    feature_key = {"schema": features.schema_hash, "person": person, "item": item}
                    named_values = _name_values(reader.features.numeric, row)
                    yield {"source": "feature", **feature_key, **named_values}
        finally:
            reader.close()


def _open_reader(project: Project, features: FeatureSet) -> Reader | None:
    """Open the state on this machine; where its worker is elsewhere, the copy in Valkey."""
    for copies in (None, project.copy_target()):
        try:
            return Reader(project.paths.state, features, copies=copies, workers=project.workers)
        except NotReadyError:
            continue
    return None


def _read_scores(project: Project, people: People) -> Iterator[Record]:
    feed = ScoreFeed(project.stream.scores)
    try:
        for batch in feed.iterate_from(0):
            for score in batch.scores:
                is_by_person = score.user_id is None and score.person in people.persons
                if score.user_id in people.users or is_by_person:
                    yield {"source": "score", **msgspec.to_builtins(score)}
    except NotReadyError:
        return  # nothing was scored yet
    finally:
        feed.close()


def write_export(records: Iterator[Record], output_path: Path) -> dict[str, int]:
    """Write records, a line each, to a file that only its owner can read; return counts by source.

    The file appears whole or not at all.
    """
    counts: dict[str, int] = {}
    draft = output_path.with_name(f"{output_path.name}.new")
    with draft.open("wb") as file:
        draft.chmod(0o600)
        for record in records:
            counts[record["source"]] = counts.get(record["source"], 0) + 1
            file.write(msgspec.json.encode(record) + b"\n")
    draft.replace(output_path)
    return counts
