"""Ids that are numbers: found where a row has them as numbers, and not taken for the digits of
times, counts and ids of others.
"""

import json
from pathlib import Path

import pytest
from tests.cli.kit import each
from tests.privacy.kit import CLOCK
from tests.privacy.test_people import click, people_of, sent

from tailorbird.config import Project
from tailorbird.events import Receipt, RoutePlan
from tailorbird.events.adapters import AdapterOptions
from tailorbird.events.contract import ERASED
from tailorbird.events.erased import StopList
from tailorbird.lake import Lake, verify
from tailorbird.platform.roles import Roles
from tailorbird.privacy import erase, export_person, look_for
from tailorbird.privacy.mention import Mentions
from tailorbird.privacy.search import Needles, search
from tailorbird.serving.door import Door
from tailorbird.stream.importer import import_files

LATER = 1_795_417_650_998_282  # a time that has the digits of user 417650


def with_refused(project: Project, *rows: dict) -> Project:
    with Door(
        project.paths.stream, "serve-1", project.plan, CLOCK, stopped=project.stopped()
    ) as door:
        told = door.submit(json.dumps(rows).encode())
        assert not any(one.accepted for one in told), told
    with Roles(project, CLOCK) as roles:
        roles.drain()
    return project


def bodies(project: Project) -> list[bytes]:
    return Lake(project.paths.lake).table("quarantine", ["body"])["body"].to_pylist()


@pytest.mark.slow
@pytest.mark.parametrize("user", ["42", "417650", "7759428595", "shoes", "red-shoes"])
def test_an_id_that_a_refused_row_has_for_its_item_is_an_items_too(
    user: str, tmp_path: Path
) -> None:
    project = sent(tmp_path, [click("q1", user), click("o1", "bob")])
    rows = [{**click("o2", "bob"), "type": "addtocart", "item_id": user}]
    rows += (
        [
            {**click("o3", "bob"), "item_id": int(user)},
            {**click("o4", "bob"), "items": [user], "type": "seen"},
        ]
        if user.isdigit()
        else []
    )
    with_refused(project, *rows)
    done = erase(project, [user], CLOCK)
    assert done.clean, done.searched.found
    assert done.searched.words == (0 if user == "red-shoes" else 1), "which is told"
    assert bodies(project).count(ERASED) == (1 if user == "red-shoes" else 0)
    assert verify(project.paths.lake).clean
    assert look_for(project, [user]).found == []


BROKEN = [
    b'"%s,i5"',
    b'"2026-11-20\\t%s\\ti5"',
    b'{"unread": {"format": "gorse", "record": "{\\"UserId\\": \\"%s\\", "}}',
    b'"\\"%s\\";i5\\r"',
    b'%s,i5"',
]


@pytest.mark.parametrize("row", BROKEN)
def test_a_short_id_is_found_in_a_row_of_a_table_that_was_cut(row: bytes) -> None:
    mentions = Mentions(["42", "price"], {"price"})
    assert mentions.in_body(row % b"42")
    assert not any(mentions.in_body(row % other) for other in (b"424", b"1.42", b"price", b"x 42"))


def test_a_short_id_in_a_file_with_broken_rows_is_erased(tmp_path: Path) -> None:
    project = sent(tmp_path, [click("q1", "42"), click("o1", "4243")])
    (tmp_path / "clicks.csv").write_text("WHO,WHAT,AT\n42,i1,1780000000\n42,i5\n4243,i5\n")
    mapping = (
        '[[source]]\nfile = "clicks.csv"\nkind = "events"\ntype = "click"\nts = '
        '"AT"\nts_unit = "s"\nuser_id = "WHO"\nitem_id = "WHAT"\n'
    )
    options = AdapterOptions(root=str(tmp_path), mapping=mapping)
    import_files(
        project.paths.stream,
        "mapping",
        tmp_path / "clicks.csv",
        plan=project.plan,
        clock=CLOCK,
        options=options,
    )
    with Roles(project, CLOCK) as roles:
        roles.drain()
    assert erase(project, ["42"], CLOCK).clean
    assert bodies(project).count(ERASED) == 1
    assert [json.loads(body)["unread"]["record"] for body in bodies(project) if body != ERASED] == [
        "4243,i5"
    ]
    assert verify(project.paths.lake).clean


