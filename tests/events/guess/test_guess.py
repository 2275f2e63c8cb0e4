from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.adapters import NOW, convert_mapped

from tailorbird.errors import InputError
from tailorbird.events.adapters import FORMATS, AdapterOptions
from tailorbird.events.guess import MappingHints, guess_sources, try_mapping
from tailorbird.events.guess.words import find_event_type

HEAD = "event_time,user_id,product_id,event_type,price,country,session_size,colour\n"


def _csv(folder: Path, text: str, name: str = "e.csv") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_each_column_is_taken_or_left_out_with_its_reason(tmp_path: Path) -> None:
    file = _csv(
        tmp_path,
        HEAD + "1500000000,7,12,addtocart,2.5,NO,4,red\n1500000001,8,13,view,3.5,SE,2,blue\n",
    )
    guess = guess_sources(file)[0]
    roles = {column.column: column.role for column in guess.columns}
    assert roles == {
        "event_time": "ts",
        "user_id": "user_id",
        "product_id": "item_id",
        "event_type": "type",
        "price": "properties.price",
        "country": "context.country",
        "session_size": "",
        "colour": "properties.colour",
    }
    assert all(column.why for column in guess.columns)
    assert guess.kind == "events"
    assert guess.types == {"cart": 1, "view": 1}


def test_what_is_proposed_can_be_imported(tmp_path: Path) -> None:
    file = _csv(tmp_path, HEAD + "1500000000000,7,12,addtocart,2.5,NO,4,red\n")
    (event,) = convert_mapped(file, guess_sources(file)[0].toml)
    del event["event_id"]
    assert event == {
        "type": "cart",
        "ts": 1_500_000_000_000_000,
        "user_id": "7",
        "item_id": "12",
        "context": {"country": "NO"},
        "properties": {"price": 2.5, "colour": "red"},
    }


