"""All that is held about a person, as they may read it: lines of JSON, each with the place that it
is from.

    person      the ids under which they are known, and where the key of pseudonyms hides them
    profile     each version of their profile               events      everything that they did, with what the router added
    answer      what they were shown: items, arm, model, scores, and the features that were read, by name
    arm         which arm of which experiment decided for them, and when
    refused     rows of the quarantine that are theirs, whole           repeat      events that came more than once
    mention     what others said of them: items whole; of events, answers, profiles and refused rows of others the fields that do, and not
                whose they are
    waiting     rows of the logs that are not yet in the lake           feature     what the features say of them now
    incomplete  a login or a merge of theirs waits there, and may make more theirs: how many, and what to do
    score       what was computed of them as their events came in       erased      when they were erased before

What others did on a device that they share is not told, see `privacy.theirs`. The archive holds the
same bodies as `events`, `refused` and `repeat` come from; models hold no rows.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
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
from tailorbird.events.schema import micros
from tailorbird.features import FeatureSet
from tailorbird.features.read import Reader
from tailorbird.features.request import ReadRequest
from tailorbird.lake import Lake
from tailorbird.lake.refused import PLACE, places
from tailorbird.lake.tables import TABLES
from tailorbird.privacy.looking import known_names
from tailorbird.privacy.marks import asked, refused_rows, whose
from tailorbird.privacy.mention import Mentions
from tailorbird.privacy.person import Mask, People, find_people, is_any, one_of
from tailorbird.privacy.rows import FREE, THINGS
from tailorbird.privacy.shared import spans
from tailorbird.privacy.theirs import Theirs
from tailorbird.privacy.waiting import ties_of, waiting_answers, waiting_rows
from tailorbird.serving.score_log import ScoreFeed, scores_address

_OF_ANSWERS = ("request_id", "session_id")  # whose ids may hold a person's
_SAID = ("properties", "user_profile")  # profiles of items are told by their own table
_EVER = 1 << 62  # behind all times
_AGAIN = (
    "what was done on a device, or by a user, that is theirs by these is not told: export "
    "again once the lake has them, while up runs"
)
_ITEMS_READ = 20  # of which the features are told, those touched last

Record = dict[str, Any]


def export_person(project: Project, kept: Sequence[str], clock: Clock) -> Iterator[Record]:
    """The records, each with its `source`; reads only, and may run beside the roles.

    Args:
        kept: the ids, as `privacy.person.hidden` gives them.
    """
    lake = Lake(project.paths.lake)
    people = find_people(lake, kept)
    ids = {
        "users": sorted(people.users),
        "visitors": sorted(people.visitors),
        "shared devices": sorted(people.shared),
    }
    yield {
        "source": "person",
        "asked": list(kept),
        **ids,
        "pseudonyms": project.pseudonyms() is not None,
    }
    sets, known = active_schemas(project), known_names(project)
    mentions = Mentions(people.own_ids, known, rename=lambda id_: "")
    # Looked for before what the lake has: it may take some of them in meanwhile.
    waiting = list(waiting_rows(project, Mentions(people.own_ids | people.shared, known)))
    if count := sum(one.may_tie(people) for one in waiting):
        yield {"source": "incomplete", "logins and merges that wait": count, "what to do": _AGAIN}
    theirs = Theirs(people, spans(lake, people, _EVER, ties_of(waiting)))
    events = _table(lake, "events", whose(people), theirs.decided)
    yield from (
        {"source": "profile", **row}
        for row in _plain(_table(lake, "users", one_of("id", people.users)))
    )
    yield from (
        {"source": "event", **{name: value for name, value in row.items() if value is not None}}
        for row in _plain(events)
    )
    answers = _table(lake, "answers", asked(people), theirs.answers)
    yield from ({"source": "answer", **_named(row, sets)} for row in _plain(answers))
    yield from _arms(answers)
    yield from _refused(lake, theirs, known, mentions)
    yield from _repeats(lake, events)
    yield from _mentions(lake, theirs, mentions)
    for one in waiting:
        told = {
            "source": "waiting",
            "producer": one.producer,
            "body": one.row.decode(errors="replace"),
        }
        yield from _of_body(told, one.row, mentions, theirs=one.is_of(theirs, mentions))
    for producer, rows in waiting_answers(project):
        found = _plain(rows.filter(theirs.answers(rows)).to_pylist())
        yield from (
            {"source": "waiting", "producer": producer, **_named(row, sets)} for row in found
        )
    yield from _features(project, people, sets, events, clock)
    yield from _scores(project, theirs)
    stopped = project.stopped()
    for mark, id_ in [
        *(("u", id_) for id_ in people.users),
        *(("a", id_) for id_ in people.visitors),
    ]:
        if (at := stopped.erased_at(mark, id_)) is not None:
            yield {"source": "erased", "id": id_, "at": to_iso(at)}


def _table(
    lake: Lake,
    name: str,
    where: ds.Expression,
    are_theirs: Callable[[pa.Table], Mask] | None = None,
) -> list[Record]:
    if not lake.exists(name):
        return []
    rows = lake.table(name, where=where)
    return (rows if are_theirs is None else rows.filter(are_theirs(rows))).to_pylist()


def _plain(rows: list[Record]) -> Iterator[Record]:
    for row in rows:
        yield {name: _value(value) for name, value in row.items()}


def _value(value: Any) -> Any:
    if isinstance(value, date):  # or a time
        return value.isoformat()
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _named(row: Record, sets: Sequence[FeatureSet]) -> Record:
    """An answer with its features by name, item by item; of a schema that is no longer known, as
    they are logged.
    """
    features = next((each for each in sets if each.schema_hash == row["schema_hash"]), None)
    found = {name: value for name, value in row.items() if name != "sequences"}
    if (
        features is None
        or not row["items"]
        or len(row["numeric"] or []) != len(row["items"]) * len(features.numeric)
    ):
        return found
    numbers = np.array(found.pop("numeric"), np.float64).reshape(len(row["items"]), -1)
    found["features"] = [
        {
            "item": item,
            **{
                name: None if np.isnan(value) else float(value)
                for name, value in zip(features.numeric, values, strict=True)
            },
        }
        for item, values in zip(row["items"], numbers, strict=True)
    ]
    return found


def _arms(answers: list[Record]) -> Iterator[Record]:
    first: dict[tuple[str, str], str] = {}
    for row in sorted(answers, key=lambda row: row["ts"]):
        if row["experiment"]:
            first.setdefault((row["experiment"], row["arm"]), row["ts"].isoformat())
    yield from (
        {"source": "arm", "experiment": experiment, "arm": arm, "since": since}
        for (experiment, arm), since in first.items()
    )


def _refused(
    lake: Lake, theirs: Theirs, known: Collection[str], mentions: Mentions
) -> Iterator[Record]:
    """Of what an erasure would take out of the quarantine what is theirs, and what the rest says of
    them.
    """
    if not lake.exists("quarantine"):
        return
    taken = set(refused_rows(lake, theirs.people, known))
    for batch in lake.batches(
        "quarantine", ["received_at", "source", "code", "path", "message", "body", *PLACE]
    ):
        rows = pa.Table.from_batches([batch])
        rows = rows.filter(pa.array([place in taken for place in places(rows)], pa.bool_()))
        receipts = [
            Receipt(*of)
            for of in zip(
                micros(rows["received_at"]).tolist(), rows["source"].to_pylist(), strict=True
            )
        ]
        told = _plain(rows.drop_columns(["source", *PLACE]).to_pylist())
        for row, receipt, body in zip(told, receipts, rows["body"].to_pylist(), strict=True):
            yield from _of_body(
                {"source": "refused", **row}, body, mentions, theirs=theirs.says(body, receipt)
            )


def _of_body(told: Record, body: bytes, mentions: Mentions, *, theirs: bool) -> Iterator[Record]:
    """A row as it came in, if it is theirs; of somebody else's only what mentions them, without
    whose it is.
    """
    if theirs:
        yield told
        return
    try:
        value = msgspec.json.decode(body.decode(errors="replace"))
    except (msgspec.MsgspecError, RecursionError):
        return
    if (said := _only(value, "", mentions)) is not None:
        yield {
            "source": "mention",
            "table": told["source"],
            **(said if isinstance(said, dict) else {"said": said}),
        }


def _only(value: Any, name: str, mentions: Mentions) -> Any:
    """Of a JSON value what mentions one of them, and null for the rest."""
    if isinstance(value, dict):
        return {
            each: said
            for each, one in value.items()
            if (said := _only(one, each, mentions)) is not None
        } or None
    if isinstance(value, list):
        return [said for one in value if (said := _only(one, name, mentions)) is not None] or None
    return value if mentions.without({name: value}) != {name: value} else None


def _scores(project: Project, theirs: Theirs) -> Iterator[Record]:
    """What was computed after the events that are theirs."""
    feed = ScoreFeed(scores_address(project.stream))
    try:
        for found in feed.all_from(0):
            for score in found.scores:
                if theirs.scored(score.person, score.user_id, score.ts):
                    yield {"source": "score", **msgspec.to_builtins(score)}
    except NotReadyError:
        return  # nothing was scored yet
    finally:
        feed.close()


def _repeats(lake: Lake, events: list[Record]) -> Iterator[Record]:
    if not lake.exists("duplicates") or not events:
        return
    places = {(row["raw_partition"], row["raw_offset"], row["raw_row"]) for row in events}
    ids = {row["event_id"] for row in events}
    for row in lake.table("duplicates", where=one_of("event_id", ids)).to_pylist():
        if (
            row["first_partition"] is None
            or (row["first_partition"], row["first_offset"], row["first_row"]) in places
        ):
            yield {"source": "repeat", **row}


def _mentions(lake: Lake, theirs: Theirs, mentions: Mentions) -> Iterator[Record]:
    """What others say of them, which an erasure would unlink."""
    if lake.exists("items"):
        for batch in lake.batches("items", TABLES["items"].schema.names):
            rows = pa.Table.from_batches([batch])
            found = rows.filter(
                pa.array(
                    mentions.in_json(rows["attributes"]) | mentions.names_in(rows["version"]),
                    pa.bool_(),
                )
            )
            yield from (
                {"source": "mention", "table": "items", **row} for row in _plain(found.to_pylist())
            )
    if lake.exists("users"):
        for batch in lake.batches("users", ["id", "version", "attributes"]):
            rows = pa.Table.from_batches([batch])
            rows = rows.filter(pc.invert(is_any(rows["id"], theirs.people.users)))
            yield from (
                {"source": "mention", "table": "users", **said}
                for _, said in _said(mentions, rows, ("version",), (), ("attributes",))
            )
    if lake.exists("events"):
        for batch in lake.batches(
            "events", ["type", "ts", "item_id", "person", "user_id", *THINGS, *FREE, *_SAID]
        ):
            rows = pa.Table.from_batches([batch])
            rows = rows.filter(
                pc.and_(pc.invert(theirs.decided(rows)), pc.not_equal(rows["type"], "item"))
            )
            for row, said in _said(mentions, rows, THINGS, FREE, _SAID):
                yield {
                    "source": "mention",
                    "table": "events",
                    "type": row["type"],
                    "ts": _value(row["ts"]),
                    "item_id": row["item_id"],
                    **said,
                }
    if lake.exists("answers"):
        for batch in lake.batches(
            "answers", ["ts", "person", "user_id", "anonymous_id", *_OF_ANSWERS, "query"]
        ):
            rows = pa.Table.from_batches([batch])
            rows = rows.filter(pc.invert(theirs.answers(rows)))
            for row, said in _said(mentions, rows, _OF_ANSWERS, ("query",), ()):
                yield {"source": "mention", "table": "answers", "ts": _value(row["ts"]), **said}


def _said(
    mentions: Mentions,
    rows: pa.Table,
    things: Sequence[str],
    free: Sequence[str],
    json: Sequence[str],
) -> Iterator[tuple[Record, Record]]:
    """Each row that mentions one, with the fields that do: ids of other things, texts, and of JSON
    its own fields.
    """
    masks = {name: mentions.names_in(rows[name]) for name in things}
    masks |= {name: mentions.in_column(rows[name]) for name in free}
    masks |= {name: mentions.in_json(rows[name]) for name in json}
    for index in np.flatnonzero(np.logical_or.reduce(list(masks.values()))).tolist():
        row = rows.slice(index, 1).to_pylist()[0]
        held = [name for name, mask in masks.items() if mask[index]]
        yield (
            row,
            {name: _saying(mentions, row[name]) if name in json else row[name] for name in held},
        )


def _saying(mentions: Mentions, text: str) -> Record:
    """Of a JSON object the fields that mention one."""
    value = msgspec.json.decode(text)
    return {
        name: one for name, one in value.items() if mentions.without({name: one}) != {name: one}
    }


def _features(
    project: Project, people: People, sets: Sequence[FeatureSet], events: list[Record], clock: Clock
) -> Iterator[Record]:
    items = list(
        dict.fromkeys(
            row["item_id"]
            for row in sorted(events, key=lambda row: row["ts"], reverse=True)
            if row["item_id"]
        )
    )
    for features in sets:
        reader = _reader(project, features)
        if reader is None:
            continue
        try:
            for person in sorted(people.persons):
                request = ReadRequest(
                    person=person, now=clock.now()
                )  # not by a device: that is whoever was identified on it last
                for item, row in zip(
                    items[:_ITEMS_READ], _rows(reader, request, items[:_ITEMS_READ]), strict=False
                ):
                    yield {
                        "source": "feature",
                        "schema": features.schema_hash,
                        "person": person,
                        "item": item,
                        **row,
                    }
        finally:
            reader.close()


def _reader(project: Project, features: FeatureSet) -> Reader | None:
    """Of the state on this machine; where its worker is elsewhere, of the copy in Valkey."""
    for copies in (None, project.copies()):
        try:
            return Reader(project.paths.state, features, copies=copies, workers=project.workers)
        except NotReadyError:
            continue
    return None


def _rows(reader: Reader, request: ReadRequest, items: list[str]) -> list[Record]:
    if not items:
        return []
    rows = reader.read(request, items)
    names = reader.features.numeric
    return [
        {
            name: None if np.isnan(value) else float(value)
            for name, value in zip(names, row, strict=True)
        }
        for row in rows.numeric
    ]


def write_export(records: Iterator[Record], out: Path) -> dict[str, int]:
    """Write records to a file of lines of JSON; how many from each source. It appears whole, for
    its owner alone, or not at all.
    """
    counts: dict[str, int] = {}
    draft = out.with_name(f"{out.name}.new")
    with draft.open("wb") as file:
        draft.chmod(0o600)
        for record in records:
            counts[record["source"]] = counts.get(record["source"], 0) + 1
            file.write(msgspec.json.encode(record) + b"\n")
    draft.replace(out)
    return counts
