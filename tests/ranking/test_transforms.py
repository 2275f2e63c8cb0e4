"""Transforms as a bundle applies them: what each makes of a value, bit for bit the same in any
company, and what damage is refused.
"""

import json
import math
from decimal import Decimal, getcontext

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tests.support.shops import ranking_world

from tailorbird.candidates.query import CandidateColumns
from tailorbird.errors import BundleError
from tailorbird.events import hash64
from tailorbird.ranking.bundle import Bundle
from tailorbird.ranking.encode.blocks import CHUNK_ROWS, group_transforms
from tailorbird.ranking.encode.encoder import FORMAT, Encoder
from tailorbird.ranking.encode.encoder_file import read_encoder
from tailorbird.ranking.encode.rows import RaggedArrays
from tailorbird.ranking.encode.steps import (
    Clip,
    Codes,
    Fill,
    FillKey,
    Frequency,
    Hashed,
    Log,
    Missing,
    Quantile,
    Standardise,
    TargetEncoding,
    Vectors,
    log1p,
)
from tailorbird.ranking.encode.transforms import TransformOutput

GOLDEN_LOG1P = [
    4591532242907186886,
    4604418534313441775,
    4612581998928541515,
    4621493249683862269,
    4634561317577555908,
]
COATS, HATS = hash64("coats"), hash64("hats")
NUMERIC = (
    TransformOutput(
        "logged", "price", (Log(), Clip(-1.0, 2.0), Standardise(0.3, 0.7), Fill(0.1, "median"))
    ),
    TransformOutput(
        "rank",
        "clicks",
        (Quantile([-1.0, 0.0, 0.0, 2.0], [0.0, 1 / 3, 2 / 3, 1.0]), Fill(0.5, "median")),
    ),
    TransformOutput("rank_missing", "clicks", (Missing(),)),
    TransformOutput("age", "age_days", (Standardise(3.0, 2.0), Fill(0.0, "mean"))),
)
CATEGORICAL = (
    TransformOutput("category", "category", (Codes([HATS, COATS]),)),
    TransformOutput("filled", "category", (FillKey(COATS, "mode"), Codes([HATS, COATS]))),
    TransformOutput("bucket", "device", (Hashed(5),)),
    TransformOutput("share", "category", (Frequency([HATS], [0.25]), Log())),
    TransformOutput(
        "rate", "category", (TargetEncoding([0, HATS], [0.125, 0.5], 0.0625, "click", 20.0),)
    ),
    TransformOutput("device_missing", "device", (Missing(),)),
    TransformOutput(
        "place",
        "category",
        (Vectors([HATS, COATS], 2, [1.0, 2.0, 3.0, 4.0], 0), Fill(-1.0, "constant")),
    ),
)


def make_encoder(outputs=NUMERIC + CATEGORICAL, **changes):
    return ranking_world.make_encoder(
        **(
            {
                "numeric": (),
                "vocabularies": (),
                "computed": (),
                "transforms": outputs,
                "format": FORMAT,
            }
            | changes
        )
    )


def floats32(*values):
    return np.array(values, np.float32)


def test_each_numeric_step():
    x = floats32(-math.inf, -3, 0, 1, math.inf, math.nan)
    logged = TransformOutput("x", "x", (Log(),)).apply(x)
    np.testing.assert_allclose(
        logged,
        [
            -math.log1p(3.4028235e38),
            -math.log(4),
            0,
            math.log(2),
            math.log1p(3.4028235e38),
            math.nan,
        ],
        rtol=1e-6,
    )
    np.testing.assert_array_equal(
        TransformOutput("x", "x", (Clip(-1, 0.5),)).apply(x),
        floats32(-1, -1, 0, 0.5, 0.5, math.nan),
    )
    np.testing.assert_array_equal(
        TransformOutput("x", "x", (Standardise(1, 2), Fill(7, "mean"))).apply(x)[1:4],
        floats32(-2, -0.5, 0),
    )
    assert np.isfinite(
        TransformOutput("x", "x", (Standardise(1, 1e-3), Fill(7, "mean"))).apply(x)
    ).all()
    np.testing.assert_array_equal(
        TransformOutput("x", "x", (Missing(),)).apply(x), floats32(0, 0, 0, 0, 0, 1)
    )
    np.testing.assert_array_equal(
        TransformOutput("x", "x", ()).apply(floats32(2, math.nan)), floats32(2, math.nan)
    )


