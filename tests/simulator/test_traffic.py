"""Days of traffic at once: what they share with live traffic, and that good lists bring people
back.
"""

import numpy as np
import pytest

from tailorbird.simulator import Site
from tailorbird.simulator.behaviour import SEEN_DEPTHS, draw_seen_count
from tailorbird.simulator.population import new_population
from tailorbird.simulator.traffic import draw_reactions, draw_requests, draw_visits, list_pleasures


def live_through(site, lists, days, seed=0):
    """Requests, clicks and how many left, when everybody is shown `lists(requests, available)` for
    some days.
    """
    rng, population = np.random.default_rng(seed), new_population(site.users)
    request_counts, clicks, expected = [], 0, 0.0
    for day in range(days):
        available = site.items.list_available(float(day))
        visits = draw_visits(rng, site.users, population, day, day % 7)
        requests = draw_requests(rng, visits, site.taste, None, available)
        items = lists(requests, available)
        outcome = draw_reactions(rng, site.taste, None, requests, items)
        at = (site.start + requests.day * 86_400e6).astype(np.int64)
        shown = [[f"i{item:05d}" for item in row] for row in items.tolist()]
        expected += site.truth.expected(requests.user.tolist(), shown, at).clicks.sum()
        clicks += outcome.click.sum()
        request_counts.append(len(requests.user))
        population.update_satisfaction(requests.user, list_pleasures(site.taste, items, outcome))
        population.remove_leavers(rng, np.unique(visits.user))
    return request_counts, clicks, expected, population


@pytest.fixture(scope="module")
def lives():
    site = Site(seed=2, users=900, items=300, new_users_per_day=0)
    rng = np.random.default_rng(1)

    def best(requests, available):
        utility = site.taste.utility(requests.user, available, requests.day)
        return available[np.argsort(-utility, axis=1)[:, :12]]

    def poor(requests, available):
        return available[rng.integers(0, len(available), (len(requests.user), 12))]

    return live_through(site, best, 14), live_through(site, poor, 14)


@pytest.mark.slow
def test_good_lists_bring_people_back_and_poor_ones_drive_them_away(lives):
    (good, _, _, pleased), (poor, _, _, disappointed) = lives
    assert sum(good[7:]) > 1.2 * sum(poor[7:])
    assert pleased.has_left.sum() < disappointed.has_left.sum()
    assert pleased.satisfaction.mean() > 0 > disappointed.satisfaction.mean()


def test_clicks_are_as_many_as_the_truth_expects(lives):
    for _, clicks, expected, _ in lives:
        assert abs(clicks - expected) < 4 * np.sqrt(expected)


def test_depths_are_drawn_with_their_chances():
    device = np.zeros(20_000, np.int64)
    seen = draw_seen_count(np.random.default_rng(0), device, 12)
    shares = [(seen == min(depth, 12)).mean() for depth in SEEN_DEPTHS]
    assert shares == pytest.approx([0.40, 0.28, 0.32], abs=0.015)


def test_newcomers_come_on_the_day_they_join():
    site = Site(seed=2, users=100, items=100, new_users_per_day=20, days=5)
    visits = draw_visits(np.random.default_rng(0), site.users, new_population(site.users), 2, 0)
    new = np.flatnonzero((site.users.joined_day > 2) & (site.users.joined_day < 3))
    assert set(new) <= set(visits.user)
    assert (visits.start >= site.users.joined_day[visits.user]).all()
