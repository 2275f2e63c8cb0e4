"""Pseudonyms keep what is right and wrong about each row, hide every id, and are the same for the
same key.
"""

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailorbird.errors import ConfigError
from tailorbird.events import Receipt, RoutePlan, check_body
from tailorbird.events.pseudonyms import Pseudonyms

HIDDEN = Pseudonyms("a key of thirty-two characters..")
NOW = 1_795_000_000_000_000
CANARY = "canary-7719"
CLICK = {
    "event_id": "e1",
    "type": "click",
    "user_id": CANARY,
    "anonymous_id": CANARY,
    "item_id": "i1",
}

UNREAD = {"format": "x", "place": "y", "code": "z", "path": "$"}


def reasons(body: bytes, encoding: str = "json") -> list[tuple[int, str]]:
    accepted, refused = check_body(body, Receipt(NOW, encoding=encoding), RoutePlan())
    return sorted(
        [(each.row, "") for each in accepted] + [(each.row, each.code) for each in refused]
    )


def hidden(body: bytes, encoding: str = "json") -> bytes:
    return HIDDEN.pseudonymise_body(body, encoding)


def test_ids_become_the_same_pseudonyms_everywhere_and_differ_by_kind_and_key():
    event = msgspec.json.decode(hidden(json.dumps(CLICK).encode()))
    assert event["user_id"] == HIDDEN.user_id(CANARY)
    assert event["anonymous_id"] == HIDDEN.anonymous_id(CANARY)
    assert event | {"user_id": 0, "anonymous_id": 0} == CLICK | {"user_id": 0, "anonymous_id": 0}
    other = Pseudonyms("another key of thirty-two chars..")
    assert (
        len(
            {
                HIDDEN.user_id(CANARY),
                HIDDEN.anonymous_id(CANARY),
                other.user_id(CANARY),
                HIDDEN.user_id("x"),
            }
        )
        == 4
    )
    assert HIDDEN.key_fingerprint != other.key_fingerprint


@pytest.mark.parametrize("type_", ["merge", "Merge", "MERGE ", None, 7, ["merge"]])
def test_whom_a_user_is_merged_into_is_hidden_in_a_refused_row_too(type_):
    event = {
        "event_id": "e1",
        "type": type_,
        "user_id": "u1",
        "properties": {"merged_into": CANARY},
    }
    assert CANARY.encode() not in hidden(json.dumps(event).encode())
    assert b"mine" in hidden(
        json.dumps({**CLICK, "properties": {"merged_into": "mine"}}).encode()
    ), "of a click it is the site's own"


def test_an_id_derived_from_a_record_reveals_nothing():
    """It is a plain hash, which whoever guesses the user could make again; it stays the same for
    the same record.
    """
    line = json.dumps({**CLICK, "event_id": "gorse:0123"}).encode()
    first, repeated = (
        msgspec.json.decode(HIDDEN.pseudonymise_body(line, "ndjson", is_foreign=True))
        for _ in range(2)
    )
    assert first == repeated
    assert first["event_id"] != "gorse:0123"
    assert msgspec.json.decode(HIDDEN.pseudonymise_body(line, "ndjson"))["event_id"] == "gorse:0123"


def test_a_key_that_can_be_guessed_is_refused():
    with pytest.raises(ConfigError, match="fewer than 32"):
        Pseudonyms("secret")


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (json.dumps(CLICK), "json"),
        (json.dumps([CLICK]), "json"),
        (
            json.dumps(
                [CLICK, {**CLICK, "user_id": f"anon:{CANARY}"}, {**CLICK, "user_id": CANARY * 50}]
            ),
            "json",
        ),
        (
            json.dumps(
                [
                    {**CLICK, "user_id": f"{CANARY}\x00"},
                    {**CLICK, "user_id": ""},
                    {**CLICK, "user_id": None},
                ]
            ),
            "json",
        ),
        (
            json.dumps(
                [
                    {**CLICK, "user_id": 7719},
                    {**CLICK, "user_id": [CANARY]},
                    {**CLICK, "user_id": {"id": CANARY}},
                ]
            ),
            "json",
        ),
        (
            json.dumps(
                [
                    {**CLICK, "userId": CANARY},
                    {**CLICK, "context": {"user": CANARY}},
                    {**CLICK, "context": CANARY},
                ]
            ),
            "json",
        ),
        (
            json.dumps(
                [{**CLICK, "answer": {"slot": "home", "who": CANARY}}, {**CLICK, "received_at": 1}]
            ),
            "json",
        ),
        (
            json.dumps(
                [
                    {**CLICK, CANARY: 1},
                    {**CLICK, "context": {CANARY: 1}},
                    {**CLICK, "answer": {"slot": "home", CANARY: 1}},
                ]
            ),
            "json",
        ),
        (
            json.dumps(
                [
                    {**CLICK, "item_id": [CANARY]},
                    {**CLICK, "items": CANARY},
                    {**CLICK, "items": ["i1", {"of": CANARY}]},
                ]
            ),
            "json",
        ),
        (
            json.dumps(
                [
                    {**CLICK, "ts": {"of": CANARY}},
                    {**CLICK, "timeless": CANARY},
                    {**CLICK, "properties": [CANARY]},
                ]
            ),
            "json",
        ),
        (
            json.dumps(
                [
                    {**CLICK, "context": {"page": [CANARY]}},
                    {**CLICK, "session_id": {CANARY: 1}},
                    {**CLICK, "type": [CANARY]},
                ]
            ),
            "json",
        ),
        (json.dumps({"user_id": CANARY}), "json"),
        ("[" + json.dumps(CLICK) + ", {", "json"),
        (json.dumps(CLICK)[:-1], "json"),
        (json.dumps(CANARY), "json"),
        ("[]", "json"),
        ("[[]]", "json"),
        (f'[["{CANARY}"]]', "json"),
        ("", "json"),
        ("7719", "json"),
        (json.dumps(CLICK) + "\n" + json.dumps(CLICK)[:-5] + "\n\n" + json.dumps(CLICK), "ndjson"),
        (json.dumps([CLICK]) + "\n[]\n" + json.dumps(CANARY), "ndjson"),
        (json.dumps({**CLICK, "us\u0065r_id": CANARY}).replace("user_id", "us\\u0065r_id"), "json"),
        (json.dumps(CLICK)[:-1] + f', "user_id": "{CANARY}"}}', "json"),
        (
            json.dumps(
                [
                    {**CLICK, "ts": f"{CANARY} at noon"},
                    {**CLICK, "sent_at": CANARY},
                    {**CLICK, "ts": 77197719},
                ]
            ),
            "json",
        ),
        (
            json.dumps(
                [
                    {**CLICK, "type": CANARY},
                    {**CLICK, "type": CANARY, "ts": CANARY},
                    {**CLICK, "type": ""},
                ]
            ),
            "json",
        ),
        (
            json.dumps(
                [{**CLICK, "context": {"country": CANARY}}, {**CLICK, "context": {"country": "no"}}]
            ),
            "json",
        ),
        (
            json.dumps(
                {"unread": {**UNREAD, "message": f"expected, got {CANARY}", "record": CANARY}}
            ),
            "json",
        ),
    ],
)
def test_each_row_is_decided_as_before_and_holds_no_id(body, encoding):
    sent = body.encode()
    assert reasons(hidden(sent, encoding), encoding) == reasons(sent, encoding)
    assert CANARY.encode() not in hidden(sent, encoding)


