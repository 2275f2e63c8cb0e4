"""Inputs that a backfill accepts and refuses; test_equality checks its values."""

import numpy as np
import pyarrow as pa
import pytest

from tailorbird.errors import UsageError
from tailorbird.events.clock import DAY, SECOND
from tailorbird.events.contract.schema import ROUTED
from tailorbird.features import (
    FeatureSet,
    attribute,
    context,
    count,
    derived,
    entity,
    last,
    ratio,
    sequence,
    session,
    time_since,
)
from tailorbird.features.offline.backfill import History, Requests, backfill, event_columns

START = 1_790_000_000 * SECOND
USER, ITEM, CATEGORY = entity("user"), entity("item"), entity("item.category")
FEATURES = FeatureSet.from_declarations(
    [
        count("clicks", USER, "click", window="1d", where="country == 'NO'"),
        ratio("ctr", ITEM, "click", "impression", window="1d", prior=CATEGORY, weight=2),
        time_since("since", USER, "click"),
        last("last_category", USER, "click", of="item.category", kind="categorical"),
        sequence("recent", USER, ["click", "impression"], length=3),
        session("in_session", "click"),
        attribute("category", ITEM, "category", kind="categorical"),
        attribute("price", ITEM, "price", kind="numeric"),
        context("device"),
        derived("gap", "since / clicks"),
        derived("dear", "gap * price"),
    ]
)


def events(n=200, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(n):
        row = dict.fromkeys(ROUTED.names) | {
            "p": index + 1,
            "event_id": f"e{index}",
            "counts": True,
            "timeless": False,
        }
        kind = ["click", "impression", "item", "cart"][rng.integers(4)]
        row |= {
            "type": kind,
            "ts": START + int(rng.integers(0, 3 * DAY)),
            "item_id": f"i{rng.integers(4)}",
        }
        if kind == "item":
            rows.append(
                row
                | {"properties": f'{{"category":"c{rng.integers(2)}","price":{rng.integers(90)}}}'}
            )
            continue
        user = f"u{rng.integers(3)}"
        row |= {
            "user_id": user,
            "person": user,
            "session_id": f"s{rng.integers(3)}",
            "country": ["NO", "SE"][rng.integers(2)],
        }
        rows.append(row | {"item_profile": f'{{"category":"c{rng.integers(2)}"}}'})
    return pa.Table.from_pylist(rows, schema=ROUTED)


def requests(m=30, per=3, seed=1):
    rng = np.random.default_rng(seed)
    return Requests(
        t=START + rng.integers(0, 3 * DAY, m),
        p=rng.integers(0, 200, m),
        person=[None if user == 3 else f"u{user}" for user in rng.integers(0, 4, m)],
        session_id=[None if number == 3 else f"s{number}" for number in rng.integers(0, 4, m)],
        device=["phone"] * m,
        row_request=np.repeat(np.arange(m), per),
        row_item=[f"i{item}" for item in rng.integers(0, 5, m * per)],
    )


def same(a, b):
    assert a.numeric_names == b.numeric_names
    assert np.array_equal(a.numeric.view(np.uint32), b.numeric.view(np.uint32))
    assert np.array_equal(a.categorical, b.categorical)
    for name, one in a.sequences.items():
        for column in ("offsets", "item", "type", "ts"):
            assert np.array_equal(getattr(one, column), getattr(b.sequences[name], column))


def test_the_order_of_events_and_columns_that_no_feature_reads_do_not_matter():
    table, requests_ = events(), requests()
    shuffled = table.take(np.random.default_rng(2).permutation(len(table))).select(
        event_columns(FEATURES)
    )
    same(backfill(FEATURES, table, requests_), backfill(FEATURES, shuffled, requests_))


@pytest.mark.parametrize("name", ["clicks", "ctr", "dear", "last_category", "recent", "in_session"])
def test_one_column_alone_is_as_it_is_among_all(name):
    table, requests_ = events(), requests()
    full, one = (
        backfill(FEATURES, table, requests_),
        backfill(FEATURES, table, requests_, only=[name]),
    )
    assert [*one.numeric_names, *one.categorical_names, *one.sequences] == [name]
    if one.numeric_names:
        column = FEATURES.numeric.index(name)
        assert np.array_equal(
            one.numeric[:, 0].view(np.uint32), full.numeric[:, column].view(np.uint32)
        )
    if one.categorical_names:
        assert np.array_equal(
            one.categorical[:, 0], full.categorical[:, FEATURES.categorical.index(name)]
        )
    for sequence_name, part in one.sequences.items():
        assert np.array_equal(part.ts, full.sequences[sequence_name].ts)


def test_one_column_needs_only_its_own_event_columns():
    assert "properties" in event_columns(FEATURES)
    table = events().select([*event_columns(FeatureSet.from_declarations(FEATURES.features[:1]))])
    assert "item_profile" not in table.column_names
    assert backfill(FEATURES, table, requests(), only=["clicks"]).numeric.shape == (90, 1)


def test_a_history_answers_one_lot_after_another():
    table, requests_ = events(), requests()
    history = History(FEATURES, table)
    first = history.rows(requests(seed=9))
    assert len(first.numeric) == 90
    same(history.rows(requests_), backfill(FEATURES, table, requests_))


def test_without_events_or_without_requests_there_are_empty_answers():
    none = Requests(np.zeros(0, np.int64), np.zeros(0, np.int64), [], np.zeros(0, np.intp), [])
    assert backfill(FEATURES, events(), none).numeric.shape == (0, len(FEATURES.numeric))
    rows = backfill(FEATURES, ROUTED.empty_table(), requests())
    has_person = np.array([person is not None for person in requests().person]).repeat(3)
    assert (rows.numeric[has_person, 0] == 0).all()
    assert np.isnan(rows.numeric[~has_person, 0]).all()  # nobody is not somebody who did nothing
    assert rows.sequences["recent"].offsets.tolist() == [0] * 31


def test_arrow_columns_are_taken_like_lists():
    requests_ = requests()
    columns = {
        name: pa.array(getattr(requests_, name), pa.string())
        for name in ("person", "session_id", "device", "row_item")
    }
    columns["row_item"] = pa.chunked_array([columns["row_item"][:7], columns["row_item"][7:]])
    arrow = Requests(t=requests_.t, p=requests_.p, row_request=requests_.row_request, **columns)
    same(backfill(FEATURES, events(), requests_), backfill(FEATURES, events(), arrow))


def test_invalid_requests_are_refused_by_name():
    requests_ = requests()
    with pytest.raises(UsageError, match="'clikcs' is no column"):
        backfill(FEATURES, events(), requests_, only=["clikcs"])
    with pytest.raises(
        UsageError, match=r"requests.person: expected 30 values, one a request, got 1"
    ):
        Requests(requests_.t, requests_.p, ["u1"], requests_.row_request, requests_.row_item)
    with pytest.raises(UsageError, match="a row names a request outside 0 to 29"):
        Requests(
            requests_.t,
            requests_.p,
            requests_.person,
            requests_.row_request + 1,
            requests_.row_item,
        )
