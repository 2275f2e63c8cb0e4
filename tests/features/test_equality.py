"""The three readings of a feature are one: plain reference = backfill = stream, bit for bit, whatever comes in whatever order.

Hypothesis draws declarations of every kind, events (late, tied in time, profiles late or without a time, an identify in
the middle, values at their bounds, some that do not count), how the log is cut into batches, restarts of the worker, and
requests between commits. Each request is read from the state, then recomputed both from all events that ever came.
"""

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tailorbird import faults
from tailorbird.events import Receipt, RoutePlan
from tailorbird.events.clock import DAY, HOUR, MINUTE, SECOND, SimulatedClock
from tailorbird.events.schema import ROUTED
from tailorbird.features import (
    FeatureSet,
    ReadRequest,
    Rows,
    attribute,
    context,
    count,
    decayed,
    derived,
    distinct,
    entity,
    gap_mean,
    last,
    maximum,
    mean,
    minimum,
    ratio,
    sequence,
    session,
    session_depth,
    session_duration,
    session_length,
    share,
    time_since,
    time_since_first,
    total,
    trend,
    variance,
)
from tailorbird.features import reference as plain
from tailorbird.features.backfill import Requests, backfill
from tailorbird.features.read import Reader
from tailorbird.features.worker import FeatureWorker
from tailorbird.router import Router
from tailorbird.stream import Block, open_reader, open_writer, raw_path, routed_path

START = 1_790_000_000 * SECOND
ITEMS = ("i1", "i2", "i3")
ENTITIES = (
    entity("user"),
    entity("item"),
    entity("session"),
    entity("item.category"),
    entity("user", "item.category"),
    entity("user", "item"),
    entity("user.segment"),
    entity("country", "item"),
    entity(),
    entity("query"),
    entity("query", "item"),
)
OF_REQUEST = (ENTITIES[0], ENTITIES[2], ENTITIES[6], ENTITIES[8], ENTITIES[9])
TYPES = ("click", "view", "purchase", "impression", "answer", "search", "rating")
FILTERS = (
    None,
    "agent != 'bot'",
    "price > 5",
    "device == 'phone' or missing(dwell_ms)",
    "item.category == 'a'",
    "item != 'i1' and user == 'u1'",
    "properties.tag in ('x', 'y')",
)
NUMBERS = ("price", "price * quantity", "dwell_ms", "rating", "item.price", "properties.depth")
KINDS = ("count", "total", "mean", "variance", "extreme", "distinct", "ratio", "trend", "share", "decayed")
KINDS += ("last", "since", "first", "gap", "measure", "sequence", "session", "attribute", "context")
TRENDS = (("1m", "1h", None), ("10m", "1h", "10m"), ("1d", "7d", None), ("1d", "30d", "1d"))
WINDOWS = (("1m", None), ("1h", "10m"), ("1d", "1h"), ("7d", None), ("3d", "3d"), (None, None))

settings.register_profile(
    "equality",
    max_examples=int(os.environ.get("EQUALITY_EXAMPLES", "100")),
    deadline=None,
    derandomize="EQUALITY_EXAMPLES" not in os.environ,
)


