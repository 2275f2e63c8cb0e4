"""Assignment: fixed vectors that an upgrade must not move, shares, independence, and traffic left
free.
"""

from collections import Counter

import pytest

from tailorbird.errors import DeclarationError
from tailorbird.experiments import Experiment, assign
from tailorbird.experiments.distributions import chi_square_tail

HALVES = Experiment("home-model", arms={"popular": 0.5, "model": 0.5})
RESALTED = Experiment("home-model", arms={"popular": 0.5, "model": 0.5}, salt="second")
PARTIAL = Experiment("search-order", arms={"a": 0.2, "b": 0.3, "c": 0.1})
PEOPLE = [f"u{number:06d}" for number in range(20_000)]

VECTORS = [  # computed once; never to be computed anew
    ("u1", "popular", "model", "a"),
    ("u2", "model", "popular", ""),
    ("u3", "model", "popular", "c"),
    ("u000001", "popular", "popular", "b"),
    ("anon:7f3a", "popular", "popular", ""),
    ("äöü", "popular", "popular", "a"),
    ("", "popular", "model", "a"),
    ("user/with/slash", "model", "model", "a"),
    ("42", "popular", "popular", ""),
    ("u42", "model", "popular", "c"),
]


@pytest.mark.parametrize(("person", "halves", "resalted", "partial"), VECTORS)
def test_no_person_is_moved_by_an_upgrade(person, halves, resalted, partial):
    assert (assign(HALVES, person), assign(RESALTED, person), assign(PARTIAL, person)) == (
        halves,
        resalted,
        partial,
    )


@pytest.mark.parametrize(
    "experiment", [HALVES, RESALTED, PARTIAL], ids=["halves", "resalted", "partial"]
)
def test_the_shares_are_the_declared_ones(experiment):
    counts = Counter(assign(experiment, person) for person in PEOPLE)
    declared = {**experiment.arms, "": 1 - sum(experiment.arms.values())}
    for arm, share in declared.items():
        tolerance = (
            4 * (len(PEOPLE) * share * (1 - share)) ** 0.5
        )  # four standard errors of a binomial
        assert abs(counts[arm] - len(PEOPLE) * share) <= tolerance + 1e-6


def test_experiments_with_different_salts_are_independent():
    table = Counter((assign(HALVES, person), assign(RESALTED, person)) for person in PEOPLE)
    rows, columns = Counter(), Counter()
    for (row, column), count in table.items():
        rows[row] += count
        columns[column] += count
    expected = {
        (row, column): rows[row] * columns[column] / len(PEOPLE)
        for row in rows
        for column in columns
    }
    x = sum((table[cell] - mean) ** 2 / mean for cell, mean in expected.items())
    assert chi_square_tail(x, 1) > 0.001


def test_the_salt_is_the_name_by_default():
    named = Experiment("another", arms=HALVES.arms, salt="home-model")
    assert [assign(named, person) for person in PEOPLE[:200]] == [
        assign(HALVES, person) for person in PEOPLE[:200]
    ]


def test_more_traffic_for_the_last_arm_moves_no_person_out_of_an_arm():
    wider = Experiment(PARTIAL.name, arms={"a": 0.2, "b": 0.3, "c": 0.5})
    for person in PEOPLE[:2_000]:
        before, after = assign(PARTIAL, person), assign(wider, person)
        assert after == (before or "c")


def test_the_control_is_the_first_arm_by_default():
    assert HALVES.control_arm == "popular"
    assert (
        Experiment("e", arms={"popular": 0.5, "model": 0.5}, control="model").control_arm == "model"
    )
    with pytest.raises(DeclarationError, match="is no arm"):
        Experiment("e", arms={"popular": 1.0}, control="model")


@pytest.mark.parametrize("arms", [{}, {"a": 0.0}, {"a": -0.1, "b": 0.5}, {"a": 0.6, "b": 0.5}])
def test_shares_that_cannot_be_are_refused(arms):
    with pytest.raises(DeclarationError, match="shares above 0"):
        Experiment("e", arms=arms)
