"""The simulated site: it is reproducible, its baselines are decent, its truth is what it draws
from, and its tastes move.
"""

from itertools import islice

import numpy as np
import pytest

from tailorbird.events import DAY, HOUR
from tailorbird.simulator import DefectRates, Site

AT = 15 * DAY + 14 * HOUR


@pytest.fixture(scope="module")
def site():
    return Site(seed=5, users=1_500, items=900)


def lists_of(site, at, n=400, seed=0):
    """Lists of twelve for n users by four policies that know more or less."""
    rng = np.random.default_rng(seed)
    day = (at - site.start) / DAY
    users = rng.choice(np.flatnonzero(site.users.joined_day < day), n, replace=False).tolist()
    available = site.items.list_available(day)
    newest = available[np.argsort(-site.items.arrival_day[available])[:12]]
    lists = {
        "random": [
            [f"i{item:05d}" for item in rng.choice(available, 12, replace=False)] for _ in users
        ],
        "recent": [[f"i{item:05d}" for item in newest]] * n,
        "popular": [site.truth.most_appealing_list(at)] * n,
        "best": [site.truth.best_list(user, at) for user in users],
    }
    return users, lists


def click_rates(site, at):
    users, lists = lists_of(site, at)
    expectations = {
        name: site.truth.expected(users, shown, [at] * len(users)) for name, shown in lists.items()
    }
    return {
        name: expected.clicks.sum() / expected.seen.sum() for name, expected in expectations.items()
    }


@pytest.mark.parametrize("seed", [5, 6])
def test_baselines_are_decent_and_knowing_everything_is_no_miracle(seed):
    site = Site(seed=seed, users=1_500, items=1_500)
    rate = click_rates(site, site.start + AT)
    assert 1.3 < rate["recent"] / rate["random"] < 3
    assert 2 < rate["popular"] / rate["random"] < 4.5
    assert 1.35 < rate["best"] / rate["popular"] < 2
    assert 0.01 < rate["random"] < 0.04


def test_the_same_seed_makes_the_same_history_and_another_another():
    def start_of(seed):
        return list(islice(Site(seed=seed, users=60, items=100).history(days=2), 900))

    assert start_of(1) == start_of(1)
    assert start_of(1) != start_of(2)


def test_position_matters_and_only_through_being_seen_and_examined(site):
    at = site.start + AT
    best, rest = (
        site.truth.best_list(3, at, size=12)[0],
        site.truth.most_appealing_list(at, size=40)[-11:],
    )
    first, last = [best, *rest], [*rest, best]
    assert site.truth.expected_clicks(3, first, at) > site.truth.expected_clicks(3, last, at)
    assert site.truth.expected([3], [first], [at]).seen == pytest.approx(
        site.truth.expected([3], [last], [at]).seen
    )


def test_truth_uses_ids_numbers_and_queries(site):
    at, items = site.start + AT, site.truth.most_appealing_list(site.start + AT)
    assert site.truth.expected_clicks("u000003", items, at) == site.truth.expected_clicks(
        3, items, at
    )
    assert site.truth.expected_clicks("anon:a000003", items, at) == site.truth.expected_clicks(
        3, items, at
    )
    word = site.items.titles[int(items[0][1:])].split()[-1].lower()
    clicks_expected = site.truth.expected_clicks(3, items[:1], at, query=word)
    assert (
        clicks_expected
        > site.truth.expected_clicks(3, items[:1], at)
        > site.truth.expected_clicks(3, items[:1], at, query="spaceship")
    )


def test_lists_of_different_lengths_are_judged_each_for_itself(site):
    at, items = site.start + AT, site.truth.most_appealing_list(site.start + AT)
    both = site.truth.expected([3, 4], [items[:5], items], [at, at])
    assert both.clicks[0] == pytest.approx(site.truth.expected_clicks(3, items[:5], at))
    assert both.clicks[1] == pytest.approx(site.truth.expected_clicks(4, items, at))


def test_items_out_of_stock_are_not_bought(site):
    at = site.start + AT
    sold_out = np.setdiff1d(
        np.flatnonzero(site.items.arrival_day < 15), site.items.list_available(AT / DAY)
    )
    assert len(sold_out) > 10
    ids = [f"i{item:05d}" for item in sold_out[:12].tolist()]
    assert site.truth.expected_purchases(3, ids, at) == 0
    assert site.truth.expected_clicks(3, ids, at) > 0


def test_a_shift_makes_old_knowledge_worth_less_than_popularity_loses():
    site = Site(seed=7, users=1_500, items=900)
    at = site.start + AT
    users, lists = lists_of(site, at)

    def lift():
        best, popular = (
            site.truth.expected(users, lists[name], [at] * len(users)).clicks.sum()
            for name in ("best", "popular")
        )
        return best / popular - 1

    before = lift()
    site.shift_tastes(at - HOUR, strength=0.7)
    assert lift() < before / 3
    assert (
        click_rates(site, at)["best"] / click_rates(site, at)["popular"] > 1.35
    )  # there is as much to learn as before


def test_a_shift_changes_nothing_before_it_and_nothing_at_strength_zero(site):
    other = Site(seed=5, users=1_500, items=900)
    at, items = site.start + AT, site.truth.most_appealing_list(site.start + AT)
    other.shift_tastes(at + HOUR, strength=1.0)
    assert other.truth.expected_clicks(3, items, at) == site.truth.expected_clicks(3, items, at)
    still = Site(seed=5, users=1_500, items=900)
    still.shift_tastes(at - HOUR, strength=0.0)
    # Novelty and thrift too stay as they were: the new era is drawn, and then not mixed in.
    assert still.truth.expected_clicks(3, items, at) == pytest.approx(
        site.truth.expected_clicks(3, items, at)
    )


def test_shifts_must_ascend(site):
    other = Site(seed=5, users=50, items=50)
    other.shift_tastes(other.start + 2 * DAY)
    with pytest.raises(ValueError, match="after the last shift"):
        other.shift_tastes(other.start + DAY)


def test_tastes_drift_slowly(site):
    at = site.start + AT
    day, user = np.full(200, AT / DAY), np.arange(200)
    era = site.taste.eras[0]
    now, soon, later = (site.taste.lasting_taste(user, day + days, era) for days in (0, 1, 60))
    assert np.corrcoef(now.ravel(), soon.ravel())[0, 1] > 0.99
    assert np.corrcoef(now.ravel(), later.ravel())[0, 1] < 0.9
    assert at > site.start


def test_titles_can_be_searched_and_read():
    site = Site(seed=1, users=10, items=300)
    matches = site.search_box.find_items("rain coat")
    assert len(matches)
    assert all("rain coat" in site.items.titles[item].lower() for item in matches)
    assert all(title[0].isupper() and 2 < len(title.split()) < 7 for title in site.items.titles)


def test_without_dirt_nothing_is_injected():
    history = Site(seed=1, users=60, items=100).history(days=1, defects=DefectRates.none())
    events = sum(1 for _ in history)
    assert events == history.injected.events
    assert (
        history.injected.malformed_total
        == history.injected.duplicates
        == history.injected.late
        == history.injected.bot
        == 0
    )