@st.composite
def declarations(draw):
    """Some features of every kind that hypothesis likes, and columns derived from them."""
    one_type = st.sampled_from(TYPES)
    types = st.lists(one_type, min_size=1, max_size=3)
    about, where = st.sampled_from(ENTITIES), st.sampled_from(FILTERS)
    found = []
    for number in range(draw(st.integers(1, 7))):
        name = f"f{number}"
        kind = draw(st.sampled_from(KINDS))
        window, hop = draw(st.sampled_from(WINDOWS))
        span = {"window": window, "hop": hop}
        amount = {
            "of": draw(st.sampled_from(NUMBERS)),
            "unit": draw(st.sampled_from([0.01, 0.3, 1.0])),
            "max": draw(st.sampled_from([10, 1e6])),
        }
        if kind == "count":
            found.append(count(name, draw(about), draw(types), where=draw(where), **span))
        elif kind == "total":
            found.append(total(name, draw(about), draw(types), where=draw(where), **amount, **span))
        elif kind == "mean":
            found.append(mean(name, draw(about), draw(types), where=draw(where), **amount, **span))
        elif kind == "variance":
            found.append(variance(name, draw(about), draw(types), where=draw(where), **amount, **span))
        elif kind == "extreme":
            largest = draw(st.sampled_from([minimum, maximum]))
            found.append(largest(name, draw(about), draw(types), where=draw(where), **amount, **span))
        elif kind == "distinct":
            of, precision = draw(st.sampled_from(["item", "user", "query", "item.category"])), draw(st.integers(4, 8))
            found.append(distinct(name, draw(about), draw(types), of=of, precision=precision, where=draw(where), **span))
        elif kind == "ratio":
            prior = draw(st.sampled_from([None, 0.1, *ENTITIES]))
            weight = draw(st.sampled_from([0, 3, 20.5]))
            found.append(ratio(name, draw(about), draw(types), draw(types), prior=prior, weight=weight, where=draw(where), **span))
        elif kind == "trend":
            short, long, both = draw(st.sampled_from(TRENDS))
            found.append(trend(name, draw(about), draw(types), short=short, long=long, hop=both, where=draw(where)))
        elif kind == "share":
            own, group = draw(st.lists(about, min_size=2, max_size=2, unique=True))
            summed = amount if draw(st.booleans()) else {}
            found.append(share(name, own, draw(types), within=group, where=draw(where), **summed, **span))
        elif kind == "decayed":
            half_life, summed = draw(st.sampled_from(["15s", "1h", "3d", "50d"])), amount if draw(st.booleans()) else {}
            found.append(decayed(name, draw(about), draw(types), half_life=half_life, where=draw(where), **summed))
        elif kind == "last":
            of, told = draw(
                st.sampled_from([("price", None), ("item.category", "categorical"), ("item.price", "numeric"), ("query", None)])
            )
            found.append(last(name, draw(about), draw(types), of=of, kind=told, where=draw(where)))
        elif kind == "since":
            found.append(time_since(name, draw(about), draw(types), where=draw(where)))
        elif kind == "first":
            found.append(time_since_first(name, draw(about), draw(types), where=draw(where)))
        elif kind == "gap":
            found.append(gap_mean(name, draw(st.sampled_from(OF_REQUEST)), draw(types), length=draw(st.integers(2, 6)), where=draw(where)))
        elif kind == "measure":
            measure = draw(st.sampled_from([session_length, session_depth, session_duration]))
            found.append(measure(name, draw(st.none() | types)))
        elif kind == "sequence":
            found.append(sequence(name, draw(st.sampled_from(OF_REQUEST)), draw(types), length=draw(st.integers(1, 5)), where=draw(where)))
        elif kind == "session":
            found.append(session(name, draw(one_type)))
        elif kind == "attribute":
            owner, attribute_name, told = draw(
                st.sampled_from(
                    [
                        (0, "segment", "categorical"),
                        (0, "age", "numeric"),
                        (1, "category", "categorical"),
                        (1, "price", "numeric"),
                        (1, "tags", "categorical"),
                    ]
                )
            )
            found.append(attribute(name, ENTITIES[owner], attribute_name, kind=told))
        else:
            field = draw(st.sampled_from(["device", "country", "local_hour"]))
            if field not in [one.name for one in found]:
                found.append(context(field))
    numbers = [one.name for one in found if one.name in FeatureSet.from_declarations(found).numeric]
    if numbers:
        a, b = draw(st.sampled_from(numbers)), draw(st.sampled_from(numbers))
        found.append(derived("d1", draw(st.sampled_from([f"{a} / {b}", f"{a} - 0.1 * {b}", f"sqrt({a} + 1) if {b} > 1 else {b}"]))))
        found.append(derived("d2", f"max(d1, {a}) * 3"))
    return found


