"""Formulations of `benchmarks.features_backfill` for other libraries, one function each.

Each gets user ids as text, as events hold them. Windows are tiles in all: from t // hop · hop −
length up to t, with 12 hops a window. A function returns sums in cents, shape (requests, windows),
in the order of the requests, and the seconds that it took without building its input tables.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

TILES = 12
Answer = tuple[np.ndarray, float]


class Work(Protocol):
    @property
    def user(self) -> np.ndarray: ...
    @property
    def ts(self) -> np.ndarray: ...
    @property
    def cents(self) -> np.ndarray: ...
    @property
    def request_user(self) -> np.ndarray: ...
    @property
    def t(self) -> np.ndarray: ...
    def names(self) -> pa.Array: ...


def installed_formulations() -> dict[str, Callable[[Work, Mapping[str, int]], Answer]]:
    """Return the formulations whose package is installed."""
    runners: dict[str, Callable[[Work, Mapping[str, int]], Answer]] = {}
    for package, functions in (
        ("duckdb", (duckdb_join, duckdb_range, duckdb_asof)),
        ("polars", (polars_asof, polars_join)),
        ("feast", (feast,)),
    ):
        try:
            __import__(package)
        except ImportError:
            continue
        runners |= {function.__name__: function for function in functions}
    return runners


def duckdb_join(work: Work, windows: Mapping[str, int]) -> Answer:
    """Join over the longest window, with one filtered sum for each window."""
    sums = ", ".join(
        f"coalesce(sum(e.cents) FILTER (e.ts >= {_window_start('q.t', size)}), 0) AS w{index}"
        for index, size in enumerate(windows.values())
    )
    longest = max(windows.values())
    return _duckdb(
        work,
        f"SELECT {sums} FROM q LEFT JOIN e ON e.user = q.user AND e.ts < q.t "
        f"AND e.ts >= {_window_start('q.t', longest)} GROUP BY q.row ORDER BY q.row",
    )


def duckdb_range(work: Work, windows: Mapping[str, int]) -> Answer:
    """Use a RANGE window for each length over events and requests in one table.

    The start of each window is an expression of the row.
    """
    sums = ", ".join(
        "coalesce(sum(cents) OVER (PARTITION BY user ORDER BY ts RANGE BETWEEN ts - "
        f"({_window_start('ts', size)}) PRECEDING AND 1 PRECEDING), 0) "
        f"AS w{index}"
        for index, size in enumerate(windows.values())
    )
    names = ", ".join(f"w{index}" for index in range(len(windows)))
    both = "SELECT user, ts, cents, NULL AS row FROM e UNION ALL SELECT user, t, NULL, row FROM q"
    return _duckdb(
        work,
        f"SELECT {names} FROM (SELECT row, {sums} FROM ({both})) WHERE row IS NOT NULL ORDER "
        "BY row",
    )


def duckdb_asof(work: Work, windows: Mapping[str, int]) -> Answer:
    """Use one ASOF join over cumulative sums for each edge: now, and the start of each window."""
    edges = ["q.t", *(_window_start("q.t", size) for size in windows.values())]
    joins = [
        "LEFT JOIN (SELECT q.row, c.total FROM q ASOF JOIN c ON c.user = q.user AND c.ts < "
        f"{edge}) j{index} ON j{index}.row = q.row"
        for index, edge in enumerate(edges)
    ]
    sums = ", ".join(
        f"coalesce(j0.total, 0) - coalesce(j{index + 1}.total, 0)" for index in range(len(windows))
    )
    total_of = (
        "CREATE OR REPLACE TEMP TABLE c AS SELECT user, ts, sum(cents) OVER (PARTITION BY "
        "user ORDER BY ts) AS total FROM e"
    )
    return _duckdb(work, f"SELECT {sums} FROM q {' '.join(joins)} ORDER BY q.row", total_of)


def _window_start(t: str, size: int) -> str:
    return f"{t} // {size // TILES} * {size // TILES} - {size}"


def _duckdb(work: Work, query: str, setup: str = "SELECT 1") -> Answer:
    import duckdb

    e, q = _tables(work)
    with duckdb.connect() as connection:
        connection.register("e", e)
        connection.register("q", q)
        started = time.perf_counter()
        connection.execute(setup).fetchall()
        rows = connection.sql(query).to_arrow_table()
        taken = time.perf_counter() - started
    return np.stack(
        [column.cast(pa.float64()).to_numpy() for column in rows.columns], axis=1
    ), taken


def polars_asof(work: Work, windows: Mapping[str, int]) -> Answer:
    """Use `join_asof` over cumulative sums for each edge."""
    import polars as pl

    e, q = (pl.DataFrame(table) for table in _tables(work))
    started = time.perf_counter()
    # The last row of an instant holds the sum up to and including that instant.
    totals = (
        e.sort("ts")
        .with_columns(pl.col("cents").cum_sum().over("user").alias("total"))
        .select("user", "ts", "total")
    )
    columns = []
    for size in (None, *windows.values()):
        edge = (
            pl.col("t") if size is None else pl.col("t") // (size // TILES) * (size // TILES) - size
        )
        left = q.select("row", "user", (edge - 1).alias("edge")).sort("edge")
        joined = left.join_asof(
            totals,
            left_on="edge",
            right_on="ts",
            by="user",
            strategy="backward",
            check_sortedness=False,
        )
        columns.append(joined.sort("row")["total"].fill_null(0).to_numpy())
    sums = np.stack([columns[0] - column for column in columns[1:]], axis=1)
    return sums.astype(np.float64), time.perf_counter() - started


def polars_join(work: Work, windows: Mapping[str, int]) -> Answer:
    """Join each request with all events of its user, with one filtered sum for each window."""
    import polars as pl

    e, q = (pl.DataFrame(table).lazy() for table in _tables(work))
    started = time.perf_counter()
    sums = [
        pl.col("cents")
        .filter(pl.col("ts") >= pl.col("t") // (size // TILES) * (size // TILES) - size)
        .sum()
        .alias(name)
        for name, size in windows.items()
    ]
    window_sums = q.join(e, on="user").filter(pl.col("ts") < pl.col("t")).group_by("row").agg(sums)
    joined = (
        q.select("row")
        .join(window_sums, on="row", how="left")
        .sort("row")
        .fill_null(0)
        .collect(engine="streaming")
    )
    answer = joined.select(list(windows)).to_numpy().astype(np.float64)
    return answer, time.perf_counter() - started


def feast(work: Work, windows: Mapping[str, int]) -> Answer:
    """Call `get_historical_features` of the file offline store.

    A feature view holds cumulative sums, and the entity table has a row for each edge. Feast has no
    windows: the sums that it is given were accumulated before, and that time is not counted.
    """
    import pandas as pd
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.types import Int64

    names = work.names().to_numpy(zero_copy_only=False)
    events = pd.DataFrame(
        {
            "user": names[work.user],
            "ts": pd.to_datetime(work.ts, unit="us", utc=True),
            "cents": work.cents,
        }
    )
    events["total"] = events.groupby("user")["cents"].cumsum()
    events = events.drop_duplicates(["user", "ts"], keep="last")[["user", "ts", "total"]]
    edges = [
        work.t,
        *(work.t // (size // TILES) * (size // TILES) - size for size in windows.values()),
    ]
    # Feast returns one row per entity and time, so each pair is requested once.
    pairs = np.stack([np.tile(work.request_user, len(edges)), np.concatenate(edges) - 1])
    pairs, inverse = np.unique(pairs, axis=1, return_inverse=True)
    times = pd.to_datetime(pairs[1], unit="us", utc=True)
    entity_table = pd.DataFrame(
        {"user": names[pairs[0]], "event_timestamp": times, "row": np.arange(pairs.shape[1])}
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        pq.write_table(pa.Table.from_pandas(events, preserve_index=False), path / "totals.parquet")
        settings: dict[str, Any] = {
            "project": "bench",
            "provider": "local",
            "registry": str(path / "registry.db"),
        }
        store = FeatureStore(
            config=RepoConfig(
                **settings, offline_store={"type": "file"}, entity_key_serialization_version=3
            )
        )
        user = Entity(name="user", join_keys=["user"], value_type=ValueType.STRING)
        source = FileSource(path=str(path / "totals.parquet"), timestamp_field="ts")
        view = FeatureView(
            name="totals",
            entities=[user],
            schema=[Field(name="total", dtype=Int64)],
            source=source,
            online=False,
        )
        store.apply([user, view])
        started = time.perf_counter()
        rows = store.get_historical_features(
            entity_df=entity_table, features=["totals:total"]
        ).to_df()
        taken = time.perf_counter() - started
    # Feast may leave out rows that have no earlier event.
    rows = rows.dropna(subset=["total"])
    totals = np.zeros(pairs.shape[1])
    totals[rows["row"].to_numpy()] = rows["total"].to_numpy(np.float64)
    totals = totals[inverse].reshape(len(edges), -1)
    return (totals[0] - totals[1:]).T, taken


def _tables(work: Work) -> tuple[pa.Table, pa.Table]:
    names = work.names()
    e = pa.table({"user": names.take(pa.array(work.user)), "ts": work.ts, "cents": work.cents})
    return e, pa.table(
        {
            "row": np.arange(len(work.t)),
            "user": names.take(pa.array(work.request_user)),
            "t": work.t,
        }
    )
