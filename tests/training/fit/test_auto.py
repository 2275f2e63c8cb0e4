"""Comparison by `auto`: the formula as each model would be served, not raw outputs of heads."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from tailorbird.events import DAY, HOUR
from tailorbird.training.dataset.codes import IdVocabulary
from tailorbird.training.dataset.dataset import Dataset
from tailorbird.training.evaluation.metrics import ndcg, rank_lists
from tailorbird.training.fit.architecture import _validation_gain
from tailorbird.training.fit.heads import FitInputs, FittedHeads

pytestmark = pytest.mark.slow

REQUESTS, LENGTH = 3_000, 10
WORTH = {"click": 1.0, "purchase": 5.0}


@dataclass
class FixedScores:
    """A head's model that reads its output from a column."""

    column: int
    scale: float = (
        0.0  # of the order that is told in place of a probability; 0 tells the probability
    )

    def score(self, matrix):
        chance = matrix[:, self.column].astype(np.float64)
        return self.scale * (np.log(chance) - np.log1p(-chance)) if self.scale else chance


def ground():
    """Rows whose columns are the true chances of a click and of a purchase, over ten days."""
    rng = np.random.default_rng(0)
    n = REQUESTS * LENGTH
    chances = 1 / (1 + np.exp(-rng.normal((-1.5, -3.0), 1.2, (n, 2))))
    labels = {head: rng.random(n) < chances[:, place] for place, head in enumerate(WORTH)}
    t, each = np.sort(rng.integers(0, 10 * DAY, REQUESTS)), np.arange(REQUESTS)
    codes = IdVocabulary(pa.array([f"i{k}" for k in range(REQUESTS)]))
    of_requests = (t, t, each, pa.table({"x": each}), np.arange(REQUESTS + 1) * LENGTH)
    validation = Dataset(
        *of_requests,
        np.zeros(n, np.int64),
        np.zeros(n, np.int32),
        np.ones(n),
        labels,
        np.ones(n),
        codes,
        codes,
    )
    matrix, encoder = chances.astype(np.float32), SimpleNamespace(names=("click", "purchase"))
    return FitInputs(
        encoder,
        matrix,
        matrix,
        matrix,
        validation,
        validation,
        labels,
        tuple(WORTH),
        WORTH,
        0,
        HOUR,
    )


def made(architecture, scales=(0.0, 0.0)):
    heads = {head: FixedScores(place, scales[place]) for place, head in enumerate(WORTH)}
    return FittedHeads(
        architecture,
        SimpleNamespace(names=("click", "purchase")),
        heads,
        {},
        {},
        0.0,
        not any(scales),
    )


def test_orders_without_a_scale_are_calibrated_before_heads_are_added():
    """Trees told to learn an order tell it on whatever scale; with the same chances behind it they
    would be served as the net is.
    """
    here, net, trees = ground(), made("mmoe"), made("gbdt", (8.0, 0.2))
    assert abs(_validation_gain(here, net, trees).value) < 0.001
    gain, offsets = here.validation.gain(WORTH), here.validation.offsets
    added = [
        sum(
            WORTH[head] * score for head, score in each.score(here.validation_served_matrix).items()
        )
        for each in (net, trees)
    ]
    by_chances, by_orders = (np.nanmean(ndcg(rank_lists(value, gain, offsets))) for value in added)
    assert by_chances - by_orders > 0.01, "as they come they cannot be added"


def test_a_more_informative_head_gains():
    here = ground()
    blind = made("gbdt", (8.0, 0.2))
    blind.model_by_head["purchase"] = FixedScores(0, 0.2)
    gain = _validation_gain(here, made("mmoe"), blind)
    assert gain.low > 0.01