@pytest.mark.parametrize(
    ("text", "kind", "kinds"),
    [
        ("product_id,title\n1,a\n2,b\n", "items", {}),
        ("user_id,age\n1,30\n2,40\n", "users", {}),
        ("user_id,plan,created_at\n1,free,2020-01-01\n2,paid,2020-01-02\n", "users", {}),
        (
            "user_id,plan,created_at\n1,free,2020-01-01\n1,paid,2020-01-02\n",
            "events",
            {"e": 2},
        ),  # not one row a user
        ("user_id,plan,event_time\n1,free,2020-01-01\n2,paid,2020-01-02\n", "events", {"e": 2}),
        (
            "user_id,action,created_at\n1,login,2020-01-01\n2,login,2020-01-02\n",
            "events",
            {"login": 2},
        ),
        (
            "user_id,created_at\n1,2020-01-01\n2,2020-01-02\n",
            "events",
            {"e": 2},
        ),  # says nothing about them
        (
            "customer_id,created_at,total\n1,2020-01-01,5\n2,2020-01-02,7\n",
            "events",
            {"e": 2},
        ),  # an order each
        ("user_id,query,created_at\n1,shoes,2020-01-01\n2,hats,2020-01-02\n", "events", {"e": 2}),
        (
            "user_id,campaign,date\n1,a,2020-01-01\n2,b,2020-01-02\n",
            "events",
            {"e": 2},
        ),  # a time of anything
        ("product_id,category,price,created_at\n1,a,5,2020-01-01\n2,b,6,2020-01-02\n", "items", {}),
        (
            "article_id,title,type,date\n1,a,news,2020-01-01\n2,b,blog,2020-01-02\n",
            "items",
            {},
        ),  # nobody did anything
        ("article_id,session_id,date\n1,a,2020-01-01\n2,b,2020-01-02\n", "events", {"click": 2}),
        ("user_id,product_id\n1,2\n1,3\n", "events", {"click": 2}),
        ("customer_id,product_id,invoice,date\n1,2,x,2020-01-01\n", "events", {"purchase": 1}),
        ("user,movie_id,rating,timestamp\n1,2,3.5,1500000000\n", "events", {"rating": 1}),
        ("user,movie_id,score,timestamp\n1,2,3.5,1500000000\n", "events", {"rating": 1}),
        (
            "user,movie_id,score,timestamp\n1,2,-.31,1500000000\n",
            "events",
            {"click": 1},
        ),  # what a program computed
        ("user_id,score,created_at\n1,0.7,2020-01-01\n2,0.2,2020-01-02\n", "users", {}),
        (
            "user_id,birth_date\n1,1980-01-01\n2,1990-01-02\n",
            "users",
            {},
        ),  # nothing that happened on a site
        (
            "user_id,plan,valid_from,valid_to\n1,free,2020-01-01,2020-05-01\n1,paid,2020-05-01,\n",
            "users",
            {},
        ),
        (
            "user_id,plan,created_at,updated_at\n1,free,2019-01-01,2020-01-01\n1,paid,2019-01-01,2020-05-01\n",
            "users",
            {},
        ),
        (
            "user_id,month,total\n1,2020-01-01,5\n1,2020-02-01,7\n2,2020-02-01,7\n",
            None,
            {},
        ),  # neither
        ("user_id,month,plan\n1,2020-01,a\n1,2020-02,b\n", None, {}),  # no time that can be read
        (
            "product_id,title,price,updated_at\n1,Coat,80,2020-01-01\n1,Coat,70,2020-02-01\n",
            "items",
            {},
        ),
        (
            "product_id,title,date\n1,Coat,2020-01-01\n1,Warm coat,2020-02-01\n",
            "items",
            {},
        ),  # nobody did anything
        (
            "product_id,version,title\n1,1,Coat\n1,2,Warm coat\n",
            None,
            {},
        ),  # which held when, nobody knows
        (
            "customer_id,room,nights,created_at\n1,double,3,2020-01-01\n2,single,2,2020-01-02\n",
            "events",
            {"e": 2},
        ),
        ("customer_id,booking_no,created_at\n1,a,2020-01-01\n2,b,2020-01-02\n", "events", {"e": 2}),
    ],
)
def test_what_kind_of_rows_a_file_holds(
    tmp_path: Path, text: str, kind: str | None, kinds: dict[str, int]
) -> None:
    if kind is None:
        with pytest.raises(
            InputError,
            match="or several of one with the time from which each holds, such as valid_from",
        ):
            guess_sources(_csv(tmp_path, text))
        return
    guess = guess_sources(_csv(tmp_path, text))[0]
    assert (guess.kind, guess.types) == (kind, kinds)


def test_a_file_named_after_an_action_holds_events(tmp_path: Path) -> None:
    rows = "user_id,device,created_at\n1,phone,2020-01-01\n2,desktop,2020-01-02\n"
    kinds = {}
    for name in ("logins.csv", "shop-visits.csv", "bookings.csv", "customers.csv"):
        (tmp_path / name).write_text(rows)
        kinds[name] = guess_sources(tmp_path / name)[0].kind
    assert kinds == {
        "logins.csv": "events",
        "shop-visits.csv": "events",
        "bookings.csv": "events",
        "customers.csv": "users",
    }


def test_rows_of_a_history_are_profiles_that_hold_each_from_its_time_on(tmp_path: Path) -> None:
    file = _csv(
        tmp_path,
        "user_id,plan,valid_from,valid_to,is_current\n7,free,2020-01-01,2020-05-01,0\n7,cancelled,2020-05-01,,1\n",
    )
    guess = guess_sources(file)[0]
    first, second = convert_mapped(file, guess.toml)
    assert first["ts"] < second["ts"]
    assert [one["properties"] for one in (first, second)] == [
        {"plan": "free"},
        {"plan": "cancelled"},
    ]
    assert "timeless" not in first
    left_out = {column.column: column.why for column in guess.columns if "a leak" in column.why}
    assert left_out.keys() == {"valid_to", "is_current"}


