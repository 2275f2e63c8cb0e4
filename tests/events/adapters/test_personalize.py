"""Amazon Personalize's three datasets, as its guide formats them."""

from pathlib import Path

import pytest
from tests.events.adapters.kit import events, refusals

from tailorbird.errors import InputError

INTERACTIONS = (
    "USER_ID,ITEM_ID,EVENT_TYPE,EVENT_VALUE,TIMESTAMP,IMPRESSION,RECOMMENDATION_ID,DEVICE,PRICE\n"
    "35,73,click,,1586731606,73|70|17|95|96,rec-1,mobile,\n"
    "35,70,click,,1586731609,73|70|17|95|96,rec-1,mobile,\n"
    "54,35,Purchase,,1586735164,,,,19.99\n"
    "9,33,rating,4.5,1586735158,,,,\n"
    "9,33,Watch,,1586735159,,,,\n"
)


def test_blanks_beside_the_bars_are_no_part_of_ids(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_text(INTERACTIONS.splitlines()[0] + "\n35,73,click,,1586731606,73 | 70 |,rec-1,mobile,\n")
    assert events("personalize", tmp_path)[0]["items"] == ["73", "70"]


def test_an_item_that_an_impression_names_twice_was_shown_once(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_text(INTERACTIONS.splitlines()[0] + "\n35,73,click,,1586731606,73|70|73,rec-1,mobile,\n")
    assert events("personalize", tmp_path)[0]["items"] == ["73", "70"]


def test_a_time_in_milliseconds_is_told_as_it_was_given(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_text(INTERACTIONS.splitlines()[0] + "\n35,73,click,,1586731606000,,,mobile,\n")
    ((code, _, message, _),) = refusals("personalize", tmp_path)[1]
    assert code == "bad_time"
    assert "expected seconds since 1970" in message
    assert "1586731606000" in message


def test_interactions_with_their_impressions(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_text(INTERACTIONS)
    seen, first, again, second, bought, rated, watched = events("personalize", tmp_path)
    assert seen["type"] == "impression"
    assert (seen["items"], seen["request_id"], seen["event_id"]) == (["73", "70", "17", "95", "96"], "rec-1", "rec-1#impression")
    assert again["event_id"] == seen["event_id"]  # the same list, to be taken once
    assert (first["type"], first["user_id"], first["item_id"], first["ts"]) == ("click", "35", "73", 1_586_731_606_000_000)
    assert first["context"] == {"device": "mobile"}
    assert second["request_id"] == "rec-1"
    assert (bought["type"], bought["properties"]) == ("purchase", {"price": 19.99})
    assert rated["properties"] == {"rating": 4.5}
    assert watched["type"] == "view"
    assert len({one["event_id"] for one in (seen, first, second, bought, rated, watched)}) == 6


def test_ids_follow_from_content_and_row(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(INTERACTIONS)
    made = events("personalize", tmp_path / "a.csv")
    (tmp_path / "renamed.csv").write_text(INTERACTIONS)
    assert events("personalize", tmp_path / "renamed.csv") == made


def test_users_and_items(tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("USER_ID,AGE,MEMBERSHIP\n5,34,Gold\n6,,\n")
    (tmp_path / "items.csv").write_text("\ufeffITEM_ID,CREATION_TIMESTAMP,GENRES,PRICE,ZIP\n0001,1570003267,comedy|drama,7,0123\n2,,,,\n")
    item, bare, user, empty = events("personalize", tmp_path)
    assert (item["item_id"], item["ts"], "timeless" in item) == ("0001", 1_570_003_267_000_000, False)
    assert item["properties"] == {"genres": ["comedy", "drama"], "price": 7, "zip": "0123"}
    assert bare["timeless"] is True
    assert (user["type"], user["properties"], user["timeless"]) == ("user", {"age": 34, "membership": "Gold"}, True)
    assert "properties" not in empty


def test_rows_that_are_wrong_are_kept_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "i.csv").write_bytes(
        b"USER_ID,ITEM_ID,TIMESTAMP\n1,2,yesterday\n,2,1586735164\n1,2\n1,2,1586735164,9\n1,\xff,1586735164\n1,2,1586735164\n"
    )
    accepted, refused = refusals("personalize", tmp_path)
    assert accepted == 1
    assert [(code, path) for code, path, _, _ in refused] == [
        ("bad_time", "$.TIMESTAMP"), ("missing", "$.USER_ID"), ("wrong_width", "$"), ("wrong_width", "$"), ("wrong_width", "$"),
    ]  # fmt: skip
    assert refused[0][2] == 'expected seconds since 1970, got "yesterday"'
    assert refused[0][3]["record"] == {"USER_ID": "1", "ITEM_ID": "2", "TIMESTAMP": "yesterday"}
    assert refused[0][3]["place"].endswith(":2")
    assert refused[4][3]["record"] == {"#row": ["1", "\\xff", "1586735164"]}


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
        events("personalize", tmp_path)
