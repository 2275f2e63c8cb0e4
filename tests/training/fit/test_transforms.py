"""Transforms fitted on training rows, compared with scikit-learn, and presets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import KBinsDiscretizer, QuantileTransformer, StandardScaler

from tailorbird.errors import DeclarationError, UsageError
from tailorbird.events import SECOND, hash64, hash64s
from tailorbird.features.transforms import (
    clip,
    frequency,
    hashing,
    impute,
    log,
    ranks,
    standardise,
    target,
    transform,
    vectors,
    vocabulary,
)
from tailorbird.ranking.encode.computed import COMPUTED_COLUMNS
from tailorbird.ranking.encode.encoder_fit import fit_encoder
from tailorbird.ranking.encode.steps import Quantile
from tailorbird.registry import ColumnNames
from tailorbird.training.fit.target_encoding import LabelledRows
from tailorbird.training.fit.transforms import (
    find_preset,
    fit_transforms,
    net_preset,
    plan_transforms,
    tree_preset,
)

COLUMNS = ColumnNames(("price", "clicks"), ("category",), ("recent",))


def nothing(n):
    return LabelledRows(np.arange(n), {"click": np.zeros(n, bool)}, np.ones(n), 0)


def learn(column, *steps, indicator=False):
    """Fit a transform on a column; return the transformed column and the outputs."""
    column = np.asarray(column, np.uint64 if np.asarray(column).dtype == np.uint64 else np.float32)
    learned = fit_transforms(
        [transform("x", *steps, indicator=indicator)], {"x": column}, nothing(len(column))
    )
    return learned.outputs[0].apply(column), learned.outputs


def skewed(n=5_000, missing=0.1, seed=0):
    rng = np.random.default_rng(seed)
    x = np.round(rng.lognormal(1, 2, n), 1).astype(np.float32)
    x[rng.random(n) < 0.3] = 0  # many ties at the lower end
    x[rng.random(n) < missing] = np.nan
    return x


def test_standardise_is_scikit_learns():
    x = skewed()
    expected = StandardScaler().fit_transform(x.astype(np.float64)[:, None])[:, 0]
    np.testing.assert_allclose(learn(x, standardise())[0], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bins", [2, 10, 100, 1_000])
def test_ranks_are_scikit_learns(bins):
    x = skewed()
    peer = QuantileTransformer(n_quantiles=bins + 1, subsample=None).fit(
        x.astype(np.float64)[:, None]
    )
    made, (output, *_) = learn(x, ranks(bins))
    np.testing.assert_allclose(made, peer.transform(x.astype(np.float64)[:, None])[:, 0], atol=1e-6)
    later = skewed(2_000, seed=1) * np.float32(1.1)
    np.testing.assert_allclose(
        output.apply(later), peer.transform(later.astype(np.float64)[:, None])[:, 0], atol=1e-6
    )


def test_normal_scores_are_scikit_learns_at_the_cut_points():
    x = np.random.default_rng(0).gamma(2, 3, 4_000).astype(np.float32)
    step = learn(x, ranks(50, normal=True))[1][0].steps[0]
    assert isinstance(step, Quantile)
    peer = QuantileTransformer(n_quantiles=51, output_distribution="normal", subsample=None).fit(
        x.astype(np.float64)[:, None]
    )
    inner = np.array(step.cuts)[1:-1]
    np.testing.assert_allclose(step.apply(inner), peer.transform(inner[:, None])[:, 0], atol=1e-6)
    made = step.apply(x.astype(np.float64))
    assert abs(made.mean()) < 0.02
    assert made.std() == pytest.approx(1, abs=0.05)


def test_cut_points_are_the_bins_of_scikit_learns_discretiser():
    x = np.random.default_rng(0).gamma(2, 3, 4_000).astype(np.float32)
    step = learn(x, ranks(20))[1][0].steps[0]
    peer = KBinsDiscretizer(
        20, encode="ordinal", strategy="quantile", quantile_method="linear", subsample=None
    )
    peer.fit(x.astype(np.float64)[:, None])
    np.testing.assert_allclose(step.cuts, peer.bin_edges_[0], rtol=1e-12)


@pytest.mark.parametrize(
    ("how", "strategy"),
    [("mean", "mean"), ("median", "median"), ("mode", "most_frequent"), ("constant", "constant")],
)
def test_imputation_is_scikit_learns(how, strategy):
    x = skewed()
    value = 3.5 if how == "constant" else None
    expected = SimpleImputer(strategy=strategy, fill_value=value).fit_transform(
        x.astype(np.float64)[:, None]
    )[:, 0]
    np.testing.assert_allclose(learn(x, impute(how, value))[0], expected, rtol=1e-6)


def test_an_indicator_equals_scikit_learns_on_the_raw_feature():
    x = skewed()
    made, outputs = learn(x, impute("median"), standardise(), indicator=True)
    assert not np.isnan(made).any()
    assert [output.name for output in outputs] == ["x", "x_missing"]
    peer = SimpleImputer(add_indicator=True).fit_transform(x.astype(np.float64)[:, None])[:, 1]
    np.testing.assert_array_equal(outputs[1].apply(x), peer)


def test_borders_are_learned_unless_given():
    x = np.arange(101, dtype=np.float32)
    assert learn(x, clip())[0].tolist()[:3] == [1, 1, 2]
    assert learn(x, clip(quantiles=(0.1, 0.5)))[0].max() == 50
    assert learn(x, clip(high=7))[0].max() == 7
    assert learn(x, clip(200, quantiles=(0, 1)))[0].tolist() == [200] * 101
    assert learn(x, clip(high=-5))[0].tolist() == [-5] * 101


def test_steps_apply_in_their_order():
    x = skewed()
    made = learn(x, log(), clip(0, 3), standardise(), impute("constant", 9))[0]
    y = np.clip(np.log1p(x.astype(np.float64)), 0, 3)
    expected = (y - np.nanmean(y)) / np.nanstd(y)
    np.testing.assert_allclose(
        made, np.where(np.isnan(expected), 9, expected), rtol=1e-5, atol=1e-6
    )


def test_categories():
    keys = np.repeat(np.array([0, 7, 8, 9], np.uint64), [10, 5, 20, 2])
    made = learn(keys, vocabulary(count_min=3))[0]
    np.testing.assert_array_equal(made, np.repeat([0, 3, 2, 1], [10, 5, 20, 2]))
    np.testing.assert_array_equal(
        learn(keys)[0], learn(keys, vocabulary())[0]
    )  # codes, unless said otherwise
    shares = learn(keys, frequency())[0]
    np.testing.assert_allclose(
        np.unique(shares[~np.isnan(shares)]), np.array([2, 5, 20]) / 37, rtol=1e-6
    )
    assert np.isnan(shares[:10]).all()
    np.testing.assert_array_equal(
        learn(keys, frequency(size_max=1))[0][10:], np.float32(20 / 37) * (keys[10:] == 8)
    )
    hashed, outputs = learn(keys, hashing(4))
    expected = np.where(keys == 9, 1, 2 + keys % 4)  # of the bucket of 9 two rows tell too little
    np.testing.assert_array_equal(hashed, np.where(keys == 0, 0, expected))
    np.testing.assert_array_equal(
        outputs[0].apply(np.array([3, 4, 5, 6, 0], np.uint64)), [5, 2, 1, 1, 0]
    )
    np.testing.assert_array_equal(
        learn(keys, impute("mode"), vocabulary(count_min=1))[0][:10], [2] * 10
    )
    filled = learn(keys, impute("constant", "hats"), hashing(100))[0]
    assert filled[0] == 2 + hash64("hats") % 100


def test_codes_are_contiguous_and_by_frequency():
    rng = np.random.default_rng(0)
    keys = hash64s(f"v{number}" for number in rng.geometric(0.05, 3_000))
    made = learn(keys, vocabulary(count_min=4))[0]
    codes, counts = np.unique(made[made >= 2], return_counts=True)
    np.testing.assert_array_equal(codes, np.arange(2, 2 + len(codes)))
    assert (np.diff(counts) <= 0).all()
    assert (made == 1).any()


@given(st.lists(st.integers(0, 6), max_size=60), st.lists(st.integers(0, 9), max_size=9))
def test_codes_are_those_of_a_column_that_no_transform_names(keys, later):
    column = np.array(keys, np.uint64)
    (vocabulary,) = fit_encoder(COLUMNS, column[:, None]).vocabularies
    (output,) = fit_transforms([transform("x")], {"x": column}, nothing(len(column))).outputs
    for values in (column, np.array(later, np.uint64)):
        np.testing.assert_array_equal(output.apply(values), vocabulary.encode(values))


def test_vectors_are_passed_through_and_must_not_know_the_future():
    rows = {"x": hash64s(["hats", "boats", "shoes"])}
    later = LabelledRows(np.array([5 * SECOND]), {}, np.ones(1), 0)
    step = vectors({"hats": [1, 2], "shoes": [3, 4]}, trained_until=5)
    (output,) = fit_transforms([transform("x", step)], rows, later).outputs
    np.testing.assert_array_equal(output.apply(rows["x"]), [[1, 2], [np.nan, np.nan], [3, 4]])
    assert output.names == ("x_vector_0", "x_vector_1")
    early = LabelledRows(np.array([5 * SECOND - 1]), {}, np.ones(1), 0)
    with pytest.raises(
        DeclarationError, match=r"test_transforms.py:\d+: the vectors of x know what came until"
    ):
        fit_transforms([transform("x", step)], rows, early)


def test_a_head_without_labels_raises():
    with pytest.raises(
        DeclarationError, match=r"learns from buy, which has no labels here\n.*click"
    ):
        fit_transforms([transform("x", target("buy"))], {"x": np.zeros(1, np.uint64)}, nothing(1))


NUMERIC_STEPS = (
    log(),
    clip(),
    standardise(),
    ranks(10),
    ranks(10, normal=True),
    *(impute(how) for how in ("mean", "median", "mode")),
)


@given(
    arrays(np.float32, st.integers(0, 30), elements=st.floats(width=32)),
    st.lists(st.sampled_from(NUMERIC_STEPS), max_size=5),
    arrays(np.float32, 5, elements=st.floats(width=32)),
)
def test_any_rows_give_steps_that_give_numbers(x, steps, later):
    """NaN, infinite and extreme values, constant columns, one row, none."""
    _, outputs = learn(x, *steps, impute("constant", 0), indicator=True)
    for values in (x, later):
        assert np.isfinite(outputs[0].apply(values)).all()


@given(st.lists(st.integers(0, 4), max_size=12), st.lists(st.integers(0, 9), max_size=5))
def test_any_categories_give_numbers(keys, later):
    column = np.array(keys, np.uint64)
    for step in (vocabulary(count_min=2), hashing(3), frequency(), target("click")):
        learned = fit_transforms(
            [
                transform("x", step, impute("constant", 0))
                if step.output_kind == "a number"
                else transform("x", step)
            ],
            {"x": column},
            nothing(len(column)),
        )
        assert np.isfinite(learned.outputs[0].apply(np.array(later, np.uint64))).all()


def test_constant_columns_and_none_at_all():
    assert learn([3.3] * 5, standardise())[0].tolist() == [0] * 5
    assert learn([3.3] * 5, ranks())[0].tolist() == [0] * 5
    empty = np.zeros(0, np.float32)
    for step in NUMERIC_STEPS:
        _, outputs = learn(empty, step, impute("constant", 0))
        assert np.isfinite(outputs[0].apply(np.array([5, np.nan], np.float32))).all()
    assert np.isnan(learn([np.nan] * 3, standardise())[0]).all()


def test_an_infinite_value_moves_no_mean():
    x = np.array([1, 2, 3, np.inf, -np.inf, np.nan], np.float32)
    np.testing.assert_allclose(
        learn(x, standardise())[0][:3], [-1.2247449, 0, 1.2247449], rtol=1e-6
    )


def test_trees_take_everything_as_it_is():
    made = plan_transforms(COLUMNS, (), tree_preset, with_position=True, leave_out=("price",))
    assert made.transforms == ()
    assert made.hidden_columns == ("price",)


def test_nets_take_every_column_on_one_scale_filled_in_and_every_category_as_codes():
    made = plan_transforms(COLUMNS, (), net_preset, with_position=True)
    by = {one.column: one for one in made.transforms}
    assert (
        set(by)
        == {"price", "clicks", "category", "position", *COMPUTED_COLUMNS}
        == set(made.hidden_columns)
    )
    rng = np.random.default_rng(0)
    rows = {name: rng.lognormal(0, 3, 500).astype(np.float32) for name in by}
    rows |= {
        name: np.where(rng.random(500) < 0.2, np.float32(np.nan), rows[name])
        for name in by
        if name != "position"
    }
    rows["category"] = rng.integers(0, 9, 500).astype(np.uint64)
    for output in fit_transforms(made.transforms, rows, nothing(500)).outputs:
        column = output.apply(rows[output.column])
        assert np.isfinite(column).all()
        if output.column == "category":
            assert set(column.tolist()) == set(range(output.code_count)) - {1}
        elif output.name.endswith("_missing"):
            np.testing.assert_array_equal(column, np.isnan(rows[output.column]))
        else:
            assert np.abs(column).max() < 25
            assert column.std() == pytest.approx(1, abs=0.2)


def test_nets_on_another_scale():
    (price, *_), (again, *_) = (
        net_preset(COLUMNS, False),
        net_preset(COLUMNS, False, scale_step=standardise()),
    )
    assert price.steps[0] == ranks(100, normal=True)
    assert again.steps == (standardise(), impute("median"))
    assert again.indicator


def test_leave_out_overrides_declarations_and_these_override_presets():
    made = plan_transforms(
        COLUMNS,
        (transform("price", log()), transform("category", frequency())),
        net_preset,
        with_position=False,
        leave_out=("clicks",),
    )
    assert [one.steps for one in made.transforms if one.column == "price"] == [(log(),)]
    assert [one.output for one in made.transforms if one.column == "category"] == [
        "category_frequency"
    ]
    assert "clicks" not in {one.column for one in made.transforms}
    left = plan_transforms(
        COLUMNS,
        (transform("category"), transform("category", frequency())),
        tree_preset,
        with_position=False,
        leave_out=("category_frequency",),
    )
    assert [one.output for one in left.transforms] == ["category"]


def test_an_invalid_preset_raises():
    with pytest.raises(UsageError, match="unknown preset 'forests'"):
        find_preset("forests")
