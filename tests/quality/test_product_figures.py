"""Figures of the product benchmark on examples that can be checked by hand."""

import numpy as np
import pytest
from benchmarks.quality.product import figures
from benchmarks.quality.product.figures import OURS, ListMetrics, Resampling
from benchmarks.quality.product.log import Log, Questions
from benchmarks.quality.product.sets import Cut

from tailorbird.events import HOUR

ONE, TWO, THREE = 1.0, 1 / np.log2(3), 0.5  # discounts of the first places


def padded(*lists: list[int]) -> np.ndarray:
    return np.array([[*each, *[-1] * (20 - len(each))] for each in lists])


def make_questions(count: int, offsets: np.ndarray, truth: np.ndarray) -> Questions:
    """Make questions of which only the truth matters."""
    return Questions(*[np.arange(count)] * 3, offsets, truth)


def test_a_single_truth() -> None:
    questions = make_questions(3, np.arange(4), np.array([5, 6, 7]))
    weight = np.full(10, 0.25)
    twelfth = [0, 1, 2, 3, 4, 5, 8, 9, 0, 0, 0, 7]
    scores = figures.score_lists(padded([5, 1], [1, 6], twelfth), questions, weight)
    assert scores["ndcg_10"] == pytest.approx([ONE, TWO, 0.0])
    assert scores["hr_20"].tolist() == [1, 1, 1]
    assert scores["mrr"] == pytest.approx([1, 1 / 2, 1 / 12])
    assert scores["ipw"] == pytest.approx([ONE / 4, TWO / 4, 0.0])


def test_a_truth_of_several_items() -> None:
    questions = make_questions(2, np.array([0, 2, 5]), np.array([5, 6, 1, 2, 3]))
    weight = np.array([0, 0.5, 0.1, 0.2, 0, 0.5, 1.0])
    scores = figures.score_lists(padded([6, 0, 5], [0, 0]), questions, weight)
    assert scores["ndcg_10"] == pytest.approx([(ONE + THREE) / (ONE + TWO), 0.0])
    assert scores["hr_20"].tolist() == [1, 0]
    assert scores["ipw"] == pytest.approx([ONE + THREE * 0.5, 0.0])
    ideal = figures.ideal_ipw(questions, weight)
    assert ideal == pytest.approx([ONE + TWO * 0.5, 0.5 + TWO * 0.2 + THREE * 0.1])


def test_an_empty_place_is_no_hit_of_the_question_before() -> None:
    questions = make_questions(2, np.arange(3), np.array([9, 0]))
    assert not figures.find_hits(padded([1], []), questions).any()


def make_log() -> Log:
    """Make a log of four training and six test rows.

    Of items 0 to 4 the last is new, and 1 does not count.
    """
    item = np.array([0, 0, 1, 2, 0, 2, 3, 4, 1, 0])
    ts = np.concatenate([np.arange(4), np.arange(4, 10) * HOUR])
    people = np.array(["a", "b", "c"])
    person = np.array([0, 1, 2, 0, 0, 1, 2, 0, 1, 2])
    items = np.array([str(code) for code in range(5)])
    cut = Cut(0, 4 * HOUR, 10 * HOUR)
    return Log(ts, person, person, item, item != 1, people, items, 4, cut)


def test_weights_are_of_the_training_part_alone() -> None:
    assert figures.item_weights(make_log()) == pytest.approx([1 / 3, 1, 1 / 2, 1, 1])


def test_judging_means_seeds_and_finds_what_was_chosen() -> None:
    log = make_log()
    questions = Questions.before(log, np.array([4, 7]), np.arange(3), np.array([0, 4]))
    lists = {OURS: [padded([0], [4]), padded([1], [1])], "clicked_1h": [padded([0], [0])]}
    judged = figures.compute_list_metrics(log, questions, lists, [np.array([1.0, 0.0]), np.array([1.0, 1.0])])
    assert judged.person.tolist() == ["a", "a"]
    assert judged.hour.tolist() == [0, 3]
    assert judged.values[OURS]["ndcg_10"] == pytest.approx([0.5, 0.5])
    assert judged.values[OURS]["candidate_recall"] == pytest.approx([1.0, 0.5])
    assert judged.test_items.tolist() == [0, 2, 3, 4]
    pooled = figures.pool_metrics([judged])
    results = pooled["results"]
    assert results[OURS]["ndcg_10"] == 0.5
    assert results[OURS]["ndcg_10_ipw"] == pytest.approx(0.5)
    assert results["clicked_1h"]["ndcg_10_ipw"] == pytest.approx((1 / 3) / (1 / 3 + 1))
    assert results[OURS]["coverage_10"] == pytest.approx((2 / 4 + 0) / 2)
    assert pooled["gains"]["clicked_1h"]["ndcg_10"] == 0.0
    assert pooled["best_baseline"] == "clicked_1h"


def test_cuts_are_pooled_by_question_and_person() -> None:
    values = {OURS: {"ndcg_10": np.array([1.0, 0.0]), "ipw": np.array([1.0, 0.0])}}
    top = {OURS: [np.array([[0], [1]])]}
    person, hour = np.array(["a", "b"]), np.array([0, 1])
    part = ListMetrics(person, hour, np.ones(2), values, top, np.array([0, 1]))
    other = {OURS: {"ndcg_10": np.array([1.0, 1.0]), "ipw": np.array([1.0, 1.0])}}
    more = ListMetrics(person, hour, np.ones(2), other, top, np.array([0, 1]))
    assert figures.pool_values([part, more], OURS, "ndcg_10").tolist() == [1, 0, 1, 1]


def test_intervals_hold_the_mean_of_people_and_narrow_with_their_number() -> None:
    rng = np.random.default_rng(0)

    def width(people: int) -> float:
        resampling = Resampling(np.repeat(np.arange(people), 2))
        value, draws = resampling.mean(np.repeat(rng.random(people), 2))
        interval = figures.with_interval("mean", value, draws)
        assert interval["mean_low"] < value < interval["mean_high"]
        return interval["mean_high"] - interval["mean_low"]

    assert width(400) == pytest.approx(width(100) / 2, rel=0.3)


def test_coverage_counts_each_chosen_item_once() -> None:
    top = np.array([[1, 2, -1], [2, 9, -1]])
    value, draws = Resampling(np.array([0, 1])).coverage(top, np.array([1, 2, 5, 7]))
    assert value == 0.5
    assert ((draws >= 0) & (draws <= 1)).all()


def test_the_ratio_to_the_best_is_compared_by_hour() -> None:
    hour = np.array([0, 1, 2, 5, 20, 21, 22, 23])
    ours = np.array([0.4, 0.4, 0.4, 9.0, 0.1, 0.1, 0.1, 0.1])
    values = {OURS: {"ndcg_10": ours}, "best": {"ndcg_10": np.full(8, 0.2)}}
    person = np.array(list("abcdefgh"))
    part = ListMetrics(person, hour, np.ones(8), values, {}, np.zeros(0, np.int64))
    hours = figures.metrics_by_hour([part], "best")
    assert (hours["early"], hours["late"], hours["late_over_early"]) == (2.0, 0.5, 0.25)
    assert hours["hours"][3] == {"hour": 6, "questions": 1, OURS: 9.0, "best": 0.2}
