"""The benchmark that sets each decision of the loop beside the truth."""

from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.quality.decisions import CAUSE_BY_KIND, MISSED, PLAYED_KINDS, RIGHT, SCALE, WRONG, play_shops, summarise

from tailorbird.events import MINUTE
from tailorbird.monitoring.drift.causes import RUNBOOK_PAGES
from tailorbird.simulator import KINDS

SMALL = replace(SCALE, users=300, items=120, history_days=6, trial_days=1, fall_days_max=1, tick_us=30 * MINUTE)
ROWS = {"gate, first model", "fall", "roll-back"}
NIGHTLY_SHOPS = 40


def test_each_played_kind_is_one_of_the_simulator_and_has_a_cause_that_can_be_named() -> None:
    assert set(PLAYED_KINDS) == set(KINDS)
    assert set(CAUSE_BY_KIND.values()) <= RUNBOOK_PAGES.keys()


def test_wrong_decisions_are_listed_with_the_command_that_repeats_them() -> None:
    def shop(seed: int, verdict: str) -> dict:
        decision = {"name": "fall", "verdict": verdict, "blocks_training": verdict == WRONG}
        return {"seed": seed, "error": "", "decisions": [decision | {"statement": "", "truth": ""}]}

    summary = summarise([shop(1, RIGHT), shop(2, WRONG), shop(3, RIGHT)], ["taste", "none"])
    (row,) = summary["rows"]
    assert (row[RIGHT], row[WRONG], row[MISSED]) == (2, 1, 0)
    assert row["share_right"]["low"] < 2 / 3 < row["share_right"]["high"]
    assert summary["blocked_training"] == 1
    (failure,) = summary["failures"]
    assert failure["command"].endswith("--shops 1 --seed 2 --kinds taste none")


@pytest.mark.slow
def test_a_shop_is_played_to_its_end_and_not_twice(tmp_path: Path) -> None:
    shops = play_shops([3], ["model-change"], tmp_path, SMALL)
    assert not shops[0]["error"], shops[0]["error"]
    decisions = shops[0]["decisions"]
    names = {decision["name"] for decision in decisions}
    assert names >= ROWS
    assert any(name.startswith("interval") for name in names)
    assert {decision["verdict"] for decision in decisions} <= {RIGHT, WRONG, MISSED}
    assert all(decision["statement"] and decision["truth"] for decision in decisions)
    assert shops[0]["incident"]["kind"] == "model-change"
    assert play_shops([3], ["model-change"], tmp_path, SMALL) == shops


@pytest.mark.nightly
@pytest.mark.slow
def test_no_shop_ends_in_a_traceback() -> None:
    summary = summarise(play_shops(range(1, 1 + NIGHTLY_SHOPS), PLAYED_KINDS, None), PLAYED_KINDS)
    assert summary["tracebacks"] == 0, summary["failures"]