@pytest.mark.parametrize(
    ("text", "role", "why"),
    [
        (
            "user_id,room,created_at\n1,a,2020-01-01\n2,b,2020-01-02\n",
            'kind = "users"',
            'if each is something that was done: kind = "events"',
        ),
        (
            "user_id,room,valid_from\n1,a,2020-01-01\n1,b,2020-01-02\n",
            'kind = "users"',
            "each replaces the one before whole, from valid_from on",
        ),
        (
            "user_id,nights,date\n1,3,2020-01-01\n1,4,2020-01-02\n",
            'kind = "events"',
            'if it says what a user is: kind = "users"',
        ),
        (
            "user_id,item_id,score\n1,3,-.4\n",
            "properties.score",
            'if people gave it: type = "rating", and in properties rating = "score"',
        ),
    ],
)
def test_a_guess_names_the_line_to_change(tmp_path: Path, text: str, role: str, why: str) -> None:
    guess = guess_sources(_csv(tmp_path, text))[0]
    assert any(column.role == role and why in column.why for column in guess.columns), guess.columns


def test_a_table_of_users_gives_timeless_profiles_despite_a_sign_up_date(tmp_path: Path) -> None:
    file = _csv(
        tmp_path,
        "user_id,plan,last_login,created_at\n7,cancelled,2026-01-02,2020-01-01\n8,free,2026-01-01,2020-01-02\n",
    )
    event, _ = convert_mapped(file, guess_sources(file)[0].toml)
    assert (event["type"], event["user_id"], event["timeless"], "ts" in event) == (
        "user",
        "7",
        True,
        False,
    )
    assert event["properties"] == {
        "plan": "cancelled",
        "last_login": "2026-01-02",
        "created_at": "2020-01-01",
    }


def test_a_session_stands_for_a_person_where_there_is_no_user(tmp_path: Path) -> None:
    toml = guess_sources(_csv(tmp_path, "session_id,item_id,ts\ns,i,2020-01-01T00:00:00Z\n"))[
        0
    ].toml
    assert 'anonymous_id = "session_id"' in toml
    assert 'session_id = "session_id"' in toml


def test_a_number_that_is_no_time_is_not_taken_for_one(tmp_path: Path) -> None:
    guess = guess_sources(_csv(tmp_path, "user_id,item_id,date\n1,2,20170101\n1,3,20170102\n"))[0]
    assert "\nts = " not in guess.toml
    assert any("no column is a time" in column.why for column in guess.columns)


def test_a_country_that_is_no_code_stays_a_property(tmp_path: Path) -> None:
    guess = guess_sources(_csv(tmp_path, "user_id,item_id,ts,country\n1,2,1500000000,Norway\n"))[0]
    assert (
        next(column for column in guess.columns if column.column == "country").role
        == "properties.country"
    )


def test_names_are_quoted_for_toml(tmp_path: Path) -> None:
    file = tmp_path / 'a "b".parquet'
    columns = {
        "user_id": ["u"],
        "item_id": ["i"],
        "ts": [1500000000],
        'größe "x"': ["L"],
        "back\\slash": [1],
    }
    pq.write_table(pa.table(columns), file)
    (event,) = convert_mapped(file, guess_sources(file)[0].toml)
    assert set(event["properties"].values()) == {"L", 1}


