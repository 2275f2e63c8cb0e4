"""Conversion and calibration as triggers: young responses are corrected, a true fall is found."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tailorbird.events import DAY, HOUR
from tailorbird.monitoring import RetrainCriteria, decide_from_steps
from tailorbird.monitoring.conversions import mirror_steps, outcome_steps, promised_steps
from tailorbird.monitoring.figures.delays import BUCKETS, delay_buckets
from tailorbird.monitoring.figures.report import slot_delays

START, REQUESTS = 1_790_553_600_000_000, 20
CONVERSION = RetrainCriteria("home", "v1", period=DAY, fall=0.25, measure="conversion")


def draw_cells(rates, *, ctr_by_day, seed=0):
    """Cells of an hour each, counted after the last day; conversions come a day later on average."""
    rng, now, rows = np.random.default_rng(seed), START + len(rates) * DAY, []
    for hour in range(24 * len(rates)):
        minute = START + hour * HOUR
        delays = rng.exponential(DAY, rng.binomial(REQUESTS, rates[hour // 24]))
        delays = delays[delays < now - minute].astype(np.int64)
        known = float(len(delays))
        clicks = {"predicted_clicks": 10.0}
        clicks["scored_clicks"] = float(rng.binomial(REQUESTS, ctr_by_day[hour // 24]))
        counts = np.bincount(delay_buckets(delays), minlength=BUCKETS)
        cell = {"minute": minute, "slot": "home", "requests": float(REQUESTS), "counted_at": now}
        cell |= {"conversions": known, "revenue": 20.0 * known, "delays": counts.tolist()}
        rows.append(cell | clicks)
    return pa.Table.from_pylist(rows)


def judge(cells, criteria):
    delays = slot_delays(cells)["home"]
    minute, border = pc.field("minute"), START + 2 * DAY
    reference = outcome_steps({"v1": cells.filter(minute < border)}, criteria, delays)
    watched = outcome_steps({"v1": cells.filter(minute >= border)}, criteria, delays)
    return decide_from_steps(reference, watched, criteria)


@pytest.mark.parametrize("measure", ["conversion", "revenue"])
def test_conversions_that_are_still_to_come_are_no_fall(measure):
    steady = draw_cells([0.3] * 9, ctr_by_day=[0.5] * 9)
    halved = draw_cells([0.3] * 6 + [0.15] * 3, ctr_by_day=[0.5] * 9)
    criteria = replace(CONVERSION, measure=measure)
    assert judge(steady, criteria).since is None
    decision = judge(halved, criteria)
    assert decision.since == START + 6 * DAY
    assert decision.metric_name == measure
    naive = steady["conversions"].to_numpy()[-24:].sum() / (24 * REQUESTS)
    assert naive < 0.75 * 0.3, "as they are counted, they fell"


def test_clicks_are_compared_with_what_the_scores_promise():
    criteria = replace(CONVERSION, measure="calibration")
    ctr = [0.5] * 6 + [0.25] * 3
    for clicks, expected in ((ctr, [True, False]), ([0.9] * 9, [False, True])):
        cells = draw_cells([0.3] * 9, ctr_by_day=clicks)
        steps = outcome_steps({"v1": cells}, criteria, slot_delays(cells)["home"])
        decisions = [
            decide_from_steps(promised_steps(each), each, criteria)
            for each in (steps, mirror_steps(steps))
        ]
        assert [decision.should_retrain for decision in decisions] == expected
