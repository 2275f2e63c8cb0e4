"""Target encoding in time order: what a row may know, and that it knows no more."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import TargetEncoder

from tailorbird.features.transforms import target, transform
from tailorbird.training.fit.target_encoding import LabelledRows
from tailorbird.training.fit.transforms import fit_transforms


def fit(keys, t, label, *, window=0, smoothing=20.0, weight=None, **more):
    """The final step and the encodings of the rows as of their times."""
    keys, t = np.asarray(keys, np.uint64), np.asarray(t, np.int64)
    labelled = LabelledRows(
        t,
        {"click": np.asarray(label, bool)},
        np.ones(len(t)) if weight is None else np.asarray(weight, float),
        window,
    )
    learned = fit_transforms(
        [transform("x", target("click", smoothing=smoothing, **more))], {"x": keys}, labelled
    )
    return learned.outputs[0].steps[0], learned.encodings_in_time["x_target_click"]


rows_strategy = st.lists(
    st.tuples(
        st.integers(0, 3), st.integers(0, 12), st.booleans(), st.sampled_from([1.0, 2.5, 60.0])
    ),
    max_size=25,
)


def rate_by_loop(keys, t, label, weight, window, smoothing, at):
    """By the definition: the rows known at the row's time, one by one."""
    visible_rows = [j for j in range(len(t)) if t[j] + max(window, 1) <= t[at]]
    if not visible_rows:
        return math.nan
    mean = sum(weight[j] * label[j] for j in visible_rows) / sum(weight[j] for j in visible_rows)
    own = [j for j in visible_rows if keys[j] == keys[at]]
    below = sum(weight[j] for j in own) + smoothing
    return (sum(weight[j] * label[j] for j in own) + smoothing * mean) / below if below else mean


@given(rows_strategy, st.integers(0, 5), st.sampled_from([0.0, 0.5, 20.0]))
def test_a_row_uses_labels_available_at_its_time(rows, window, smoothing):
    keys, t, label, weight = (
        (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [], [])
    )
    _, in_time = fit(keys, t, label, window=window, smoothing=smoothing, weight=weight)
    expected = [
        rate_by_loop(keys, t, label, weight, window, smoothing, at) for at in range(len(rows))
    ]
    np.testing.assert_allclose(in_time, expected, rtol=1e-9)


@given(rows_strategy.filter(bool), st.integers(0, 5), st.data())
def test_no_label_reaches_a_row_early(rows, window, data):
    keys, t, label, weight = (np.array(column) for column in zip(*rows, strict=True))
    changed = data.draw(st.integers(0, len(rows) - 1))
    _, before = fit(keys, t, label, window=window, weight=weight)
    label = label.copy()
    label[changed] = not label[changed]
    _, after = fit(keys, t, label, window=window, weight=weight)
    blind = t < t[changed] + max(window, 1)
    assert blind[changed]
    np.testing.assert_array_equal(
        before[blind], after[blind]
    )  # its own and all that are not later: to the bit


def test_rows_of_one_request_do_not_share_immediate_labels():
    _, in_time = fit([1, 1, 1], [5, 5, 5], [True, False, True])
    assert np.isnan(in_time).all()


@pytest.mark.parametrize("window", [0, 50])
def test_shuffled_labels_give_no_lift(window):
    """Each value is seen a few times: a rate that knew its own label would tell it."""
    rng = np.random.default_rng(3)
    n = 20_000
    keys, label, t = (
        rng.integers(1, 5_000, n),
        rng.random(n) < 0.1,
        np.sort(rng.integers(0, 100_000, n)),
    )
    step, in_time = fit(keys, t, label, window=window, smoothing=1.0)
    has_rate = ~np.isnan(in_time)
    assert abs(roc_auc_score(label[has_rate], in_time[has_rate]) - 0.5) < 0.02
    leaking = step.apply(keys.astype(np.uint64))  # what a careless encoder would train on
    assert roc_auc_score(label, leaking) > 0.8


def test_what_serving_gets_is_the_rate_over_the_window():
    step, _ = fit([1, 1, 1, 2, 0], [1, 2, 3, 4, 5], [True, True, False, False, True], smoothing=2.0)
    mean = 3 / 5
    np.testing.assert_allclose(
        step.apply(np.array([1, 2, 0, 99], np.uint64)),
        [(2 + 2 * mean) / 5, (0 + 2 * mean) / 3, (1 + 2 * mean) / 3, mean],
    )


def test_the_final_table_is_scikit_learns():
    rng = np.random.default_rng(0)
    keys, label = rng.integers(1, 30, 2_000), rng.random(2_000) < 0.3
    step, _ = fit(keys, np.arange(2_000), label, smoothing=7.0)
    peer = TargetEncoder(smooth=7.0, target_type="binary").fit(keys[:, None], label)
    np.testing.assert_allclose(
        step.apply(peer.categories_[0].astype(np.uint64)), peer.encodings_[0], rtol=1e-12
    )
    assert step.mean == pytest.approx(peer.target_mean_)


def test_weights_count_as_rows():
    once, _ = fit([1, 1, 2], [1, 2, 3], [True, False, False], weight=[1, 3, 2])
    often, _ = fit(
        [1, 1, 1, 1, 2, 2], [1, 2, 2, 2, 3, 3], [True, False, False, False, False, False]
    )
    assert once == often


def test_rare_values_get_the_mean_in_training_and_serving():
    keys, label = [1, 1, 1, 2, 3, 1], [True, False, True, True, False, False]
    step, in_time = fit(keys, [1, 2, 3, 4, 5, 6], label, smoothing=0.0, count_min=2)
    assert step.keys == [1]
    np.testing.assert_allclose(
        in_time, [np.nan, 1, 1 / 2, 2 / 3, 3 / 4, 2 / 3]
    )  # 2 and 3 have the mean of all before them
    assert step.apply(np.array([2], np.uint64)) == [3 / 6]


def test_no_row_and_one_row():
    step, in_time = fit([], [], [])
    assert step.mean == 0
    assert in_time.shape == (0,)
    assert step.apply(np.array([0, 4], np.uint64)).tolist() == [0, 0]
    step, in_time = fit([4], [1], [True])
    assert np.isnan(in_time).all()
    assert step.apply(np.array([4], np.uint64)) == [1]


@given(st.permutations(range(12)))
def test_the_order_of_rows_does_not_matter(order):
    keys, t, label = np.array([1, 2, 3] * 4), np.arange(12) // 2, np.arange(12) % 5 < 2
    weight = np.linspace(0.1, 3, 12)
    step, in_time = fit(keys, t, label, window=2, weight=weight)
    order = list(order)
    other, moved = fit(keys[order], t[order], label[order], window=2, weight=weight[order])
    assert other == step
    np.testing.assert_array_equal(moved, in_time[order])
