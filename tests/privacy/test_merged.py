"""Users whom a merge made one are one person to an erasure, and those who were one for a while are
not.
"""

import json
import shutil
from pathlib import Path

import pytest
from tests.privacy.kit import CLOCK, left_of, states
from tests.privacy.test_people import click, people_of, run, sent

from tailorbird.config import Project
from tailorbird.events import DAY, HOUR
from tailorbird.features.read import Reader, ReadRequest
from tailorbird.lake import Lake, verify
from tailorbird.platform.roles import Roles
from tailorbird.privacy import erase, export_person, find_people, look_for
from tailorbird.serving.door import Door
from tailorbird.stream.importer import import_files

pytestmark = pytest.mark.slow


def merge(event_id: str, user: str, into: str) -> dict:
    return {
        "event_id": event_id,
        "type": "merge",
        "user_id": user,
        "properties": {"merged_into": into},
    }


def test_users_who_are_one_by_a_merge_are_one_person(tmp_path: Path) -> None:
    """An account of guests that was merged into several is nobody's alone."""
    events = [
        click("e1", "alice-old", "phone-of-alice"),
        click("e2", "alice-1"),
        click("e3", "guest-77"),
        click("e4", "robert-2"),
        merge("m1", "alice-oldest", "alice-old"),
        merge("m2", "alice-old", "alice-1"),
        merge("m3", "guest-77", "alice-1"),
        click("e5", "guest-77"),
        merge("m4", "guest-77", "robert-2"),
        click("e6", "guest-77"),
        click("e7", "alice-old"),
        click("e9", visitor="phone-of-alice"),
    ]
    project = sent(tmp_path, events)
    assert people_of(project) == {
        "alice-old": 2,
        "alice-1": 5,
        "guest-77": 1,
        "robert-2": 3,
        "anon:phone-of-alice": 1,
    }
    lake = Lake(project.paths.lake)
    for asked in ("alice-1", "alice-old", "alice-oldest"):
        people = find_people(lake, [asked])
        assert (people.users, people.visitors) == (
            {"alice-1", "alice-old", "alice-oldest"},
            {"phone-of-alice"},
        )
    exported = {
        one["event_id"]
        for one in export_person(project, ["alice-1"], CLOCK)
        if one["source"] == "event"
    }
    assert exported == {"e1", "e2", "e5", "e7", "e9", "m1", "m2", "m3"}

    done = erase(project, ["alice-old"], CLOCK)
    assert done.clean, done.searched.found
    assert left_of(project.root, b"alice-", b"phone-of-alice") == []
    left = people_of(project)
    assert (left["robert-2"], left["guest-77"]) == (
        3,
        2,
    )  # what is left of the merge into Alice is one of guests into themselves
    assert Lake(project.paths.lake).events(["type"])["type"].to_pylist().count("merge") == 4
    assert verify(project.paths.lake).clean
    old = {**merge("m5", "stranger", "alice-1"), "ts": CLOCK.now() - HOUR}
    with Door(
        project.paths.stream, "serve-1", project.plan, CLOCK, stopped=project.stopped()
    ) as door:
        door.submit(
            json.dumps([merge("m2", "alice-old", "alice-1"), old, click("e8", "guest-77")]).encode()
        )
    with Roles(project, CLOCK) as roles:
        roles.drain()
    assert (
        people_of(project)["robert-2"] == 4
    )  # the router still knows whom the guest was merged into last
    assert left_of(project.root, b"alice-") == []


def test_who_was_merged_into_one_who_is_erased_is_itself_from_then_on(tmp_path: Path) -> None:
    """And not again somebody else whom it was merged into before."""
    events = [
        merge("m1", "ellen-5", "frank-6"),
        click("e1", "ellen-5"),
        merge("m2", "ellen-5", "grace-7"),
        click("e2", "ellen-5"),
    ]
    project = sent(tmp_path, events)
    assert people_of(project) == {"frank-6": 2, "grace-7": 2}
    assert erase(project, ["grace-7"], CLOCK).clean
    assert verify(project.paths.lake).clean
    with Door(
        project.paths.stream, "serve-1", project.plan, CLOCK, stopped=project.stopped()
    ) as door:
        door.submit(json.dumps(click("e3", "ellen-5")).encode())
    with Roles(project, CLOCK) as roles:
        roles.drain()
    assert people_of(project)["ellen-5"] == 2
    assert people_of(project)["frank-6"] == 2


