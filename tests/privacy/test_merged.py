"""Users whom a merge made one are one person to an erasure, and those who were one for a while are
not.
"""

import json
from pathlib import Path

import pytest
from tests.support.people import CLOCK, find_in_files
from tests.support.privacy.events import (
    count_events_by_person,
    make_click,
    make_project_with_events,
)
from tests.support.privacy.merged import make_merge

from tailorbird.config import Project
from tailorbird.events import HOUR
from tailorbird.lake import Lake, verify
from tailorbird.platform.runtime.roles import InProcessRoles
from tailorbird.privacy import erase, export_person, find_people
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.stream.importer import import_files

pytestmark = pytest.mark.slow


def test_users_who_are_one_by_a_merge_are_one_person(tmp_path: Path) -> None:
    """An account of guests that was merged into several is nobody's alone."""
    events = [
        make_click("e1", "alice-old", "phone-of-alice"),
        make_click("e2", "alice-1"),
        make_click("e3", "guest-77"),
        make_click("e4", "robert-2"),
        make_merge("m1", "alice-oldest", "alice-old"),
        make_merge("m2", "alice-old", "alice-1"),
        make_merge("m3", "guest-77", "alice-1"),
        make_click("e5", "guest-77"),
        make_merge("m4", "guest-77", "robert-2"),
        make_click("e6", "guest-77"),
        make_click("e7", "alice-old"),
        make_click("e9", visitor="phone-of-alice"),
    ]
    project = make_project_with_events(tmp_path, events)
    assert count_events_by_person(project) == {
        "alice-old": 2,
        "alice-1": 5,
        "guest-77": 1,
        "robert-2": 3,
        "anon:phone-of-alice": 1,
    }
    lake = Lake(project.paths.lake)
    for asked in ("alice-1", "alice-old", "alice-oldest"):
        people = find_people(lake, [asked])
        assert (people.users, people.devices) == (
            {"alice-1", "alice-old", "alice-oldest"},
            {"phone-of-alice"},
        )
    exported = {
        one["event_id"]
        for one in export_person(project, ["alice-1"], CLOCK)
        if one["source"] == "event"
    }
    assert exported == {"e1", "e2", "e7", "e9", "m1", "m2"}

    done = erase(project, ["alice-old"], CLOCK)
    assert done.is_clean, done.searched.matches
    assert find_in_files(project.root, b"alice-", b"phone-of-alice") == []
    left = count_events_by_person(project)
    assert (left["robert-2"], left["guest-77"]) == (
        3,
        3,
    )  # what guests did is theirs again; the merge into Alice is one of guests into themselves
    assert Lake(project.paths.lake).events(["type"])["type"].to_pylist().count("merge") == 4
    assert verify(project.paths.lake).is_clean
    old = {**make_merge("m5", "stranger", "alice-1"), "ts": CLOCK.now() - HOUR}
    with EventCollector(
        project.paths.stream,
        "serve-1",
        project.plan,
        CLOCK,
        suppression_list=project.suppression_list(),
    ) as collector:
        collector.submit(
            json.dumps(
                [make_merge("m2", "alice-old", "alice-1"), old, make_click("e8", "guest-77")]
            ).encode()
        )
    with InProcessRoles(project, CLOCK) as roles:
        roles.drain()
    assert (
        count_events_by_person(project)["robert-2"] == 4
    )  # the router still knows whom the guest was merged into last
    assert find_in_files(project.root, b"alice-") == []