def test_unvalidated_values_are_hashed_or_dropped():
    """The reason stays, so does which of them are the same, and the unit of a time; what is right
    stays as it is.
    """
    sent = [
        {**CLICK, "type": "met ann"},
        {**CLICK, "type": "met ann"},
        {**CLICK, "type": "met bob"},
        {**CLICK, "ts": "ann's birthday"},
        {**CLICK, "ts": 4790123456},
        {**CLICK, "ts": 4790123456789},
        {**CLICK, "context": {"country": "of ann", "device": "phone"}},
        {**CLICK, "ts": "2026-11-25T12:00:00Z", "sent_at": NOW},
        {**CLICK, "type": "declared"},
    ]
    types = (*RoutePlan().event_types, "declared")
    body = HIDDEN.pseudonymise_body(json.dumps(sent).encode(), "json", event_types=types)
    met, repeated, other, birthday, seconds, milliseconds, country, right, declared = (
        msgspec.json.decode(body)
    )
    assert met == repeated
    assert len({met["type"], other["type"]}) == 2
    assert all(
        each.startswith("hidden-")
        for each in (met["type"], birthday["ts"], country["context"]["country"])
    )
    assert (seconds["ts"], milliseconds["ts"], country["context"]["device"]) == (
        1_000_000_000,
        1_000_000_000_000,
        "phone",
    )
    assert (right["ts"], right["sent_at"], declared["type"]) == (
        "2026-11-25T12:00:00Z",
        NOW,
        "declared",
    )
    before, after = (
        check_body(one, Receipt(NOW), RoutePlan(event_types=types))[1]
        for one in (json.dumps(sent).encode(), body)
    )
    assert [(one.row, one.code, one.path) for one in after] == [
        (one.row, one.code, one.path) for one in before
    ]
    assert ["looks like" in one.message for one in after] == [
        "looks like" in one.message for one in before
    ]
    assert b"ann" not in body
    assert not [one for one in after if "ann" in one.message]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.just(CANARY)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
EVENTS = st.dictionaries(
    st.sampled_from(
        [
            "event_id",
            "type",
            "user_id",
            "anonymous_id",
            "item_id",
            "context",
            "answer",
            "session_id",
            "ts",
            "colour",
        ]
    ),
    st.sampled_from(["e1", "click", "i1", f"{CANARY}-1"]) | JSON,
    max_size=6,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(EVENTS | JSON, max_size=3) | EVENTS, st.sampled_from(["json", "ndjson"]))
def test_no_row_is_lost_or_made_and_an_accepted_one_stays_accepted(sent, encoding):
    body = (
        json.dumps(sent).encode()
        if encoding == "json" or not isinstance(sent, list)
        else b"\n".join(json.dumps(one).encode() for one in sent)
    )
    before, after = reasons(body, encoding), reasons(hidden(body, encoding), encoding)
    assert [row for row, _ in before] == [row for row, _ in after]
    assert [bool(code) for _, code in before] == [bool(code) for _, code in after]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=80), st.sampled_from(["json", "ndjson"]))
def test_any_bytes_are_hidden_without_a_crash(body, encoding):
    assert [bool(code) for _, code in reasons(hidden(body, encoding), encoding)] == [
        bool(code) for _, code in reasons(body, encoding)
    ]
