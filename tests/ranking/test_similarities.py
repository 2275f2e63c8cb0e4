"""Similarities are what the plain reference says of the tables of the request, in bits; what is not
known is missing.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.shops import ranking_world

from tailorbird.errors import BundleError
from tailorbird.events import hash64
from tailorbird.features import FeatureSet, entity, sequence, similarity
from tailorbird.features.declare import declarations
from tailorbird.features.reference import learned
from tailorbird.ranking.encode.encoder import FORMAT
from tailorbird.ranking.encode.encoder_file import read_encoder
from tailorbird.ranking.encode.similarities import Similarity

NAMES = ("sum", "best", "last")


def encoder(**changes):
    made = (
        Similarity("sum", "recent"),
        Similarity("best", "recent", how="max", length=5, decay=0.5),
        Similarity("last", "recent", length=1, decay=1.0),
    )
    return ranking_world.make_encoder(
        **{"similarities": made, "computed": (*NAMES, "age_days")} | changes
    )


@pytest.fixture(scope="module")
def reference_table(tables):
    """Item → what goes with it, as a dictionary of dictionaries."""
    names = {
        hash64(ranking_world.item_id(number)): ranking_world.item_id(number)
        for number in range(ranking_world.ITEM_COUNT)
    }
    table = {}
    for key, item in names.items():
        neighbours = tables.neighbours(np.array([key], np.uint64))
        table[item] = {
            names[each]: weight
            for each, weight in zip(
                neighbours.keys.tolist(), neighbours.weights.tolist(), strict=True
            )
        }
    return table


def declared(column: Similarity) -> declarations.Similarity:
    return similarity(
        column.name,
        of=column.of,
        table=column.table,
        how=column.how,
        length=column.length,
        decay=column.decay,
    )


def reference(column: Similarity, recent, candidate, table):
    items = [ranking_world.item_id(number) for number in recent]
    return learned.similarity(declared(column), items, ranking_world.item_id(candidate), table)


def encoded(fitted, index, tables, candidates, recent, lists=None):
    rows, keys = (
        ranking_world.make_rows(candidates, recent=recent),
        ranking_world.keys_of(candidates),
    )
    lists = lists or ranking_world.lists_of(tables, recent)
    return fitted.encode_request(
        rows, keys, index, live=fitted.read_live_columns(lists, rows, keys)
    )


def bits(values):
    return [
        0x7FC00000 if math.isnan(value) else int(np.float32(value).view(np.uint32))
        for value in values
    ]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 45), max_size=8), st.lists(st.integers(0, 45), max_size=14))
def test_the_bits_are_those_of_the_reference(index, tables, reference_table, candidates, recent):
    fitted = encoder()
    matrix = encoded(fitted, index, tables, candidates, recent)
    for column in fitted.similarities:
        expected = [reference(column, recent, each, reference_table) for each in candidates]
        assert bits(matrix[:, fitted.names.index(column.name)]) == bits(expected)


def test_a_sequence_of_another_length_is_looked_up_separately(index, tables, reference_table):
    """The lists of a request are of its newest ten items; a similarity may look at more, or at
    another sequence.
    """
    fitted, recent = (
        encoder(similarities=(Similarity("sum", "recent", length=14),), computed=("sum",)),
        list(range(14)),
    )
    matrix = encoded(fitted, index, tables, [20], recent, ranking_world.lists_of(tables, [39]))
    assert bits(matrix[:, fitted.names.index("sum")]) == bits(
        [reference(fitted.similarities[0], recent, 20, reference_table)]
    )


def test_neighbours_of_the_last_items_by_example(index, tables, reference_table):
    fitted, table = encoder(), reference_table
    first, second = sorted(table, key=lambda item: -len(table[item]))[:2]
    common = sorted(set(table[first]) & set(table[second]) - {first, second})[0]
    numbers = [int(item.removeprefix("i")) for item in (first, second, common)]
    matrix = encoded(fitted, index, tables, numbers[2:], numbers[:2])
    sums, best, last = (float(matrix[0, fitted.names.index(name)]) for name in NAMES)
    assert sums == np.float32(table[second][common] + 0.8 * table[first][common])
    assert best == np.float32(max(table[second][common], 0.5 * table[first][common]))
    assert last == np.float32(table[second][common])


def test_missing_without_a_past_and_with_an_unknown_past_and_nothing_for_an_unknown_item(
    index, tables
):
    fitted = encoder(computed=("sum",))
    at = fitted.names.index("sum")
    for recent in ([], [9999]):
        assert np.isnan(encoded(fitted, index, tables, [1, 2], recent)[:, at]).all()
    indexed, unindexed = encoded(fitted, index, tables, [1, 9999], [3])[:, at]
    assert indexed > 0 == unindexed
    rows, keys = ranking_world.make_rows([1, 2], recent=[3]), ranking_world.keys_of([1, 2])
    assert np.isnan(fitted.encode_request(rows, keys, index)[:, at]).all(), "without live columns"


def test_an_encoder_is_read_back_with_its_similarities_and_refuses_what_is_none():
    import msgspec

    fitted = encoder()
    data = msgspec.json.encode(msgspec.structs.replace(fitted, format=FORMAT))
    assert read_encoder(data, where="encoder.json").similarities == fitted.similarities
    assert (
        fitted.describe_columns()["best"]
        == "largest of what goes with the last 5 items of recent, times 0.5 ** age, by cooccurrence"
    )
    for wrong, message in (
        (
            {"similarities": (Similarity("sum", "seen"),), "computed": ()},
            "a sequence 'seen' that does not exist",
        ),
        (
            {"similarities": (Similarity("price", "recent"),), "computed": ()},
            "called like another of its columns",
        ),
        (
            {
                "similarities": (Similarity("x", "recent"), Similarity("x", "recent")),
                "computed": (),
            },
            "called like another",
        ),
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
    from tailorbird.ranking.encode.encoder_fit import fit_encoder

    user = entity("user")
    features = FeatureSet.from_declarations(
        [
            sequence("recent", user, "click", length=8),
            similarity("near", of="recent", length=4, decay=0.9, how="max"),
        ]
    )
    settings = {"similarities": features.similarities, "computed": ("age_days",)}
    fitted = fit_encoder(ranking_world.COLUMNS, np.zeros((0, 2), np.uint64), **settings)
    assert fitted.similarities == (Similarity("near", "recent", "cooccurrence", "max", 4, 0.9),)
    assert fitted.computed == ("age_days", "near")
    assert fit_encoder(
        ranking_world.COLUMNS, np.zeros((0, 2), np.uint64), excluded_columns=("near",), **settings
    ).computed == ("age_days",)
