"""CDNOW: who buys again in the 39 weeks after the known 39 weeks, and how often.

python -m benchmarks.quality.cdnow [--data PATH] [--small] [--json] [--ceiling]
"""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.quality.leaving import Case, Plan, main
from benchmarks.quality.parts import cdnow_ceiling
from tailorbird.events import DAY
from tailorbird.training.tasks.churn.labels import Window

CALIBRATION_DAYS, HOLDOUT_DAYS = 273, 273  # days: to 1997-09-30, and to 1998-06-30
POPULATION_COUNT = 20  # drawn, of a model


def prepare(source: Path, target: Path) -> None:
    """Write one purchase for each customer and day, as the paper merges them."""
    table = pq.read_table(source / "transactions.parquet")
    days = table.group_by(["date", "customer_id"], use_threads=False).aggregate(
        [("n_cds", "sum"), ("amount_usd", "sum")]
    )
    days = days.rename_columns({"n_cds_sum": "n_cds", "amount_usd_sum": "amount_usd"})
    days = days.append_column("what", pa.array(["music"] * len(days))).append_column(
        "one", pa.array([1] * len(days))
    )
    pq.write_table(
        days.sort_by([("date", "ascending"), ("customer_id", "ascending")]),
        target / "purchases.parquet",
    )


def compute_ceiling(folder: Path) -> list[dict[str, Any]]:
    """Compute the best possible figures if a model of purchases were true."""
    return cdnow_ceiling.compute_ceilings(
        folder,
        calibration_days=CALIBRATION_DAYS,
        holdout_days=HOLDOUT_DAYS,
        populations=POPULATION_COUNT,
    )


def plan_windows(first: int, end: int) -> Plan:
    """Return three earlier origins that choose and calibrate, and the judged one.

    The earlier origins are at a third, a half and two thirds of the known period.
    """
    assert end - first == (CALIBRATION_DAYS + HOLDOUT_DAYS) * DAY
    earlier = tuple(
        Window(first + day * DAY, 0, CALIBRATION_DAYS // 3 * DAY)
        for day in (CALIBRATION_DAYS // 3, CALIBRATION_DAYS // 2, CALIBRATION_DAYS * 2 // 3)
    )
    origin = first + CALIBRATION_DAYS * DAY
    return Plan((*earlier, Window(origin, 0, HOLDOUT_DAYS * DAY)), 1, learn_until=origin)


CASE = Case(
    name="cdnow",
    title="CDNOW: who buys again from October 1997 to June 1998, and how often, by what was known "
    "at the end of September 1997?",
    folder="cdnow",
    prepare=prepare,
    plan=plan_windows,
    protocol=(
        "All 23,570 people who first bought in the first quarter of 1997; several purchases "
        "of a day are one. `ap` is of buying again.",
        "Nothing after September 1997 taught, chose or calibrated anything. Models learn week "
        "by week (hazards), since no window of 39 weeks could be learned from whole. Models "
        "and calibration are chosen by three windows of 91 days from day 91, 136 and 182.",
        "Baselines: recency; a regression on recency, frequency, age and amount, learned in the "
        "middle of what is known; BG/NBD. BG/NBD stands as P(at least one purchase) and, as "
        "published, in the order of expected purchases (`bg_nbd_count`): .763, .648, MAE .819, "
        "bias −14 %.",
    ),
    expected={
        "SELECT count(*) FROM events": 67_591,
        "SELECT count(DISTINCT person) FROM events": 23_570,
    },
    targets={"auc": 0.775, "ap": 0.660, "mae": 0.80, "bias": 0.05},
    rows=200_000,
    ceiling=compute_ceiling,
    format_ceilings=cdnow_ceiling.format_ceilings,
)

if __name__ == "__main__":
    main(CASE)
