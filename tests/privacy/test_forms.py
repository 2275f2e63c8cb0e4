"""Ids in other forms, in others' events and refused rows: what the search looks for, the erasure
takes out; and what it can't, it says.
"""

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cli.kit import each
from tests.privacy.kit import CLOCK, left_of
from tests.privacy.test_numbers import bodies, with_refused
from tests.privacy.test_people import click, people_of, sent

from tailorbird.lake import Lake, verify
from tailorbird.privacy import erase, export_person, look_for
from tailorbird.privacy.forms import cases, forms
from tailorbird.privacy.mention import Mentions
from tailorbird.privacy.others import around, longer_words
from tailorbird.privacy.search import Needles

ID = "canary.ann@example.com"
BASE64 = base64.b64encode(b"mail=" + ID.encode()).decode()
SAID = [
    click("o1", "other-1", context={"page": "/reset?m=canary.ann%40example.com"}),
    click("o2", "other-2", context={"page": f"/t?d={BASE64}", "referrer": f"https://x/?m%3D{ID}"}),
    click(
        "o3",
        "other-3",
        properties={"mail": ID.upper(), "nested": {"list": [f"<{ID.upper()}>", 7]}, "stays": "x"},
    ),
    click("o4", "other-4", session_id=f"s-1.{ID}", request_id=f"r/{ID.upper()}"),
    click("o5", "other-5", session_id=f"s-1.{ID}", request_id="r/canary.ann%40example.com"),
    click(f"mail:{ID}:1", "other-6", session_id=ID),
    {
        "event_id": f"i:{ID}",
        "type": "item",
        "item_id": "i9",
        "properties": {"title": f"by {ID.title()} / {ID.upper()}"},
    },
    click("o7", "other-7") | {"item_id": "i9"},
]
REFUSED = [
    {**click("bad1", "other-1"), "type": ID},
    {**click("bad2", "other-1"), "ts": ID},
    {**click("bad3", "other-1"), "type": "clack", "session_id": f"s {ID}"},
    {**click("bad4", "other-1"), "type": "clack", "item_id": ID.upper()},
    {**click("bad5", "other-1"), "type": "clack"},
]
NEEDLES = [
    ID.encode(),
    ID.upper().encode(),
    b"canary.ann%40",
    base64.b64encode(ID.encode()[1:-1])[:-4],
    BASE64.encode(),
]
THINGS = ("event_id", "session_id", "request_id", "version")
COLUMNS = [
    "event_id",
    "session_id",
    "request_id",
    "page",
    "referrer",
    "properties",
    "item_id",
    "item_version",
]


def test_what_others_said_in_other_forms_goes_and_the_rest_stays(tmp_path: Path) -> None:
    project = sent(
        tmp_path, [*(click(f"e{number}", ID) for number in range(5)), *SAID, SAID[0], SAID[5]]
    )
    with_refused(project, *REFUSED)
    rows = {row["event_id"]: row for row in Lake(project.paths.lake).events(COLUMNS).to_pylist()}
    told = {
        (name, one[name])
        for one in export_person(project, [ID], CLOCK)
        if one["source"] == "mention"
        for name in THINGS
        if name in one
    }
    assert told == {
        ("event_id", f"mail:{ID}:1"),
        ("session_id", ID),
        ("session_id", f"s-1.{ID}"),
        ("request_id", f"r/{ID.upper()}"),
        ("request_id", "r/canary.ann%40example.com"),
        ("version", f"i:{ID}"),
        ("session_id", f"s {ID}"),  # of a refused row of somebody else
    }
    done = erase(project, [ID], CLOCK)
    assert done.clean, done.searched.found
    assert done.searched.limits == []
    assert left_of(project.root, *NEEDLES) == []
    assert look_for(project, [ID]).found == []
    report = verify(project.paths.lake, deep=True)
    assert report.clean, report.faults
    after = {row["event_id"]: row for row in Lake(project.paths.lake).events(COLUMNS).to_pylist()}
    assert len(after) == len(rows)
    assert after["o1"] == rows["o1"] | {"page": None}
    assert after["o2"] == rows["o2"] | {"page": None, "referrer": None}
    assert json.loads(after["o3"]["properties"]) == {
        "mail": None,
        "nested": {"list": [None, 7]},
        "stays": "x",
    }
    assert after["o4"]["session_id"] == after["o5"]["session_id"] != rows["o4"]["session_id"], (
        "one session is still one"
    )
    (profile,) = [
        row for row in after.values() if row["item_id"] == "i9" and row["event_id"] != "o7"
    ]
    assert after["o7"]["item_version"] in (None, profile["event_id"]), (
        "a version is called as its event is"
    )
    assert [
        json.loads(body)["event_id"] for body in bodies(project) if body != b"\0" and b"bad" in body
    ] == ["bad5"]


