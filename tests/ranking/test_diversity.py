"""Diversity reorders and leaves nothing out."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.ranking import Promotion, Quota
from tailorbird.ranking.policy.diversity import (
    SELF_SIMILARITY,
    SlateConstraints,
    apply_constraints,
    attribute_similarity,
    dpp,
    mmr,
)

groups = st.lists(st.integers(-1, 4), max_size=30)


@given(groups, st.integers(1, 12), st.integers(1, 4))
def test_one_quota_against_a_loop(codes, size, limit):
    taken, rest = [], []
    for item, code in enumerate(codes):
        crowded = code >= 0 and sum(codes[each] == code for each in range(item)) >= limit
        (rest if crowded or len(taken) == size else taken).append(item)
    short = min(size, len(codes)) - len(taken)
    expected = taken + sorted(rest)[:short] + sorted(rest)[max(short, 0) :]
    assert (
        apply_constraints([np.array(codes, int)], [Quota("category", limit)], size).tolist()
        == expected
    )


@given(st.data(), st.integers(1, 8))
def test_several_quotas_against_a_loop(data, size):
    n = data.draw(st.integers(0, 20))
    codes = [
        np.array(data.draw(st.lists(st.integers(-1, 3), min_size=n, max_size=n)), int)
        for _ in range(2)
    ]
    quotas = [
        Quota("brand", data.draw(st.integers(1, 3)), first=data.draw(st.integers(0, 5))),
        Quota("category", data.draw(st.integers(1, 2)), window=data.draw(st.integers(2, 5))),
    ]
    answer = []
    for position in range(min(size, n)):
        rest = [place for place in range(n) if place not in answer]

        def fits(item, position=position):
            windows = [answer, answer[max(0, position - quotas[1].window + 1) :]]
            return all(
                code[item] < 0
                or (quota.first and position >= quota.first)
                or sum(code[each] == code[item] for each in those) < quota.most
                for code, quota, those in zip(codes, quotas, windows, strict=True)
            )

        answer.append(next((place for place in rest if fits(place)), rest[0]))
    assert apply_constraints(codes, quotas, size)[: len(answer)].tolist() == answer
    assert sorted(apply_constraints(codes, quotas, size).tolist()) == list(range(n))


def test_mmr_selects_the_second_best_if_it_is_unlike_the_best():
    similarity = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    values = np.array([1.0, 0.9, 0.5])
    for method in (mmr, dpp):
        assert method(values, similarity, 3, balance=0.5).tolist() == [0, 2, 1]
    assert mmr(values, similarity, 3, balance=1.0).tolist() == [0, 1, 2]
    assert dpp(values, similarity, 3, balance=0.999).tolist() == [0, 1, 2]


@given(st.lists(st.floats(0, 1), max_size=15), st.integers(1, 20), st.floats(0, 0.99))
def test_every_item_is_given_once(values, size, balance):
    similarity = attribute_similarity(
        [np.random.default_rng(0).integers(-1, 3, len(values)) for _ in range(2)]
    )
    for method in (mmr, dpp):
        assert sorted(method(np.array(values), similarity, size, balance=balance).tolist()) == list(
            range(len(values))
        )


@given(groups.filter(len), groups.filter(len), st.integers(0, 1_000))
def test_dpp_selects_what_adds_most_to_the_determinant(first, second, seed):
    n = min(len(first), len(second), 8)
    similarity = attribute_similarity([np.array(first[:n]), np.array(second[:n])])
    assert (np.linalg.eigvalsh(similarity) > -1e-9).all()
    values, balance = np.random.default_rng(seed).random(n), 0.6
    scaled = (values - values.min()) / np.ptp(values) if n > 1 else np.zeros(n)
    quality = np.exp(balance / (2 * (1 - balance)) * scaled)
    kernel = (
        quality[:, None]
        * ((1 - SELF_SIMILARITY) * similarity + SELF_SIMILARITY * np.eye(n))
        * quality[None, :]
    )
    order = dpp(values, similarity, n, balance=balance).tolist()
    for step in range(n):
        determinants = {
            each: np.linalg.det(kernel[np.ix_([*order[:step], each], [*order[:step], each])])
            for each in order[step:]
        }
        assert determinants[order[step]] >= max(determinants.values()) * (1 - 1e-9)


def test_pins_come_where_they_belong_quotas_count_them_and_promotions_have_their_share():
    brands = np.array([0, 0, 0, 1, 1, 2, 0, 2])
    assert apply_constraints([brands], [Quota("brand", 2)], 6, pins={1: 7}).tolist()[:6] == [
        0,
        7,
        1,
        3,
        4,
        5,
    ]
    assert apply_constraints([brands], [Quota("brand", 1)], 4, pins={2: 6}).tolist()[:3] == [
        3,
        5,
        6,
    ], "the pin's brand is taken from the start"
    assert apply_constraints([], [], 3, pins={0: 4, 9: 2}, n=5).tolist() == [4, 0, 1, 2, 3], (
        "a pin behind the end is no pin"
    )
    promoted = np.array([False, False, False, False, True, False, True, True])
    promotion = Promotion("item.sale", 0.5)
    assert apply_constraints([], [], 6, promotions=[promotion], promoted=[promoted]).tolist()[
        :6
    ] == [0, 4, 1, 6, 2, 7]
    assert apply_constraints(
        [brands], [Quota("brand", 2)], 6, promotions=[promotion], promoted=[promoted]
    ).tolist()[:4] == [0, 4, 1, 7]
    assert (
        SlateConstraints([Quota("brand", 1)], [brands], [promotion], [promoted]).count_violations(
            np.array([0, 1, 2])
        )
        == 2 + 2
    )
