"""Columns that were told the answer are named whichever way it shows, and honest ones are not."""

import numpy as np
import pytest

from tailorbird.training.backtests.leaks import find_target_leakage
from tailorbird.training.leakage.columns import (
    find_dominant_columns,
    find_leaking_columns,
    order_auc,
)

ROWS = 20_000


@pytest.fixture
def world():
    rng = np.random.default_rng(0)
    label = rng.random(ROWS) < 0.05
    return rng, label, rng.normal(size=ROWS) + 0.3 * label


def leaking_columns(columns, label):
    """Return the leaking columns by training and by validation."""
    matrix = np.stack(list(columns.values()), axis=1).astype(np.float32)
    return set(find_leaking_columns(tuple(columns), matrix, label)), {
        one.subject for one in find_target_leakage(tuple(columns), matrix, label, "click")
    }


def test_a_planted_leak_is_named_whichever_way_it_shows():
    rng = np.random.default_rng(2)
    label = rng.random(5_000) < 0.1
    matrix = rng.normal(size=(5_000, 4)).astype(np.float32)
    matrix[:, 1] = label + rng.normal(0, 0.1, 5_000)
    matrix[:, 2] = np.where(label, 1.0, np.nan)  # filled in only after the fact
    matrix[:, 3] = -label.astype(np.float32)
    leaking = find_leaking_columns(["honest", "session_size", "paid_at", "inverse"], matrix, label)
    assert set(leaking) == {"session_size", "paid_at", "inverse"}
    assert "AUC of 1.000" in leaking["paid_at"]
    assert not find_leaking_columns(["honest"], matrix[:, :1], np.zeros(5_000))


def test_the_answer_in_the_middle_of_a_column_is_named(world):
    rng, label, honest = world
    often = rng.random(ROWS) < 0.5
    columns = {
        "honest": honest,
        "zero": np.where(label, 0.0, rng.choice([-1, 1], ROWS) * rng.uniform(1, 5, ROWS)),
        "category": np.where(
            label, 4, np.where(often, rng.integers(2, 4, ROWS), rng.integers(5, 31, ROWS))
        ),
        "rare category": np.where(
            label, 300, np.where(often, rng.integers(2, 40, ROWS), rng.integers(301, 5_000, ROWS))
        ),
        "band": np.where(label, rng.uniform(2.95, 3.05, ROWS), rng.uniform(0, 10, ROWS)),
    }
    trained, validated = leaking_columns(columns, label)
    assert trained == validated == set(columns) - {"honest"}


def test_columns_far_ahead_are_named_alone_and_in_groups(world):
    rng, label, honest = world
    strong = rng.normal(size=ROWS) + 2.4 * label
    assert 0.93 < order_auc(strong.astype(np.float32), label) < 0.96
    zero = np.where(label, 0.0, rng.choice([-1, 1], ROWS) * rng.uniform(1, 5, ROWS))
    middle = np.where(label, 4, rng.integers(5, 31, ROWS))
    for other_columns in (
        {},
        {"copy": 2 * strong + 0.1 * rng.normal(size=ROWS)},
        {"zero": zero, "middle": middle},
    ):
        columns = {
            "honest": honest,
            "weak": rng.normal(size=ROWS) + 0.6 * label,
            "strong": strong,
            **other_columns,
        }
        assert leaking_columns(columns, label)[1] == {"strong", *other_columns}


@pytest.mark.parametrize("positives", [2, 4, 10, 40])
def test_noise_is_not_named_however_few_positives_there_are(positives):
    rng = np.random.default_rng(1)
    label = np.zeros(2_000, bool)
    label[rng.choice(2_000, positives, replace=False)] = True
    made = {
        "number": lambda: rng.normal(size=2_000),
        "code": lambda: rng.integers(0, 500, 2_000),
        "of a request": lambda: np.repeat(rng.normal(size=100), 20),
    }
    columns = {f"{kind} {place}": make() for kind, make in made.items() for place in range(40)}
    matrix = np.stack(list(columns.values()), axis=1).astype(np.float32)
    assert [
        why for why in find_leaking_columns(tuple(columns), matrix, label).values() if "bins" in why
    ] == []


def test_a_family_of_honest_columns_is_not_named():
    assert find_dominant_columns(
        {"clicks_1d": 0.84, "clicks_7d": 0.85, "clicks_28d": 0.83, "price": 0.6}
    ) == ([], 0.0)
    assert find_dominant_columns({"clicks_1d": 0.84, "price": 0.75}) == ([], 0.0)
    assert find_dominant_columns({"one": 0.9}) == ([], 0.0)