def test_who_was_merged_into_one_who_is_erased_is_itself_from_then_on(tmp_path: Path) -> None:
    """And not again somebody else whom it was merged into before."""
    events = [
        make_merge("m1", "ellen-5", "frank-6"),
        make_click("e1", "ellen-5"),
        make_merge("m2", "ellen-5", "grace-7"),
        make_click("e2", "ellen-5"),
    ]
    project = make_project_with_events(tmp_path, events)
    assert count_events_by_person(project) == {"frank-6": 2, "grace-7": 2}
    assert erase(project, ["grace-7"], CLOCK).is_clean
    assert verify(project.paths.lake).is_clean
    with EventCollector(
        project.paths.stream,
        "serve-1",
        project.plan,
        CLOCK,
        suppression_list=project.suppression_list(),
    ) as collector:
        collector.submit(json.dumps(make_click("e3", "ellen-5")).encode())
    with InProcessRoles(project, CLOCK) as roles:
        roles.drain()
    assert count_events_by_person(project)["ellen-5"] == 3
    assert count_events_by_person(project)["frank-6"] == 2


def test_one_whose_merge_was_taken_back_goes_alone(tmp_path: Path) -> None:
    login = {"type": "identify", "item_id": None}
    events = [
        make_click("login", "hanna-8", "phone-of-hanna", **login),
        make_merge("m1", "hanna-8", "ida-9"),
        make_click("e1", "hanna-8"),
        make_click("e2", visitor="phone-of-hanna"),
        make_merge("m2", "hanna-8", "hanna-8"),
        make_click("e3", visitor="phone-of-hanna"),
        make_click("e4", "ida-9"),
    ]
    project = make_project_with_events(tmp_path, events)
    assert count_events_by_person(project) == {"hanna-8": 3, "ida-9": 4}
    people = find_people(Lake(project.paths.lake), ["hanna-8"])
    assert (people.users, people.shared) == ({"hanna-8"}, {"phone-of-hanna"})
    done = erase(project, ["hanna-8"], CLOCK)
    assert done.is_clean, done.searched.matches
    assert find_in_files(project.root, b"hanna-8") == []
    assert (
        count_events_by_person(project)["ida-9"] == 1
    )  # her own; what came from the phone goes with the phone
    assert verify(project.paths.lake).is_clean


def test_who_is_one_with_somebody_by_now_goes_with_them_however_they_came_to_be_one(
    tmp_path: Path,
) -> None:
    """Merged anew whenever the other was merged on, as sites send their aliases again; and merged,
    taken back, and merged again.
    """
    events = [
        make_click("e1", "carol-41", "phone-of-carol"),
        make_merge("m1", "carol-41", "carol-42"),
        make_merge("m2", "carol-42", "carol-43"),
        make_merge("m3", "carol-41", "carol-43"),
        make_click("e2", "carol-41"),
        make_click("e3", "dora-41"),
        make_merge("m4", "dora-41", "dora-42"),
        make_merge("m5", "dora-41", "dora-41"),
        make_merge("m6", "dora-41", "dora-42"),
        make_click("e4", "frank-1"),
        make_merge("m7", "frank-1", "grace-1"),
        make_merge("m8", "frank-1", "henry-1"),
    ]
    project = make_project_with_events(tmp_path, events)
    lake = Lake(project.paths.lake)
    for asked in ("carol-41", "carol-42", "carol-43"):
        assert find_people(lake, [asked]).users == {"carol-41", "carol-42", "carol-43"}
    for asked in ("dora-41", "dora-42"):
        assert find_people(lake, [asked]).users == {"dora-41", "dora-42"}
    for asked in ("frank-1", "grace-1", "henry-1"):  # who was one of two is one with none
        assert find_people(lake, [asked]).users == {asked}
    for asked in ("carol-43", "dora-42"):
        done = erase(project, [asked], CLOCK)
        assert done.is_clean, done.searched.matches
    assert find_in_files(project.root, b"carol-", b"phone-of-carol", b"dora-") == []
    assert verify(project.paths.lake).is_clean


def imported(project: Project, file: Path, events: list[dict]) -> None:
    file.write_text("\n".join(map(json.dumps, events)))
    import_files(
        project.paths.stream,
        "tailorbird",
        file,
        plan=project.plan,
        clock=CLOCK,
        suppression_list=project.suppression_list(),
    )
    with InProcessRoles(project, CLOCK) as roles:
        roles.drain()
