"""All that is held about a person, as they may read it: lines of JSON, each with the place that it is from.

    person      the ids under which they are known, and where the key of pseudonyms hides them
    profile     each version of their profile               events      everything that they did, with what the router added
    answer      what they were shown: items, arm, model, scores, and the features that were read, by name
    arm         which arm of which experiment decided for them, and when
    refused     rows of the quarantine that mention them, whole         repeat      events that came more than once
    waiting     rows of the raw logs that are not yet in the lake       feature     what the features say of them now
    erased      when they were erased before

The archive holds the same bodies as `events`, `refused` and `repeat` come from; models hold no rows.
"""

from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from tailorbird.config import Project
from tailorbird.config.schemas import active_schemas
from tailorbird.errors import NotReadyError
from tailorbird.events import Clock, Receipt, to_iso
from tailorbird.events.contract import ANONYMOUS_PREFIX, split
from tailorbird.features import FeatureSet
from tailorbird.features.read import Reader
from tailorbird.features.request import ReadRequest
from tailorbird.lake import Lake
from tailorbird.privacy.marks import asked, whose
from tailorbird.privacy.mention import Mentions
from tailorbird.privacy.person import People, find_people, one_of
from tailorbird.stream import open_reader, raw_addresses, read_released

_ITEMS_READ = 20  # of which the features are told, those touched last
_receipt = msgspec.json.Decoder(Receipt).decode

Record = dict[str, Any]


def export_person(project: Project, kept: Sequence[str], clock: Clock) -> Iterator[Record]:
    """The records, each with its `source`; reads only, and may run beside the roles.

    Args:
        kept: the ids, as `privacy.person.hidden` gives them.
    """
    lake = Lake(project.paths.lake)
    people = find_people(lake, kept)
    ids = {"users": sorted(people.users), "visitors": sorted(people.visitors), "shared devices": sorted(people.shared)}
    yield {"source": "person", "asked": list(kept), **ids, "pseudonyms": project.pseudonyms() is not None}
    sets = active_schemas(project)
    events = _table(lake, "events", whose(people))
    yield from ({"source": "profile", **row} for row in _plain(_table(lake, "users", one_of("id", people.users))))
    yield from ({"source": "event", **{name: value for name, value in row.items() if value is not None}} for row in _plain(events))
    answers = _table(lake, "answers", asked(people))
    yield from ({"source": "answer", **_named(row, sets)} for row in _plain(answers))
    yield from _arms(answers)
    yield from _refused(lake, people)
    yield from _repeats(lake, events)
    yield from _waiting(project, people)
    yield from _features(project, people, sets, events, clock)
    stopped = project.stopped()
    for mark, id_ in [*(("u", id_) for id_ in people.users), *(("a", id_) for id_ in people.visitors)]:
        if (at := stopped.erased_at(mark, id_)) is not None:
            yield {"source": "erased", "id": id_, "at": to_iso(at)}


def _table(lake: Lake, name: str, where: ds.Expression) -> list[Record]:
    return lake.table(name, where=where).to_pylist() if lake.exists(name) else []


def _plain(rows: list[Record]) -> Iterator[Record]:
    for row in rows:
        yield {name: _value(value) for name, value in row.items()}


def _value(value: Any) -> Any:
    if isinstance(value, date):  # or a time
        return value.isoformat()
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _named(row: Record, sets: Sequence[FeatureSet]) -> Record:
    """An answer with its features by name, item by item; of a schema that is no longer known, as they are logged."""
    features = next((each for each in sets if each.schema_hash == row["schema_hash"]), None)
    found = {name: value for name, value in row.items() if name != "sequences"}
    if features is None or not row["items"] or len(row["numeric"] or []) != len(row["items"]) * len(features.numeric):
        return found
    numbers = np.array(found.pop("numeric"), np.float64).reshape(len(row["items"]), -1)
    found["features"] = [
        {"item": item, **{name: None if np.isnan(value) else float(value) for name, value in zip(features.numeric, values, strict=True)}}
        for item, values in zip(row["items"], numbers, strict=True)
    ]
    return found


