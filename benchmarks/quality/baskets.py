"""The Complete Journey: what a household puts into its next basket, the products it always buys and the new ones alike.

python -m benchmarks.quality.baskets [--data PATH] [--small] [--json]
"""

from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.quality.running import Case, fewer, main
from tailorbird.events import DAY
from tailorbird.training.clicks import Scheme
from tailorbird.training.indexes import IndexSettings
from tailorbird.training.settings import TrainSettings

TRANSACTIONS = "transactions.parquet"


def settings(low: int, high: int) -> TrainSettings:
    """The last four weeks are judged, the two before them watched, half a year before these learned from."""
    return TrainSettings(
        window_us=182 * DAY,
        lateness_us=0,
        scheme=Scheme(
            type="purchase", truth="session", popular_window=7 * DAY, refresh=DAY, item_to_item=200, own_history=500, repeats=True
        ),
        requests=15_000,
        test_requests=4_000,
        validation_from=high - 42 * DAY,
        test_from=high - 28 * DAY,
        index=IndexSettings(memory_us=91 * DAY),
        index_every_us=28 * DAY,
        windows={"1d": DAY, "7d": 7 * DAY, "28d": 28 * DAY, "ever": None},
    )


def trim(source: Path, target: Path) -> None:
    """Every eighth household."""
    table = pq.read_table(source / TRANSACTIONS)
    few = pc.equal(pc.bit_wise_and(table["household_id"], 7), 0)
    pq.write_table(table.filter(few), target / TRANSACTIONS)
    for name in ("products.parquet", "demographics.parquet"):
        (target / name).write_bytes((source / name).read_bytes())


CASE = Case(
    name="baskets",
    title="The Complete Journey: what goes into a household's next basket?",
    folder="complete-journey",
    import_=("mapping", "--mapping", "{project}/mapping.toml"),
    settings=settings,
    small=lambda settings: fewer(settings, requests=2_000, test=600),
    trim=trim,
    protocol=(
        "One request before each basket of the last four weeks; all its products are the truth, bought before or not.",
        "The data are said to be simulated from real shopping patterns: realistic, and no evidence of an effect.",
    ),
    expected={
        "SELECT count(*) FROM events WHERE type = 'purchase'": 1_469_307,
        "SELECT count(*) FROM items": 92_331,
        "SELECT count(DISTINCT person) FROM events WHERE type = 'purchase'": 2_469,
        "SELECT count(DISTINCT session_id) FROM events WHERE type = 'purchase'": 155_848,
    },
)

if __name__ == "__main__":
    main(CASE)