def test_a_row_that_is_none_spoils_no_proposal(tmp_path: Path) -> None:
    file = tmp_path / "clicks.csv"
    file.write_bytes(b"user_id,item_id,title\nu1,i1,t\nu2\nu3,i3,caf\xe9\nu4,i4,t\n")
    assert guess_sources(file)[0].kind == "events"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "no column looks like an item or a user: a, b"),
        ("user_id,item_id\n", "holds no row"),
    ],
)
def test_a_file_that_nothing_can_be_made_of(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        guess_sources(_csv(tmp_path, text))


def test_what_is_the_same_in_all_events_of_an_item_or_a_user_becomes_a_profile(
    tmp_path: Path,
) -> None:
    rows = [
        f"u{n % 9},i{n % 7},{1_500_000_000 + n},Lamp {n % 7},{n % 4},{n % 9 % 2},{n % 7 + 5},phone"
        for n in range(120)
    ]
    file = _csv(
        tmp_path,
        "user_id,item_id,ts,product_name,basket,plan,price,device\n" + "\n".join(rows) + "\n",
    )
    events, items, users = guess_sources(file)
    assert ("product_name", "") in [(column.column, column.role) for column in events.columns]
    assert ("price", "properties.price") in [
        (column.column, column.role) for column in events.columns
    ], "events keep what was paid"
    assert "basket" in events.toml
    assert 'title = "product_name"' in items.toml
    assert 'price = "price"' in items.toml
    assert 'plan = "plan"' in users.toml
    converted = convert_mapped(file, "\n".join(guess.toml for guess in (events, items, users)))
    assert [
        sum(one["type"] == kind for one in converted) for kind in ("click", "item", "user")
    ] == [120, 7, 9]
    assert [guess.kind for guess in guess_sources(file, profiled_kinds={"items"})] == [
        "events",
        "users",
    ]


def test_profiles_that_say_nothing_new_make_no_empty_batch(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("user_id,item_id,brand\n" + "u,i,b\n" * 70_000)
    mapping = (
        '[[source]]\nfile = "e.csv"\nkind = "items"\ndistinct = true\nitem_id = '
        '"item_id"\n[source.properties]\nbrand = "brand"\n'
    )
    read = FORMATS["mapping"].read
    batches = list(
        read({tmp_path / "e.csv": "0" * 64}, AdapterOptions(mapping=mapping, root=str(tmp_path)))
    )
    assert [len(batch.lines) for batch in batches] == [1]


def test_a_mapping_is_tried_before_it_is_written(tmp_path: Path) -> None:
    file = _csv(tmp_path, "user_id,item_id,ts\n" + "u,i,1500000000\n" * 60 + ",i,1500000000\n" * 40)
    (guess,) = guess_sources(file)
    trial = try_mapping(guess.toml, [file], NOW)
    assert (trial.rows, trial.refused) == (100, 40)
    assert "Of 100 rows tried, 40% would be refused" in trial.warning
    assert "fix:" in trial.warning
    assert len(trial.sample_events) == 10


@pytest.mark.parametrize(
    "head",
    [
        "visitor,url_id,when",
        "uid,tid,played_at",
        "account_id,title_id,start_time",
        "cliente,producto,fecha",
        "klient,towar,data_zamowienia",
        "顧客,商品コード,日時",
        "c1,c2,c3",
        "",
    ],
)
def test_roles_come_from_what_columns_hold_in_any_language(tmp_path: Path, head: str) -> None:
    rows = [  # people come in sessions of four rows, and are told from items by that
        f"{n // 4 * 7 % 61},p{n * n % 97},{1_600_000_000 + n // 4 * 9_000 + n % 4 * 30}"
        for n in range(800)
    ]
    file = _csv(tmp_path, "\n".join([head, *rows] if head else rows) + "\n")
    guess = guess_sources(file)[0]
    names = head.split(",") if head else ["c1", "c2", "c3"]
    roles = {column.role: column.column for column in guess.columns}
    assert [roles["user_id"], roles["item_id"], roles["ts"]] == names
    assert not guess.doubts


def test_two_columns_that_fit_alike_are_a_doubt_that_a_hint_settles(tmp_path: Path) -> None:
    rows = [f"{n * 7 % 61},{n * n % 97},{1_600_000_000 + n * 900}" for n in range(800)]
    file = _csv(tmp_path, "c1,c2,c3\n" + "\n".join(rows) + "\n")
    doubts = {doubt.role: doubt for doubt in guess_sources(file)[0].doubts}
    assert {"c1", "c2"} <= set(doubts["item_id"].candidates)
    hints = MappingHints(roles=(("user_id", "c2"), ("item_id", "e.csv:c1")))
    stated = guess_sources(file, hints)[0]
    roles = {column.role: column.column for column in stated.columns}
    assert (roles["user_id"], roles["item_id"], stated.doubts) == ("c2", "c1", ())


@pytest.mark.parametrize(
    ("value", "type_"),
    [
        ("Product Viewed", "view"),
        ("pv", "view"),
        ("fav", "like"),
        ("Order Completed", "purchase"),
        ("view_item", "view"),
        ("achat", "purchase"),
        ("remove_from_cart", ""),
    ],
)
def test_a_value_means_an_event_type_by_its_words(value: str, type_: str) -> None:
    assert find_event_type(value) == type_
