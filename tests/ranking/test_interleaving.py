"""A draft's propensities are the frequencies of what it shows, and each position is fair."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailorbird.ranking.policy.interleaving import NO_TEAM, TeamDraft


class Coins:
    """Plays a sequence of coins as a generator's integers, and counts how many were used."""

    def __init__(self, coins: tuple[int, ...]) -> None:
        self.coins, self.used = coins, 0

    def integers(self, sides: int) -> int:
        if sides == 1:
            return 0
        self.used += 1
        return self.coins[self.used - 1]


def enumerate_drafts(draft: TeamDraft, rounds: int) -> dict[tuple, float]:
    """Return the probability of each slate with its teams, over all sequences of coins."""
    drafts: dict[tuple, float] = {}
    for coins in product((0, 1), repeat=rounds):
        played = Coins(coins)
        items, teams = draft.draw_picks(played)  # type: ignore[arg-type]
        key = (tuple(items.tolist()), teams)
        drafts[key] = drafts.get(key, 0.0) + 0.5**rounds
    return drafts


@st.composite
def drafts(draw) -> tuple[TeamDraft, int]:
    """Draw two rankings that share some items, a size, and a limit for each kind of item."""
    count = draw(st.integers(1, 9))
    rankings = [
        np.array(draw(st.permutations(range(count)))[: draw(st.integers(0, count))], np.intp)
        for _ in range(2)
    ]
    kinds = np.array(draw(st.lists(st.integers(-1, 2), min_size=count, max_size=count)), np.int64)
    limits = [(kinds, draw(st.integers(1, 3)))] if draw(st.booleans()) else []
    size = draw(st.integers(1, 7))
    return TeamDraft(*rankings, size, limits), size


@settings(max_examples=150, deadline=None)
@given(drafts())
def test_propensities_are_exact(case: tuple[TeamDraft, int]) -> None:
    draft, size = case
    slates: dict[tuple, float] = {}
    fair = np.zeros((size, 2))
    for (items, teams), chance in enumerate_drafts(draft, size).items():
        assert len(set(items)) == len(items) <= size
        slates[items] = slates.get(items, 0.0) + chance
        for position, team in enumerate(teams):
            if team != NO_TEAM:
                fair[position, team] += chance
    np.testing.assert_allclose(fair[:, 0], fair[:, 1])
    for items in slates:
        marginal, joint = draft.propensities(np.array(items, np.intp))
        for position in range(len(items)):
            expected = sum(
                chance
                for other, chance in slates.items()
                if len(other) > position and other[position] == items[position]
            )
            assert marginal[position] == pytest.approx(expected)
            down = items[: position + 1]
            expected = sum(
                chance for other, chance in slates.items() if other[: position + 1] == down
            )
            assert joint[position] == pytest.approx(expected)


def test_limits_hold_and_what_breaks_them_comes_last_in_no_team() -> None:
    kinds = np.array([0, 0, 0, 0, 1, 1])
    draft = TeamDraft(np.array([0, 1, 2, 4]), np.array([3, 2, 1, 5]), 6, [(kinds, 2)])
    for seed in range(20):
        slate = draft.draft(np.random.default_rng(seed))
        assert (kinds[slate.items[:4]] == 0).sum() == 2
        assert sorted(slate.teams[:4]) == [0, 0, 1, 1]
        assert slate.teams[4:] == (NO_TEAM, NO_TEAM)


def test_an_item_that_is_no_candidate_has_no_propensity() -> None:
    draft = TeamDraft(np.array([0, 1, 2]), np.array([1, 0, 3]), 4)
    marginal, joint = draft.propensities(np.array([0, 9, -1, 3, 4]))
    assert marginal[[1, 2, 4]].tolist() == [0.0, 0.0, 0.0]
    assert joint.tolist() == [0.5, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.slow
def test_frequencies_of_drafts_agree_with_logged_propensities() -> None:
    rng, draws, size = np.random.default_rng(3), 200_000, 6
    order = np.random.default_rng(1)
    draft = TeamDraft(order.permutation(8), order.permutation(8), size)
    count, logged = np.zeros((size, 8)), np.zeros((size, 8))
    for _ in range(draws):
        slate = draft.draft(rng)
        at = np.arange(size)
        count[at, slate.items] += 1
        logged[at, slate.items] = slate.propensities
    tolerance = 5 * np.sqrt(logged * (1 - logged) / draws) + 1e-12
    assert (np.abs(count / draws - logged) <= tolerance).all()
    np.testing.assert_allclose(logged.sum(axis=1), 1.0)
