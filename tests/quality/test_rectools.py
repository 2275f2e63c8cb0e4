"""Questions of both sides of the comparison with RecTools, on a tiny log."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from benchmarks.quality import rectools
from benchmarks.quality.pages import rectools_page
from benchmarks.quality.product.log import Log, Questions
from benchmarks.quality.product.sets import MOVIELENS, Cut
from benchmarks.quality.rectools import Case

ITEMS = [f"i{number}" for number in range(25)]


@pytest.fixture
def case() -> Case:
    """Return a case: person 0 had items 3, 1 and 3 before the cut; person 1 comes after it.

    One row has no item.
    """
    item = np.array([3, 1, -1, 3, 2, 4, 5])
    person = np.array([0, 0, 0, 0, 1, 0, 1])
    ts, none = np.arange(7), np.full(7, -1)
    log = Log(ts, person, none, item, np.ones(7, bool), np.array(["a", "b"]), np.array(ITEMS), 4, Cut(0, 4, 7))
    questions = Questions.before(log, np.array([4, 5, 6]), np.arange(4), np.array([2, 4, 5]))
    return Case(MOVIELENS, Path(), log, questions, Path())


def test_a_question_knows_the_rows_of_its_person_before_it(case: Case) -> None:
    rows, offsets = case.histories()
    assert [rows[low:high].tolist() for low, high in pairwise(offsets)] == [[], [0, 1, 3], [4]]


def test_who_has_no_answer_gets_what_is_popular_without_what_was_had(case: Case) -> None:
    lists = rectools._most_popular(case, *case.histories())
    assert lists[0, :3].tolist() == [3, 1, 0]
    assert lists[1, :3].tolist() == [0, 2, 4]
    assert lists[2, :3].tolist() == [3, 1, 0]
    assert (lists >= 0).all()


def test_the_section_shows_figures_gain_and_seconds() -> None:
    figures = {"ndcg_10": 0.25, "ndcg_10_low": 0.2, "ndcg_10_high": 0.3, "seconds_fit": 12.4, "us": 99.0}
    case = {
        "cut": "test",
        "train_rows": 1_000,
        "questions": 20,
        "people": 10,
        "results": {"tailorbird": figures, "esasrec": figures},
        "gain": {"ndcg_10": 0.01, "ndcg_10_low": -0.01, "ndcg_10_high": 0.03},
        "esasrec": {"settings": {"n_factors": 50}, "epochs": 8},
    }
    where = {"day": "2026-11-30", "cpu": "a CPU", "cores": "2", "tailorbird": "0.1.0", "lightgbm": "4"}
    result = {
        "benchmark": "rectools",
        "command": "python -m …",
        "revision": "0123456789abcdef",
        "environment": where,
        "seeds": 1,
        "protocol": ["As it is."],
        "versions": {"rectools": "0.19.0"},
        "cases": {"eshop": case},
    }
    assert rectools_page.is_rectools(result)
    section = rectools_page.section(result)
    assert "| **tailorbird** | 0.2500 (0.2000–0.3000) | – | – | – | 12 |" in section
    assert "NDCG@10 +0.0100 (-0.0100 to +0.0300)" in section
    assert "8 epochs, n_factors 50" in section
