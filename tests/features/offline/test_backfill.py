"""Inputs that a backfill accepts and refuses; test_equality checks its values."""

import numpy as np
import pyarrow as pa
import pytest
from tests.support.offline.backfill import FEATURES, make_events, make_requests

from tailorbird.errors import UsageError
from tailorbird.events.contract.schema import ROUTED
from tailorbird.features import FeatureSet
from tailorbird.features.offline.backfill import History, Requests, backfill, event_columns


def same(a, b):
    assert a.numeric_names == b.numeric_names
    assert np.array_equal(a.numeric.view(np.uint32), b.numeric.view(np.uint32))
    assert np.array_equal(a.categorical, b.categorical)
    for name, one in a.sequences.items():
        for column in ("offsets", "item", "type", "ts"):
            assert np.array_equal(getattr(one, column), getattr(b.sequences[name], column))


def test_the_order_of_events_and_columns_that_no_feature_reads_do_not_matter():
    table, requests_ = make_events(), make_requests()
    shuffled = table.take(np.random.default_rng(2).permutation(len(table))).select(
        event_columns(FEATURES)
    )
    same(backfill(FEATURES, table, requests_), backfill(FEATURES, shuffled, requests_))


@pytest.mark.parametrize("name", ["clicks", "ctr", "dear", "last_category", "recent", "in_session"])
def test_one_column_alone_is_as_it_is_among_all(name):
    table, requests_ = make_events(), make_requests()
    full, one = (
        backfill(FEATURES, table, requests_),
        backfill(FEATURES, table, requests_, only_columns=[name]),
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
    table = make_events().select(
        [*event_columns(FeatureSet.from_declarations(FEATURES.features[:1]))]
    )
    assert "item_profile" not in table.column_names
    assert backfill(FEATURES, table, make_requests(), only_columns=["clicks"]).numeric.shape == (
        90,
        1,
    )


def test_a_history_answers_one_lot_after_another():
    table, requests_ = make_events(), make_requests()
    history = History(FEATURES, table)
    first = history.rows(make_requests(seed=9))
    assert len(first.numeric) == 90
    same(history.rows(requests_), backfill(FEATURES, table, requests_))


def test_without_events_or_without_requests_there_are_empty_answers():
    none = Requests(np.zeros(0, np.int64), np.zeros(0, np.int64), [], np.zeros(0, np.intp), [])
    assert backfill(FEATURES, make_events(), none).numeric.shape == (0, len(FEATURES.numeric))
    rows = backfill(FEATURES, ROUTED.empty_table(), make_requests())
    has_person = np.array([person is not None for person in make_requests().person]).repeat(3)
    assert (rows.numeric[has_person, 0] == 0).all()
    assert np.isnan(rows.numeric[~has_person, 0]).all()  # nobody is not somebody who did nothing
    assert rows.sequences["recent"].offsets.tolist() == [0] * 31


def test_arrow_columns_are_taken_like_lists():
    requests_ = make_requests()
    columns = {
        name: pa.array(getattr(requests_, name), pa.string())
        for name in ("person", "session_id", "device", "row_item")
    }
    columns["row_item"] = pa.chunked_array([columns["row_item"][:7], columns["row_item"][7:]])
    arrow = Requests(
        t=requests_.t,
        log_position=requests_.log_position,
        row_request=requests_.row_request,
        **columns,
    )
    same(backfill(FEATURES, make_events(), requests_), backfill(FEATURES, make_events(), arrow))


def test_invalid_requests_are_refused_by_name():
    requests_ = make_requests()
    with pytest.raises(UsageError, match="'clikcs' is no column"):
        backfill(FEATURES, make_events(), requests_, only_columns=["clikcs"])
    with pytest.raises(
        UsageError, match=r"requests.person: expected 30 values, one a request, got 1"
    ):
        Requests(
            requests_.t, requests_.log_position, ["u1"], requests_.row_request, requests_.row_item
        )
    with pytest.raises(UsageError, match="a row names a request outside 0 to 29"):
        Requests(
            requests_.t,
            requests_.log_position,
            requests_.person,
            requests_.row_request + 1,
            requests_.row_item,
        )
