"""After an erasure, three agree on whose everything is: the lake, the state that workers keep, and
a router that has but the archive.
"""

import io
import json
import shutil
import time
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
from tests.faults.roles import make_project
from tests.faults.test_rebuild import _router
from tests.privacy.kit import CLOCK, left_of
from tests.privacy.test_merged import imported, merge
from tests.privacy.test_people import click, people_of, sent

from tailorbird.config import Project, open_project
from tailorbird.events import HOUR
from tailorbird.features.state import open_state
from tailorbird.lake import Lake, verify
from tailorbird.lake.archive import Archive
from tailorbird.lake.rebuild.routing import route_archive
from tailorbird.platform.roles import Roles
from tailorbird.privacy import erase, find_people, look_for
from tailorbird.serving.door import Door
from tailorbird.stream import open_reader

pytestmark = pytest.mark.slow

DECIDED = ("event_id", "type", "user_id", "anonymous_id", "person", "item_id", "counts")


def identify(event_id: str, user: str, visitor: str, **more: object) -> dict:
    return {
        "event_id": event_id,
        "type": "identify",
        "user_id": user,
        "anonymous_id": visitor,
        **more,
    }


def send(project: Project, events: list[dict]) -> dict[str, int]:
    """What the door kept out or refused, by its code."""
    with Door(
        project.paths.stream, "serve-1", project.plan, CLOCK, stopped=project.stopped()
    ) as door:
        door.submit(json.dumps(events).encode())
        refused = dict(door.figures().refused)
    with Roles(project, CLOCK) as roles:
        roles.drain()
    return refused


def gone(project: Project, *users: str) -> None:
    done = erase(project, users, CLOCK)
    assert done.clean, done.searched.found
    with Roles(project, CLOCK) as roles:
        roles.drain()
    agree(project)


def agree(project: Project) -> None:
    assert decided_by(Lake(project.paths.lake).events(list(DECIDED))) == decided_by(
        routed_anew(project)
    )
    assert kept(project) == kept_anew(project)
    assert verify(project.paths.lake, stream=project.stream).clean


def decided_by(events: pa.Table) -> list[tuple]:
    return sorted(
        (tuple(row[name] for name in DECIDED) for row in events.select(list(DECIDED)).to_pylist()),
        key=repr,
    )


def routed_anew(project: Project) -> pa.Table:
    folder = project.root.parent / "anew"
    shutil.rmtree(folder, ignore_errors=True)
    route_archive(
        Archive(project.paths.lake / "archive"),
        project.stream,
        folder,
        partial(_router, project),
        None,
    )
    tables = []
    with open_reader(next(folder.rglob("routed.db"))) as reader:
        position = reader.start()
        while stored := reader.read(position):
            tables += [
                pa.ipc.open_stream(io.BytesIO(one.block.payload)).read_all()
                for one in stored
                if one.block.kind == "events"
            ]
            position = stored[-1].end
    return pa.concat_tables(tables)


def kept_anew(project: Project) -> dict[bytes, bytes]:
    """As `kept`, of a copy whose state is made from log and lake."""
    copy = project.root.parent / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(project.root, copy)
    shutil.rmtree(copy / "data" / "state")
    other = open_project(copy)
    with Roles(other, CLOCK) as roles:
        roles.drain()
    return kept(other)


def kept(project: Project) -> dict[bytes, bytes]:
    """All states and other names of people."""
    store = open_state(project.paths.state, project.features)
    try:
        with store.snapshot() as snapshot:
            return {
                bytes(key): bytes(value)
                for prefix in (b"s", b"a", b"u")
                for key, value in snapshot.scan(prefix)
            }
    finally:
        store.close()


def test_a_user_who_was_two_peoples_is_nobodys_after_one_of_them_is_erased(tmp_path: Path) -> None:
    project = sent(
        tmp_path,
        [
            merge("m1", "guest-1", "anna-7755"),
            click("c1", "guest-1"),
            merge("m2", "guest-1", "bert-8866"),
        ],
    )
    send(project, [click("c2", "guest-1"), click("c3", "guest-1", "phone-of-guest")])
    for user in ("anna-7755", "bert-8866"):
        assert find_people(Lake(project.paths.lake), [user]).users == {user}
        gone(project, user)
    assert people_of(project)["guest-1"] == 2, "two merges that are into itself now"


def test_a_merge_that_was_taken_back_by_its_own_user_stays_one(tmp_path: Path) -> None:
    """Though its id is a new one, as it held that of somebody erased."""
    project = sent(
        tmp_path,
        [
            merge("m1", "dora-1", "dora-2"),
            merge("m2:anna-7755", "dora-1", "dora-1"),
            merge("m3", "dora-1", "dora-2"),
        ],
    )
    send(project, [click("a", "anna-7755")])
    gone(project, "anna-7755")
    assert find_people(Lake(project.paths.lake), ["dora-2"]).users == {"dora-1", "dora-2"}


