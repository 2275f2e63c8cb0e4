"""Runs that are drawn from replayed contexts tell the true value of policies that did not log."""

import numpy as np
import pyarrow as pa
import pytest
from benchmarks.quality.off_policy_site import ESTIMATORS, evaluate_pair, judge_estimates
from benchmarks.quality.parts.off_policy_log import ContextReader, Contexts, draw_log, policy_table

from tailorbird.events import DAY
from tailorbird.experiments.off_policy.evaluate import Estimate
from tailorbird.ranking import Explore
from tailorbird.ranking.policy.slate_distribution import PlackettLuce, slate_distribution
from tailorbird.simulator import Site
from tailorbird.training.dataset.codes import IdVocabulary
from tailorbird.training.dataset.dataset import Dataset
from tailorbird.training.evaluation.slates import ReplayedResponse

SIZE, ITEMS, REQUESTS, PEOPLE = 3, 8, 400, 100
EXPLORE = Explore(method="plackett_luce", first=1, pool=ITEMS - SIZE, temperature=1.0, share=0.5)
NAMES = ("champion", "bundle")


def distribution(values: np.ndarray) -> PlackettLuce:
    made = slate_distribution(np.argsort(-values), SIZE, EXPLORE, values)
    assert isinstance(made, PlackettLuce)
    return made


@pytest.fixture(scope="module")
def contexts() -> Contexts:
    rng = np.random.default_rng(5)
    site = Site(3, users=PEOPLE, items=50, days=4, new_users_per_day=0.0)
    appeal = site.taste.appeal(1.0)[:ITEMS]
    responses, slates, propensities = [], [], []
    for request in range(REQUESTS):
        noise = rng.normal(size=(2, ITEMS))
        values = {"champion": noise[0], "bundle": appeal + 0.1 * noise[1]}
        policies = {name: distribution(each) for name, each in values.items()}
        slates.append(policies["champion"].draw(rng))
        propensities.append(policies["champion"].propensities(slates[-1])[0])
        predicted = dict.fromkeys(NAMES, np.full(ITEMS, 0.1))
        responses.append(ReplayedResponse(request, np.arange(ITEMS), policies, predicted))
    rows = REQUESTS * SIZE
    data = Dataset(
        site.start + rng.integers(DAY, 2 * DAY, REQUESTS),
        np.zeros(REQUESTS, np.int64),
        rng.integers(0, PEOPLE, REQUESTS),
        pa.table({}),
        np.arange(REQUESTS + 1) * SIZE,
        np.concatenate(slates).astype(np.int64),
        np.tile(np.arange(SIZE, dtype=np.int32) + 1, REQUESTS),
        np.concatenate(propensities),
        {},
        np.ones(rows),
        IdVocabulary(pa.array([f"u{number:06d}" for number in range(PEOPLE)])),
        IdVocabulary(pa.array([f"i{number:05d}" for number in range(ITEMS)])),
    )
    reader = ContextReader(data, NAMES, site, (SIZE, ITEMS - SIZE), seed=1)
    for response in responses:
        reader.add(response)
    return reader.contexts()


def test_a_table_has_the_propensities_of_every_slate() -> None:
    policy = distribution(np.random.default_rng(1).normal(size=ITEMS))
    table = policy_table(policy)
    np.testing.assert_allclose(table.sum(axis=0), 1.0, atol=1e-4)
    for places in ([0, 1, 2], [4, 0, 7]):
        told = policy.propensities(policy.pool[places])[0]
        np.testing.assert_allclose(table[places, range(SIZE)], told, rtol=1e-9)


def test_runs_tell_the_value_of_a_policy_that_did_not_log(contexts: Contexts) -> None:
    assert contexts.reproduced_share == 1.0
    assert contexts.left_out == 0
    np.testing.assert_allclose(contexts.unsupported_share, 0.0, atol=1e-4)
    champion, bundle = contexts.values
    assert bundle > 1.05 * champion > 0
    drawn = draw_log(contexts, 3_000, np.random.default_rng(2))
    np.testing.assert_array_equal(drawn.weight[0], 1.0)
    evaluation = evaluate_pair(drawn, (1, 0), seed=3)
    for name in set(ESTIMATORS) - {"dm", "clipped", "switch_dr", "dros"}:
        for value, truth in ((evaluation.new, bundle), (evaluation.old, champion)):
            assert abs(value[name].value - truth) < 4 * value[name].error
    difference = evaluation.difference["dr"]
    assert abs(difference.value - (bundle - champion)) < 4 * difference.error < 2 * bundle


def test_a_refused_estimate_counts_for_no_coverage() -> None:
    estimates = [Estimate("dr", 1.0, 0.9, 1.1, 0.05), Estimate("dr", 1.2, 1.1, 1.3, 0.05)]
    refused = Estimate("dr", np.nan, np.nan, np.nan, np.nan, "too little")
    figures = judge_estimates([*estimates, refused], truth=1.0)
    assert figures is not None
    assert figures["coverage"]["n"] == 2
    assert figures["coverage"]["value"] == 0.5
    assert figures["bias"]["value"] == pytest.approx(0.1)
    assert figures["interval_score"] == pytest.approx(0.2 + 40 * 0.1 / 2)
    assert judge_estimates([refused], truth=1.0) is None