@pytest.mark.slow
@pytest.mark.parametrize("user", ["4242", "417650"])
def test_a_refused_row_whose_id_is_a_number_is_told_found_and_erased(
    user: str, tmp_path: Path
) -> None:
    project = sent(tmp_path, [click("q1", user), click("o1", "4243"), click("o2", "other-user")])
    rows = [
        {**click("q2"), "user_id": int(user), "properties": {"query": "rash cream"}},
        {**click("q3"), "user_id": {user: 1}},
        {**click("q4"), "anonymous_id": [float(user)]},
        {**click("o3"), "user_id": 4243, "properties": {"quantity": int(user)}},
    ]
    with_refused(project, *rows)
    told = [
        json.loads(one["body"])["event_id"]
        for one in export_person(project, [user], CLOCK)
        if one["source"] == "refused"
    ]
    assert sorted(told) == ["q2", "q3", "q4"]
    assert any("quarantine" in one.path for one in look_for(project, [user]).found)

    done = erase(project, [user], CLOCK)

    assert done.clean, done.searched.found
    left = [json.loads(body) for body in bodies(project) if body != ERASED]
    assert [row["event_id"] for row in left] == ["o3"]
    assert look_for(project, [user]).found == []
    with_refused(project, *({**row, "ts": CLOCK.now() - 1_000_000_000} for row in rows[:3]))
    assert b"rash cream" not in b"".join(bodies(project)), "sent again"
    assert verify(project.paths.lake).clean


def test_digits_of_times_and_of_ids_of_others_are_nobodys(tmp_path: Path) -> None:
    events = [
        click("ord-5001234", "other-1", "v-1", session_id="s-417650"),
        click(
            "e2",
            "other-2",
            properties={
                "order": "ord-5001234",
                "points": 417650,
                "kept": 7,
                "price": 417650,
                "at": LATER,
            },
        ),
        click("e3", "417650", ts=LATER - 1),
        click("e4", "5001234"),
        {**click("e5", "other-3"), "item_id": "i417650"},
    ]
    project = sent(tmp_path, events)
    (project.paths.data / "counts.json").write_text('{"rows":417650,"who":1}')
    done = erase(project, ["417650", "5001234"], CLOCK)
    assert done.clean, done.searched.found
    rows = {
        row["event_id"]: row
        for row in Lake(project.paths.lake)
        .events(["event_id", "properties", "price", "session_id"])
        .to_pylist()
    }
    assert json.loads(rows["e2"]["properties"]) == {
        "order": None,
        "points": None,
        "kept": 7,
        "at": LATER,
    }
    assert (rows["e2"]["price"], rows["ord-5001234"]["session_id"]) == (417650, "s-417650")
    assert not people_of(project).keys() & {"417650", "5001234"}
    assert verify(project.paths.lake).clean
    (project.paths.data / "counts.json").write_text('{"rows":1,"who":"417650"}')
    assert [Path(one.path).name for one in look_for(project, ["417650"]).found] == ["counts.json"]


@pytest.mark.parametrize(
    ("text", "mentions"),
    [
        ("ord-417650", True),
        ("/u/417650?x", True),
        ("417650", True),
        ("u417650.", True),
        (str(LATER), False),
        ("0.417650", False),
        ("417650.25", False),
        ("14176500", False),
        ("41765", False),
    ],
)
def test_the_search_and_the_erasure_mean_the_same(
    text: str, mentions: bool, tmp_path: Path
) -> None:
    (tmp_path / "a").write_text(f"said {text} there")
    assert bool(search([tmp_path], Needles({"417650"}, (), (), {"417650"})).found) is mentions
    assert Mentions({"417650"}).in_text(f"said {text} there") is mentions


@pytest.mark.parametrize("name", ["user_id", "anonymous_id"])
@pytest.mark.parametrize("id_", [4242, 4242.0, ["4242"], {"4242": 1}, {"id": 4242}])
def test_old_rows_whose_id_is_no_text_are_kept_out(name: str, id_: object) -> None:
    stopped = StopList(b"").with_people([("u", "4242"), ("a", "4242")], [], LATER, 0)
    for event, kept_out in (
        ({name: id_, "ts": LATER - 1}, True),
        ({name: id_, "ts": LATER + 1}, False),
        ({name: 4243}, False),
    ):
        body = json.dumps({**click("e1"), **event}).encode()
        assert (stopped.without(body, Receipt(LATER), RoutePlan()) == ERASED) is kept_out
    assert stopped.without(b'{"user_id": 4242, "type": "cl', Receipt(LATER), RoutePlan()) == ERASED


def test_files_of_the_lake_are_told_apart_from_ones_own(tmp_path: Path) -> None:
    project = sent(tmp_path, [click("e1", "417650")])
    (project.root / "mine.txt").write_text("ask 417650")
    (tmp_path / "out").mkdir()
    (found,) = each(
        [["-C", str(project.root), "lake", "verify", "--erased", "417650"]],
        tmp_path / "out",
        cwd=project.root,
    )
    ours, _, own = found.stdout.partition("Still there, in files of yours")
    assert found.returncode == 1
    assert "archive" in ours.replace("\n", "")
    assert "mine.txt" in own
    assert "Do not delete files of the project's own data" in own.replace("\n", " ")