PROFILE = st.fixed_dictionaries(
    {},
    optional={
        "category": st.sampled_from(["a", "b"]),
        "price": st.sampled_from([0.1, 7, 1e9]),
        "segment": st.sampled_from(["s", "t"]),
        "age": st.sampled_from([1, 33.3]),
        "tags": st.sampled_from([["x", "y"], [], ["y"]]),
    },
)


@st.composite
def event(draw, span):
    """One routed event without its p, at START plus up to `span`: each draw is small, so that ties and repeats are common."""
    kind = draw(st.sampled_from([*TYPES, "item", "user", "identify"]))
    row = dict.fromkeys(ROUTED.names)
    moment = START + draw(st.integers(0, 12)) * span // 12 + draw(st.sampled_from([0, 0, 1, -1]))
    user, anonymous = draw(st.sampled_from([("u1", None), ("u2", "a1"), (None, "a1"), (None, "a2")]))
    row |= {
        "event_id": draw(st.sampled_from("abcdefghijklmnop")),
        "type": kind,
        "ts": moment,
        "received_at": moment,
        "counts": draw(st.integers(0, 9)) > 0,
    }
    row |= {"timeless": False, "raw_partition": "d1", "raw_offset": 0, "raw_row": 0}
    if kind == "item":
        timeless = draw(st.booleans())
        row |= {"item_id": draw(st.sampled_from(ITEMS)), "properties": json.dumps(draw(PROFILE)), "timeless": timeless, "counts": True}
        return row | {"ts": 0 if timeless else moment}
    if kind == "user":
        return row | {"user_id": "u1", "person": "u1", "properties": json.dumps(draw(PROFILE)), "counts": True}
    if kind == "identify":
        return row | {"user_id": "u2", "anonymous_id": "a2", "person": "u2"}
    row |= {"user_id": user, "anonymous_id": anonymous, "person": user or draw(st.sampled_from([f"anon:{anonymous}", "u2"]))}
    row |= {"session_id": draw(st.sampled_from([None, "s1", "s2"])), "device": draw(st.sampled_from([None, "phone", "tablet"]))}
    row |= {"country": draw(st.sampled_from([None, "NO"])), "agent": draw(st.sampled_from(["person", "bot", None]))}
    row |= {"price": draw(st.sampled_from([None, 0.0, 0.005, 9.994999, 10.0, 1e9])), "quantity": draw(st.sampled_from([None, 1.0, 3.0]))}
    row |= {"dwell_ms": draw(st.sampled_from([None, 86_400_000.0, 0.15])), "rating": draw(st.sampled_from([None, -1e6, 4.5]))}
    row |= {"properties": draw(st.sampled_from([None, '{"depth":3,"tag":"x"}', '{"depth":"deep","tag":1}']))}
    row |= {"answer_query": draw(st.sampled_from([None, "Big  SHOES"]))}
    row |= {
        "query": draw(st.sampled_from([None, "shoes", " Shoes"])),
        "user_profile": json.dumps(draw(PROFILE)) if draw(st.booleans()) else None,
    }
    if kind in ("answer", "impression") and draw(st.booleans()):
        row["items"] = draw(st.lists(st.sampled_from(ITEMS), min_size=0, max_size=4))
        return row | {"item_profile": json.dumps([draw(st.none() | PROFILE) for _ in row["items"]]) if draw(st.booleans()) else None}
    if kind == "search" and draw(st.booleans()):
        return row | {"items": ["i1", "i2"]}
    item = draw(st.sampled_from([*ITEMS, None] if kind in ("search", "view") else ITEMS))
    return row | {"item_id": item, "item_profile": json.dumps(draw(PROFILE)) if item and draw(st.booleans()) else None}


@dataclass(frozen=True)
class Step:
    """A batch of events that the worker takes in at once, then a request; `restart` first."""

    events: list[dict]
    restart: bool
    request: ReadRequest


def _is_new(row: dict, seen: set[tuple[str, str]]) -> bool:
    """The router lets an id of one owner through once."""
    key = row["event_id"], row["user_id"] or row["anonymous_id"] or row["item_id"]
    fresh = key not in seen
    seen.add(key)
    return fresh


