"""How long a canary takes at which margin, and the default that `init` derives."""

from pathlib import Path

import numpy as np
import pytest

from tailorbird.experiments.statistics import Moments, always_valid_uplift
from tailorbird.monitoring.canary import CANARY_SHARES, GUARD_RAILS
from tailorbird.monitoring.canary_plan import (
    DISPERSION,
    MARGINS,
    POWER,
    choose_margin,
    count_clicks,
    plan_canary,
)

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "monitor.md"


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_so_many_clicks_exclude_the_fall_as_often_as_planned(share):
    margin = 0.15
    rng = np.random.default_rng(7)
    clicks_each = 5.0
    people = int(count_clicks(margin, share) / clicks_each)
    level = 1.0 - (1.0 - GUARD_RAILS.level) / len(CANARY_SHARES)
    passed = 0
    for _ in range(400):
        # Negative binomial counts have the planned variance relative to independent clicks.
        clicks = rng.negative_binomial(clicks_each / (DISPERSION - 1), 1 / DISPERSION, people)
        seen = np.full(people, 50.0)
        border = int(people * share)
        uplift = always_valid_uplift(
            Moments.from_totals(clicks[:border], seen[:border]),
            Moments.from_totals(clicks[border:], seen[border:]),
            level=level,
        )
        passed += uplift.low > -margin
    # The plan takes the bound at 5,000 people, and simulates nothing: it may be off by this much.
    assert POWER - 0.1 < passed / 400 < POWER + 0.1


def test_more_traffic_never_needs_a_wider_margin():
    margins = []
    for clicks in (100, 1_000, 3_000, 30_000, 300_000, 3_000_000):
        plan = choose_margin(clicks, clicks)
        margins.append(1.0 if plan is None else plan.margin)
    assert margins == sorted(margins, reverse=True)
    assert margins[0] == 1.0
    assert margins[-1] == MARGINS[0]


def test_a_busy_site_begins_with_few_people():
    quiet = plan_canary(0.1, 2, clicks_a_day=20_000, answers_a_day=100_000)
    busy = plan_canary(0.1, 2, clicks_a_day=1_000_000, answers_a_day=5_000_000)
    assert quiet is not None
    assert busy is not None
    assert busy.share < quiet.share
    assert busy.days <= 1.0


def test_too_few_answers_are_no_canary():
    assert plan_canary(0.3, 2, clicks_a_day=1e6, answers_a_day=100) is None


def test_the_table_in_the_docs_is_the_plan():
    page = PAGE.read_text()
    for margin in MARGINS:
        cells = " | ".join(f"{count_clicks(margin, share):,.0f}" for share in CANARY_SHARES)
        assert f"| {margin * 100:.0f} % | {cells} |" in page
