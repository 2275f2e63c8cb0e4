"""The lake and the features of a project as tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tailorbird.config import open_project
from tailorbird.errors import NotReadyError, UsageError
from tailorbird.events import SystemClock, parse_duration
from tailorbird.events.contract.schema import TIME
from tailorbird.lake import Lake
from tailorbird.pages.notebook import text_html
from tailorbird.platform.frames import Frame

TABLES = ("events", "answers", "users", "items", "quarantine")


class LakeView:
    """The current tables of the lake."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def table(self, name: str, *, since: str = "", columns: Sequence[str] | None = None) -> Frame:
        """Return the rows of a table.

        Args:
            name: `events`, `answers`, `users`, `items` or `quarantine`.
            since: for events and answers: length of the most recent period, such as `28d`.
            columns: names of columns; None returns all.

        Raises:
            NotReadyError: the table has no rows yet.
        """
        lake = self._lake()
        if not lake.exists(name):
            raise NotReadyError(
                f"the lake has no {name} yet",
                where=str(lake.path),
                fix="project.import_files(…) brings events in",
            )
        if not since:
            return Frame(lake.table(name, columns))
        if name not in ("events", "answers"):
            raise UsageError(f"{name} have no time", where="since", fix="leave since away")
        end = lake.sql("SELECT max(ts) AS ts FROM events")["ts"].cast(pa.int64())[0].as_py()
        start = (end or 0) - parse_duration(since)
        read = lake.events if name == "events" else lake.answers
        return Frame(read(columns, ts_from=start))

    def sql(self, query: str) -> Frame:
        """Return the rows of one SELECT over all tables."""
        return Frame(self._lake().sql(query))

    def counts(self) -> dict[str, int]:
        """Return the number of rows of each table."""
        lake = self._lake()
        return {name: lake.count(name) for name in TABLES if lake.exists(name)}

    def _lake(self) -> Lake:
        return Lake(open_project(self._root).paths.lake)

    def __repr__(self) -> str:
        return repr(self._counts_frame())

    def _repr_html_(self) -> str:
        return self._counts_frame()._repr_html_()

    def _counts_frame(self) -> Frame:
        return Frame.from_rows(["table", "rows"], self.counts().items())


class FeatureView:
    """The features that features.py declares."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the numeric and categorical columns."""
        features = open_project(self._root).features
        return (*features.numeric, *features.categorical)

    def historical(self, entity_table: Any, *, only: Sequence[str] | None = None) -> Frame:
        """Return the features of past requests, each value as it was known at that time.

        The values are bit-identical to those that a server read at that time. All events are held
        in memory: `tailorbird features backfill` writes larger tables to files.

        Args:
            entity_table: columns `user_id`, `item_id` and `ts` (a time, UTC where it names no
                zone); an Arrow, pandas or Polars table, or a mapping of lists.
            only: names of the features to compute; None computes all.

        Returns:
            The entity table with a column for each feature: numbers as float32 (missing is null),
            categories as 64-bit hashes of their texts (missing is null).

        Raises:
            UsageError: a column is missing, or a feature does not exist.
        """
        from tailorbird.features.offline.backfill import backfill, event_columns
        from tailorbird.features.offline.bulk import Requests
        from tailorbird.features.offline.profile_join import JoinedEvents

        project = open_project(self._root, applied=True)
        table = _as_arrow(entity_table)
        lake = Lake(project.paths.lake).pinned()
        if not lake.exists("events"):
            raise NotReadyError("the lake is empty", fix="project.import_files(…) brings events in")
        newest = lake.newest_p()
        requests = Requests(
            table["ts"].cast(TIME).cast(pa.int64()).to_numpy(),
            np.full(table.num_rows, newest),
            table["user_id"],
            np.arange(table.num_rows),
            table["item_id"],
        )
        events = JoinedEvents(lake, project.features).table(event_columns(project.features))
        rows = backfill(project.features, events, requests, only=only)
        for column, name in enumerate(rows.numeric_names):
            values = rows.numeric[:, column]
            table = table.append_column(name, pa.array(values, mask=np.isnan(values)))
        for column, name in enumerate(rows.categorical_names):
            keys = rows.categorical[:, column]
            table = table.append_column(name, pa.array(keys, mask=keys == 0))
        return Frame(table)

    def online(self, user_id: str = "", item_ids: Sequence[str] = ()) -> Frame:
        """Return the features that a request would read now: one row per item, or one row of the
        user alone.

        Args:
            user_id: id of the user; "" is an unknown visitor.
            item_ids: ids of the items; without any, only the user's features are read.
        """
        from tailorbird.features import ReadRequest
        from tailorbird.features.online.read import Reader

        project = open_project(self._root, applied=True)
        items = list(item_ids) or [""]
        request = ReadRequest(anonymous_id=None, user_id=user_id or None, now=SystemClock().now())
        reader = Reader(project.paths.state, project.features, workers=project.workers)
        try:
            rows = reader.read(request, items)
        finally:
            reader.close()
        columns: dict[str, pa.Array] = {"item_id": pa.array(items, pa.string())}
        for column, name in enumerate(project.features.numeric):
            values = rows.numeric[:, column]
            columns[name] = pa.array(values, mask=np.isnan(values))
        return Frame(pa.table(columns))

    def __repr__(self) -> str:
        return f"{len(self.names)} features: {', '.join(self.names)}"

    _repr_html_ = text_html


def _as_arrow(entity_table: Any) -> pa.Table:
    if isinstance(entity_table, Mapping):
        table = pa.table(dict(entity_table))
    elif hasattr(entity_table, "__arrow_c_stream__"):
        table = pa.table(entity_table)
    else:
        raise UsageError(
            f"expected a table, got {type(entity_table).__name__}",
            where="entity_table",
            fix="give an Arrow, pandas or Polars table, or a mapping of lists",
        )
    for name in ("user_id", "item_id", "ts"):
        if name not in table.column_names:
            raise UsageError(
                f"expected columns user_id, item_id and ts, found {', '.join(table.column_names)}",
                where="entity_table",
                fix=f"name the column {name}",
            )
    if pa.types.is_string(table["ts"].type):
        table = table.set_column(
            table.column_names.index("ts"), "ts", table["ts"].cast(pa.timestamp("us"))
        )
    return table
