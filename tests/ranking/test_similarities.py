"""Similarities: one for a request or many at once, they are what the plain reference says, in bits; what is not known is missing."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.ranking import world

from tailorbird.errors import BundleError
from tailorbird.events import DAY
from tailorbird.features import FeatureSet, declare, entity, reference_learned, sequence, similarity
from tailorbird.ranking.encoders import FORMAT, Ragged, read_encoder
from tailorbird.ranking.similarities import Similarity
from tailorbird.retrieval import NewItem, with_items

AS_OF = world.T0 + 9 * DAY
NAMES = ("sum", "best", "last")


def encoder(**changes):
    made = (
        Similarity("sum", "recent"),
        Similarity("best", "recent", how="max", length=5, decay=0.5),
        Similarity("last", "recent", length=1, decay=1.0),
    )
    return world.make_encoder(**{"similarities": made, "computed": (*NAMES, "popularity")} | changes)


def plain_table(index):
    """Item → what goes with it, as a dictionary of dictionaries."""
    table = index.item_item
    return {
        index.ids[row]: {
            index.ids[table.items[at]]: float(table.weights[at]) for at in range(table.indptr[row], table.indptr[row + 1])
        }
        for row in range(index.later_at)
    }  # fmt: skip


def declared(one: Similarity) -> declare.Similarity:
    return similarity(one.name, of=one.of, table=one.table, how=one.how, length=one.length, decay=one.decay)


def reference(one: Similarity, recent, candidate, t, index):
    items = [world.item_id(number) for number in recent]
    return reference_learned.similarity(declared(one), items, world.item_id(candidate), t, {index.as_of: plain_table(index)})


def bits(values):
    return [0x7FC00000 if math.isnan(value) else int(np.float32(value).view(np.uint32)) for value in values]


REQUESTS = st.lists(
    st.tuples(st.lists(st.integers(0, 45), max_size=8), st.lists(st.integers(0, 45), max_size=14), st.integers(-1, 1)),
    min_size=1,
    max_size=5,
)


@settings(deadline=None, max_examples=60)
@given(REQUESTS)
def test_the_bits_are_those_of_the_reference_for_one_request_and_for_many(index, requests):
    made = encoder()
    singles, expected, keys, owner, recents, offsets, times = [], [], [], [], [], [0], []
    for number, (candidates, recent, after) in enumerate(requests):
        rows = world.make_rows(candidates, recent=recent)
        rows = world.Rows(rows.numeric, rows.categorical, rows.sequences, AS_OF + after)
        matrix = made.encode_request(rows, world.keys_of(candidates), index)
        singles.append([matrix[:, made.names.index(name)] for name in NAMES])
        expected += [[reference(one, recent, each, rows.t, index) for one in made.similarities] for each in candidates]
        keys.append(world.keys_of(candidates))
        owner += [number] * len(candidates)
        recents.append(rows.sequences["recent"].item)
        offsets.append(offsets[-1] + len(recent))
        times.append(rows.t)
    n = len(owner)
    whole = made.encode(
        np.zeros((n, 2), np.float32), np.zeros((n, 2), np.uint64), np.concatenate(keys), np.array(owner, np.intp),
        {"recent": Ragged(np.array(offsets), np.concatenate(recents))}, np.array(times), index,
    )  # fmt: skip
    for place, name in enumerate(NAMES):
        wanted = bits(row[place] for row in expected)
        assert bits(np.concatenate([single[place] for single in singles])) == wanted
        assert bits(whole[:, made.names.index(name)]) == wanted


def test_what_goes_with_the_last_items_you_see_at_once(index):
    made = encoder()
    table = plain_table(index)
    first, second = sorted(table, key=lambda item: -len(table[item]))[:2]
    both = sorted(set(table[first]) & set(table[second]) - {first, second})[0]
    numbers = [int(item.removeprefix("i")) for item in (first, second, both)]
    matrix = made.encode_request(world.make_rows(numbers[2:], recent=numbers[:2]), world.keys_of(numbers[2:]), index)
    sums, best, last = (float(matrix[0, made.names.index(name)]) for name in NAMES)
    assert sums == np.float32(table[second][both] + 0.8 * table[first][both])
    assert best == np.float32(max(table[second][both], 0.5 * table[first][both]))
    assert last == np.float32(table[second][both])


def test_missing_without_a_past_with_an_unknown_past_of_an_unknown_item_and_before_the_table(index):
    made, keys = encoder(computed=("sum",)), world.keys_of([1, 2])
    at = made.names.index("sum")
    nobody, stranger, known = (world.make_rows([1, 2], recent=recent) for recent in ([], [9999], [3]))
    assert np.isnan(made.encode_request(nobody, keys, index)[:, at]).all()
    assert np.isnan(made.encode_request(stranger, keys, index)[:, at]).all()
    found = made.encode_request(known, world.keys_of([1, 9999]), index)[:, at]
    assert np.isnan(found).tolist() == [False, True]
    early = world.Rows(known.numeric, known.categorical, known.sequences, AS_OF - 1)
    assert np.isnan(made.encode_request(early, keys, index)[:, at]).all()


def test_an_item_that_came_after_the_table_is_unknown_to_it_while_the_index_serves_it(index):
    made = encoder(computed=("sum", "i2i_score"))
    later = with_items(index, [NewItem("i777", {"category": "hats"}, AS_OF + 1)])
    rows, keys = world.make_rows([1, 777], recent=[777, 3]), world.keys_of([1, 777])
    found, again = (made.encode_request(rows, keys, known)[:, made.names.index("sum")] for known in (index, later))
    assert bits(found) == bits(again)
    assert np.isnan(found).tolist() == [False, True]


def test_an_encoder_is_read_back_with_its_similarities_and_refuses_what_is_none():
    import msgspec

    made = encoder()
    data = msgspec.json.encode(msgspec.structs.replace(made, format=FORMAT))
    assert read_encoder(data, where="encoder.json").similarities == made.similarities
    assert made.told()["best"] == "largest of what goes with the last 5 items of recent, times 0.5 ** age, by cooccurrence"
    for wrong, message in (
        ({"similarities": (Similarity("sum", "seen"),), "computed": ()}, "a sequence 'seen' that does not exist"),
        ({"similarities": (Similarity("price", "recent"),), "computed": ()}, "called like another of its columns"),
        ({"similarities": (Similarity("x", "recent"), Similarity("x", "recent")), "computed": ()}, "called like another"),
        ({"similarities": (), "computed": ("sum",)}, "a column 'sum' that does not exist"),
    ):
        with pytest.raises(BundleError, match=message):
            encoder(**wrong)
    for wrong in ({"length": 0}, {"length": 65}, {"decay": 0.0}, {"decay": float("nan")}):
        with pytest.raises(BundleError, match="without bounds"):
            Similarity("x", "recent", **wrong)
    with pytest.raises(BundleError, match="cannot be read"):
        read_encoder(data.replace(b'"max"', b'"mean"'), where="encoder.json")


def test_a_feature_set_gives_the_encoder_what_it_declares():
    from tailorbird.ranking.encoders import fit_encoder

    user = entity("user")
    features = FeatureSet.from_declarations(
        [sequence("recent", user, "click", length=8), similarity("near", of="recent", length=4, decay=0.9, how="max")]
    )
    kept = {"similarities": features.similarities, "computed": ("popularity",)}
    made = fit_encoder(world.COLUMNS, np.zeros((0, 2), np.uint64), **kept)
    assert made.similarities == (Similarity("near", "recent", "cooccurrence", "max", 4, 0.9),)
    assert made.computed == ("popularity", "near")
    assert fit_encoder(world.COLUMNS, np.zeros((0, 2), np.uint64), leave_out=("near",), **kept).computed == ("popularity",)
