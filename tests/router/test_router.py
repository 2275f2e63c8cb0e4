"""Decisions of the router through its public interface: raw logs in, routed log out."""

import json
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from tailorbird.errors import DamageError, LockedError
from tailorbird.events import DAY, HOUR, MINUTE, QUARANTINE, ROUTED, SECOND, Receipt, RoutePlan
from tailorbird.router import DUPLICATES, to_table
from tailorbird.router.decide import dedup
from tailorbird.stream import Block, open_writer, raw_path
from tailorbird.stream.locked import read_expected_ends

NOW = 1_764_072_000_000_000  # 2025-11-25T12:00:00Z


def moment(us):
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)


def click(event_id="c1", **fields):
    return {"event_id": event_id, "type": "click", "user_id": "u1", "item_id": "i1"} | fields


def view(event_id, **fields):
    return {"event_id": event_id, "type": "view", "user_id": "u1"} | fields


def visit(event_id, **fields):
    return {"event_id": event_id, "type": "view", "anonymous_id": "c0ffee"} | fields


def identify(event_id, user, ts):
    return {
        "event_id": event_id,
        "type": "identify",
        "anonymous_id": "c0ffee",
        "user_id": user,
        "ts": ts,
    }


def item(event_id, item_id="i1", **fields):
    return {"event_id": event_id, "type": "item", "item_id": item_id} | fields


def answer(event_id="a1", request_id="r1", **fields):
    event = {
        "event_id": event_id,
        "type": "answer",
        "user_id": "u1",
        "request_id": request_id,
        "items": ["i1", "i2", "i3"],
        "ts": NOW,
    }
    response = {
        "slot": "home",
        "experiment": "x1",
        "arm": "model",
        "model": "v0001",
        "query": "coat",
        "propensities": [1.0, 0.5, 0.25],
    }
    return event | {"answer": response} | fields


# --- columns, blocks, accounts
#  -------------------------------------------------------------------------------------------


def test_an_event_keeps_all_that_it_said(stream):
    stream.post(
        {
            "event_id": "e1",
            "type": "view",
            "ts": NOW - 2 * SECOND,
            "sent_at": NOW - SECOND,
            "user_id": "u1",
            "anonymous_id": "c0ffee",
            "session_id": "s1",
            "item_id": "i1",
            "items": ["i1", "i2"],
            "request_id": "r1",
            "context": {
                "device": "phone",
                "country": "no",
                "page": "/p",
                "referrer": "/r",
                "user_agent": "Googlebot/2.1",
                "utc_offset_min": 90,
            },
            "properties": {
                "query": "coat",
                "dwell_ms": 5,
                "price": 1.5,
                "quantity": 2,
                "rating": -1,
                "z": 1,
                "a": {"c": [1], "b": None},
            },
        }
    )
    assert stream.route() == (1, 0, 0, {"collector": 1})
    (row,) = stream.events()
    assert list(row) == ROUTED.names
    assert row == dict.fromkeys(ROUTED.names) | {
        "p": 1,
        "event_id": "e1",
        "type": "view",
        "ts": moment(NOW - SECOND),
        "ts_original": moment(NOW - 2 * SECOND),
        "sent_at": moment(NOW - SECOND),
        "received_at": moment(NOW),
        "user_id": "u1",
        "anonymous_id": "c0ffee",
        "person": "u1",
        "session_id": "s1",
        "item_id": "i1",
        "items": ["i1", "i2"],
        "request_id": "r1",
        "device": "phone",
        "country": "NO",
        "page": "/p",
        "referrer": "/r",
        "agent": "bot",
        "local_hour": 13,
        "query": "coat",
        "dwell_ms": 5.0,
        "price": 1.5,
        "quantity": 2.0,
        "rating": -1.0,
        "properties": '{"a":{"b":null,"c":[1]},"z":1}',
        "counts": True,
        "timeless": False,
        "raw_partition": "collector",
        "raw_offset": 0,
        "raw_row": 0,
    }


