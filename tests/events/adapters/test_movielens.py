import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.adapters import convert_events, convert_lines, read_refusals

from tailorbird.errors import InputError

SECOND = 881250949
RATING = {
    "type": "rating",
    "ts": SECOND * 1_000_000,
    "user_id": "196",
    "item_id": "242",
    "properties": {"rating": 3.5},
}


def _without_ids(rows: list[dict]) -> list[dict]:
    ids = [event.pop("event_id") for event in rows]
    assert len(set(ids)) == len(ids)
    return rows


def test_100k(tmp_path: Path) -> None:
    (tmp_path / "u.data").write_text(f"196\t242\t3.5\t{SECOND}\n")
    flags = "|".join("1" if place in (5, 14) else "0" for place in range(19))
    title = "Cité des enfants perdus, La (1995)"
    (tmp_path / "u.item").write_bytes(
        f"242|{title}|01-Jan-1995||http://x|{flags}\n".encode("latin-1")
    )
    (tmp_path / "u.user").write_text("196|49|M|writer|55105\n")
    rating, movie, user = _without_ids(convert_events("movielens", tmp_path))
    properties = {
        "title": title,
        "genres": ["Comedy", "Romance"],
        "category": "Comedy",
        "year": 1995,
    }
    assert movie == {"type": "item", "item_id": "242", "timeless": True, "properties": properties}
    assert user == {
        "type": "user",
        "user_id": "196",
        "timeless": True,
        "properties": {"age": 49, "gender": "M", "occupation": "writer", "zip": "55105"},
    }
    assert rating == RATING


def test_1m(tmp_path: Path) -> None:
    (tmp_path / "ratings.dat").write_text(f"196::242::3.5::{SECOND}\n")
    (tmp_path / "movies.dat").write_bytes("242::Amélie (2001)::Comedy|Romance\n".encode("latin-1"))
    (tmp_path / "users.dat").write_text("196::F::25::10::48067\n")
    by_type = {
        event["type"]: event for event in _without_ids(convert_events("movielens", tmp_path))
    }
    assert by_type["rating"] == RATING
    assert by_type["item"]["properties"] == {
        "title": "Amélie (2001)",
        "genres": ["Comedy", "Romance"],
        "category": "Comedy",
        "year": 2001,
    }
    assert by_type["user"]["properties"] == {
        "gender": "F",
        "age": 25,
        "occupation": "10",
        "zip": "48067",
    }


def test_20m_and_later(tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text(
        f"userId,movieId,rating,timestamp\n196,242,3.5,{SECOND}\n"
    )
    titles = (
        '1,"American President, The (1995)",Comedy|Drama\n2,"No ""year"" here",(no genres listed)\n'
    )
    (tmp_path / "movies.csv").write_text(f"movieId,title,genres\n{titles}", encoding="utf-8")
    (tmp_path / "tags.csv").write_text("userId,movieId,tag,timestamp\n1,1,x,1\n")  # not read
    first, second, rating = _without_ids(convert_events("movielens", tmp_path))
    assert first["properties"] == {
        "title": "American President, The (1995)",
        "genres": ["Comedy", "Drama"],
        "category": "Comedy",
        "year": 1995,
    }
    assert second["properties"] == {"title": 'No "year" here', "genres": []}
    assert rating == RATING


def test_parquet(tmp_path: Path) -> None:
    times = pa.array([datetime.fromtimestamp(SECOND, UTC)], pa.timestamp("us", "UTC"))
    pq.write_table(
        pa.table({"user_id": [196], "movie_id": [242], "rating": [3.5], "ts": times}),
        tmp_path / "ratings.parquet",
    )
    pq.write_table(
        pa.table({"movie_id": [242], "title": ["X (1990)"], "genres": ["Drama"]}),
        tmp_path / "movies.parquet",
    )
    movie, rating = _without_ids(convert_events("movielens", tmp_path))
    assert rating == RATING
    assert movie["properties"]["year"] == 1990


def test_unreadable_rows_are_passed_on_unchanged(tmp_path: Path) -> None:
    rows = b'1,2,good,3\n1,2\n"a\nb",2,x,inf\n1,2,3.5,9,more\ncaf\xe9,2,3.5,9\n1,2,gut\xc3\xa9,3\n'
    (tmp_path / "ratings.csv").write_bytes(b"userId,movieId,rating,timestamp\n" + rows)
    count, refused = read_refusals("movielens", tmp_path)
    assert count == 0
    assert [(code, unread["record"]) for code, _, _, unread in refused] == [
        ("wrong_type", ["1", "2", "good", "3"]),
        ("wrong_width", ["1,2"]),
        ("wrong_type", ["a\nb", "2", "x", "inf"]),
        ("wrong_width", ["1,2,3.5,9,more"]),
        ("wrong_width", ["caf\\xe9,2,3.5,9"]),
        ("wrong_type", ["1", "2", "guté", "3"]),
    ]


@pytest.mark.parametrize(
    "rows",
    [
        ['1,"The X,Drama', "2,Y,Comedy", '3,"Z",Drama'],
        ['1,"The X,Drama', "2,Y,Comedy"],
        ["2,Y,Comedy", '1,X,"Drama'],
    ],
    ids=["to the next quote", "to the end", "in the last line"],
)
def test_an_unclosed_quote_spoils_only_its_own_row(rows: list[str], tmp_path: Path) -> None:
    (tmp_path / "movies.csv").write_text("\n".join(["movieId,title,genres", *rows]))
    converted = [json.loads(line) for line in convert_lines("movielens", tmp_path)]
    stray = next(row for row in rows if row[0] == "1")
    assert [one["unread"]["record"] for one in converted if "unread" in one] == [[stray]]
    assert [one["item_id"] for one in converted if "unread" not in one] == [
        row[0] for row in rows if row != stray
    ]


def test_files_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "clicks.csv").write_text("a,b\n1,2\n")
    with pytest.raises(
        InputError, match=r"expected ratings and movies of a MovieLens layout.*got clicks\.csv"
    ):
        convert_lines("movielens", tmp_path / "clicks.csv")
    with pytest.raises(InputError, match=r"no file like u\.data"):
        convert_lines("movielens", tmp_path)


def test_parquet_without_its_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"user_id": [1]}), tmp_path / "ratings.parquet")
    with pytest.raises(InputError, match="missing movie_id, rating, ts"):
        convert_lines("movielens", tmp_path)