@st.composite
def steps(draw):
    span = draw(st.sampled_from([20 * SECOND, 50 * MINUTE, 30 * HOUR, 9 * DAY, 390 * DAY]))
    found = []
    seen: set[tuple[str, str]] = set()
    for _ in range(draw(st.integers(1, 4))):
        events = [one for one in draw(st.lists(event(span), max_size=12)) if _is_new(one, seen)]
        now = START + draw(st.integers(-1, 14)) * span // 12 + draw(st.sampled_from([0, 1, -1]))
        person, anonymous = draw(st.sampled_from([("u1", None), ("u2", None), (None, "a1"), (None, "a2"), (None, None)]))
        request = ReadRequest(
            person=person,
            anonymous_id=anonymous,
            session_id=draw(st.sampled_from([None, "s1", "s3"])),
            device=draw(st.sampled_from([None, "phone"])),
            country=draw(st.sampled_from([None, "NO"])),
            local_hour=draw(st.sampled_from([None, 0, 23])),
            query=draw(st.sampled_from([None, "shoes", "big shoes"])),
            now=now,
        )
        found.append(Step(events, draw(st.booleans()), request))
    return found


@dataclass(frozen=True)
class Asked:
    request: ReadRequest
    rows: Rows


def table(rows) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=ROUTED)


def stream(folder: Path, features: FeatureSet, script: list[Step]) -> tuple[pa.Table, list[Asked]]:
    """Play the script through log, worker and reader: all events with their p, and what was read."""
    clock = SimulatedClock(START)
    folder.mkdir(exist_ok=True)
    routed, asked = folder / "routed.db", []
    all_rows: list[dict] = []
    with open_writer(routed, partition="routed", first=1) as log:
        worker = FeatureWorker(routed, folder / "state", features, clock=clock)
        try:
            for step in script:
                if step.restart:
                    worker.close()
                    worker = FeatureWorker(routed, folder / "state", features, clock=clock)
                rows = [row | {"p": log.end() + index} for index, row in enumerate(step.events)]
                all_rows += rows
                if rows:
                    log.append([Block("events", len(rows), payload(table(rows)))])
                worker.step()
                reader = Reader(folder / "state", features)
                asked.append(Asked(step.request, reader.read(step.request, list(ITEMS))))
                reader.close()
        finally:
            worker.close()
    return table(all_rows), asked


def payload(events: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, events.schema) as writer:
        writer.write_table(events)
    return sink.getvalue().to_pybytes()


def requests(asked: list[Asked]) -> Requests:
    return Requests(
        t=np.array([one.rows.t for one in asked]),
        p=np.array([one.rows.p for one in asked]),
        person=[one.rows.person for one in asked],
        session_id=[one.request.session_id for one in asked],
        device=[one.request.device for one in asked],
        country=[one.request.country for one in asked],
        local_hour=[one.request.local_hour for one in asked],
        query=[one.request.query for one in asked],
        row_request=np.repeat(np.arange(len(asked)), len(ITEMS)),
        row_item=list(ITEMS) * len(asked),
    )


def bits(value: float) -> int:
    number = np.float32(value)
    return 0x7FC00000 if np.isnan(number) else int(number.view(np.uint32))


