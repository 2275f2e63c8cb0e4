"""Online Retail II: which recent customers will not order in the next 90 days.

python -m benchmarks.quality.retail [--data PATH] [--small] [--json]
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.quality.leaving import Case, Plan, main
from tailorbird.events import DAY
from tailorbird.training.tasks.churn.labels import Window

WINDOW_DAYS, STEP_DAYS, WINDOW_COUNT, JUDGED_COUNT = 90, 30, 9, 5


def prepare(source: Path, target: Path) -> None:
    """Write one order, and one return, for each customer and day.

    Lines without a customer or a price, and corrections of stock, are left out.
    """
    lines = pq.read_table(source / "transactions.parquet")
    is_return = pc.starts_with(lines["invoice"], "C")
    is_valid = pc.and_(pc.is_valid(lines["customer_id"]), pc.greater(lines["unit_price"], 0))
    is_valid = pc.and_(is_valid, pc.or_(is_return, pc.greater(lines["quantity"], 0)))
    amount = pc.abs(pc.multiply(lines["unit_price"], lines["quantity"].cast(pa.float64())))
    lines = lines.append_column("type", pc.if_else(is_return, "return", "purchase")).append_column(
        "amount", amount
    )
    lines = lines.append_column("units", pc.abs(lines["quantity"].cast(pa.int64()))).append_column(
        "day", lines["ts"].cast(pa.date32())
    )
    aggregations = [
        ("ts", "min"),
        ("amount", "sum"),
        ("units", "sum"),
        ("units", "count"),
        ("country", "first"),
    ]
    days = (
        lines.filter(is_valid)
        .group_by(["customer_id", "day", "type"], use_threads=False)
        .aggregate(aggregations)
    )
    names = {
        "ts_min": "ts",
        "amount_sum": "amount",
        "units_sum": "units",
        "units_count": "lines",
        "country_first": "country",
    }
    days = days.rename_columns(names).append_column("what", pa.array(["order"] * len(days)))
    days = days.append_column("one", pa.array([1] * len(days)))
    pq.write_table(
        days.sort_by([("ts", "ascending"), ("customer_id", "ascending")]), target / "orders.parquet"
    )


def plan_windows(first: int, end: int) -> Plan:
    """Return nine windows, 30 days apart; the last five are reported."""
    last = end - WINDOW_DAYS * DAY
    return Plan(
        tuple(
            Window(last - k * STEP_DAYS * DAY, 0, WINDOW_DAYS * DAY)
            for k in range(WINDOW_COUNT - 1, -1, -1)
        ),
        JUDGED_COUNT,
    )


CASE = Case(
    name="retail",
    title="Online Retail II: which customers of a gift wholesaler will not order within 90 days?",
    folder="online-retail",
    prepare=prepare,
    plan=plan_windows,
    protocol=(
        "Asked at five origins, 30 days apart, about everybody who ordered within a year; "
        "`ap` is of ordering again, `ap_gone` of leaving.",
        "At each origin models, calibration and the choice of the model know nothing that came "
        "later. The blend, the forgetting of old origins and the columns were decided on earlier "
        "origins (to January 2011). But the rules of choosing and calibrating were changed twice "
        "after these five had been seen.",
        "Windows of neighbouring origins overlap by 60 days: the five are no five "
        "independent tests.",
        "Baselines: recency; a regression on recency, frequency, age and amount, learned at "
        "the newest origin whose window is over; "
        "BG/NBD as P(at least one purchase) and in the order of expected purchases.",
    ),
    expected={"SELECT count(DISTINCT person) FROM events WHERE type = 'purchase'": 5_281},
)

if __name__ == "__main__":
    main(CASE)
