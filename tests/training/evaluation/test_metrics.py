"""Metrics against cases whose answer is seen at once, against scikit-learn, and against a slow
loop.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from tailorbird.training.evaluation import metrics
from tailorbird.training.evaluation.calibration import measure_calibration


def lists(*scores_and_labels):
    scores = [s for pair in scores_and_labels for s in pair[0]]
    labels = [s for pair in scores_and_labels for s in pair[1]]
    offsets = np.cumsum([0] + [len(pair[0]) for pair in scores_and_labels])
    return np.array(scores, float), np.array(labels), offsets


def test_a_positive_at_rank_two_of_three():
    score, label, offsets = lists(([0.9, 0.5, 0.1], [0, 1, 0]))
    ranked = metrics.rank_lists(score, label, offsets, k=2)
    assert ranked.rank.tolist() == [2]
    assert metrics.ndcg(ranked, 2) == pytest.approx([1 / np.log2(3)])
    assert metrics.reciprocal_rank(ranked) == pytest.approx([0.5])
    assert metrics.recall(ranked, 1).tolist() == [0.0]
    assert metrics.recall(ranked, 2).tolist() == [1.0]
    assert ranked.top_rows.tolist() == [[0, 1]]


def test_lists_of_any_length_and_without_a_positive():
    score, label, offsets = lists(
        ([0.3, 0.2], [1, 1]), ([], []), ([0.1], [0]), ([0.1, 0.2, 0.3, 0.4], [1, 0, 0, 1])
    )
    ranked = metrics.rank_lists(score, label, offsets, k=3)
    ndcg = metrics.ndcg(ranked, 3)
    assert ndcg[0] == 1.0
    assert np.isnan(ndcg[1])
    assert np.isnan(ndcg[2])
    assert ndcg[3] == pytest.approx(1 / (1 + 1 / np.log2(3)))
    assert ranked.positive_counts.tolist() == [2, 0, 0, 2]
    assert ranked.top_rows.tolist() == [[0, 1, -1], [-1, -1, -1], [2, -1, -1], [6, 5, 4]]


def test_ties_are_broken_without_regard_to_the_order_of_rows():
    n = 20_000
    for truth_first in (True, False):
        label = np.zeros(n * 2)
        label[(0 if truth_first else 1) :: 2] = 1
        ranked = metrics.rank_lists(np.zeros(n * 2), label, np.arange(0, 2 * n + 1, 2), k=1)
        assert np.mean(ranked.rank) == pytest.approx(1.5, abs=0.02)


def test_a_score_that_is_missing_ranks_last():
    score, label, offsets = lists(([np.nan, 0.5], [1, 0]))
    assert metrics.rank_lists(score, label, offsets).rank.tolist() == [2]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_ranking_equals_a_simple_loop(seed, k):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 90, rng.integers(1, 12))
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    score = rng.integers(0, 8, offsets[-1]).astype(float)
    label = rng.random(offsets[-1]) < 0.1
    ranked = metrics.rank_lists(score, label, offsets, k=k)
    tie = metrics.tiebreak_hash(np.arange(offsets[-1]))
    expected = []
    for r in range(len(lengths)):
        rows = np.arange(offsets[r], offsets[r + 1])
        order = sorted(rows, key=lambda row: (-score[row], tie[row]))
        expected += [(r, order.index(row) + 1) for row in order if label[row]]
        top = (order + [-1] * k)[:k]
        assert ranked.top_rows[r].tolist() == top
    assert list(zip(ranked.list_index.tolist(), ranked.rank.tolist(), strict=True)) == expected


def test_chunks_do_not_change_the_answer(monkeypatch):
    rng = np.random.default_rng(1)
    offsets = np.concatenate(([0], np.cumsum(rng.integers(0, 30, 200))))
    score, label = rng.random(offsets[-1]), rng.random(offsets[-1]) < 0.2
    unchunked = metrics.rank_lists(score, label, offsets)
    monkeypatch.setattr(metrics, "PADDED_CELLS_MAX", 50)
    parts = metrics.rank_lists(score, label, offsets)
    assert np.array_equal(unchunked.rank, parts.rank)
    assert np.array_equal(unchunked.top_rows, parts.top_rows)


def test_ndcg_agrees_with_scikit_learn():
    rng = np.random.default_rng(2)
    score, label = rng.random((50, 30)), rng.choice([0, 0, 0, 0, 1, 8], (50, 30))
    label[:, 0] = 1
    ranked = metrics.rank_lists(score.ravel(), label.ravel(), np.arange(0, 1501, 30))
    expected = [sk.ndcg_score(label[i : i + 1], score[i : i + 1], k=10) for i in range(50)]
    assert metrics.ndcg(ranked, 10) == pytest.approx(expected)


def test_auc_and_log_loss_agree_with_scikit_learn():
    rng = np.random.default_rng(3)
    label = rng.random(2_000) < 0.3
    score = np.round(np.clip(label * 0.2 + rng.random(2_000) * 0.7, 0, 1), 2)
    weight = rng.random(2_000)
    assert metrics.auc(score, label) == pytest.approx(sk.roc_auc_score(label, score))
    assert metrics.auc(score, label, weight) == pytest.approx(
        sk.roc_auc_score(label, score, sample_weight=weight)
    )
    p = np.clip(score, 0.01, 0.99)
    assert metrics.log_loss(p, label) == pytest.approx(sk.log_loss(label, p))
    assert np.isnan(metrics.auc(score, np.ones(2_000)))


def test_influence_predicts_what_leaving_rows_out_does_to_the_auc():
    rng = np.random.default_rng(4)
    label = rng.random(4_000) < 0.3
    score = label * 0.3 + rng.random(4_000)
    influence = metrics.auc_influence(score, label)
    assert influence.sum() == pytest.approx(0, abs=1e-9)
    weight = rng.poisson(1.0, 4_000).astype(float)
    moved = metrics.auc(score, label, weight) - metrics.auc(score, label)
    assert ((weight - 1) * influence).sum() == pytest.approx(moved, rel=0.08)


def test_a_calibrated_model_has_no_debiased_error_and_a_shifted_one_has_its_shift():
    rng = np.random.default_rng(5)
    p = rng.uniform(0.05, 0.5, 40_000)
    label = rng.random(40_000) < p
    honest = measure_calibration(p, label)
    shifted = measure_calibration(p + 0.1, label)
    assert 0 < honest.ece < 0.01  # by chance alone
    assert honest.debiased_error < 0.004
    assert shifted.ece == pytest.approx(0.1, abs=0.01)
    assert shifted.debiased_error == pytest.approx(0.1, abs=0.01)


def test_calibration_of_one_constant_prediction():
    result = measure_calibration(np.full(10, 0.3), np.array([1, 0, 0, 0, 0, 1, 0, 0, 0, 0]))
    assert result.counts.tolist()[0] == 10 or result.counts.sum() == 10
    assert result.ece == pytest.approx(0.1)


def test_coverage_and_novelty():
    score, label, offsets = lists(([3, 2, 1], [0, 0, 1]), ([3, 2, 1], [1, 0, 0]))
    item = np.array([0, 1, 2, 0, 3, 2])
    ranked = metrics.rank_lists(score, label, offsets, k=1)
    assert metrics.coverage(ranked, item, catalogue_size=4) == 0.25
    assert metrics.novelty(ranked, item, np.array([0.5, 0.25, 0.25, 0.0])).tolist() == [1.0, 1.0]
    both = metrics.rank_lists(score, label, offsets, k=2)
    assert metrics.novelty(both, item, np.array([0.5, 0.25, 0.25, 0.0])).tolist() == [
        1.5,
        2.0,
    ]  # never seen: half of 0.25


def test_the_chance_within_a_list():
    score, label, offsets = lists(([4, 3, 2, 1], [0, 1, 0, 1]), ([2, 1], [1, 0]), ([1.0], [1]))
    result = metrics.list_auc(metrics.rank_lists(score, label, offsets))
    assert result[:2].tolist() == [0.25, 1.0]
    assert np.isnan(result[2])


def test_counting_only_some_positives_leaves_ranks_alone():
    score, label, offsets = lists(([4, 3, 2, 1], [1, 0, 1, 0]), ([2, 1], [1, 0]))
    ranked = metrics.rank_lists(score, label, offsets)
    tail = ranked.restrict(np.array([False, True, False]), np.array([0, 0]))
    assert tail.rank.tolist() == [3]
    assert metrics.ndcg(tail).tolist()[0] == pytest.approx(0.5)
    assert np.isnan(metrics.ndcg(tail)[1])
    assert (
        metrics.ndcg(ranked.restrict(np.array([False, True, False]), np.array([0, 2])))[1] == 0.0
    ), "it was missed"


def test_items_missing_from_a_list_count_as_missed():
    """Of two positives one at rank 2 and one missed; of one that was missed nothing is left to
    rank; of a whole list nothing changes.
    """
    score, label, offsets = lists(
        ([3, 2, 1], [0, 1, 0]), ([2, 1], [0, 0]), ([2, 1], [1, 0]), ([1.0], [0])
    )
    ranked = metrics.rank_lists(score, label, offsets, missed_counts=np.array([1, 1, 0, 0]))
    second = 1 / np.log2(3)
    assert metrics.ndcg(ranked)[:3].tolist() == pytest.approx([second / (1 + second), 0.0, 1.0])
    assert metrics.recall(ranked)[:3].tolist() == [0.5, 0.0, 1.0]
    assert metrics.reciprocal_rank(ranked)[:3].tolist() == [0.5, 0.0, 1.0]
    assert ranked.has_positives.tolist() == [True, True, True, False]
    assert all(
        np.isnan(figure(ranked)[3])
        for figure in (metrics.ndcg, metrics.recall, metrics.reciprocal_rank)
    )
    worth = metrics.rank_lists(
        score, 5.0 * label, offsets, missed_counts=np.array([1, 0, 0, 0]), missed_gain=1.0
    )
    assert metrics.ndcg(worth)[0] == pytest.approx(5 * second / (5 + second))