def test_what_stays_another_users_is_without_the_profile_of_the_erased(tmp_path: Path) -> None:
    profile = {
        "event_id": "p1",
        "type": "user",
        "user_id": "anna-7755",
        "properties": {"city": "Longyearbyen", "age": 40},
    }
    root = make_project(tmp_path / "shop").root
    (root / "features.py").write_text((root / "features.py").read_text() + CITY)
    told = [
        profile,
        merge("m1", "guest-1", "anna-7755"),
        identify("i1", "guest-1", "tablet"),
        merge("m2", "guest-1", "bert-8866"),
    ]
    project = open_project(root)
    send(project, told)
    assert left_of(project.root / "data" / "lake", b"Longyearbyen")
    gone(project, "anna-7755")
    assert left_of(project.root / "data", b"Longyearbyen") == []


CITY = """
from tailorbird.features import attribute
user_city = attribute("user_city", user, "city", kind="categorical")
"""


def test_what_is_kept_under_a_new_id_does_not_come_twice(tmp_path: Path) -> None:
    profile = {
        "event_id": "p1:anna-7755",
        "type": "user",
        "user_id": "bert-8866",
        "properties": {"age": 4},
    }
    told = [
        merge("m1", "bert-8866", "anna-7755"),
        identify("i1:anna-7755", "bert-8866", "phone"),
        profile,
        merge("m2", "bert-8866", "bert-8866"),
    ]
    begun = CLOCK.now() - 30 * HOUR
    told = [event | {"ts": begun + place} for place, event in enumerate(told)]
    project = sent(tmp_path, [click("a", "anna-7755")])
    imported(project, tmp_path / "told.jsonl", told)
    gone(project, "anna-7755")
    count = Lake(project.paths.lake).count("events")
    (tmp_path / "told.jsonl").unlink()
    imported(project, tmp_path / "again.jsonl", [*told, click("b", "bert-8866", ts=begun + 9)])
    assert Lake(project.paths.lake).count("events") == count + 1
    agree(project)


def test_what_is_told_of_a_chain_of_users_is_whose_it_was_without_the_erased(
    tmp_path: Path,
) -> None:
    profile = {"event_id": "p1", "type": "user", "user_id": "xeno-1", "properties": {"age": 4}}
    events = [
        merge("m0", "xeno-1", "guest-1"),
        merge("m1", "guest-1", "anna-7755"),
        identify("i1", "xeno-1", "phone"),
        profile,
        click("c0", visitor="phone"),
        merge("m2", "guest-1", "bert-8866"),
        click("c1", visitor="phone"),
        click("c2", "xeno-1"),
    ]
    project = sent(tmp_path, events)
    gone(project, "anna-7755")
    rows = {
        row["event_id"]: row["person"]
        for row in Lake(project.paths.lake).events(["event_id", "person"]).to_pylist()
    }
    assert [rows[id_] for id_ in ("i1", "c1", "c2")] == ["guest-1", "bert-8866", "bert-8866"]


def test_repeats_of_what_others_did_while_they_were_one_with_the_erased_go_with_it(
    tmp_path: Path,
) -> None:
    again = [
        click("c1", "guest-1"),
        identify("i1", "guest-1", "phone"),
        click("c2", visitor="phone"),
    ]
    project = sent(
        tmp_path,
        [
            merge("m1", "guest-1", "anna-7755"),
            *again,
            merge("m2", "guest-1", "bert-8866"),
            click("c3", "guest-1"),
        ],
    )
    send(project, again)
    gone(project, "anna-7755")
    assert send(project, again) == {"erased": 2}
    agree(project)


def test_what_is_taken_of_others_says_nothing_of_the_erased(tmp_path: Path) -> None:
    begun = CLOCK.now() - 3 * HOUR
    flat = {
        "event_id": "flat:anna-7755",
        "type": "item",
        "item_id": "flat-1",
        "user_id": "carl-1",
        "properties": {"price": 3.0},
    }
    told = [
        identify("i1", "anna-7755", "kiosk", ts=begun),
        click("a1", visitor="kiosk", ts=begun + 10),
        identify("i2", "bert-8866", "kiosk", ts=begun + 20),
        click("b1", visitor="kiosk", ts=begun + 30),
        flat | {"ts": begun + 31},
        click("d1", "dora-9", ts=begun + 32),
    ]
    project = sent(tmp_path, told)
    gone(project, "dora-9")
    time.sleep(0.01)  # a moment between the two erasures
    between = CLOCK.now()
    gone(project, "anna-7755")
    saying = {"context": {"page": "/u/anna-7755"}, "properties": {"note": "for anna-7755"}}
    late = [
        click("b2", visitor="kiosk", ts=begun + 40, **saying),
        click("b3", "bert-8866", "kiosk", ts=begun + 41, **saying),
        click("b4:anna-7755", "bert-8866", "kiosk", ts=begun + 42),
        click("d2", "dora-9", ts=between, **saying),
        flat | {"ts": begun + 31},
    ]
    count = Lake(project.paths.lake).count("events")
    assert send(project, late) == {"erased": 1}, "the flat, which is in already"
    assert Lake(project.paths.lake).count("events") == count + 4
    assert left_of(project.root / "data", b"anna-7755") == []
    assert look_for(project, ["anna-7755"]).found == []
    agree(project)


