"""Amazon Personalize's three datasets, as its guide formats them."""

import json
from pathlib import Path

import pytest
from tests.support.adapters import convert_events, convert_lines, read_refusals

from tailorbird.errors import InputError

INTERACTIONS = (
    "USER_ID,ITEM_ID,EVENT_TYPE,EVENT_VALUE,TIMESTAMP,IMPRESSION,RECOMMENDATION_ID,DEVICE,PRICE\n"
    "35,73,click,,1586731606,73|70|17|95|96,rec-1,mobile,\n"
    "35,70,click,,1586731609,73|70|17|95|96,rec-1,mobile,\n"
    "54,35,Purchase,,1586735164,,,,19.99\n"
    "9,33,rating,4.5,1586735158,,,,\n"
    "9,33,Watch,,1586735159,,,,\n"
)


def test_blanks_around_separators_are_stripped(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_text(
        INTERACTIONS.splitlines()[0] + "\n35,73,click,,1586731606,73 | 70 |,rec-1,mobile,\n"
    )
    assert convert_events("personalize", tmp_path)[0]["items"] == ["73", "70"]


def test_an_item_that_an_impression_names_twice_was_shown_once(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_text(
        INTERACTIONS.splitlines()[0] + "\n35,73,click,,1586731606,73|70|73,rec-1,mobile,\n"
    )
    assert convert_events("personalize", tmp_path)[0]["items"] == ["73", "70"]


def test_a_time_in_milliseconds_is_quoted_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_text(
        INTERACTIONS.splitlines()[0] + "\n35,73,click,,1586731606000,,,mobile,\n"
    )
    ((code, _, message, _),) = read_refusals("personalize", tmp_path)[1]
    assert code == "bad_time"
    assert "expected seconds since 1970" in message
    assert "1586731606000" in message


def test_interactions_with_their_impressions(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_text(INTERACTIONS)
    seen, first, repeated, second, bought, rated, watched = convert_events("personalize", tmp_path)
    assert seen["type"] == "impression"
    assert (seen["items"], seen["request_id"], seen["event_id"]) == (
        ["73", "70", "17", "95", "96"],
        "rec-1",
        "rec-1#impression",
    )
    assert repeated["event_id"] == seen["event_id"]  # the same list, to be taken once
    assert (first["type"], first["user_id"], first["item_id"], first["ts"]) == (
        "click",
        "35",
        "73",
        1_586_731_606_000_000,
    )
    assert first["context"] == {"device": "mobile"}
    assert second["request_id"] == "rec-1"
    assert (bought["type"], bought["properties"]) == ("purchase", {"price": 19.99})
    assert rated["properties"] == {"rating": 4.5}
    assert watched["type"] == "view"
    assert len({one["event_id"] for one in (seen, first, second, bought, rated, watched)}) == 6


def test_ids_follow_from_content_and_row(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(INTERACTIONS)
    converted = convert_events("personalize", tmp_path / "a.csv")
    (tmp_path / "renamed.csv").write_text(INTERACTIONS)
    assert convert_events("personalize", tmp_path / "renamed.csv") == converted


def test_users_and_items(tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text(
        "USER_ID,AGE,MEMBERSHIP,CODE,SHARE\n5,34,Gold,12E4,1e-05\n6,,,,\n"
    )
    (tmp_path / "items.csv").write_text(
        "\ufeffITEM_ID,CREATION_TIMESTAMP,GENRES,PRICE,ZIP\n0001,1570003267,comedy|drama,7,0123\n2,,,,\n"
    )
    item, bare, user, empty = convert_events("personalize", tmp_path)
    assert (item["item_id"], item["ts"], "timeless" in item) == (
        "0001",
        1_570_003_267_000_000,
        False,
    )
    assert item["properties"] == {"genres": ["comedy", "drama"], "price": 7, "zip": "0123"}
    assert bare["timeless"] is True
    assert (user["type"], user["timeless"]) == ("user", True)
    assert user["properties"] == {"age": 34, "membership": "Gold", "code": "12E4", "share": 1e-05}
    assert "properties" not in empty


@pytest.mark.parametrize("unknown", ["0", "0.0", ""])
def test_an_item_of_1970_has_no_time(tmp_path: Path, unknown: str) -> None:
    (tmp_path / "items.csv").write_text(f"ITEM_ID,CREATION_TIMESTAMP,GENRES\n1,{unknown},comedy\n")
    (item,) = convert_events("personalize", tmp_path)
    assert (item["timeless"], item.get("ts"), item["properties"]) == (
        True,
        None,
        {"genres": "comedy"},
    )


def test_unreadable_rows_are_quarantined_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "i.csv").write_bytes(
        b"USER_ID,ITEM_ID,TIMESTAMP\n1,2,yesterday\n,2,1586735164\n1,2\n1,2,1586735164,9\n1,\xff,1586735164\n1,\xc3\xa9,1586735164\n"
    )
    accepted, refused = read_refusals("personalize", tmp_path)
    assert accepted == 1
    assert [(code, path) for code, path, _, _ in refused] == [
        ("bad_time", "$.TIMESTAMP"),
        ("missing", "$.USER_ID"),
        ("wrong_width", "$"),
        ("wrong_width", "$"),
        ("wrong_width", "$"),
    ]
    assert refused[0][2] == 'expected seconds since 1970, got "yesterday"'
    assert refused[0][3]["record"] == {"USER_ID": "1", "ITEM_ID": "2", "TIMESTAMP": "yesterday"}
    assert refused[0][3]["place"].endswith(":2")
    assert refused[4][3]["record"] == {"#row": ["1", "\\xff", "1586735164"]}


STRAY = {
    "to the next quote": ['1,a,10,"broken', "2,b,20,ok", '3,c,30,x"y', "4,d,40,ok"],
    "to the end": ['1,a,10,"broken', "2,b,20,ok", "3,c,30,ok", "4,d,40,ok"],
    "over other columns": ['1,"a,10,broken', "2,b,20,ok", '3,c,30,"ok"', "4,d,40,ok"],
    "in the last line": ['1,a,10,"broken'],
    "further than a row may be": [
        '1,a,10,"broken',
        *(f"{user},b,20,{'long' * 9}" for user in range(5_000)),
        '3,c,30,x"y',
    ],
}


@pytest.mark.parametrize("rows", STRAY.values(), ids=STRAY)
def test_an_unclosed_quote_spoils_only_its_own_row(rows: list[str], tmp_path: Path) -> None:
    (tmp_path / "i.csv").write_text("\n".join(["USER_ID,ITEM_ID,TIMESTAMP,TITLE", *rows]))
    converted = [json.loads(line) for line in convert_lines("personalize", tmp_path)]
    assert [one.get("user_id") for one in converted] == [
        None,
        *(row.split(",")[0] for row in rows[1:]),
    ]
    assert (converted[0]["unread"]["code"], converted[0]["unread"]["record"]) == (
        "wrong_width",
        {"#row": rows[0].split(",")},
    )


def test_a_row_too_long_to_parse_is_quarantined_unchanged(tmp_path: Path) -> None:
    row = f"1,{'a' * 200_000},10"
    (tmp_path / "i.csv").write_text(f"USER_ID,ITEM_ID,TIMESTAMP\n{row}\n2,b,20\n")
    refused, read = (json.loads(line) for line in convert_lines("personalize", tmp_path))
    assert refused["unread"]["record"] == {"#row": row.split(",")}
    assert read["user_id"] == "2"


def test_a_text_of_several_lines_is_one_row(tmp_path: Path) -> None:
    (tmp_path / "i.csv").write_text(
        'ITEM_ID,TITLE,TEXT\n1,"of ""two""\nlines",more\n2,short,more\n'
    )
    first, second = convert_events("personalize", tmp_path)
    assert (first["properties"], second["item_id"]) == (
        {"title": 'of "two"\nlines', "text": "more"},
        "2",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", r"i\.csv:1: expected columns USER_ID, ITEM_ID and TIMESTAMP"),
        ("USER_ID,ITEM_ID\n1,2\n", "interactions need a column TIMESTAMP"),
        ("USER_ID,USER_ID\n1,2\n", "two columns have the same name"),
        ("", "got none"),
    ],
)
def test_a_file_of_something_else(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "i.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        convert_events("personalize", tmp_path)