def test_a_login_that_stays_keeps_its_session_though_it_was_one_with_the_erased_then(
    tmp_path: Path,
) -> None:
    """And the session is not looked for as theirs alone: it would be found in that login for ever."""
    evening = {"session_id": "session-of-an-evening"}
    login = {"type": "identify", "item_id": None}
    events = [
        merge("m1", "ellen-5", "frank-6"),
        click("e1", "ellen-5", "phone-of-ellen", **evening),
        click("login", "ellen-5", "phone-of-ellen", **login, **evening),
        merge("m2", "ellen-5", "grace-7"),
        click("e2", "ellen-5"),
    ]
    project = sent(tmp_path, events)
    done = erase(project, ["frank-6"], CLOCK)
    assert done.clean, done.searched.found
    assert left_of(project.root, b"frank-6") == []
    sessions = Lake(project.paths.lake).events(["type", "person", "session_id"]).to_pylist()
    assert [(one["type"], one["person"]) for one in sessions if one["session_id"]] == [
        ("identify", "ellen-5")
    ]
    assert verify(project.paths.lake).clean


def test_one_whose_merge_was_taken_back_goes_alone(tmp_path: Path) -> None:
    login = {"type": "identify", "item_id": None}
    events = [
        click("login", "hanna-8", "phone-of-hanna", **login),
        merge("m1", "hanna-8", "ida-9"),
        click("e1", "hanna-8"),
        click("e2", visitor="phone-of-hanna"),
        merge("m2", "hanna-8", "hanna-8"),
        click("e3", visitor="phone-of-hanna"),
        click("e4", "ida-9"),
    ]
    project = sent(tmp_path, events)
    assert people_of(project) == {"hanna-8": 3, "ida-9": 4}
    people = find_people(Lake(project.paths.lake), ["hanna-8"])
    assert (people.users, people.shared, people.into) == (
        {"hanna-8"},
        {"phone-of-hanna"},
        {"ida-9"},
    )
    (told,) = run(project.root, [["erase", "hanna-8"]], tmp_path / "out")
    assert "by merges, and stay" in " ".join(told.stdout.split())
    done = erase(project, ["hanna-8"], CLOCK)
    assert done.clean, done.searched.found
    assert left_of(project.root, b"hanna-8") == []
    assert (
        people_of(project)["ida-9"] == 2
    )  # what came from the phone while they were one, and her own
    assert verify(project.paths.lake).clean


def test_who_is_one_with_somebody_by_now_goes_with_them_however_they_came_to_be_one(
    tmp_path: Path,
) -> None:
    """Merged anew whenever the other was merged on, as sites send their aliases again; and merged,
    taken back, and merged again.
    """
    events = [
        click("e1", "carol-41", "phone-of-carol"),
        merge("m1", "carol-41", "carol-42"),
        merge("m2", "carol-42", "carol-43"),
        merge("m3", "carol-41", "carol-43"),
        click("e2", "carol-41"),
        click("e3", "dora-41"),
        merge("m4", "dora-41", "dora-42"),
        merge("m5", "dora-41", "dora-41"),
        merge("m6", "dora-41", "dora-42"),
        click("e4", "frank-1"),
        merge("m7", "frank-1", "grace-1"),
        merge("m8", "frank-1", "henry-1"),
    ]
    project = sent(tmp_path, events)
    lake = Lake(project.paths.lake)
    for asked in ("carol-41", "carol-42", "carol-43"):
        assert find_people(lake, [asked]).users == {"carol-41", "carol-42", "carol-43"}
    for asked in ("dora-41", "dora-42"):
        assert find_people(lake, [asked]).users == {"dora-41", "dora-42"}
    for asked in (
        "frank-1",
        "grace-1",
        "henry-1",
    ):  # who was one of two is one with none, and the others are told of
        people = find_people(lake, [asked])
        assert (people.users, people.into) == ({asked}, {"frank-1", "grace-1", "henry-1"} - {asked})
    for asked in ("carol-43", "dora-42"):
        done = erase(project, [asked], CLOCK)
        assert done.clean, done.searched.found
    assert left_of(project.root, b"carol-", b"phone-of-carol", b"dora-") == []
    assert verify(project.paths.lake).clean