def test_a_rank_is_linear_between_cut_points_and_the_middle_of_a_tie():
    step = Quantile([0, 1, 1, 1, 5], [0, 0.25, 0.5, 0.75, 1])
    x = np.array([-9, 0, 0.5, 1, 3, 5, 9, math.nan])
    np.testing.assert_array_equal(step.apply(x), [0, 0, 0.125, 0.5, 0.875, 1, 1, math.nan])
    np.testing.assert_array_equal(
        Quantile([2, 2], [0, 1]).apply(np.array([1.0, 2.0, 3.0])), [0, 0, 1]
    )


def test_each_categorical_step():
    keys = np.array([0, HATS, COATS, hash64("boats")], np.uint64)
    by_name = {output.name: output.apply(keys) for output in CATEGORICAL}
    np.testing.assert_array_equal(by_name["category"], [0, 2, 3, 1])
    np.testing.assert_array_equal(by_name["filled"], [3, 2, 3, 1])
    np.testing.assert_array_equal(
        by_name["bucket"], [0, *(2 + key % 5 for key in (HATS, COATS, hash64("boats")))]
    )
    np.testing.assert_allclose(by_name["share"], [math.nan, math.log(1.25), 0, 0], rtol=1e-6)
    np.testing.assert_array_equal(by_name["rate"], floats32(0.125, 0.5, 0.0625, 0.0625))
    np.testing.assert_array_equal(by_name["device_missing"], [1, 0, 0, 0])
    np.testing.assert_array_equal(by_name["place"], [[-1, -1], [1, 2], [3, 4], [-1, -1]])


@given(
    st.one_of(
        st.floats(0, 3.5e38), st.floats(0, 1), st.sampled_from([0.0, 0.41, 0.42, 1e-30, 5e-324])
    )
)
def test_the_logarithm_is_the_logarithm(x):
    getcontext().prec = 60
    exact = float((Decimal(1) + Decimal(x)).ln()) if x > 1e-25 else x
    actual = float(log1p(np.array([x]))[0])
    assert actual == pytest.approx(exact, rel=1e-15, abs=1e-320)


def test_the_logarithm_has_the_bits_that_it_always_had():
    bits = log1p(np.array([0.1, 1.0, 10.0, 12345.678, 1e30])).view(np.uint64).tolist()
    assert bits == GOLDEN_LOG1P


@given(arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32)), st.data())
def test_a_value_is_independent_of_the_batch(x, data):
    picked = data.draw(st.lists(st.integers(0, max(len(x) - 1, 0)), max_size=10)) if len(x) else []
    for output in NUMERIC:
        bulk = output.apply(x)
        assert bulk.dtype == np.float32
        np.testing.assert_array_equal(
            bulk[picked].view(np.uint32), output.apply(x[picked]).view(np.uint32)
        )
        assert not np.isinf(bulk).any()
        assert not np.isnan(bulk).any() or not any(isinstance(step, Fill) for step in output.steps)


@given(st.lists(st.lists(st.integers(0, 50), max_size=9), min_size=1, max_size=6))
def test_in_bulk_and_one_request_at_a_time_are_the_same_bits(index, requests):
    encoder = make_encoder(numeric=("price",), computed=("recent_age",))
    rows = [
        ranking_world.make_rows(candidates, seed=number)
        for number, candidates in enumerate(requests)
    ]
    singles = [
        encoder.encode_request(each, ranking_world.keys_of(candidates), index)
        for each, candidates in zip(rows, requests, strict=True)
    ]
    bulk = encoder.encode(
        np.concatenate([each.numeric for each in rows]),
        np.concatenate([each.categorical for each in rows]),
        np.concatenate([ranking_world.keys_of(candidates) for candidates in requests]),
        np.repeat(np.arange(len(requests)), [len(candidates) for candidates in requests]).astype(
            np.intp
        ),
        {"recent": RaggedArrays(np.zeros(len(requests) + 1, np.int64), np.zeros(0, np.uint64))},
        np.full(len(requests), rows[0].t),
        index,
    )
    assert bulk.shape[1] == len(encoder.names)
    np.testing.assert_array_equal(bulk.view(np.uint32), np.concatenate(singles).view(np.uint32))


KINDS = {
    "log": st.just(Log()),
    "clip": st.builds(lambda a, b: Clip(min(a, b), max(a, b)), st.floats(-9, 9), st.floats(-9, 9)),
    "standardise": st.builds(Standardise, st.floats(-9, 9), st.floats(0.01, 9)),
    "fill": st.builds(Fill, st.floats(-9, 9), st.just("mean")),
    "quantile": st.lists(st.integers(-3, 3), min_size=2, max_size=6).map(
        lambda cuts: Quantile(
            [float(cut) for cut in sorted(cuts)], np.linspace(0, 1, len(cuts)).tolist()
        )
    ),
}