def _arms(answers: list[Record]) -> Iterator[Record]:
    first: dict[tuple[str, str], str] = {}
    for row in sorted(answers, key=lambda row: row["ts"]):
        if row["experiment"]:
            first.setdefault((row["experiment"], row["arm"]), row["ts"].isoformat())
    yield from ({"source": "arm", "experiment": experiment, "arm": arm, "since": since} for (experiment, arm), since in first.items())


def _refused(lake: Lake, people: People) -> Iterator[Record]:
    if not lake.exists("quarantine"):
        return
    mentions = Mentions(people.own_ids)
    for batch in lake.batches("quarantine", ["received_at", "code", "path", "message", "body"]):
        rows = [row for row in pa.Table.from_batches([batch]).to_pylist() if mentions.in_body(row["body"])]
        yield from ({"source": "refused", **row} for row in _plain(rows))


def _repeats(lake: Lake, events: list[Record]) -> Iterator[Record]:
    if not lake.exists("duplicates") or not events:
        return
    places = {(row["raw_partition"], row["raw_offset"], row["raw_row"]) for row in events}
    ids = {row["event_id"] for row in events}
    for row in lake.table("duplicates", where=one_of("event_id", ids)).to_pylist():
        if row["first_partition"] is None or (row["first_partition"], row["first_offset"], row["first_row"]) in places:
            yield {"source": "repeat", **row}


def _waiting(project: Project, people: People) -> Iterator[Record]:
    mentions = Mentions(people.own_ids | people.shared)
    released = read_released(project.paths.lake)
    for producer, address in raw_addresses(project.stream).items():
        try:
            reader = open_reader(address)
        except NotReadyError:
            continue
        try:
            position = max(released.raw(producer), reader.start())
            while stored := reader.read(position):
                for one in stored:
                    receipt = _receipt(one.block.receipt) if one.block.kind == "body" else None
                    rows = split(one.block.payload, receipt.encoding) if receipt is not None else ()
                    yield from (
                        {"source": "waiting", "producer": producer, "body": bytes(row).decode(errors="replace")}
                        for row in rows
                        if mentions.in_body(bytes(row))
                    )
                position = stored[-1].end
        finally:
            reader.close()


def _features(
    project: Project, people: People, sets: Sequence[FeatureSet], events: list[Record], clock: Clock
) -> Iterator[Record]:  # fmt: skip
    items = list(dict.fromkeys(row["item_id"] for row in sorted(events, key=lambda row: row["ts"], reverse=True) if row["item_id"]))
    for features in sets:
        try:
            reader = Reader(project.paths.state, features)
        except NotReadyError:
            continue
        try:
            for person in sorted(people.persons):
                visitor = person.removeprefix(ANONYMOUS_PREFIX) if person.startswith(ANONYMOUS_PREFIX) else None
                request = ReadRequest(person=None if visitor else person, anonymous_id=visitor, now=clock.now())
                for item, row in zip(items[:_ITEMS_READ], _rows(reader, request, items[:_ITEMS_READ]), strict=False):
                    yield {"source": "feature", "schema": features.schema_hash, "person": person, "item": item, **row}
        finally:
            reader.close()


def _rows(reader: Reader, request: ReadRequest, items: list[str]) -> list[Record]:
    if not items:
        return []
    rows = reader.read(request, items)
    names = reader.features.numeric
    return [{name: None if np.isnan(value) else float(value) for name, value in zip(names, row, strict=True)} for row in rows.numeric]


def write_export(records: Iterator[Record], out: Path) -> dict[str, int]:
    """Write records to a file of lines of JSON; how many from each source. It appears whole, for its owner alone, or not at all."""
    counts: dict[str, int] = {}
    draft = out.with_name(f"{out.name}.new")
    with draft.open("wb") as file:
        draft.chmod(0o600)
        for record in records:
            counts[record["source"]] = counts.get(record["source"], 0) + 1
            file.write(msgspec.json.encode(record) + b"\n")
    draft.replace(out)
    return counts