def test_every_row_takes_a_position_and_none_is_taken_twice(stream):
    stream.post(view("e1"), {"event_id": "bad"}, view("e2"), view("e1"), producer="a")
    stream.post(view("e3"), view("e2"), producer="b")
    assert stream.route(rows_max=2) == (3, 2, 1, {"a": 4, "b": 2})
    stored = stream.blocks()
    assert [(one.offset, one.block.kind, one.block.rows) for one in stored] == [
        (1, "events", 3),
        (4, "quarantine", 1),
        (5, "duplicates", 2),
    ]
    assert [to_table(one.block).schema for one in stored] == [ROUTED, QUARANTINE, DUPLICATES]
    assert stream.events("p", "event_id", "raw_partition", "raw_offset", "raw_row") == [
        (1, "e1", "a", 0, 0),
        (2, "e2", "a", 0, 2),
        (3, "e3", "b", 0, 0),
    ]
    positions = {
        "user_attributes": ["plan"],
        "item_attributes": ["category", "price"],
        "received_at": stream.now,
    }
    assert [json.loads(one.block.receipt) for one in stored] == [
        {"plan": stream.plan.version, "contract": 1, **positions}
    ] * 3


def test_what_is_refused_goes_whole_to_quarantine(stream):
    stream.post_bytes(b'[{"event_id": "e1"}, 7]', rows=2)
    stream.post_bytes(b"{broken")
    assert stream.route() == (0, 0, 3, {"collector": 3})
    rows = stream.rows("quarantine")
    assert [
        (row["code"], row["path"], row["body"], row["raw_offset"], row["raw_row"]) for row in rows
    ] == [
        ("missing", "$.type", b'{"event_id": "e1"}', 0, 0),
        ("wrong_type", "$", b"7", 0, 1),
        ("malformed_json", "$", b"{broken", 2, 0),
    ]
    assert {(row["received_at"], row["source"], row["raw_partition"]) for row in rows} == {
        (moment(NOW), "collector", "collector")
    }


def test_a_step_takes_whole_bodies_and_shares_among_producers(stream):
    for number in range(4):
        stream.post(view(f"a{number}"), view(f"b{number}"), producer="one")
        stream.post(view(f"c{number}"), view(f"d{number}"), producer="two")
    with stream.router() as router:
        report = router.step(rows_max=4)
        assert (report.accepted, report.positions) == (4, {"one": 2, "two": 2})
        assert router.step(rows_max=1).positions == {
            "one": 4,
            "two": 4,
        }  # a body each, so that none is left to wait
        assert router.step(rows_max=1_000).positions == {"one": 8, "two": 8}
        assert router.step().rows == 0


def test_a_log_that_appears_later_is_found(stream):
    with stream.router() as router:
        assert router.step().positions == {}
        stream.post(view("e1"))
        assert router.has_changed()
        assert router.step().accepted == 1
        assert not router.has_changed()
        stream.post(view("e2"))
        assert router.has_changed()
        assert router.step().accepted == 1


def test_a_report_says_how_far_behind_the_router_is(stream):
    stream.post(view("e1"))
    stream.now += 3 * SECOND
    with stream.router() as router:
        assert router.step().lag_us == 3 * SECOND


def test_a_second_router_is_refused(stream):
    with stream.router(), pytest.raises(LockedError, match=r"routed\.db"):
        stream.router()


def test_a_raw_log_that_lost_rows_stops_the_router(stream):
    stream.post(view("e1"), view("e2"))
    stream.route()
    for path in stream.folder.glob("raw-collector.db*"):
        path.unlink()
    stream.post(view("e3"))
    with (
        stream.router() as router,
        pytest.raises(DamageError, match="ends at 1, but was read up to 2"),
    ):
        router.step()


def test_a_raw_log_that_was_lost_is_begun_behind_what_was_routed_of_it(stream):
    stream.post(view("e1"), view("e2"))
    stream.route()
    for path in stream.folder.glob("raw-collector.db*"):
        path.unlink()
    for number in range(3, 8):
        with open_writer(
            raw_path(stream.folder, "collector"),
            partition="collector",
            expected_ends=read_expected_ends(stream.folder, "collector", None),
        ) as writer:
            writer.append(
                [
                    Block(
                        "body",
                        1,
                        msgspec.json.encode([view(f"e{number}")]),
                        msgspec.json.encode(Receipt(stream.now)),
                    )
                ]
            )
    assert stream.route() == (5, 0, 0, {"collector": 7}), (
        "none is taken for one that was routed before"
    )


