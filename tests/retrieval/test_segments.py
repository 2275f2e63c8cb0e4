"""What is popular by country and device: different lists, everybody's where a segment says too little, and files that cannot be trusted."""

import numpy as np
import pyarrow as pa
import pytest
from tests.retrieval import shop

from tailorbird.errors import BundleError
from tailorbird.retrieval import Index, NewItem, build_index, candidates, with_items
from tailorbird.retrieval.segments import FILE, INTERESTS_MIN

# (item, country, device, hours before, how often)
INTEREST = [
    ("coat", "NO", "phone", 30, 12),
    ("parka", "NO", "phone", 30, 20),
    ("hat", "ES", "desktop", 30, 15),
    ("cap", "ES", "phone", 0.5, 25),
    ("coat", "ES", "desktop", 24 * 9, 90),  # before the seven days
    ("gift", "IS", "desktop", 30, INTERESTS_MIN - 1),
    ("hat", None, None, 30, 40),
]


def log(rows=INTEREST):
    flat = [row[:4] for row in rows for _ in range(row[4])]
    item, country, device, hours = (list(column) for column in zip(*flat, strict=True))
    table = shop.events(
        [(f"u{place}", one, "click", hour, "person", True) for place, (one, hour) in enumerate(zip(item, hours, strict=True))]
    )
    return table.append_column("country", pa.array(country, pa.string())).append_column("device", pa.array(device, pa.string()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("segments") / "index"
    build_index(path, log(), shop.items(), as_of=shop.AS_OF)
    return path


@pytest.fixture(scope="module")
def index(folder):
    return Index.open(folder)


def found(index, source, n=5, **context):
    got = candidates(index, {source: n}, context=context)
    return shop.ids(index, got.rows), set(got.source_names()), dict(got.contributed)


def test_each_segment_has_its_own_list(index):
    assert found(index, "popular_by:country", country="NO") == (["parka", "coat"], {"popular_by"}, {"popular_by:country": 2})
    assert found(index, "popular_by:country", country="ES")[0] == ["cap", "hat"]
    assert found(index, "popular_by:device", device="phone")[0] == ["cap", "parka", "coat"]
    assert found(index, "popular_by:device", n=1, device="phone")[0] == ["cap"]
    assert found(index, "trending_by:country", country="ES") == (["cap"], {"trending_by"}, {"trending_by:country": 1})


@pytest.mark.parametrize("country", ["IS", "XX", None])
def test_a_segment_that_is_unknown_or_small_gives_what_everybody_gets(index, country):
    everybody, trending = (shop.ids(index, candidates(index, {source: 3}).rows) for source in ("popular", "trending"))
    assert found(index, "popular_by:country", n=3, country=country) == (everybody, {"popular"}, {"popular_by:country": 3})
    assert found(index, "trending_by:country", n=3, country=country) == (trending, {"trending"}, {"trending_by:country": 1})


def test_what_the_segment_lacks_the_next_source_gives_and_each_item_comes_once(index):
    merged = candidates(
        index, {"popular_by:country": 3, "popular_by:device": 1, "popular": 1}, context={"country": "NO", "device": "phone"}
    )
    assert shop.ids(index, merged.rows) == ["parka", "coat", "cap", "hat", "gift"]
    assert merged.contributed == {"popular_by:country": 2, "popular_by:device": 1, "popular": 2}
    instead = candidates(index, {"popular_by:country": 2, "popular": 2}, context={"country": "XX"})
    assert len(set(instead.rows.tolist())) == 4
    assert instead.contributed == {"popular_by:country": 2, "popular": 2}


def test_what_may_not_be_shown_is_left_out_and_later_items_change_nothing(index):
    view = index.only(np.array([each != "parka" for each in index.ids]))
    assert found(view, "popular_by:country", n=1, country="NO")[0] == ["coat"]
    later = with_items(index, [NewItem("new", {"title": "new"}, shop.AS_OF)])
    assert found(later, "popular_by:country", country="NO")[0] == ["parka", "coat"]


def test_the_order_of_the_log_does_not_matter(folder, tmp_path):
    table = log()
    build_index(tmp_path / "index", table.take(np.random.default_rng(1).permutation(len(table))), shop.items(), as_of=shop.AS_OF)
    assert (tmp_path / "index" / FILE).read_bytes() == (folder / FILE).read_bytes()


def test_an_index_without_the_table_is_read_and_gives_what_everybody_gets(folder, index, tmp_path):
    build_index(tmp_path / "index", shop.events(), shop.items(), as_of=shop.AS_OF)
    assert not (tmp_path / "index" / FILE).exists()
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != FILE}
    older = Index.load(files)
    assert found(older, "popular_by:country", n=3, country="NO")[0] == shop.ids(index, index.popular(3).rows)


def table(**changed):
    columns = {"window": ["7d"], "field": ["country"], "value": ["NO"], "rows": [[0, 1]], "counts": [[2, 1]]} | changed
    lists = {name: pa.array(columns[name], pa.list_(pa.int32())) for name in ("rows", "counts")}
    return pa.table({**{name: pa.array(columns[name], pa.string()) for name in ("window", "field", "value")}, **lists})


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (table(rows=[[0, 99]]), "names an item that does not exist"),
        (table(rows=[[0, -1]]), "names an item that does not exist"),
        (table(rows=[[1, 1]]), "does not have each item once"),
        (table(counts=[[2]]), "does not have each item once"),
        (table(rows=[[0, None]]), "an item without a number"),
        (table(rows=[None]), "other columns"),
        (table().drop_columns(["counts"]), "other columns"),
        (None, "the index cannot be read"),
    ],
)
def test_a_damaged_table_is_refused(folder, damaged, message):
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    files[FILE] = b"no table"
    if damaged is not None:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, damaged.schema) as writer:
            writer.write_table(damaged)
        files[FILE] = sink.getvalue().to_pybytes()
    with pytest.raises(BundleError, match=message):
        Index.load(files)
