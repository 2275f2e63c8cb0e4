"""Performance without labels: close to what the labels say later, with an interval that holds."""

import math

import numpy as np
import pytest
from benchmarks.quality.monitoring.label_free import draw_shift, exact_auc

from tailorbird.monitoring.figures.label_free import (
    UNKNOWN_PERFORMANCE,
    encode_seen,
    expect_performance,
)


def performance(p, y):
    return expect_performance(encode_seen(p, y > 0), np.ones(len(p)), float(p.sum()))


def test_the_expected_auc_is_that_of_the_labels_though_people_changed():
    errors, covered = [], 0
    for seed in range(12):
        drawn = draw_shift(seed)
        got, truth = performance(drawn.p, drawn.y), exact_auc(drawn.p, drawn.y)
        assert got.auc_observed == pytest.approx(truth, abs=0.003), "bins cost little"
        errors.append(abs(got.auc - truth))
        covered += got.auc_low <= truth <= got.auc_high
    assert np.mean(errors) < 0.015
    assert covered >= 9


def test_probabilities_that_promise_too_much_show_in_the_expected_ctr():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.02, 0.3, 20_000)
    got = performance(p, (rng.random(len(p)) < p / 2).astype(float))
    assert got.ctr == pytest.approx(p.mean())
    assert got.ctr_low > p.mean() * 0.9 > p.mean() / 2


def test_without_a_seen_item_nothing_is_known():
    none = np.zeros(0)
    assert performance(none, none) is UNKNOWN_PERFORMANCE
    assert math.isnan(performance(np.array([0.2]), np.array([0.0])).auc_observed)
