"""How others answer the same question as `benchmarks.features_backfill`: one function a
formulation, in cents, rows as asked.

Each gets user ids as text, as events hold them. Windows are tiles in all: from t // hop · hop −
length up to t, with 12 hops a window. A function returns its answer, shape (requests, windows), and
the seconds that it took, without making the tables that it reads.
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
    def asked(self) -> np.ndarray: ...
    @property
    def t(self) -> np.ndarray: ...
    def names(self) -> pa.Array: ...


def formulations() -> dict[str, Callable[[Work, Mapping[str, int]], Answer]]:
    """Those whose package is installed."""
    found: dict[str, Callable[[Work, Mapping[str, int]], Answer]] = {}
    for package, some in (
        ("duckdb", (duckdb_join, duckdb_range, duckdb_asof)),
        ("polars", (polars_asof, polars_join)),
        ("feast", (feast,)),
    ):
        try:
            __import__(package)
        except ImportError:
            continue
        found |= {one.__name__: one for one in some}
    return found


def duckdb_join(work: Work, windows: Mapping[str, int]) -> Answer:
    """A plain join over the longest window, with one filtered sum for each window."""
    sums = ", ".join(
        f"coalesce(sum(e.cents) FILTER (e.ts >= {_begin('q.t', size)}), 0) AS w{index}"
        for index, size in enumerate(windows.values())
    )
    longest = max(windows.values())
    return _duckdb(
        work,
        f"SELECT {sums} FROM q LEFT JOIN e ON e.user = q.user AND e.ts < q.t "
        f"AND e.ts >= {_begin('q.t', longest)} GROUP BY q.row ORDER BY q.row",
    )


def duckdb_range(work: Work, windows: Mapping[str, int]) -> Answer:
    """Events and requests in one table, and a RANGE window for each length, whose begin is an
    expression of the row.
    """
    sums = ", ".join(
        "coalesce(sum(cents) OVER (PARTITION BY user ORDER BY ts RANGE BETWEEN ts - "
        f"({_begin('ts', size)}) PRECEDING AND 1 PRECEDING), 0) "
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
    """One ASOF join over cumulative sums for each edge: now, and where each window begins."""
    edges = ["q.t", *(_begin("q.t", size) for size in windows.values())]
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


def _begin(t: str, size: int) -> str:
    return f"{t} // {size // TILES} * {size // TILES} - {size}"


def _duckdb(work: Work, query: str, before: str = "SELECT 1") -> Answer:
    import duckdb

    e, q = _tables(work)
    with duckdb.connect() as connection:
        connection.register("e", e)
        connection.register("q", q)
        began = time.perf_counter()
        connection.execute(before).fetchall()
        found = connection.sql(query).to_arrow_table()
        taken = time.perf_counter() - began
    return np.stack(
        [column.cast(pa.float64()).to_numpy() for column in found.columns], axis=1
    ), taken


def polars_asof(work: Work, windows: Mapping[str, int]) -> Answer:
    """`join_asof` over cumulative sums for each edge."""
    import polars as pl

    e, q = (pl.from_arrow(one) for one in _tables(work))
    began = time.perf_counter()
    # The last of each instant has the whole sum of it.
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
    found = np.stack([columns[0] - column for column in columns[1:]], axis=1)
    return found.astype(np.float64), time.perf_counter() - began


def polars_join(work: Work, windows: Mapping[str, int]) -> Answer:
    """A join of each request with all events of its user, and one filtered sum for each window."""
    import polars as pl

    e, q = (pl.from_arrow(one).lazy() for one in _tables(work))
    began = time.perf_counter()
    sums = [
        pl.col("cents")
        .filter(pl.col("ts") >= pl.col("t") // (size // TILES) * (size // TILES) - size)
        .sum()
        .alias(name)
        for name, size in windows.items()
    ]
    some = q.join(e, on="user").filter(pl.col("ts") < pl.col("t")).group_by("row").agg(sums)
    found = (
        q.select("row")
        .join(some, on="row", how="left")
        .sort("row")
        .fill_null(0)
        .collect(engine="streaming")
    )
    answer = found.select(list(windows)).to_numpy().astype(np.float64)
    return answer, time.perf_counter() - began


def feast(work: Work, windows: Mapping[str, int]) -> Answer:
    """`get_historical_features` of the file offline store: cumulative sums as a feature view, a row
    of the entity table for each edge.

    Feast has no windows: what it is given are sums that were accumulated before, which is not
    counted.
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
    # Feast answers rows of one entity and time once, so each is asked once.
    pairs = np.stack([np.tile(work.asked, len(edges)), np.concatenate(edges) - 1])
    pairs, place = np.unique(pairs, axis=1, return_inverse=True)
    times = pd.to_datetime(pairs[1], unit="us", utc=True)
    asked = pd.DataFrame(
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
        began = time.perf_counter()
        found = store.get_historical_features(entity_df=asked, features=["totals:total"]).to_df()
        taken = time.perf_counter() - began
    # What had no event before it may be left out of the answer.
    found = found.dropna(subset=["total"])
    totals = np.zeros(pairs.shape[1])
    totals[found["row"].to_numpy()] = found["total"].to_numpy(np.float64)
    totals = totals[place].reshape(len(edges), -1)
    return (totals[0] - totals[1:]).T, taken


def _tables(work: Work) -> tuple[pa.Table, pa.Table]:
    names = work.names()
    e = pa.table({"user": names.take(pa.array(work.user)), "ts": work.ts, "cents": work.cents})
    return e, pa.table(
        {"row": np.arange(len(work.t)), "user": names.take(pa.array(work.asked)), "t": work.t}
    )
