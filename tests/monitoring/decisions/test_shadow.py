"""Decisions on a shadow from the scores, failures and times in the response log."""

import numpy as np
import pyarrow as pa
import pytest

from tailorbird.monitoring.decisions.shadow import RESPONSE_COLUMNS, judge_shadow

COUNT = 600
SCORES = [0.1, 0.4, 0.2, 0.9]


def build_responses(champion, shadow, *, count=COUNT, shadow_us=900, version="v0002"):
    rows = {
        "values": [champion] * count,
        "shadow": [version] * count,
        "shadow_scores": [shadow] * count,
        "shadow_us": [shadow_us] * count,
        "champion_us": [800] * count,
        "latency_us": [5_000 + 800 + shadow_us] * count,
    }
    table = pa.table(rows).select(RESPONSE_COLUMNS)
    for name in ("values", "shadow_scores"):
        index = table.schema.get_field_index(name)
        table = table.set_column(index, name, table[name].cast(pa.list_(pa.float64())))
    return table


def judge(*tables, is_overdue=False):
    return judge_shadow(pa.concat_tables(tables), "v0002", is_overdue=is_overdue)


def test_it_waits_for_answers_until_its_time_is_over():
    few = build_responses(SCORES, SCORES, count=499)
    others = build_responses(SCORES, SCORES, version="v0003")
    assert judge(few, others).reason == "499 of 500 answers scored"
    assert judge(few, others).action == "wait"
    assert judge(few, is_overdue=True).action == "pass"


def test_one_in_the_same_order_passes_and_its_figures_are_told():
    verdict = judge(build_responses(SCORES, [2.0 * score + 1.0 for score in SCORES]))
    assert verdict.action == "pass"
    assert verdict.agreement == pytest.approx(1.0)
    assert (verdict.scored, verdict.shadow_ms, verdict.champion_ms) == (COUNT, 0.9, 0.8)
    assert "rank correlation with the champion +1.00" in verdict.reason


@pytest.mark.parametrize(
    ("tables", "reason"),
    [
        ([build_responses(SCORES, [1.0, float("nan")] * 2, count=1)], "is not finite"),
        (
            [build_responses(SCORES, SCORES), build_responses(SCORES, [], count=7)],
            "failed 7 of 607 answers",
        ),
        ([build_responses(SCORES, [-score for score in SCORES])], "rank correlation -1.00"),
        ([build_responses(SCORES, SCORES, shadow_us=3_400)], "it takes 3.40 ms"),
    ],
)
def test_one_that_is_worse_is_ended_and_the_reason_reported(tables, reason):
    verdict = judge(*tables)
    assert verdict.action == "end"
    assert reason in verdict.reason


def test_one_that_no_server_scores_is_ended_when_its_time_is_over():
    unscored = build_responses(SCORES, SCORES, version="v0003")
    assert judge(unscored).action == "wait"
    verdict = judge(unscored, is_overdue=True)
    assert (verdict.action, verdict.scored) == ("end", 0)
    assert "servers refuse it" in verdict.reason


def test_equal_scores_of_the_champion_have_no_order_to_turn_round():
    """Trees give many items one score; their order in the answer says nothing."""
    tied, shadow = [0.1] * 7 + [0.2], [0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.8]
    verdict = judge(build_responses(tied, shadow))
    assert verdict.action == "pass"
    assert verdict.agreement == pytest.approx(np.sqrt(1 / 3))


@pytest.mark.parametrize(("champion", "shadow"), [([0.5] * 4, SCORES), (SCORES, [0.5] * 4)])
def test_answers_of_one_value_are_left_out(champion, shadow):
    verdict = judge(build_responses(champion, shadow))
    assert verdict.action == "pass"
    assert np.isnan(verdict.agreement)
    with_order = build_responses(SCORES, SCORES, count=10)
    assert judge(build_responses(champion, shadow), with_order).agreement == pytest.approx(1.0)