@given(st.data())
def test_together_they_give_the_bits_that_each_gives_alone(index, data):
    outputs = []
    for number in range(data.draw(st.integers(1, 7))):
        kinds = data.draw(
            st.sampled_from(
                [(), ("log",), ("quantile", "fill"), ("log", "clip", "standardise"), tuple(KINDS)]
            )
        )
        column = data.draw(st.sampled_from(["price", "clicks", "age_days", "position"]))
        outputs.append(
            TransformOutput(f"x{number}", column, tuple(data.draw(KINDS[kind]) for kind in kinds))
        )
    outputs.insert(1, CATEGORICAL[-1])
    encoder = make_encoder(tuple(outputs))
    rows, keys = ranking_world.make_rows(range(9)), ranking_world.keys_of(range(9))
    rows.numeric[:, 0] = data.draw(
        arrays(
            np.float32, 9, elements=st.one_of(st.floats(width=32), st.integers(-3, 3).map(float))
        )
    )
    matrix = encoder.encode_request(rows, keys, index)
    untransformed = make_encoder(
        (), numeric=("price", "clicks"), computed=("age_days",), position=True
    )
    sources = dict(
        zip(untransformed.names, untransformed.encode_request(rows, keys, index).T, strict=True)
    )
    for output in outputs:
        source = rows.categorical[:, 0] if output.column == "category" else sources[output.column]
        alone = output.apply(source).reshape(9, -1)
        at = encoder.names.index(output.names[0])
        np.testing.assert_array_equal(
            matrix[:, at : at + output.width].view(np.uint32), alone.view(np.uint32)
        )


def test_together_in_bulk_they_give_the_bits_that_each_gives_alone():
    rng = np.random.default_rng(0)
    n = 2 * CHUNK_ROWS + 5
    columns = [rng.lognormal(0, 3, n).astype(np.float32) for _ in range(3)]
    outputs = [
        TransformOutput(
            f"x{bins}",
            "x",
            (
                Quantile(
                    np.sort(column[: bins + 1]).tolist(), np.linspace(0, 1, bins + 1).tolist()
                ),
                Log(),
            ),
        )
        for bins, column in zip((3, 100, 126), columns, strict=True)
    ]
    (block,) = group_transforms(outputs)
    for output, column, actual in zip(outputs, columns, block.apply(columns), strict=True):
        np.testing.assert_array_equal(actual.view(np.uint32), output.apply(column).view(np.uint32))


def test_a_target_encoding_that_training_gives_stands_in_for_the_table(index):
    encoder = make_encoder(
        (
            TransformOutput(
                "rate",
                "category",
                (TargetEncoding([HATS], [0.5], 0.1, "click", 1.0), Standardise(0.1, 0.5)),
            ),
        )
    )
    rows, keys = ranking_world.make_rows([1, 2]), ranking_world.keys_of([1, 2])
    none = {"recent": RaggedArrays(np.zeros(2, np.int64), np.zeros(0, np.uint64))}
    learned = np.array([0.1, 0.6])
    matrix = encoder.encode(
        rows.numeric,
        rows.categorical,
        keys,
        np.zeros(2, np.intp),
        none,
        np.array([rows.t]),
        index,
        None,
        {"rate": learned},
    )
    np.testing.assert_array_equal(matrix[:, 0], ((learned - 0.1) / 0.5).astype(np.float32))


def test_a_transform_may_be_made_of_the_position(index):
    encoder = make_encoder((TransformOutput("position", "position", (Standardise(3, 2),)),))
    rows, keys = ranking_world.make_rows([1, 2]), ranking_world.keys_of([1, 2])
    np.testing.assert_array_equal(encoder.encode_request(rows, keys, index)[:, 0], [-1, -1])


def test_embedding_sizes_and_the_missing_row():
    encoder = make_encoder(
        vocabularies=ranking_world.make_encoder().vocabularies, outputs=NUMERIC + CATEGORICAL[1:4]
    )
    assert encoder.code_counts == {"category": 5, "filled": 4, "bucket": 7}
    assert encoder.categorical_names == ("category", "filled", "bucket")
    absent = dict(zip(encoder.names, encoder.missing_row.tolist(), strict=True))
    assert absent["category"] == 0
    assert absent["filled"] == 3
    assert absent["rank"] == 0.5
    assert absent["rank_missing"] == 1
    assert math.isnan(absent["share"])


