"""Simulated site: a log reveals tastes, and better knowledge gives better lists."""

import numpy as np
import pytest
from benchmarks.quality.learnable import measure_rewards, simulate_days

pytest.importorskip("torch", reason="needs the extra deep")
from benchmarks.quality.parts.learnable_taste import infer_taste, known_taste, unknown_taste

from tailorbird.simulator import Site

pytestmark = pytest.mark.slow

DAYS, USERS, ITEMS = 12, 300, 200


@pytest.fixture(scope="module")
def site():
    return Site(3, users=USERS, items=ITEMS, days=DAYS + 1)


@pytest.fixture(scope="module")
def log(site):
    return simulate_days(site, DAYS)


def test_what_was_seen_is_in_order_and_of_the_past_alone(site, log):
    seen, searches, requests, query = log
    for rows in (seen, searches):
        assert (np.diff(rows["user"]) >= 0).all()
        assert (np.diff(rows["day"])[np.diff(rows["user"]) == 0] >= 0).all()
    assert len(requests["user"]) == len(query)
    user, day = np.array([int(seen["user"][0])]), np.array([seen["day"][0]])
    nothing = infer_taste(site, seen, searches, user, day)
    np.testing.assert_allclose(nothing.own_taste, 0.0, atol=1e-2)
    np.testing.assert_allclose(nothing.variance, unknown_taste(site, user).variance, rtol=1e-4)


def test_the_posterior_finds_the_tastes_of_who_was_seen_often(site, log):
    seen, searches, _, _ = log
    user = np.argsort(-np.bincount(seen["user"], minlength=site.users.count))[:60]
    day = np.full(60, float(DAYS))
    estimated, true = (
        np.einsum("tu,utc->uc", np.stack([np.cos(angle), np.sin(angle)]), taste.own_taste)
        for angle in [site.users.drift[user] * DAYS]
        for taste in (infer_taste(site, seen, searches, user, day), known_taste(site, user, np.zeros((60, 12))))
    )
    assert np.corrcoef(estimated.ravel(), true.ravel())[0, 1] > 0.4
    assert (infer_taste(site, seen, searches, user, day).variance <= unknown_taste(site, user).variance * (1 + 1e-6)).all()


def test_who_knows_more_shows_better_lists(monkeypatch):
    from benchmarks.quality import learnable

    monkeypatch.setattr(learnable, "USERS", USERS)
    monkeypatch.setattr(learnable, "ITEMS", ITEMS)
    figures = measure_rewards(3, DAYS, 200)
    means = [figures[name].mean() for name in ("popular_7d", "kind", "learner", "lasting", "oracle")]
    assert means == sorted(means)
    assert (figures["oracle"] >= np.maximum.reduce([figures[name] for name in ("kind", "learner", "lasting")]) - 1e-12).all()
