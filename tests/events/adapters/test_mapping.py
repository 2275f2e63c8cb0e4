"""Any CSV, TSV or Parquet by a mapping: times in every form, ids as they are written, rows that are
wrong kept whole.
"""

import gzip
import json
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.adapters import convert_lines, convert_mapped, read_refusals

from tailorbird.errors import InputError

TS = 1_500_000_000_250_000  # 2017-07-14T02:40:00.25Z
CLICKS = '[[source]]\nfile = "c.*"\nts = "when"\nuser_id = "who"\nitem_id = "what"\n'


def _single_event(folder: Path, when: str, mapping: str = "", name: str = "c.csv") -> Any:
    (folder / name).write_text(f"who,what,when\nu,i,{when}\n")
    return convert_mapped(folder, CLICKS.replace('ts = "when"', f'ts = "when"\n{mapping}'))[0]["ts"]


@pytest.mark.parametrize(
    ("written", "unit"),
    [("1500000000.25", "s"), ("1500000000250", "ms"), ("1500000000250000", "us")],
)
def test_units_of_numbers(tmp_path: Path, written: str, unit: str) -> None:
    assert _single_event(tmp_path, written, f'ts_unit = "{unit}"') == TS


@pytest.mark.parametrize(
    ("written", "zone", "expected"),
    [
        ("2017-07-14 02:40:00", "UTC", TS - 250_000),
        ("2017-07-14T02:40:00.25", "UTC", TS),
        ("2017-07-14 04:40:00", "Europe/Oslo", TS - 250_000),
        ("2017-07-14 02:40:00Z", "Europe/Oslo", TS - 250_000),  # it names its zone itself
        ("2017-07-14T04:40:00+02:00", "UTC", TS - 250_000),
        ("2017-07-13T23:40:00-03:00", "UTC", TS - 250_000),
        ("2017-07-14", "UTC", 1_499_990_400_000_000),
    ],
)
def test_zones_of_text(tmp_path: Path, written: str, zone: str, expected: int) -> None:
    assert _single_event(tmp_path, written, f'ts_zone = "{zone}"') == expected