def test_a_visitor_of_somebody_who_was_one_with_the_erased_stays_that_users(tmp_path: Path) -> None:
    """What ties the two, and what is known of the user, was said while they were one: it is of
    those who stay.
    """
    profile = {
        "event_id": "p1",
        "type": "user",
        "user_id": "guest-1",
        "properties": {"country": "NO", "note": "a friend of anna-7755"},
    }
    events = [
        merge("m1", "guest-1", "anna-7755"),
        {"event_id": "i1", "type": "identify", "user_id": "guest-1"} | TABLET,
        profile,
        click("c1", visitor="tablet-2"),
        merge("m2", "guest-1", "bert-8866"),
        click("c2", visitor="tablet-2"),
    ]
    project = sent(tmp_path, events)
    people, before = people_of(project), known_of(project, "tablet-2")
    assert (people["bert-8866"], before) == (2, 1.0)
    assert erase(project, ["anna-7755"], CLOCK).clean
    assert left_of(project.root / "data", b"anna-7755") == []
    with Roles(project, CLOCK) as roles:
        roles.drain()
    assert known_of(project, "tablet-2") == before, "of the state as it is made anew from the lake"
    with Door(
        project.paths.stream, "serve-1", project.plan, CLOCK, stopped=project.stopped()
    ) as door:
        door.submit(json.dumps([click("c3", visitor="tablet-2"), events[1]]).encode())
    with Roles(project, CLOCK) as roles:
        roles.drain()
        assert roles.duplicates == 1
    assert people_of(project)["bert-8866"] == 3
    assert known_of(project, "tablet-2") == known_of(project, user="bert-8866") == 2.0
    shutil.rmtree(project.paths.state)
    with Roles(project, CLOCK) as roles:
        roles.drain()
    assert known_of(project, "tablet-2") == known_of(project, user="bert-8866") == 2.0
    assert verify(project.paths.lake, stream=project.stream).clean


def test_of_whom_pseudonyms_alone_are_known_it_is_said_that_what_others_wrote_of_them_stays(
    tmp_path: Path,
) -> None:
    """The raw id of a user who was merged is nowhere but in texts of others, and is found there
    once it is given.
    """
    said = {"properties": {"seller": "alice-old"}}
    events = [
        click("e1", "alice-old"),
        merge("m1", "alice-old", "alice-1"),
        click("e2", "alice-1"),
        click("e3", "robert-2", **said),
    ]
    project = sent(tmp_path, events, f'[events]\npseudonym_key = "{"k" * 40}"\n')
    (tmp_path / "both.txt").write_text("alice-1\nalice-old\n")
    asked = [
        ["alice-1", "--json"],
        ["alice-1"],
        ["--from", str(tmp_path / "both.txt"), "--json"],
        ["robert-2", "--json"],
    ]
    before, told, both, other = run(
        project.root, [["erase", *words] for words in asked], tmp_path / "before"
    )
    assert [json.loads(one.stdout)["unnamed"] for one in (before, both, other)] == [1, 0, 0]
    assert "1 users are one with them by merges, and only their pseudonyms are known" in " ".join(
        told.stdout.split()
    )
    done, then, again = run(
        project.root,
        [
            ["erase", "alice-1", "--yes", "--json"],
            ["verify", "--erased", "alice-old"],
            ["erase", "alice-old", "--yes", "--json"],
        ],
        tmp_path / "done",
    )
    report = json.loads(done.stdout)
    assert (report["clean"], report["unnamed"], then.returncode) == (True, 1, 1), done.stderr
    assert json.loads(Path(report["receipt"]).read_text())["unnamed"] == 1
    assert (json.loads(again.stdout)["clean"], json.loads(again.stdout)["unnamed"]) == (True, 0), (
        again.stderr
    )
    assert left_of(project.root / "data", b"alice-1", b"alice-old") == []