def differences(features: FeatureSet, events: pa.Table, asked: list[Asked]) -> list[str]:
    """Every value that is not the same in reference, backfill and stream."""
    found = []
    rows = backfill(features, events, requests(asked))
    known = plain.routed_events(events)
    for index, one in enumerate(asked):
        person = plain.ReadRequest(**{**vars(one.request), "person": one.rows.person})
        for place, item in enumerate(ITEMS):

            def expected(name, person=person, item=item, one=one):
                return plain.value(features, name, person, item, one.rows.t, one.rows.p, known)

            row = index * len(ITEMS) + place
            for column, name in enumerate(features.numeric):
                values = [float(expected(name)), rows.numeric[row, column], one.rows.numeric[place, column]]
                if len({bits(value) for value in values}) > 1:
                    found.append(f"{name} of {item} in request {index}: reference, backfill, stream = {values}")
            for column, name in enumerate(features.categorical):
                values = [int(expected(name)), int(rows.categorical[row, column]), int(one.rows.categorical[place, column])]
                if len(set(values)) > 1:
                    found.append(f"{name} of {item} in request {index}: reference, backfill, stream = {values}")
            for name in features.sequences:
                own, read = rows.sequences[name], one.rows.sequences[name]
                part = slice(own.offsets[index], own.offsets[index + 1])
                values = [
                    list(expected(name)),
                    list(zip(own.item[part].tolist(), own.type[part].tolist(), own.ts[part].tolist(), strict=True)),
                    list(zip(read.item.tolist(), read.type.tolist(), read.ts.tolist(), strict=True)),
                ]
                if not values[0] == values[1] == values[2]:
                    found.append(f"{name} in request {index}: reference, backfill, stream = {values}")
    return found


@settings(settings.get_profile("equality"), suppress_health_check=list(HealthCheck))
@given(declarations(), steps())
def test_reference_backfill_and_stream_are_equal_to_the_bit(declared, script):
    features = FeatureSet.from_declarations(declared)
    with tempfile.TemporaryDirectory() as folder:
        events, asked = stream(Path(folder), features, script)
        assert differences(features, events, asked) == []


def test_a_window_that_is_short_of_a_tile_is_noticed(tmp_path, monkeypatch):
    features = FeatureSet.from_declarations([count("clicks", entity("item"), "click", window="1m", hop="10s")])
    click = dict.fromkeys(ROUTED.names) | {"type": "click", "user_id": "u1", "person": "u1", "item_id": "i1"}
    click |= {"counts": True, "timeless": False, "received_at": START}
    clicks = [click | {"event_id": "a", "ts": START}, click | {"event_id": "b", "ts": START + 60 * SECOND}]
    script = [Step(clicks, False, ReadRequest(person="u1", now=START + 61 * SECOND))]
    assert differences(features, *stream(tmp_path / "sound", features, script)) == []
    monkeypatch.setattr(faults, "cut", lambda site: site == "features.tile")
    found = differences(features, *stream(tmp_path / "short", features, script))
    assert found == ["clicks of i1 in request 0: reference, backfill, stream = [2.0, np.float32(2.0), np.float32(1.0)]"]


@dataclass(frozen=True)
class Post:
    """A body that comes in at a door, whose clock and whose client's clock are off; then perhaps a request."""

    door: str
    received_at: int
    events: list[dict]
    request: ReadRequest | None


SHOP = (
    lambda user, item, category: [
        count("item_clicks", item, "click", window="1h", where="agent != 'bot'"),
        ratio("ctr", item, "click", "impression", window="1d", prior=category, weight=5),
        count("mine", entity("user", "item.category"), ["click", "purchase"], window="1d"),
        total("spend", user, "purchase", of="price * quantity", window="7d"),
        last("last_category", user, "click", of="item.category", kind="categorical"),
        time_since("since", user, "click"),
        sequence("recent", user, ["click", "purchase", "search"], length=4),
        session("in_session", "click"),
        attribute("category", item, "category", kind="categorical"),
        attribute("price", item, "price", kind="numeric"),
        attribute("segment", user, "segment", kind="categorical"),
        derived("price_ratio", "price / (spend + 1)"),
    ]
)(entity("user"), entity("item"), entity("item.category"))