def test_received_at_is_parsed_like_ts(tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text(
        "who,since,exported\nu,2017-07-14 04:40:00,2026-11-01 12:00:00\nv,2017-07-14 04:40:00,\n"
    )
    source = (
        'file = "users.csv"\nkind = "users"\nuser_id = "who"\nts = "since"\nts_zone = '
        '"Europe/Oslo"\nreceived_at = "exported"\n'
    )
    dated, undated = convert_mapped(tmp_path, f"[[source]]\n{source}")
    assert (dated["ts"], dated["received_at"]) == (TS - 250_000, 1_793_530_800_000_000)
    assert "received_at" not in undated


def test_times_of_mixed_forms_are_each_read(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text(
        "who,what,when\nu,i,2017-07-14T02:40:00Z\nu,j,yesterday\nu,k,\n"
    )
    converted = convert_lines("mapping", tmp_path, mapping=CLICKS + 'ts_zone = "Europe/Oslo"\n')
    assert b"2017-07-14T02:40:00+00:00" in converted[0]
    assert b'"ts":"yesterday"' in converted[1]  # for the contract to refuse
    assert b'"ts"' not in converted[2]


@pytest.mark.parametrize(
    "times",
    [
        pa.array([TS * 1_000 + 3], pa.timestamp("ns")),
        pa.array([TS], pa.timestamp("us", "America/Sao_Paulo")),
        pa.array([TS // 1_000], pa.timestamp("ms")),
        pa.array([datetime(2017, 7, 14, 4, 40, 0, 250_000, timezone(timedelta(hours=2)))]),
    ],
    ids=["ns", "zone", "ms", "offset"],
)
def test_times_of_parquet(tmp_path: Path, times: pa.Array) -> None:
    pq.write_table(pa.table({"who": [7], "what": ["i"], "when": times}), tmp_path / "c.parquet")
    (event,) = convert_mapped(tmp_path, CLICKS)
    assert (event["ts"], event["user_id"]) == (TS, "7")


def test_naive_times_of_parquet_are_in_the_mappings_zone(tmp_path: Path) -> None:
    times = pa.array([datetime(2017, 7, 14, 4, 40)], pa.timestamp("us"))
    pq.write_table(pa.table({"who": [7], "what": ["i"], "when": times}), tmp_path / "c.parquet")
    assert convert_mapped(tmp_path, CLICKS + 'ts_zone = "Europe/Oslo"\n')[0]["ts"] == TS - 250_000


def test_a_day_is_its_first_moment(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"who": ["u"], "what": ["i"], "when": pa.array([date(2017, 7, 14)])}),
        tmp_path / "c.parquet",
    )
    assert convert_mapped(tmp_path, CLICKS)[0]["ts"] == 1_499_990_400_000_000


def test_ids_are_taken_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("who,what,when\n007,00012,1500000000\n8,1e3,1500000001\n")
    converted = convert_mapped(tmp_path, CLICKS + 'ts_unit = "s"\n')
    assert [(event["user_id"], event["item_id"]) for event in converted] == [
        ("007", "00012"),
        ("8", "1e3"),
    ]


def test_integers_written_as_fractions(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("who,what,when\n7.0,1,1500000000\n,2,1500000001\n")
    first, second = convert_lines("mapping", tmp_path, mapping=CLICKS + 'ts_unit = "s"\n')
    assert b'"user_id":"7"' in first
    assert b"user_id" not in second


def test_integer_columns_with_gaps_stay_integers(tmp_path: Path) -> None:
    pq.write_table(
        pa.table(
            {
                "who": [7.0, None],
                "what": ["i", "j"],
                "anon": ["", "x"],
                "when": [1500000000, 1500000001],
            }
        ),
        tmp_path / "c.parquet",
    )
    first, second = convert_lines("mapping", tmp_path, mapping=CLICKS + 'ts_unit = "s"\n')
    assert b'"user_id":"7"' in first
    assert b"user_id" not in second


def test_types_from_a_column_context_and_properties(tmp_path: Path) -> None:
    (tmp_path / "c.tsv.gz").write_bytes(
        gzip.compress(
            b'who\twhat\twhen\tdo\tdev\toffset\tpaid\tnote\nu\ti\t1500000000\taddtocart\tphone\t120\t9.5\t"two\nlines"\n'
        )
    )
    mapping = CLICKS + (
        'type = { column = "do", values = { addtocart = "cart" } }\nts_unit = "s"\n'
        '[source.context]\ndevice = "dev"\nutc_offset_min = '
        '"offset"\n[source.properties]\nprice = "paid"\nnote = "note"\n'
    )
    (event,) = convert_mapped(tmp_path, mapping)
    assert (event["type"], event["context"]) == ("cart", {"device": "phone", "utc_offset_min": 120})
    assert event["properties"] == {"price": 9.5, "note": "two\nlines"}


def test_a_price_that_is_no_number_is_one_rows_and_not_the_columns(tmp_path: Path) -> None:
    rows = [f"u{number},i1,1500000000,{'free' if number == 5 else 0.5}" for number in range(20)]
    (tmp_path / "c.csv").write_text("\n".join(["who,what,when,paid", *rows]) + "\n")
    mapping = CLICKS + 'ts_unit = "s"\n[source.properties]\nprice = "paid"\n'
    converted = convert_lines("mapping", tmp_path, mapping=mapping, mapping_name="mapping.toml")
    assert [json.loads(one)["properties"]["price"] for one in converted] == [
        "free" if number == 5 else 0.5 for number in range(20)
    ]


def test_values_that_json_has_no_word_for(tmp_path: Path) -> None:
    table = pa.table(
        {
            "who": ["u"],
            "what": ["i"],
            "when": [1500000000],
            "price": [Decimal("2.50")],
            "day": [date(2020, 1, 2)],
            "at": pa.array([datetime(2020, 1, 2)], pa.timestamp("us")),
            "none": pa.array([None], pa.string()),
            "list": [["a"]],
        }
    )
    pq.write_table(table, tmp_path / "c.parquet")
    names = "".join(f'{name} = "{name}"\n' for name in ("price", "day", "at", "none", "list"))
    (event,) = convert_mapped(tmp_path, CLICKS + f'ts_unit = "s"\n[source.properties]\n{names}')
    assert event["properties"] == {
        "price": 2.5,
        "day": "2020-01-02",
        "at": "2020-01-02T00:00:00+00:00",
        "list": ["a"],
    }


def test_profiles_are_timeless_without_a_time(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text('id,title\n1,"Coat, warm"\n')
    (tmp_path / "users.csv").write_text("id,since\nu,2020-01-01\n")
    mapping = (
        '[[source]]\nfile = "items.csv"\nkind = "items"\nitem_id = '
        '"id"\n[source.properties]\ntitle = "title"\n'
        '[[source]]\nfile = "users.csv"\nkind = "users"\nuser_id = "id"\nts = "since"\n'
    )
    item, user = convert_mapped(tmp_path, mapping)
    assert (item["type"], item["timeless"], item["properties"]) == (
        "item",
        True,
        {"title": "Coat, warm"},
    )
    assert (user["type"], user.get("timeless", False)) == ("user", False)


def test_a_number_that_is_none_spoils_only_its_row(tmp_path: Path) -> None:
    rows = "".join(f"u,i,1500000000,{'cheap' if row == 70_000 else row}\n" for row in range(80_000))
    (tmp_path / "c.csv").write_text("who,what,when,price\n" + rows)
    converted = convert_lines(
        "mapping",
        tmp_path,
        mapping=CLICKS + 'ts_unit = "s"\n[source.properties]\nprice = "price"\n',
    )
    assert b'"price":"cheap"' in converted[70_000]
    assert b'"price":70001' in converted[70_001]
    assert b'"price":69999' in converted[69_999]


STRAY = {
    "to the next quote": ['u1,"i1,10,t', "u2,i2,10,t", 'u3,i3,10,"t"', "u4,i4,10,t"],
    "to the end": ['u1,i1,10,"t', *(f"u{number},i{number},10,t" for number in range(2, 30_000))],
    "behind a sign of inches": ['u1,5" pipe,10,"t', "u2,i2,10,t", 'u3,i3,10,x"y'],
    "each": ['u1,i1,10,"t', 'u2,i2,10,"t', "u3,i3,10,t"],
    "of the last line": ["u1,i1,10,t", 'u2,"i2,10,t'],
    "of the last value": ["u1,i1,10,t", 'u2,i2,10,"t'],
}


@pytest.mark.parametrize("rows", STRAY.values(), ids=STRAY)
@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_an_unclosed_quote_spoils_only_its_own_row(
    rows: list[str], delimiter: str, tmp_path: Path
) -> None:
    rows = [row.replace(",", delimiter) for row in rows]
    (tmp_path / ("c.csv" if delimiter == "," else "c.tsv")).write_text(
        delimiter.join(["who", "what", "when", "title"]) + "\n" + "\n".join(rows)
    )
    converted = [
        json.loads(line)
        for line in convert_lines("mapping", tmp_path, mapping=CLICKS + 'ts_unit = "s"\n')
    ]
    stray = [row for row in rows[:2] if row.count('"') % 2 or "pipe" in row]
    assert [one["unread"]["record"] for one in converted if "unread" in one] == stray
    assert [one["user_id"] for one in converted if "unread" not in one] == [
        row[: row.index(delimiter)] for row in rows if row not in stray
    ]


def test_texts_of_several_lines_and_quotes_within_are_one_row(tmp_path: Path) -> None:
    rows = [
        'u1,i1,1500000000,"of ""two""\nlines, and\n\nmore"',
        'u2,5" pipe,1500000000,t',
        'u3,"i3","1500000000","t"',
        "u4,i4,1500000000,t",
    ]
    (tmp_path / "c.csv").write_text('\n"who",what,when,"the\ntitle"\n' + "\r\n".join(rows) + "\r\n")
    events = convert_mapped(
        tmp_path, CLICKS + 'ts_unit = "s"\n[source.properties]\ntitle = "the\\ntitle"\n'
    )
    assert [(one["user_id"], one["item_id"], one["properties"]["title"]) for one in events] == [
        ("u1", "i1", 'of "two"\nlines, and\n\nmore'),
        ("u2", '5" pipe', "t"),
        ("u3", "i3", "t"),
        ("u4", "i4", "t"),
    ]


def test_rows_of_another_width_are_passed_on_unchanged(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text(
        "who,what,when\nu,i,1500000000\nu,i\nu,j,1500000001,extra\nu,k,1500000002\n"
    )
    count, refused = read_refusals("mapping", tmp_path, mapping=CLICKS + 'ts_unit = "s"\n')
    assert count == 2
    assert [(code, path, unread["record"]) for code, path, _, unread in refused] == [
        ("wrong_width", "$", "u,i"),
        ("wrong_width", "$", "u,j,1500000001,extra"),
    ]


@pytest.mark.parametrize(
    "extra", [b"", b'u3,i3,10,"of two\nlines"\n'], ids=["plain", "beside quotes"]
)
def test_a_row_that_is_no_utf_8_spoils_only_itself(extra: bytes, tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_bytes(
        "who,what,when,title\nü1,i1,10,t\n".encode()
        + b"u2,i2,10,caf\xe9\n"
        + extra
        + b'u4,i4,10,"t\xff\n"\n'
    )
    converted = [
        json.loads(line)
        for line in convert_lines("mapping", tmp_path, mapping=CLICKS + 'ts_unit = "s"\n')
    ]
    assert [one["unread"]["record"] for one in converted if "unread" in one] == [
        "u2,i2,10,caf\\xe9",
        'u4,i4,10,"t\\xff\n"',
    ]
    assert [one["user_id"] for one in converted if "unread" not in one] == [
        "ü1",
        *(["u3"] if extra else []),
    ]


@pytest.mark.parametrize(
    "coding", ["utf-16", "utf-16-le", "utf-16-be", "latin-1", "cp1252", "utf-8-sig"]
)
def test_a_file_in_another_encoding_is_read(coding: str, tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_bytes(
        f"who,what,when,größe\nJürgen,i,1500000000,{'10 €' if coding == 'cp1252' else '10'}\n".encode(
            coding
        )
    )
    (event,) = convert_mapped(
        tmp_path, CLICKS + 'ts_unit = "s"\n[source.properties]\nsize = "größe"\n'
    )
    assert event["user_id"] == "Jürgen"
    assert event["properties"]["size"] == ("10 €" if coding == "cp1252" else 10)


def test_two_sources_of_one_file_make_different_events(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("who,what,when\nu,i,1500000000\n")
    first, second = convert_mapped(
        tmp_path, CLICKS + 'ts_unit = "s"\n' + CLICKS + 'type = "view"\nts_unit = "s"\n'
    )
    assert first["event_id"] != second["event_id"]


def test_the_same_file_gives_the_same_ids(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("who,what,when\nu,i,1500000000\n")
    assert convert_lines("mapping", tmp_path, mapping=CLICKS) == convert_lines(
        "mapping", tmp_path, mapping=CLICKS
    )


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ("source = 3", r"not a mapping.*\$\.source"),
        ("[[source]]", "missing required field `file`"),
        ('[[source]]\nfile = "c.csv"\nitem = "x"', "unknown field `item`"),
        (
            '[[source]]\nfile = "c.csv"\nkind = "clicks"',
            r"\$\.source\[0\]: expected kind events, items or users",
        ),
        ('[[source]]\nfile = "c.csv"\nkind = "items"', "items need item_id"),
        ('[[source]]\nfile = "c.csv"\nts_unit = "m"', "expected ts_unit s, ms or us"),
        (
            '[[source]]\nfile = "c.csv"\nts_zone = "Mars/Olympus"',
            "expected ts_zone such as Europe/Oslo",
        ),
        ('[[source]]\nfile = "c.csv"\n[source.context]\ncolour = "x"', "context has no colour"),
        ('[[source]]\nfile = "d.csv"\nuser_id = "who"', "the mapping names d.csv"),
        (
            '[[source]]\nfile = "c.csv"\nuser_id = "whom"',
            "c.csv has no column whom; it has who, what, when",
        ),
    ],
)
def test_a_mapping_that_cannot_be_used(tmp_path: Path, mapping: str, message: str) -> None:
    (tmp_path / "c.csv").write_text("who,what,when\nu,i,1500000000\n")
    with pytest.raises(InputError, match=message):
        convert_lines("mapping", tmp_path, mapping=mapping, mapping_name="m.toml")


def test_a_column_of_lists_is_no_id(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"who": [["u"]], "what": ["i"], "when": [1500000000]}), tmp_path / "c.parquet"
    )
    with pytest.raises(InputError, match="cannot be used as the mapping says"):
        convert_lines("mapping", tmp_path, mapping=CLICKS)


def test_a_csv_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_bytes(b"")
    with pytest.raises(InputError, match=r"c\.csv"):
        convert_lines("mapping", tmp_path, mapping=CLICKS)
