"""The exploration benchmark on a tiny site without a model: what each rate shows."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra deep")
from benchmarks.quality.exploration import ask_questions, compare
from benchmarks.quality.product.simulated import World, prepare


@pytest.mark.slow
def test_no_budget_shows_no_explored_item_and_the_declared_one_shows_some(tmp_path: Path) -> None:
    world = World(users=120, items=150, days=2, live=1, questions=60)
    prepared = prepare(tmp_path / "site", world)
    lists = ask_questions(prepared, Path(prepared.project_facts["root"]), seed=7)
    none, declared, twice = lists.values()
    assert (none.items >= 0).all()
    assert not none.is_explored.any()
    assert 0 < declared.is_explored.sum() < twice.is_explored.sum()
    # Nothing but the explored places differs, so that the reward's difference is what they cost.
    np.testing.assert_array_equal(declared.items[~declared.is_explored], none.items[~declared.is_explored])
    figures = compare(world, prepared, lists)
    assert [each["rate"] for each in figures] == list(lists)
    assert figures[0]["cost"]["value"] == 0.0
    assert all(each["reward"]["value"] > 0 for each in figures)
