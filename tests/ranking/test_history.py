"""Columns for nets: the newest items and words of the candidate, the same however many rows are
encoded at once.
"""

import msgspec
import numpy as np
import pytest
from tests.support.shops import ranking_world

from tailorbird.errors import BundleError
from tailorbird.events import HOUR
from tailorbird.ranking.encode.encoder_file import read_encoder
from tailorbird.ranking.encode.history import History
from tailorbird.ranking.encode.rows import RaggedArrays
from tailorbird.retrieval import Index, NewItem, with_items
from tailorbird.retrieval.columns import TextColumn
from tailorbird.retrieval.words import Words


@pytest.fixture
def encoder():
    history = History("recent", 3, ranking_world.keys_of([4, 1]).tolist())
    return msgspec.structs.replace(
        ranking_world.make_encoder(),
        history=history,
        words=(Words("title", 4, 1_000), Words("tags", 2, 50, listed=True)),
    )


def test_newest_items_come_first_with_the_hours_since(encoder, index):
    rows = ranking_world.make_rows([4, 9], recent=[7, 1, 4])
    matrix = encoder.encode_request(rows, ranking_world.keys_of([4, 9]), index)
    at = encoder.names.index("item_code")
    np.testing.assert_array_equal(
        matrix[:, at], [2, 1]
    )  # the most frequent item; one without a code of its own
    np.testing.assert_array_equal(matrix[0, at + 1 : at + 4], [2, 3, 1])
    hours = (rows.t - rows.sequences["recent"].ts[::-1]) / HOUR
    np.testing.assert_allclose(matrix[0, at + 4 : at + 7], hours, rtol=1e-6)
    np.testing.assert_array_equal(matrix[0, at + 1 : at + 7], matrix[1, at + 1 : at + 7])


def test_a_person_without_a_past_has_no_items_and_no_gaps(encoder, index):
    matrix = encoder.encode_request(ranking_world.make_rows([1]), ranking_world.keys_of([1]), index)
    at = encoder.names.index("item_code")
    np.testing.assert_array_equal(matrix[0, at : at + 7], [3, 0, 0, 0, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(
        encoder.missing_row[at : at + 7], [0, 0, 0, 0, np.nan, np.nan, np.nan]
    )


def test_many_requests_at_once_give_the_same_bits(encoder, index):
    requests = [
        ranking_world.make_rows([3, 4], recent=[1, 2, 3, 4]),
        ranking_world.make_rows([9]),
        ranking_world.make_rows([4, 2, 1], recent=[4]),
    ]
    alone = [
        encoder.encode_request(rows, ranking_world.keys_of(items), index)
        for rows, items in zip(requests, ([3, 4], [9], [4, 2, 1]), strict=True)
    ]
    past = [rows.sequences.get("recent") for rows in requests]
    offsets = np.concatenate(([0], np.cumsum([len(one.item) if one else 0 for one in past])))
    ragged = RaggedArrays(
        offsets,
        np.concatenate([one.item for one in past if one]),
        np.concatenate([one.ts for one in past if one]),
    )
    together = encoder.encode(
        np.concatenate([rows.numeric for rows in requests]),
        np.concatenate([rows.categorical for rows in requests]),
        ranking_world.keys_of([3, 4, 9, 4, 2, 1]),
        np.array([0, 0, 1, 2, 2, 2]),
        {"recent": ragged},
        np.array([rows.t for rows in requests]),
        index,
    )
    np.testing.assert_array_equal(together, np.concatenate(alone))


def test_items_without_a_code_are_unknown_or_share_buckets():
    keys = ranking_world.keys_of(range(40))
    alone = History("recent", 2, keys[:10].tolist())
    assert set(alone.codes(keys[10:]).tolist()) == {1}
    assert alone.size == 12
    encoded = msgspec.json.encode(
        {"sequence": "recent", "length": 2, "keys": keys[:10].tolist(), "buckets": 7}
    )
    history = msgspec.json.decode(
        encoded, type=History
    )  # as trainings before this one left it in bundles
    codes = history.codes(np.concatenate([keys, np.zeros(1, np.uint64)]))
    np.testing.assert_array_equal(codes[:10], np.arange(2, 12))
    assert codes[-1] == 0
    assert set(codes[10:-1].tolist()) <= set(range(12, 19))
    assert history.size == 19


def test_words_of_texts_and_values_of_lists():
    assert Words("title", 3, 10).split_value("Red  Coat, red!") == ["red", "coat"]
    assert Words("tags", 3, 10, listed=True).split_value("Sci-Fi| New Wave|Sci-Fi|") == [
        "Sci-Fi",
        "New Wave",
    ]


def test_an_item_added_later_has_its_words_too(index: Index):
    words = Words("title", 3, 1_000)

    def columns(keys, of):
        return words.columns(of.attributes, of.find(keys))

    grown = with_items(index, [NewItem("late", {"title": "very new thing"}, 5)])
    title = grown.attributes["title"]
    assert isinstance(title, TextColumn)
    late = grown.keys[grown.find_ids(["late"])]
    before = columns(index.keys[:5], index)
    assert columns(index.keys[:5], grown).tolist() == before.tolist()
    assert (columns(late, grown) > 1).all()
    assert columns(index.keys[:5], index).tolist() == before.tolist()
    assert not columns(np.array([12345], np.uint64), grown).any()


def test_it_survives_the_file_and_refuses_what_has_no_bounds(encoder):
    assert read_encoder(msgspec.json.encode(encoder), where="here") == encoder
    for wrong in (
        lambda: History("recent", 0, []),
        lambda: History("recent", 65, []),
        lambda: Words("title", 99, 10),
        lambda: Words("title", 2, 1),
    ):
        with pytest.raises(BundleError, match="without bounds"):
            wrong()
    with pytest.raises(BundleError, match="'nowhere' that does not exist"):
        msgspec.structs.replace(encoder, history=History("nowhere", 2, []))
