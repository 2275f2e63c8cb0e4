"""The matrix: its columns mean what they say, and a row is the same bit for bit however many are
encoded at once.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.shops import ranking_world

from tailorbird.candidates.query import CandidateColumns
from tailorbird.errors import BundleError
from tailorbird.events import DAY, hash64
from tailorbird.ranking.encode.computed import COMPUTED_COLUMNS
from tailorbird.ranking.encode.encoder_fit import fit_encoder
from tailorbird.ranking.encode.rows import RaggedArrays
from tailorbird.ranking.encode.vocabulary import Vocabulary


def column(encoder, matrix, name):
    return matrix[:, encoder.names.index(name)]


def test_numeric_columns_are_taken_by_name_and_categories_by_vocabulary(index):
    encoder = ranking_world.make_encoder()
    rows = ranking_world.make_rows(range(12))
    matrix = encoder.encode_request(rows, ranking_world.keys_of(range(12)), index)
    np.testing.assert_array_equal(column(encoder, matrix, "price"), rows.numeric[:, 1])
    np.testing.assert_array_equal(column(encoder, matrix, "clicks"), rows.numeric[:, 0])
    code = {0: 0, hash64("coats"): 2, hash64("hats"): 3, hash64("shoes"): 4}
    expected = [code.get(key, 1) for key in rows.categorical[:, 0].tolist()]
    np.testing.assert_array_equal(column(encoder, matrix, "category"), expected)


def live_encoder():
    live = CandidateColumns(("item_knn:2", "popular:24h"))
    return ranking_world.make_encoder(candidates=live, computed=(*COMPUTED_COLUMNS, *live.names))


def test_columns_of_sources_are_rank_and_score_in_the_lists_of_the_request(index, tables):
    encoder, recent, numbers = live_encoder(), [4, 1, 2], range(ranking_world.ITEM_COUNT)
    rows, keys, lists = (
        ranking_world.make_rows(numbers, recent=recent),
        ranking_world.keys_of(numbers),
        ranking_world.lists_of(tables, recent),
    )
    matrix = encoder.encode_request(
        rows, keys, index, live=encoder.read_live_columns(lists, rows, keys)
    )
    for source, name in (("item_knn:2", "item_knn_2"), ("popular:24h", "popular_24h")):
        ranked_list = lists.get(source)
        listed = dict(
            zip(ranked_list.keys.tolist(), enumerate(ranked_list.scores.tolist()), strict=True)
        )
        assert 0 < len(listed) < ranking_world.ITEM_COUNT
        expected = np.array([listed.get(key, (np.nan, 0.0)) for key in keys.tolist()], np.float32)
        np.testing.assert_array_equal(column(encoder, matrix, f"{name}_rank"), expected[:, 0])
        np.testing.assert_array_equal(column(encoder, matrix, f"{name}_score"), expected[:, 1])
    without = encoder.encode_request(rows, keys, index)
    assert all(
        np.isnan(column(encoder, without, name)).all() for name in encoder.live_columns.names
    )


def test_recent_age_and_category_share(index):
    encoder = ranking_world.make_encoder()
    # Categories go round by four: 0 and 4 are coats, 1 a hat.
    matrix = encoder.encode_request(
        ranking_world.make_rows([0, 1, 2, 4], recent=[1, 0, 4]),
        ranking_world.keys_of([0, 1, 2, 4]),
        index,
    )
    np.testing.assert_array_equal(column(encoder, matrix, "recent_age"), [1, 2, np.nan, 0])
    np.testing.assert_allclose(
        column(encoder, matrix, "category_share"), [2 / 3, 1 / 3, 0, 2 / 3], rtol=1e-6
    )


def test_a_person_without_a_past_and_an_item_that_the_index_does_not_know(index, tables):
    encoder, rows, keys = (
        live_encoder(),
        ranking_world.make_rows([1, 9999]),
        ranking_world.keys_of([1, 9999]),
    )
    matrix = encoder.encode_request(
        rows,
        keys,
        index,
        live=encoder.read_live_columns(ranking_world.lists_of(tables), rows, keys),
    )
    assert np.isnan(column(encoder, matrix, "recent_age")).all()
    assert np.isnan(column(encoder, matrix, "category_share")).all()
    np.testing.assert_array_equal(column(encoder, matrix, "item_knn_2_score"), [0, 0])
    assert np.isnan(column(encoder, matrix, "item_knn_2_rank")).all()
    assert column(encoder, matrix, "popular_24h_score")[1] == 0
    assert np.isnan(column(encoder, matrix, "age_days")[1])


def test_age_is_counted_from_the_first_version_or_event(index):
    encoder = ranking_world.make_encoder()
    matrix = encoder.encode_request(
        ranking_world.make_rows([39]), ranking_world.keys_of([39]), index
    )
    first = min(
        index.first_seen[index.find(ranking_world.keys_of([39]))[0]],
        ranking_world.T0 + 39 * 3_600_000_000,
    )
    np.testing.assert_allclose(
        column(encoder, matrix, "age_days"), (ranking_world.T0 + 9 * DAY - first) / DAY, rtol=1e-6
    )


def test_position_is_what_was_shown_in_training_and_one_in_serving(index):
    encoder = ranking_world.make_encoder(position=True)
    rows, keys = ranking_world.make_rows([1, 2]), ranking_world.keys_of([1, 2])
    assert encoder.names[-1] == "position"
    np.testing.assert_array_equal(encoder.encode_request(rows, keys, index)[:, -1], [1, 1])
    ragged = {"recent": RaggedArrays(np.array([0, 0]), np.zeros(0, np.uint64))}
    shown = encoder.encode(
        rows.numeric,
        rows.categorical,
        keys,
        np.zeros(2, np.intp),
        ragged,
        np.array([rows.t]),
        index,
        np.array([3, 7]),
    )
    np.testing.assert_array_equal(shown[:, -1], [3, 7])


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 50), max_size=8), st.lists(st.integers(0, 50), max_size=14)
        ),
        min_size=1,
        max_size=6,
    )
)
def test_many_requests_at_once_are_the_same_as_one_by_one(index, tables, requests):
    encoder = live_encoder()
    singles, numeric, categorical, keys, request, items, offsets, live = (
        [],
        [],
        [],
        [],
        [],
        [],
        [0],
        [],
    )
    for number, (candidates, recent) in enumerate(requests):
        rows = ranking_world.make_rows(candidates, recent=recent, seed=number)
        live.append(
            encoder.read_live_columns(
                ranking_world.lists_of(tables, recent), rows, ranking_world.keys_of(candidates)
            )
        )
        singles.append(
            encoder.encode_request(rows, ranking_world.keys_of(candidates), index, live=live[-1])
        )
        numeric.append(rows.numeric)
        categorical.append(rows.categorical)
        keys.append(ranking_world.keys_of(candidates))
        request.append(np.full(len(candidates), number))
        items.append(rows.sequences["recent"].item)
        offsets.append(offsets[-1] + len(recent))
    t = np.full(len(requests), ranking_world.T0 + 9 * DAY)
    bulk = encoder.encode(
        np.concatenate(numeric),
        np.concatenate(categorical),
        np.concatenate(keys),
        np.concatenate(request).astype(np.intp),
        {"recent": RaggedArrays(np.array(offsets), np.concatenate(items))},
        t,
        index,
        live=encoder.live_columns.by_name(np.concatenate(live)),
    )
    np.testing.assert_array_equal(bulk.view(np.uint32), np.concatenate(singles).view(np.uint32))


def test_rare_values_are_unknown_and_the_most_frequent_come_first():
    keys = np.array([[7, 1]] * 5 + [[9, 1]] * 8 + [[3, 0]] * 2, np.uint64)
    encoder = fit_encoder(
        ranking_world.COLUMNS, keys, count_min=3, excluded_columns=("device", "age_days")
    )
    (vocabulary,) = encoder.vocabularies
    assert vocabulary == Vocabulary("category", [9, 7])
    np.testing.assert_array_equal(
        vocabulary.encode(np.array([9, 7, 3, 0], np.uint64)), [2, 3, 1, 0]
    )
    assert "age_days" not in encoder.names


def test_a_column_that_does_not_exist_is_named():
    with pytest.raises(BundleError, match="'colour' that does not exist"):
        ranking_world.make_encoder(numeric=("colour",))