@st.composite
def posts(draw):
    """A visit to a shop as two doors see it: clients and doors with skewed clocks, repeats, a login, profiles that come late."""
    span = draw(st.sampled_from([10 * MINUTE, 5 * HOUR, 3 * DAY]))
    now, found, sent = START, [], []
    for _ in range(draw(st.integers(1, 6))):
        now += draw(st.integers(0, 6)) * span // 6
        door, skew = draw(st.sampled_from([("north", 0), ("south", -90 * SECOND), ("south", 45 * SECOND)]))
        offset = draw(st.sampled_from([0, HOUR, -40 * DAY]))  # of the client's clock
        body = []
        for _ in range(draw(st.integers(0, 5))):
            if sent and draw(st.integers(0, 4)) == 0:
                body.append(draw(st.sampled_from(sent)))
                continue
            one = draw(sent_event(now, span)) | {"event_id": f"e{len(sent)}", "sent_at": now + offset}
            if "ts" in one:
                one["ts"] += offset
            sent.append(one)
            body.append(one)
        person, anonymous = draw(st.sampled_from([("u1", None), (None, "a1"), (None, "a2")]))
        request = ReadRequest(person=person, anonymous_id=anonymous, session_id=draw(st.sampled_from([None, "s1"])), now=now)
        found.append(Post(door, now + skew, body, request if draw(st.integers(0, 3)) else None))
    return found


@st.composite
def sent_event(draw, now, span):
    kind = draw(st.sampled_from(["click", "click", "impression", "purchase", "search", "item", "user", "identify"]))
    one: dict = {"type": kind, "ts": now - draw(st.sampled_from([0, 0, span // 12, span // 2, 2 * DAY]))}
    if kind == "item":
        one |= {"item_id": draw(st.sampled_from(ITEMS)), "properties": draw(PROFILE)}
        if draw(st.booleans()):
            one["timeless"] = True
            del one["ts"]
        return one
    if kind == "user":
        return one | {"user_id": "u1", "properties": draw(PROFILE)}
    if kind == "identify":
        return one | {"user_id": "u1", "anonymous_id": draw(st.sampled_from(["a1", "a2"]))}
    one |= draw(st.sampled_from([{"user_id": "u1"}, {"anonymous_id": "a1"}, {"anonymous_id": "a2", "session_id": "s1"}]))
    if kind == "impression":
        return one | {"items": draw(st.lists(st.sampled_from(ITEMS), max_size=3))}
    if kind == "search":
        return one | {"properties": {"query": "boots"}}
    agent = draw(st.sampled_from(["Mozilla/5.0 (X11) Firefox/140", "Googlebot/2.1"]))
    one |= {"item_id": draw(st.sampled_from(ITEMS)), "context": {"user_agent": agent}}
    return one | {"properties": {"price": draw(st.sampled_from([0.1, 19.99])), "quantity": 3}} if kind == "purchase" else one


def through_the_router(folder: Path, features: FeatureSet, visit: list[Post]) -> tuple[pa.Table, list[Asked]]:
    plan = RoutePlan(user_attributes=features.user_attributes, item_attributes=features.item_attributes)
    clock = SimulatedClock(START)
    asked = []
    router = Router(folder, plan, clock=clock)
    worker = FeatureWorker(routed_path(folder), folder / "state", features, clock=clock)
    try:
        for post in visit:
            if post.events:
                receipt = msgspec.json.encode(Receipt(post.received_at))
                with open_writer(raw_path(folder, post.door), partition=post.door) as log:
                    log.append([Block("body", len(post.events), msgspec.json.encode(post.events), receipt)])
            if post.request is None:
                continue  # the router takes several bodies in one step
            router.step()
            worker.step()
            reader = Reader(folder / "state", features)
            asked.append(Asked(post.request, reader.read(post.request, list(ITEMS))))
            reader.close()
        router.step()
        with open_reader(routed_path(folder)) as log:
            blocks = [stored.block for stored in log.read(0) if stored.block.kind == "events"]
    finally:
        worker.close()
        router.close()
    tables = [pa.ipc.open_stream(block.payload).read_all() for block in blocks]
    return (pa.concat_tables(tables) if tables else ROUTED.empty_table()), asked


@settings(settings.get_profile("equality"), suppress_health_check=list(HealthCheck))
@given(posts())
def test_they_are_equal_for_what_two_doors_and_the_router_make_of_a_visit(visit):
    features = FeatureSet.from_declarations(SHOP)
    with tempfile.TemporaryDirectory() as folder:
        events, asked = through_the_router(Path(folder), features, visit)
        assert differences(features, events, asked) == []