def test_each_column_is_described():
    descriptions = make_encoder(numeric=("price",)).describe_columns()
    assert descriptions["price"] == "as read"
    assert descriptions["logged"] == (
        "price: log, clip to [-1, 2], standardise (mean 0.3, deviation 0.7), missing is the "
        "median 0.1"
    )
    assert (
        descriptions["rate"]
        == "category: rate of click by 2 values, drawn to the mean 0.0625 by 20 rows"
    )
    assert descriptions["place_1"] == descriptions["place_0"]


def test_it_survives_the_file():
    encoder = make_encoder()
    decoded = read_encoder(msgspec.json.encode(encoder), where="here")
    assert decoded == encoder
    assert "step" in json.loads(msgspec.json.encode(encoder))["transforms"][0]["steps"][0]


def test_a_file_of_another_version_is_refused_and_says_what_to_do():
    """One from before formats were told is of format 1."""
    old = b'{"columns":{"numeric":["price"],"categorical":[],"sequences":["recent"]},"numeric":["price"],"computed":["popularity"]}'
    for data, file_format in (
        (old, 1),
        (json.dumps({"format": FORMAT + 1, "new": 1}).encode(), FORMAT + 1),
    ):
        with pytest.raises(
            BundleError, match=f"has the format {file_format}, this version reads {FORMAT}"
        ) as caught:
            read_encoder(data, where="bundle v7")
        assert caught.value.fix == "tailorbird train"


def with_step(step, column="price"):
    document = json.loads(msgspec.json.encode(make_encoder(())))
    document["transforms"] = [
        {"name": "x", "column": column, "steps": step if isinstance(step, list) else [step]}
    ]
    return json.dumps(document).encode()


def with_sources(*names):
    return json.dumps(
        json.loads(msgspec.json.encode(make_encoder(()))) | {"candidates": {"sources": names}}
    ).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (with_step({"step": "standardise", "mean": 0, "std": 0}), "deviation"),
        (with_step({"step": "standardise", "mean": 0, "std": None}), "cannot be read"),
        (with_step({"step": "standardise", "mean": 0}), "cannot be read"),
        (with_step({"step": "unheard_of"}), "cannot be read"),
        (with_step({"step": "log", "base": 2}), "cannot be read"),
        (with_step({"step": "clip", "low": 2, "high": 1}), "borders"),
        (with_step({"step": "quantile", "cuts": [1, 0], "values": [0, 1]}), "cut points"),
        (with_step({"step": "quantile", "cuts": [0], "values": [0]}), "cut points"),
        (with_step({"step": "quantile", "cuts": [0, 1], "values": [0, 1, 2]}), "cut points"),
        (with_step({"step": "vocabulary", "keys": [1]}), "do not fit the column 'price'"),
        (with_step({"step": "log"}, "category"), "do not fit the column 'category'"),
        (with_step([], "category"), "do not fit the column 'category'"),
        (with_step({"step": "log"}, "colour"), "'colour' that does not exist"),
        (
            with_step([{"step": "vocabulary", "keys": [1]}, {"step": "log"}], "category"),
            "a step after codes",
        ),
        (
            with_step([{"step": "log"}, {"step": "vocabulary", "keys": [1]}], "category"),
            "does not come first",
        ),
        (with_step([{"step": "fill_key", "key": 1, "how": "mode"}], "category"), "keys as numbers"),
        (
            with_step([{"step": "fill_key", "key": 1, "how": "mode"}, {"step": "log"}], "category"),
            "numbers of keys",
        ),
        (with_step([{"step": "missing"}, {"step": "log"}], "category"), "indicator"),
        (
            with_step({"step": "vocabulary", "keys": [1, 1]}, "category"),
            "keys and numbers do not match",
        ),
        (with_step({"step": "vocabulary", "keys": [-1]}, "category"), "a key that is none"),
        (
            with_step({"step": "vocabulary", "keys": [1 << 64]}, "category"),
            "a key that is none|cannot be read",
        ),
        (
            with_step({"step": "frequency", "keys": [1], "shares": []}, "category"),
            "keys and numbers do not match",
        ),
        (with_step({"step": "hashing", "buckets": 0}, "category"), "without buckets"),
        (
            with_step(
                {
                    "step": "target",
                    "keys": [1],
                    "rates": [2],
                    "mean": 0,
                    "head": "click",
                    "smoothing": 1,
                },
                "category",
            ),
            "outside 0 to 1",
        ),
        (
            with_step(
                {"step": "vectors", "keys": [1], "width": 2, "flat": [1], "trained_until": 0},
                "category",
            ),
            "several lengths",
        ),
        (with_sources("populr"), "cannot be read: unknown source 'populr'"),
        (with_sources("trending", "popular:1h"), "called like another"),
        (b"{", "cannot be read"),
        (b"\xff", "cannot be read"),
    ],
)
def test_a_damaged_or_inconsistent_file_is_refused(data, message):
    with pytest.raises(BundleError, match=message) as caught:
        read_encoder(data, where="bundle v7")
    assert str(caught.value).startswith("bundle v7: ")


