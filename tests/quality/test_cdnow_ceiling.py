"""The ceiling of CDNOW: a model is right on the mean in its own world, and more knowledge helps."""

import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmarks.quality.pages.leaving_page import _ceiling_section
from benchmarks.quality.parts.cdnow_ceiling import compute_ceilings, draw_bg_nbd, draw_pareto_nbd, format_ceilings

from tailorbird.models.btyd import BgNbd
from tailorbird.training.tasks.churn.pareto import ParetoNbd

MODELS = [(BgNbd(0.25, 233.0, 0.75, 2.2, 0.0), draw_bg_nbd), (ParetoNbd(0.6, 81.0, 0.55, 68.0, 0.0), draw_pareto_nbd)]
SPAN = 273.0


@pytest.mark.parametrize(("model", "draw"), MODELS)
def test_a_model_is_right_on_the_mean_in_its_own_world(model, draw):
    rng = np.random.default_rng(5)
    population = draw(model, rng.uniform(180, 273, 60_000), SPAN, rng)
    for expected, chance in (
        (population.expected, population.chance),
        (model.expected_purchases(population.history, SPAN), model.probability_returning(population.history, SPAN)),
    ):
        for rows_ in (population.history.repeats == 0, population.history.repeats > 0):
            assert expected[rows_].mean() == pytest.approx(population.later[rows_].mean(), rel=0.05)
            assert chance[rows_].mean() == pytest.approx((population.later[rows_] > 0).mean(), rel=0.05)


def test_who_knows_more_does_better(tmp_path):
    rng = np.random.default_rng(6)
    population = draw_pareto_nbd(MODELS[1][0], np.full(1_500, 250.0), 1.0, rng)
    begin, rows = datetime.date(1997, 1, 1), []
    for customer, (repeats, last) in enumerate(zip(population.history.repeats, population.history.recency, strict=True)):
        days = [0.0, *(rng.uniform(0, last, int(max(repeats - 1, 0)))), *([last] if repeats else [])]
        rows += [{"customer_id": customer, "date": begin + datetime.timedelta(days=int(day))} for day in days]
    rows.append({"customer_id": 0, "date": begin + datetime.timedelta(days=299)})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "transactions.parquet")
    ceilings = compute_ceilings(tmp_path, calibration_days=125, holdout_days=125, populations=1)
    assert [(row["model"], row["fitted_to"]) for row in ceilings][::2] == [("BG/NBD", "39 weeks"), ("Pareto/NBD", "39 weeks")]
    for row in ceilings:
        assert row["parameters"]["auc"] > row["posterior"]["auc"] > 0.6
        assert row["parameters"]["mae"] < row["posterior"]["mae"]
    assert len(format_ceilings(ceilings).splitlines()) == 1 + 3 * len(ceilings)
    assert len(_ceiling_section(ceilings, "cdnow")[1].splitlines()) == 2 + 3 * len(ceilings)