@pytest.mark.slow
def test_an_id_that_is_also_an_items_is_not_called_gone(tmp_path: Path) -> None:
    project = sent(tmp_path, [click("e1", ID), *SAID, click("o8", "other-8") | {"item_id": ID}])
    with_refused(project, *REFUSED)
    (tmp_path / "out").mkdir()
    (found,) = each(
        [["-C", str(project.root), "lake", "verify", "--erased", ID]],
        tmp_path / "out",
        cwd=project.root,
    )
    assert found.returncode == 1
    for place in ("session_id", "page", "body"):
        assert f"column {place}" in " ".join(found.stdout.split()), found.stdout
    done = erase(project, [ID], CLOCK)
    assert done.clean, done.searched.found
    assert (done.searched.words, len(done.searched.limits)) == (1, 1)
    receipt = json.loads(Path(done.receipt).read_text())
    assert receipt["searched"]["limits"] == done.searched.limits
    rows = Lake(project.paths.lake).events([*COLUMNS, "user_id"]).to_pylist()
    assert [
        row
        for row in rows
        if ID in json.dumps({name: one for name, one in row.items() if name != "item_id"})
    ] == []
    assert not [body for body in bodies(project) if ID.encode() in body]
    (found,) = each(
        [["-C", str(project.root), "lake", "verify", "--erased", ID]],
        tmp_path / "out",
        cwd=project.root,
    )
    assert found.returncode == 0
    assert "Nothing of theirs is left" not in found.stdout
    assert "there the id remains" in " ".join(found.stdout.split())


def test_somebody_elses_id_in_another_case_is_told_and_fails_no_list(tmp_path: Path) -> None:
    """Nobody can tell whether it is the same person. What is theirs in that case for certain is
    looked for all the same.
    """
    project = sent(tmp_path, [click("e1", ID), click("e2", ID.upper()), click("e3", "user-4711")])
    notes = project.root / "notes.txt"
    notes.write_text(f"{ID}, {ID.title()}")
    assert [Path(one.path) for one in look_for(project, [ID]).found if one.path == str(notes)] == [
        notes
    ]
    notes.unlink()
    done = erase(project, [ID, "user-4711"], CLOCK)
    assert done.clean, done.searched.found
    assert done.searched.alike == 1
    assert any("in another form" in one for one in done.searched.limits)
    assert people_of(project)[ID.upper()] == 1
    assert left_of(project.root, ID.encode()) == []
    assert erase(project, [ID.upper()], CLOCK).clean
    assert left_of(project.root, ID.upper().encode()) == []
    assert look_for(project, [ID]).found == []


@pytest.mark.parametrize("id_", [ID, "Zoë/7 ünder", "user-4711", "a&b=c;d", "Мартин"])
def test_the_erasure_knows_every_form_that_the_search_knows(id_: str) -> None:
    mentions = Mentions({id_})
    for form in sorted(forms(id_)):
        assert mentions.in_text(f"/x?y= {form.decode()} "), form
        assert mentions.may_be_in(b'[{"a":"' + form + b'"}]')


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([ID, "user-4711", "Мартин"]), st.data())
def test_what_the_search_finds_in_a_text_the_erasure_takes(id_: str, data: st.DataObject) -> None:
    edge = st.lists(st.sampled_from([*" /.:=&%é-_x7", "%2F", "%3D", "\n"]), max_size=3).map("".join)
    form = data.draw(st.sampled_from(sorted(forms(id_)))).decode()
    text = data.draw(edge) + form + data.draw(edge)
    mentions, words = Mentions({id_}), around({id_})
    assert words is not None
    needles = Needles({id_}, (), set(longer_words(text, words, mentions)) - cases(id_), {id_})
    assert bool(needles.find(text.encode())) is mentions.in_text(text)
