"""Ids that are words: an erasure takes what says who it was, and nothing that merely holds the same
letters or means something else.
"""

import json
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.privacy.kit import CLOCK, left_of
from tests.privacy.test_numbers import bodies, with_refused
from tests.privacy.test_people import click, people_of, sent

from tailorbird.config import Project
from tailorbird.events import RoutePlan
from tailorbird.events.contract import ERASED, NUMBERS
from tailorbird.lake import Lake, verify
from tailorbird.privacy import erase, look_for
from tailorbird.privacy.mention import WITHIN_MIN, Mentions, field_names

WORDS = [
    "ann",
    "Ann",
    "anna",
    "joann",
    "martin",
    "martiné",
    "martinique",
    "martin-luther",
    "Мартин",
    "properties",
    "42",
    "x",
]
EDGES = [*" /.,:;!?@#&=+\"'\\\n\t()", "_", "-", "é", "\u0301", "7", "я", ""]
IDS = ["ann", "martin", "Мартин", "martin-luther", "properties", "click"]

texts = st.lists(st.sampled_from([*WORDS, *IDS, *EDGES]), max_size=6).map("".join)
names = st.sampled_from(
    ["note", "martin", "martins", "ann", "properties", "price", "query", "click"]
)
values = st.recursive(
    texts | st.none() | st.booleans() | st.integers(-50, 50),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
KNOWN = field_names(RoutePlan())


def words_of(text: str) -> set[str]:
    """The words of a text, told by walking over its letters."""
    found, word = set(), ""
    for letter in f"{text} ":
        if letter.isalnum() or letter in "_-" or unicodedata.combining(letter):
            word += letter
        else:
            found.add(word)
            word = ""
    return found


def says(text: str, ids: set[str]) -> bool:
    return text in ids or any(len(word) >= WITHIN_MIN and word in ids for word in words_of(text))


def emptied(value: Any, ids: set[str]) -> Any:
    if isinstance(value, dict):
        return {
            name: emptied(one, ids)
            for name, one in value.items()
            if name in KNOWN or len(name) < WITHIN_MIN or not says(name, ids)
        }
    if isinstance(value, list):
        return [emptied(one, ids) for one in value]
    return None if isinstance(value, str) and says(value, ids) else value


@settings(max_examples=400, deadline=None)
@given(
    st.sets(st.sampled_from(IDS), min_size=1, max_size=3),
    texts,
    st.dictionaries(names, values, max_size=4),
    st.sampled_from([*IDS, "i1"]),
)
def test_of_anothers_event_goes_what_says_who_and_nothing_else(
    ids: set[str], text: str, properties: dict, thing: str
) -> None:
    mentions = Mentions(ids, KNOWN)
    structure = {
        "event_id": thing,
        "type": "click",
        "item_id": thing,
        "items": [thing],
        "session_id": thing,
        "user_id": "other",
        "ts": 5,
    }
    event = {
        **structure,
        "context": {"page": text, "device": text, "utc_offset_min": 3},
        "properties": properties,
    }
    page = None if says(text, ids) else text
    wanted = {
        **structure,
        "context": {"page": page, "device": text, "utc_offset_min": 3},
        "properties": emptied(properties, ids),
    }
    assert mentions.of_another(event) == wanted
    body = json.dumps(event).encode()
    assert mentions.may_be_in(body) or wanted == event, "the cheap look misses nothing"
    # The lake's columns lose the same as the archive's rows.
    told = mentions.in_column(pa.chunked_array([["nothing", None, text]], pa.string())).tolist()
    assert told == [False, False, says(text, ids)]
    written = [json.dumps(properties, ensure_ascii=False, separators=(",", ":")), None]
    assert mentions.in_json(pa.chunked_array([written], pa.string())).tolist() == [
        wanted["properties"] != properties,
        False,
    ]


def archived(project: Project) -> list[dict]:
    """All rows of all archived bodies, as they stand there now."""
    found = []
    for path in sorted(project.paths.lake.rglob("*.blocks.zst")):
        with pa.CompressedInputStream(pa.OSFile(str(path)), "zstd") as stream:
            data = stream.read().decode(errors="replace")
        start = data.find("[{")
        while start >= 0:
            rows, end = json.JSONDecoder().raw_decode(data[start:])
            found += rows
            start = data.find("[{", start + end)
    return found


def test_erasing_words_changes_nothing_of_others(tmp_path: Path) -> None:
    """Users named as a type, an item, a field, a short name and a word that is a part of others'."""
    leavers = ["click", "i1", "context", "ann", "martin", "42", "purchase"]
    others = [
        click(
            "o1",
            "anna",
            session_id="i1",
            context={"page": "/martinique", "device": "ann"},
            properties={"note": "ann b", "price": 42},
        ),
        click(
            "o2",
            "martin-luther",
            properties={"context": "joann", "note": "Martinique\nmartins", "list": ["martiné"]},
        ),
        {**click("o3", "other-3"), "item_id": "42"},
        {
            "event_id": "o4",
            "type": "purchase",
            "user_id": "other-4",
            "item_id": "i1",
            "properties": {"price": 3.0},
        },
        {
            "event_id": "o5",
            "type": "item",
            "item_id": "42",
            "properties": {"title": "of annual martinets", "category": "purchases"},
        },
    ]
    friend = click(
        "f",
        "friend",
        context={"page": "/u/martin"},
        properties={"a": "ann", "b": ["hello\nmartin!"], "c": "anna", "n": 7},
    )
    refused = [
        {"event_id": "bad", "type": "clack", "user_id": "anna", "item_id": "i1"},
        {**click("bad2", "martins"), "ts": "42"},
    ]
    theirs = [{"event_id": "bad3", "type": "clack", "user_id": "click"}]
    project = sent(tmp_path, [*(click(f"e-{one}", one) for one in leavers), *others, friend])
    with_refused(project, *refused, *theirs)
    columns = [name for name in Lake(project.paths.lake).events().column_names if name != "p"]

    def rows() -> dict[str, dict]:
        return {
            row["event_id"]: row for row in Lake(project.paths.lake).events(columns).to_pylist()
        }

    before, raw = rows(), {row["event_id"]: row for row in archived(project)}

    done = erase(project, leavers, CLOCK)

    assert done.clean, done.searched.found
    after, kept = rows(), {row["event_id"]: row for row in archived(project) if "event_id" in row}
    for event in others:
        assert after[event["event_id"]] == before[event["event_id"]]
        assert kept[event["event_id"]] == raw[event["event_id"]] == event
    assert kept["f"] == {
        **friend,
        "context": {"page": None},
        "properties": {"a": None, "b": [None], "c": "anna", "n": 7},
    }
    assert after["f"] == before["f"] | {
        "page": None,
        "properties": '{"a":null,"b":[null],"c":"anna","n":7}',
    }
    assert people_of(project).keys() & set(leavers) == set()
    assert [json.loads(body)["event_id"] for body in bodies(project) if body != ERASED] == [
        "bad",
        "bad2",
    ]
    assert look_for(project, leavers).found == []
    report = verify(project.paths.lake, deep=True)
    assert report.clean, report.faults


@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_names_of_the_contract_are_nobodys_ids(name: str) -> None:
    assert Mentions({name}, KNOWN).without({name: 1, "said": name}) == {name: 1, "said": None}


def test_what_somebody_else_said_in_a_row_that_was_refused_is_not_taken_for_a_trace(
    tmp_path: Path,
) -> None:
    project = sent(
        tmp_path,
        [
            click(
                "e1",
                "user-4711",
                properties={"note": 'crimson "and" long', "more": "long and blue"},
            )
        ],
    )
    with_refused(
        project,
        {**click("e2", "user-4712"), "type": "clack", "properties": {"note": 'crimson "and" long'}},
    )
    with_refused(
        project,
        {**click("e3", "user-4711"), "type": "clack", "properties": {"more": "long and blue"}},
    )
    done = erase(project, ["user-4711"], CLOCK)
    assert done.clean, done.searched.found
    assert left_of(project.root, b"long and blue") == []