def test_a_device_of_one_who_was_another_for_a_while_stays_the_others_when_both_are_erased_in_turn(
    tmp_path: Path,
) -> None:
    events = [
        identify("i1", "dora-1", "phone-77"),
        merge("m1", "dora-1", "anna-7755"),
        click("c1", visitor="phone-77"),
        merge("m2", "dora-1", "dora-1"),
        identify("i2", "bert-8866", "phone-77"),
        click("c2", visitor="phone-77"),
    ]
    project = sent(tmp_path, events)
    for user in ("dora-1", "bert-8866"):
        done = erase(project, [user], CLOCK)
        assert done.clean, done.searched.found
        with Roles(project, CLOCK) as roles:
            roles.drain()
    assert people_of(project)["anna-7755"] == 1
    archive = Archive(project.paths.lake / "archive")
    bodies = b"".join(
        stored.block.payload for file in archive.files for stored in archive.read(file)
    )
    assert b'"event_id": "c1"' in bodies


def test_a_device_is_whose_it_was_identified_as(tmp_path: Path) -> None:
    """Not whose an event was that named somebody else besides; and of a user who was one with
    somebody, that one's meanwhile.
    """
    begun = CLOCK.now() - 3 * HOUR
    told = [
        identify("i1", "anna-7755", "kiosk", ts=begun),
        click("b1", "bert-8866", "kiosk", ts=begun + 20),
        identify("i2", "carl-1", "till", ts=begun),
        click("d1", "dora-9", "till", ts=begun + 20),
        click("d2", "dora-9", "till", ts=begun + 40),
        identify("i3", "guest-1", "lobby", ts=begun),
        click("g0", "anna-7755", "lobby", ts=begun + 5),
        merge("m1", "guest-1", "anna-7755") | {"ts": begun + 10},
        merge("m2", "guest-1", "guest-1") | {"ts": begun + 30},
    ]
    project = sent(tmp_path, told)
    gone(project, "anna-7755", "dora-9")
    late = [
        click(f"{visitor}-{place}", visitor=visitor, ts=begun + place)
        for visitor in ("kiosk", "till", "lobby")
        for place in (8, 25, 45)
    ]
    assert send(project, late) == {"erased": 4}
    rows = Lake(project.paths.lake).events(["event_id", "person"]).to_pylist()
    taken = {
        row["event_id"]: row["person"]
        for row in rows
        if "-" in row["event_id"] and not row["event_id"].startswith("erased-")
    }
    assert taken == {
        **dict.fromkeys(("till-8", "till-25", "till-45"), "carl-1"),
        **dict.fromkeys(("lobby-8", "lobby-45"), "guest-1"),
    }
    agree(project)


def test_refused_rows_of_others_on_a_device_of_several_people_are_kept(tmp_path: Path) -> None:
    begun = CLOCK.now() - 3 * HOUR
    project = sent(
        tmp_path,
        [
            identify("i1", "anna-7755", "kiosk", ts=begun),
            identify("i2", "bert-8866", "kiosk", ts=begun + 20),
        ],
    )
    gone(project, "anna-7755")
    bad = {"type": "clack", "item_id": "i1", "anonymous_id": "kiosk"}
    others = [
        {"user_id": "bert-8866"},
        {},
        {"ts": begun + 40},
        {"ts": begun + 5, "user_id": "bert-8866"},
        {"ts": CLOCK.now()},
    ]
    assert send(
        project, [bad | {"event_id": f"x{place}"} | one for place, one in enumerate(others)]
    ) == {"unknown_type": len(others)}
    assert send(project, [bad | {"event_id": "of-anna", "ts": begun + 5}]) == {"erased": 1}


def test_refused_rows_that_mention_the_erased_anywhere_do_not_come_back(tmp_path: Path) -> None:
    begun = CLOCK.now() - 30 * HOUR
    bad = click("", "bob-1", ts=begun)
    rows = [
        {"seller": "anna-7755"},
        {"type": "anna-7755"},
        {"item_id": "anna-7755", "type": "clack"},
        {"ts": "anna-7755"},
        {"anna-7755": 1},
        {"items": ["anna-7755"], "type": "clack"},
        {"type": "clack", "item_id": "417650417"},
        {"unknown": "x"},
    ]
    rows = [bad | {"event_id": f"x{place}"} | more for place, more in enumerate(rows)]
    project = sent(tmp_path, [click("a", "anna-7755"), click("b", "417650417")])
    imported(project, tmp_path / "bad.jsonl", rows)
    gone(project, "anna-7755", "417650417")
    assert left_of(project.root / "data", b"anna-7755") == []
    (tmp_path / "bad.jsonl").unlink()
    imported(project, tmp_path / "again.jsonl", [*rows, bad | {"event_id": "c"}])
    assert left_of(project.root / "data", b"anna-7755") == []
    bodies = Lake(project.paths.lake).table("quarantine", ["body"])["body"].to_pylist()
    assert sum(b"417650417" in body for body in bodies) == 2, "an item's number, as it is taken for"
