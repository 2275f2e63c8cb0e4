"""Examination by place is found again where the policy exchanged what stood on the places, by
whatever method, and only there.
"""

import numpy as np
import pytest

from tailorbird.errors import UsageError
from tailorbird.ranking import Explore, Slot
from tailorbird.ranking.policy.exploration import draw_slate, draw_uniform_slate
from tailorbird.training.fit.examination import click_weights, estimate_examination

TRUE = np.array([1.0, 0.7, 0.5, 0.2])
EXAMINED = np.array([1.0, 0.8, 0.65, 0.5, 0.4, 0.3])  # of the lists that the policy itself explores
ITEM = Explore(method="item", rate=0.4, pool=10, first=1)


def swap(first, rate=0.3):
    return Explore(method="swap", rate=rate, first=first)


def plackett_luce(temperature):
    return Explore(method="plackett_luce", rate=1.0, first=1, pool=4, temperature=temperature)


def logged(rows: int, seed: int = 0, *, randomised: float = 0.3):
    """Lists of a policy that puts its best item first, and with some chance any item anywhere."""
    rng = np.random.default_rng(seed)
    quality = np.array([0.6, 0.3, 0.2, 0.1])  # of four items, of which the policy knows the order
    position = np.tile(np.arange(1, 5), rows // 4)
    item = np.where(rng.random(rows) < randomised, rng.integers(0, 4, rows), position - 1)
    propensity = randomised / 4 + (1 - randomised) * (item == position - 1)
    clicked = rng.random(rows) < TRUE[position - 1] * quality[item]
    return position, clicked, propensity, np.repeat(np.arange(rows // 4), 4)


def explored(explores, answers, *, size=6, candidates=14, seed=0, see=None):
    """Answers as the policy makes them of a good ranking, one exploration after the other; None
    draws evenly, `see` how many are seen.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(answers):
        explore = explores[number * len(explores) // answers]
        quality = np.sort(rng.beta(1, 4, candidates))[::-1]
        order = np.arange(candidates)
        choice = (
            draw_uniform_slate(candidates, size, rng)
            if explore is None
            else draw_slate(order, size, explore, rng, quality)
        )
        seen = size if see is None else int(rng.integers(see, size + 1))
        clicked = rng.random(seen) < EXAMINED[:seen] * quality[choice.items[:seen]]
        rows.append(
            (np.arange(1, seen + 1), clicked, choice.propensities[:seen], np.full(seen, number))
        )
    return tuple(np.concatenate(column) for column in zip(*rows, strict=True))


def naive(position, clicked):
    rate = np.array([clicked[position == place].mean() for place in range(1, len(EXAMINED) + 1)])
    return rate / rate[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("explores", "answers", "off"),
    [
        pytest.param([swap(1), swap(2)], 60_000, 0.06, id="swap"),
        pytest.param([swap(2, 0.5), swap(1, 0.2)], 60_000, 0.06, id="swap at two rates"),
        pytest.param([plackett_luce(0.3)], 8_000, 0.06, id="plackett_luce"),
        pytest.param(
            [plackett_luce(0.2)], 8_000, 0.1, id="plackett_luce, the least that is enough"
        ),
        pytest.param([None], 24_000, 0.06, id="evenly"),
        pytest.param([ITEM, swap(1), None, swap(2)], 40_000, 0.06, id="one after the other"),
    ],
)
def test_examination_is_recovered_from_exploration(explores, answers, off):
    position, clicked, propensity, request = explored(explores, answers)
    np.testing.assert_allclose(
        estimate_examination(position, clicked, propensity, request).chance_by_position,
        EXAMINED,
        atol=off,
    )
    if None not in explores:
        assert naive(position, clicked)[5] < 0.2, (
            "rates by place alone confuse what is looked at with what is good"
        )


@pytest.mark.slow
def test_pairs_are_recognised_among_seen_rows():
    position, clicked, propensity, request = explored([swap(1), swap(2)], 60_000, see=3)
    np.testing.assert_allclose(
        estimate_examination(position, clicked, propensity, request).chance_by_position,
        EXAMINED,
        atol=0.06,
    )


def test_pairs_that_do_not_overlap_say_nothing_about_each_other():
    with pytest.raises(
        UsageError, match="no answer could have exchanged what stood on places 2 and 3, 4 and 5"
    ) as refused:
        estimate_examination(*explored([swap(1)], 3_000))
    assert "first=2, so that the pairs overlap" in refused.value.fix
    with pytest.raises(UsageError, match="on the first place was never drawn"):
        estimate_examination(*explored([swap(2)], 3_000))
    examined = estimate_examination(*explored([swap(1)], 6_000, size=2))
    np.testing.assert_allclose(examined.chance_by_position, EXAMINED[:2], atol=0.06)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("explore", "answers", "message"),
    [
        pytest.param(
            plackett_luce(0.1),
            4_000,
            r"weigh [3-7]\.\d in the mean, and would weigh ([89]|1\d)\.\d",
            id="weak items never stand first",
        ),
        pytest.param(
            plackett_luce(0.01),
            2_000,
            r"weigh [12]\.\d in the mean, and would weigh 6\.0",
            id="each stands at its own place",
        ),
        pytest.param(
            swap(1, 0.0002),
            3_000,
            "in the mean, and would weigh 2.0",
            id="hardly any pair is exchanged",
        ),
    ],
)
def test_a_place_where_items_never_stood_is_refused(explore, answers, message):
    """Else the curve would be nearly that of rates by place, in which what is looked at is mixed up
    with what is good.
    """
    with pytest.raises(
        UsageError, match=rf"place \d of drawn lists hardly ever had the items.*{message}"
    ) as refused:
        estimate_examination(
            *explored([explore], answers, size=2 if explore.method == "swap" else 6)
        )
    assert "temperature=0.3" in refused.value.fix


def test_answers_with_fewer_candidates_are_no_missing_items():
    """Of a short list from few and a long one from many: its first places have fewer items in the
    mean, and each of those stood there.
    """
    short, long = (
        explored([None], 9_000, size=3, candidates=4),
        explored([None], 9_000, size=6, candidates=30, seed=1),
    )
    shifted = (*long[:3], long[3] + 9_000)
    examined = estimate_examination(
        *(np.concatenate(both) for both in zip(short, shifted, strict=True))
    )
    np.testing.assert_allclose(examined.chance_by_position, EXAMINED, atol=0.07)


@pytest.mark.parametrize("pool", [1, 10])
def test_other_items_on_one_place_say_nothing_about_places(pool):
    with pytest.raises(UsageError, match="no two places can be compared") as refused:
        estimate_examination(
            *explored([Explore(method="item", rate=0.4, pool=pool, first=1)], 3_000)
        )
    assert 'Explore(method="plackett_luce", first=1, rate=1, temperature=0.3' in refused.value.fix


def test_where_little_was_seen_of_answers_that_say_nothing_the_fix_is_no_more_of_them():
    """Of one row behind the first nothing shows that it was explored by `item`, whose first place
    would say as little.
    """
    rows = explored([Explore(method="item", rate=0.4, pool=10, first=2)], 3_000, size=2)
    with pytest.raises(UsageError, match="on the first place was never drawn") as refused:
        estimate_examination(*rows)
    assert 'Explore(method="swap", first=1)' in refused.value.fix
    assert 'Explore(method="plackett_luce", first=1' in refused.value.fix


def test_what_the_errors_ask_for_can_be_declared():
    Slot("home", explore=Explore(method="plackett_luce", first=1, rate=1, temperature=0.3))
    Slot("home", explore=Explore(method="swap", first=2))


def test_examination_is_separated_from_relevance() -> None:
    position, clicked, propensity, request = logged(200_000)
    np.testing.assert_allclose(
        estimate_examination(position, clicked, propensity, request).chance_by_position,
        TRUE,
        atol=0.05,
    )
    raw = np.array([clicked[position == place].mean() for place in range(1, 5)])
    assert raw[3] / raw[0] < 0.1, "rates by place alone confuse the two"


def test_weights_are_bounded_and_only_clicks_are_weighted() -> None:
    examined = estimate_examination(*logged(50_000))
    position = np.array([1, 4, 4, 99])
    weights = click_weights(examined, position, np.array([1, 1, 0, 1]), weight_max=3.0)
    np.testing.assert_allclose(weights, [1.0, 3.0, 1.0, 3.0])
    assert click_weights(examined, position, np.array([1, 1, 0, 1]))[1] == pytest.approx(
        1 / 0.2, rel=0.3
    )


def test_a_place_that_hardly_anybody_clicked_is_as_the_one_before_it() -> None:
    position, clicked, propensity, request = logged(20_000)
    clicked[position == 4] = False
    examined = estimate_examination(position, clicked, propensity, request)
    assert examined.chance_by_position[3] == examined.chance_by_position[2]
    assert np.all(np.diff(examined.chance_by_position) <= 0)


def test_without_randomisation_there_is_nothing_to_learn_from() -> None:
    position, clicked, _, request = logged(1_000)
    with pytest.raises(UsageError, match="no logged row was drawn at random"):
        estimate_examination(position, clicked, np.ones(1_000), request)
    with pytest.raises(UsageError, match="only 0 clicks on the first place"):
        estimate_examination(position, np.zeros(1_000), np.full(1_000, 0.5), request)
    with pytest.raises(
        UsageError, match="on the first place was never drawn"
    ):  # as by Explore(), which begins with the second
        estimate_examination(position, clicked, np.where(position == 1, 1.0, 0.25), request)