def known_of(project: Project, visitor: str | None = None, user: str | None = None) -> float:
    """How many clicks a request by them is answered from."""
    reader = Reader(project.paths.state, project.features, workers=project.workers)
    try:
        rows = reader.read(ReadRequest(user_id=user, anonymous_id=visitor, now=CLOCK.now()), ["i1"])
        return float(rows.numeric[0][project.features.numeric.index("user_clicks_7d")])
    finally:
        reader.close()


@pytest.mark.parametrize("days", [2, 20])  # within and beyond what the router remembers
def test_what_others_did_while_they_were_one_with_the_erased_does_not_come_back(
    days: int, tmp_path: Path
) -> None:
    """It is unlinked with it, under new ids, and would count a second time: sent again, or in a
    newer export of the same history.
    """
    begun = CLOCK.now() - days * DAY
    events = [
        merge("m1", "guest-1", "anna-7755"),
        click("c1", "guest-1"),
        {"event_id": "i1", "type": "identify", "user_id": "guest-1"} | TABLET,
        click("c2", visitor="tablet-2"),
        merge("m2", "guest-1", "bert-8866"),
        click("c3", "guest-1"),
        click("c4", visitor="tablet-2"),
        click("gift:anna-7755", "carl-1", session_id="s:anna-7755"),
        {
            "event_id": "flat:anna-7755",
            "type": "item",
            "item_id": "flat-1",
            "properties": {"price": 3.0},
        },
    ]
    history = [event | {"ts": begun + place} for place, event in enumerate(events)]
    project = sent(tmp_path, [click("now", "carl-1")])
    imported(project, tmp_path / "history.jsonl", history)
    assert people_of(project) == {"anna-7755": 4, "bert-8866": 3, "carl-1": 2, None: 1}
    clicks = clicks_of(project, "i1")
    assert erase(project, ["anna-7755"], CLOCK).clean
    count, states_then = Lake(project.paths.lake).count("events"), states(project)

    imported(
        project, tmp_path / "newer.jsonl", [*history, click("c5", "carl-1") | {"ts": begun + 99}]
    )
    with Door(
        project.paths.stream, "serve-1", project.plan, CLOCK, stopped=project.stopped()
    ) as door:
        door.submit(json.dumps(history if days < 7 else [*history[:2], history[3]]).encode())
        said = click("new:anna-7755", "carl-1", session_id="s:anna-7755", ts=begun + 100)
        assert all(told.accepted for told in door.submit(json.dumps([said, said]).encode())), (
            "nothing of others is lost"
        )
    with Roles(project, CLOCK) as roles:
        roles.drain()

    assert Lake(project.paths.lake).count("events") == count + 2
    assert clicks_of(project, "i1") == clicks + 1, "what came by the door came too late to count"
    assert states_then.keys() == states(project).keys()
    assert left_of(project.root / "data", b"anna-7755") == []
    assert look_for(project, ["anna-7755"]).found == []
    assert verify(project.paths.lake).clean


TABLET = {"anonymous_id": "tablet-2"}


def imported(project: Project, file: Path, events: list[dict]) -> None:
    file.write_text("\n".join(map(json.dumps, events)))
    import_files(
        project.paths.stream,
        "tailorbird",
        file,
        plan=project.plan,
        clock=CLOCK,
        stopped=project.stopped(),
    )
    with Roles(project, CLOCK) as roles:
        roles.drain()


def clicks_of(project: Project, item: str) -> int:
    rows = Lake(project.paths.lake).events(["type", "item_id", "counts"]).to_pylist()
    return sum(row["counts"] for row in rows if (row["type"], row["item_id"]) == ("click", item))