def test_routing_again_gives_the_same_blocks(stream):
    stream.post(
        item("p1", properties={"price": 1}),
        answer(),
        click(request_id="r1"),
        visit("v1"),
        source="server",
    )
    stream.post(
        identify("n1", "u1", NOW - HOUR),
        visit("v2"),
        view("e1"),
        view("e1"),
        {"event_id": "bad"},
        producer="other",
    )
    stream.route(rows_max=3)
    first = stream.blocks()
    for path in stream.folder.glob("routed.db*"):
        path.unlink()
    stream.now += DAY
    stream.route(rows_max=3)
    assert stream.blocks() == first


def test_pruned_rows_are_not_given_again(stream):
    stream.post(view("e1"), view("e2"))
    with stream.router() as router:
        router.step()
        assert router.prune(3) == 1
        stream.post(view("e3"))
        router.step()
        assert router.end() == 4
    with stream.router() as router:
        stream.post(view("e3"))
        assert router.step().duplicates == 1


# --- repeats
#  -------------------------------------------------------------------------------------------------


def test_a_repeat_is_dropped_in_the_same_body_the_same_step_and_later(stream):
    stream.post(view("e1"), view("e1"))
    stream.post(view("e1"))
    assert stream.route() == (1, 2, 0, {"collector": 3})
    stream.post(view("e0"), view("e1"), producer="late")
    assert stream.route() == (1, 1, 0, {"collector": 3, "late": 2})
    firsts = [
        (row["raw_partition"], row["raw_offset"], row["raw_row"])
        for row in stream.rows("duplicates")
    ]
    assert firsts == [("collector", 0, 1), ("collector", 2, 0), ("late", 0, 1)]
    assert {
        (row["event_id"], row["first_partition"], row["first_offset"], row["first_row"])
        for row in stream.rows("duplicates")
    } == {("e1", "collector", 0, 0)}


def test_the_same_id_of_another_subject_is_another_event(stream):
    stream.post(
        view("e1"),
        view("e1", user_id="u2"),
        visit("e1", anonymous_id="u1"),
        item("e1", "u1"),
        item("e1", "i2"),
    )
    assert stream.route() == (5, 0, 0, {"collector": 5})


def test_a_refused_event_does_not_stand_in_the_way_of_its_correction(stream):
    stream.post(view("e1", context={"country": "Norway"}))
    stream.post(view("e1", context={"country": "NO"}))
    assert stream.route() == (1, 0, 1, {"collector": 2})


@pytest.mark.parametrize(("apart", "accepted"), [(7 * DAY, 1), (7 * DAY + 1, 2)])
def test_ids_are_remembered_over_the_horizon_by_the_time_of_receipt(stream, apart, accepted):
    stream.post(view("e1"), received_at=NOW)
    stream.post(view("e1"), received_at=NOW + apart)
    assert stream.route(rows_max=1)[0] == accepted
    stream.post(view("x1"), received_at=NOW + apart)
    stream.post(view("x1"), received_at=NOW)
    assert stream.route()[0] == accepted


def test_an_import_is_compared_by_the_time_that_its_source_gives(stream):
    old = view("e1", ts=NOW - 300 * DAY)
    stream.post(old, view("e1", ts=NOW - 200 * DAY), producer="import", source="import")
    stream.post(old, producer="import", source="import")
    assert stream.route() == (2, 1, 0, {"import": 3})


def test_an_import_that_overlaps_one_of_long_ago_repeats_nothing(stream, monkeypatch):
    monkeypatch.setattr(dedup, "_SEGMENTS_MIN", 1)
    monkeypatch.setattr(dedup.DedupIndex.__init__, "__kwdefaults__", {"segment_rows": 10})
    history = [view(f"h{day}", ts=NOW - (300 - day) * DAY) for day in range(10)]
    stream.post(*history, producer="import", source="import")
    for first in range(0, 100, 10):
        stream.post(*(view(f"e{n}") for n in range(first, first + 10)))
    assert stream.route(rows_max=10)[0] == 110
    stream.post(view("new", ts=NOW - 290 * DAY), *history, producer="import", source="import")
    assert stream.route()[:2] == (1, 10)


# --- who
#  -------------------------------------------------------------------------------------------------


def test_a_person_is_the_user_else_the_one_identified_else_the_anonymous_id(stream):
    stream.post(
        view("e1", anonymous_id="c0ffee"),
        visit("v1"),
        identify("n1", "u7", NOW),
        visit("v2"),
        visit("v3", anonymous_id="other"),
    )
    stream.route()
    assert stream.events("event_id", "person") == [
        ("e1", "u1"),
        ("v1", "anon:c0ffee"),
        ("n1", "u7"),
        ("v2", "u7"),
        ("v3", "anon:other"),
    ]


