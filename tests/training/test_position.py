"""Examination by place is found again where the policy drew at random, and only there."""

import numpy as np
import pytest

from tailorbird.errors import UsageError
from tailorbird.training.position import click_weights, examination

TRUE = np.array([1.0, 0.7, 0.5, 0.2])


def logged(rows: int, seed: int = 0, *, randomised: float = 0.3):
    """Lists of a policy that puts its best item first, and with some chance any item anywhere."""
    rng = np.random.default_rng(seed)
    quality = np.array([0.6, 0.3, 0.2, 0.1])  # of four items, of which the policy knows the order
    position = rng.integers(1, 5, rows)
    item = np.where(rng.random(rows) < randomised, rng.integers(0, 4, rows), position - 1)
    propensity = randomised / 4 + (1 - randomised) * (item == position - 1)
    clicked = rng.random(rows) < TRUE[position - 1] * quality[item]
    return position, clicked, propensity


def test_what_is_looked_at_is_told_apart_from_what_is_good() -> None:
    position, clicked, propensity = logged(200_000)
    np.testing.assert_allclose(examination(position, clicked, propensity).chance, TRUE, atol=0.05)
    raw = np.array([clicked[position == place].mean() for place in range(1, 5)])
    assert raw[3] / raw[0] < 0.1, "rates by place alone confuse the two"


def test_weights_are_bounded_and_rows_without_a_click_keep_theirs() -> None:
    found = examination(*logged(50_000))
    position = np.array([1, 4, 4, 99])
    weights = click_weights(found, position, np.array([1, 1, 0, 1]), cap=3.0)
    np.testing.assert_allclose(weights, [1.0, 3.0, 1.0, 3.0])
    assert click_weights(found, position, np.array([1, 1, 0, 1]))[1] == pytest.approx(1 / 0.2, rel=0.3)


def test_a_place_that_hardly_anybody_clicked_is_as_the_one_before_it() -> None:
    position, clicked, propensity = logged(20_000)
    clicked[position == 4] = False
    found = examination(position, clicked, propensity)
    assert found.chance[3] == found.chance[2]
    assert np.all(np.diff(found.chance) <= 0)


def test_without_randomisation_there_is_nothing_to_learn_from() -> None:
    position, clicked, _ = logged(1_000)
    with pytest.raises(UsageError, match="no logged row was drawn at random"):
        examination(position, clicked, np.ones(1_000))
    with pytest.raises(UsageError, match="only 0 clicks on the first place"):
        examination(position, np.zeros(1_000), np.full(1_000, 0.5))
    with pytest.raises(UsageError, match="on the first place was never drawn"):  # as by Explore(), which begins with the second
        examination(position, clicked, np.where(position == 1, 1.0, 0.5))