def leaves(value, path=()):
    """Yield the path of each value of a document."""
    if isinstance(value, dict | list) and value:
        for key, element in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(element, (*path, key))
    yield path


ODD = [
    None,
    True,
    -1,
    0,
    1,
    2,
    1 << 63,
    1 << 64,
    0.5,
    -1e308,
    1e308,
    "",
    "log",
    "price",
    [],
    {},
    [0],
    [1, 1],
    {"step": "log"},
    [1.5, 0.5],
]


@given(st.data())
def test_any_damage_is_refused_or_still_gives_a_matrix(index, data):
    made = make_encoder(
        vocabularies=ranking_world.make_encoder().vocabularies,
        outputs=NUMERIC + CATEGORICAL[1:],
        candidates=CandidateColumns(("popular:24h", "item_knn:2")),
    )
    document = json.loads(msgspec.json.encode(made))
    *path, last = data.draw(st.sampled_from([path for path in leaves(document) if path]))
    holder = document
    for key in path:
        holder = holder[key]
    if data.draw(st.booleans()):
        holder[last] = data.draw(st.sampled_from(ODD))
    else:
        del holder[last]
    try:
        encoder = read_encoder(json.dumps(document).encode(), where="here")
        # A matrix of other columns than the manifest names is refused by the bundle.
        if encoder.columns == ranking_world.COLUMNS:
            with np.errstate(all="ignore"):
                matrix = encoder.encode_request(
                    ranking_world.make_rows(range(9), recent=[1]),
                    ranking_world.keys_of(range(9)),
                    index,
                )
            assert matrix.shape == (9, len(encoder.names))
            assert encoder.missing_row.shape == (len(encoder.names),)
    except BundleError:
        pass


def test_two_columns_of_one_name_are_refused():
    with pytest.raises(BundleError, match="called like another"):
        make_encoder(
            NUMERIC, numeric=("price",), transforms=(TransformOutput("price", "clicks", (Log(),)),)
        )


def test_a_bundle_scores_through_its_transforms(index, tmp_path):
    encoder = make_encoder(NUMERIC + CATEGORICAL)
    numbers = list(range(20))
    rows, keys = ranking_world.make_rows(numbers, recent=[3]), ranking_world.keys_of(numbers)
    golden = encoder.encode_request(rows, keys, index)
    models = {"model/all.onnx": ranking_world.make_linear_model(len(encoder.names))}
    ranking_world.make_bundle(tmp_path / "bundle", encoder=encoder, models=models, golden=golden)
    bundle = Bundle.load(tmp_path / "bundle", schema_hash="abc123abc123")
    assert isinstance(bundle.encoder, Encoder)
    weights = np.random.default_rng(0).normal(size=(len(encoder.names), 2)).astype(np.float32) * 0.1
    expected = np.nan_to_num(golden) @ weights
    np.testing.assert_allclose(
        bundle.raw_scores(encoder.encode_request(rows, keys, index))["click"],
        expected[:, 0],
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_hashing_of_a_bundle_that_lists_no_buckets_knows_them_all():
    keys = np.array([0, 3, 4, 9], np.uint64)
    before, now = (
        msgspec.json.decode(text, type=Hashed)
        for text in ('{"step":"hashing","buckets":5}', '{"step":"hashing","buckets":5,"seen":[3]}')
    )
    np.testing.assert_array_equal(before.apply(keys), [0, 5, 6, 6])
    np.testing.assert_array_equal(now.apply(keys), [0, 5, 1, 1])
    assert before.size == now.size == 7
    with pytest.raises(BundleError, match="a bucket that there is not"):
        Hashed(5, [5])