def test_an_identify_holds_from_its_time_on_and_the_newest_counts(stream):
    stream.post(identify("n2", "u2", NOW - HOUR))
    stream.post(identify("n1", "u1", NOW - 3 * HOUR))
    stream.post(*[visit(f"v{hours}", ts=NOW - hours * HOUR) for hours in (4, 3, 2, 1, 0)])
    stream.route(rows_max=1)
    assert stream.events("event_id", "person")[2:] == [
        ("v4", "anon:c0ffee"),
        ("v3", "u1"),
        ("v2", "u1"),
        ("v1", "u2"),
        ("v0", "u2"),
    ]


def test_the_past_is_not_keyed_again(stream):
    stream.post(visit("v1"))
    stream.route()
    stream.post(identify("n1", "u1", NOW - DAY))
    stream.post(visit("v2", ts=NOW - HOUR))
    stream.route()
    assert stream.events("person") == ["anon:c0ffee", "u1", "u1"]


# --- profiles
#  -------------------------------------------------------------------------------------------------


def test_an_event_carries_the_version_that_applied_at_its_time(stream):
    stream.post(
        item("p2", ts=NOW - HOUR, properties={"category": "coats", "price": 2, "title": "Coat"})
    )
    stream.post(item("p1", ts=NOW - 3 * HOUR, properties={"category": "coats", "price": 1}))
    stream.post(item("p0", timeless=True, properties={"price": 0}))
    stream.post(*[click(f"c{hours}", ts=NOW - hours * HOUR) for hours in (23, 3, 2, 1)])
    stream.route(rows_max=1)
    assert stream.events("event_id", "item_version", "item_profile")[3:] == [
        ("c23", "p0", '{"price":0}'),
        ("c3", "p1", '{"category":"coats","price":1}'),
        ("c2", "p1", '{"category":"coats","price":1}'),
        ("c1", "p2", '{"category":"coats","price":2}'),
    ]


def test_an_event_about_several_items_carries_the_version_of_each(stream):
    stream.post(item("p1", "coat", properties={"category": "coats"}, timeless=True))
    shown = {"type": "impression", "user_id": "u1"}
    stream.post(
        {"event_id": "both", **shown, "items": ["coat", "unknown"]},
        {"event_id": "none", **shown, "items": ["unknown"]},
    )
    stream.route()
    assert stream.events("event_id", "item_version", "item_profile")[1:] == [
        ("both", '["p1",null]', '[{"category":"coats"},null]'),
        ("none", None, None),
    ]


def test_only_profiles_applied_before_are_attached(stream):
    stream.post(click("c1"), item("p1", timeless=True), click("c2"))
    stream.route()
    assert stream.events("item_version") == [None, None, "p1"]
    assert stream.event("c2")["item_profile"] == "{}"


def test_a_profile_keeps_all_its_properties_always_counts_and_belongs_to_its_user(stream):
    stream.post(
        {
            "event_id": "p1",
            "type": "user",
            "user_id": "u1",
            "ts": NOW - 900 * DAY,
            "properties": {"plan": "gold", "price": 3, "age": 40},
        },
        item("p2", ts=NOW - 900 * DAY, properties={"z": 1, "a": 2}),
        view("e1"),
        identify("n1", "u1", NOW),
        visit("v1"),
    )
    stream.route()
    assert stream.events("person", "counts", "properties", "price")[:2] == [
        ("u1", True, '{"age":40,"plan":"gold","price":3}', None),
        (None, True, '{"a":2,"z":1}', None),
    ]
    for event_id in ("e1", "v1"):
        assert (stream.event(event_id)["user_version"], stream.event(event_id)["user_profile"]) == (
            "p1",
            '{"plan":"gold"}',
        )


def test_an_attribute_declared_later_is_attached_from_then_on(stream):
    stream.post(
        item("p1", timeless=True, properties={"category": "coats", "colour": "red"}), click("c1")
    )
    stream.route()
    stream.plan = RoutePlan(item_attributes=("colour",))
    stream.post(click("c2"))
    stream.route()
    assert stream.events("item_profile") == [None, '{"category":"coats"}', '{"colour":"red"}']


# --- answers
#  -------------------------------------------------------------------------------------------------


def test_an_answer_is_kept_with_its_propensities(stream):
    stream.post(answer(), producer="serve", source="server")
    stream.route()
    (row,) = stream.events()
    names = (
        "slot",
        "experiment",
        "arm",
        "model",
        "answer_query",
        "items",
        "propensities",
        "position",
        "propensity",
        "request_id",
    )
    assert [row[name] for name in names] == [
        "home",
        "x1",
        "model",
        "v0001",
        "coat",
        ["i1", "i2", "i3"],
        [1.0, 0.5, 0.25],
        None,
        None,
        "r1",
    ]


@pytest.mark.parametrize("rows_max", [1, 100])
def test_what_names_a_request_gets_what_the_answer_knew(stream, rows_max):
    stream.post(answer(), producer="a-serve", source="server")
    stream.post(
        click(item_id="i2", request_id="r1"),
        view("e1", request_id="r1"),
        click("c2", item_id="i9", request_id="r1"),
        producer="collector",
    )
    stream.post(click("c3", request_id="r2"), producer="collector")
    stream.route(rows_max)
    names = (
        "slot",
        "experiment",
        "arm",
        "model",
        "answer_query",
        "position",
        "propensity",
        "propensities",
    )
    expected = ("home", "x1", "model", "v0001", "coat")
    assert stream.events(*names)[1:] == [
        (*expected, 2, 0.5, None),
        (*expected, None, None, None),
        (*expected, None, None, None),
        (None,) * 8,
    ]


def test_nothing_follows_from_an_answer_before_it_is_given(stream):
    stream.post(answer(ts=NOW), source="server")
    stream.post(
        click("c1", ts=NOW - MINUTE, request_id="r1"), click("c2", ts=NOW + MINUTE, request_id="r1")
    )
    stream.route()
    assert stream.events("ts", "ts_original")[1:] == [
        (moment(NOW + 1), moment(NOW - MINUTE)),
        (moment(NOW + MINUTE), moment(NOW + MINUTE)),
    ]


@pytest.mark.parametrize(("later", "slot"), [(2 * HOUR, "home"), (2 * HOUR + 1, None)])
@pytest.mark.parametrize("reopened", [False, True])
def test_an_answer_is_remembered_for_a_while(stream, later, slot, reopened):
    stream.post(answer(), source="server")
    if reopened:
        stream.route()
    stream.post(click("c1", ts=NOW, request_id="r1"), received_at=NOW + later)
    stream.route(rows_max=1)
    assert stream.event("c1")["slot"] == slot


def test_old_answers_are_forgotten(stream):
    for hour in range(6):
        stream.post(
            answer(f"a{hour}", f"r{hour}", ts=NOW + hour * HOUR),
            source="server",
            received_at=NOW + hour * HOUR,
        )
    with open_writer(raw_path(stream.folder, "collector"), partition="collector"):
        pass
    with stream.router() as router:
        while router.step(rows_max=1).rows:
            pass
    with open_writer(stream.folder / "routed.db", partition="routed") as log:
        assert log.connection.execute("SELECT count(*) FROM answer_run").get == 3


# --- time
#  -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("late", "counts"), [(0, True), (1 * DAY, True), (1 * DAY + 1, False), (401 * DAY, False)]
)
def test_what_comes_too_late_does_not_count(stream, late, counts):
    stream.post(view("e1", ts=NOW - late))
    stream.route()
    assert stream.events("counts") == [counts]


def test_imported_history_counts(stream):
    stream.post(view("e1", ts=NOW - 399 * DAY), producer="import", source="import")
    stream.post(view("e2", ts=NOW - 399 * DAY, received_at=NOW), producer="import", source="import")
    stream.route()
    assert stream.events("counts") == [True, False]


def test_big_bodies_and_odd_text_pass(stream):
    text = 'snow ☃ \u0000 \U0001f600 "quoted" \' OR 1=1 --'
    events = [
        view(f"e{number}", session_id="s☃", properties={"query": text, text: text})
        for number in range(3_000)
    ]
    stream.post(*events)
    assert stream.route(rows_max=100)[0] == 3_000
    row = stream.events()[-1]
    assert row["query"] == text
    assert json.loads(row["properties"]) == {text: text}
