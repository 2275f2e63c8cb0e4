"""The lake and the features of a project as tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tailorbird.config import open_project
from tailorbird.errors import NotReadyError, UsageError
from tailorbird.events import SystemClock, parse_duration
from tailorbird.events.contract.schema import TIME_TYPE
from tailorbird.events.keys import to_id_text
from tailorbird.lake import Lake
from tailorbird.pages.notebook import text_html
from tailorbird.platform.frames import Frame

if TYPE_CHECKING:
    from tailorbird.platform.features.parity import ParityCheck
    from tailorbird.platform.features.schema_change import AppliedSchema, PrunedStates, SchemaPlan
    from tailorbird.platform.lake.repair import RepairResult
    from tailorbird.platform.lake.replay import Quarantine, ReplayResult
    from tailorbird.platform.lake.upkeep import Compaction
    from tailorbird.platform.lake.verify import LakeCheck
    from tailorbird.training.selection.signals import SignalReport

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
        end_us = lake.sql("SELECT max(ts) AS ts FROM events")["ts"].cast(pa.int64())[0].as_py()
        start_us = (end_us or 0) - parse_duration(since)
        read_table = lake.events if name == "events" else lake.responses
        return Frame(read_table(columns, ts_from=start_us))

    def sql(self, query: str) -> Frame:
        """Return the rows of one SELECT over all tables."""
        return Frame(self._lake().sql(query))

    def counts(self) -> dict[str, int]:
        """Return the number of rows of each table."""
        lake = self._lake()
        return {name: lake.count(name) for name in TABLES if lake.exists(name)}

    def verify(self, *, deep: bool = False) -> "LakeCheck":
        """Check archive, ledger and tables against each other, to the last row and checksum.

        Args:
            deep: compare the content of each archived row with the tables' too.
        """
        from tailorbird.platform.lake.verify import verify

        return verify(open_project(self._root), deep=deep)

    def repair(self, *, dry_run: bool = True) -> "RepairResult":
        """Rebuild what is corrupt from what is left; see `tailorbird lake repair`.

        Args:
            dry_run: only say what would be rebuilt, and from what.

        Raises:
            LockedError: a role of the project is running.
        """
        from tailorbird.platform.lake.repair import repair

        return repair(open_project(self._root), dry_run=dry_run)

    def quarantine(
        self, *, reasons: Sequence[str] = (), path: str = "", since: str = "", limit: int = 10
    ) -> "Quarantine":
        """Return refused rows: counts by reason, and samples.

        Args:
            reasons: only these.
            path: only where this field was wrong, or one below it, such as `$.properties`.
            since: only what came in at this ISO 8601 time or later.
            limit: number of samples, the newest first.
        """
        from tailorbird.platform.lake.replay import read_quarantine

        project = open_project(self._root)
        return read_quarantine(project, reasons=reasons, path=path, since=since, limit=limit)

    def replay(
        self, reasons: Sequence[str], *, path: str = "", since: str = "", dry_run: bool = True
    ) -> "ReplayResult":
        """Send refused rows again after the declarations were fixed, each at most once.

        Args:
            reasons, path, since: as for `quarantine`.
            dry_run: only say what would be accepted.

        Raises:
            NotReadyError: a running router has older declarations and would refuse the rows again.
        """
        from tailorbird.platform.lake.replay import replay

        project = open_project(self._root)
        return replay(project, reasons=reasons, path=path, since=since, dry_run=dry_run)

    def compact(self, *, all_days: bool = False) -> "Compaction":
        """Compact small files; no row changes. The lake role does the same by itself.

        Args:
            all_days: take every day with more than one small file, today's too.
        """
        from tailorbird.platform.lake.upkeep import compact

        return compact(open_project(self._root), all_days=all_days)

    def vacuum(self, *, keep: str = "", dry_run: bool = False) -> Frame:
        """Delete files that only old versions need; return their number and size by table.

        Args:
            keep: delete files unneeded for longer than this, instead of `lake.history`.
            dry_run: only count.
        """
        from tailorbird.platform.lake.upkeep import vacuum

        return vacuum(open_project(self._root), keep=keep, dry_run=dry_run)

    def events(self, *, version: int | None = None, bundle: str = "") -> Frame:
        """Return the events at a version of the table, or as a bundle's training read them.

        Args:
            version: as `SELECT version, rows FROM commits` lists them; None is now.
            bundle: a version of the registry.
        """
        from tailorbird.platform.lake.upkeep import read_version

        return Frame(read_version(open_project(self._root), version=version, bundle=bundle).rows)

    def _lake(self) -> Lake:
        return Lake(open_project(self._root).paths.lake)

    def __repr__(self) -> str:
        return repr(self._counts_frame())

    def _repr_html_(self) -> str:
        return self._counts_frame().to_html()

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

    def list(self) -> Frame:
        """Return the declared columns with their kind, entity and description."""
        return Frame.from_rows(
            ["name", "kind", "entity", "description"],
            [
                (column.name, column.kind, column.entity, column.description)
                for column in open_project(self._root).features.columns
            ],
        )

    def rank(self, slot: str = "", *, as_of: str = "", **options: Any) -> "SignalReport":
        """Rank the columns of a model by importance and cost; changes nothing.

        Args:
            slot: "" takes `train.slot`.
            as_of: rank as of this ISO 8601 time; `latest` is the end of the log.
            options: see `platform.features.rank.rank_columns`, such as `target` and `requests`.
        """
        from tailorbird.platform.features.rank import rank_columns

        return rank_columns(open_project(self._root), slot, as_of=as_of, **options)[0]

    def verify(self, *, answers: int = 2_000, samples: int = 1_000) -> "ParityCheck":
        """Recompute features and candidate lists from the lake and compare them bit by bit.

        Args:
            answers: number of logged responses to recompute.
            samples: number of people whose present state is compared.

        Raises:
            NotReadyError: nothing can be compared yet.
        """
        from tailorbird.platform.features.parity import verify

        return verify(open_project(self._root, use_applied=True), answers=answers, samples=samples)

    def plan(self, *, should_measure: bool = True) -> "SchemaPlan":
        """Return what a changed features.py would do; changes nothing.

        Args:
            should_measure: also process a sample of the lake, to estimate the build time.
        """
        from tailorbird.platform.features.schema_change import plan_change

        return plan_change(open_project(self._root), should_measure=should_measure)

    def apply(self, *, back: bool = False, wait: bool = True) -> "AppliedSchema":
        """Apply features.py without downtime.

        Args:
            back: apply the previously applied schema again, whatever features.py declares.
            wait: wait until the new state has caught up.
        """
        from tailorbird.platform.features.schema_change import apply_change

        return apply_change(open_project(self._root, use_applied=back), back=back, wait=wait)

    def prune(self) -> "PrunedStates":
        """Remove the states of schemas that are neither applied nor used by a champion."""
        from tailorbird.platform.features.schema_change import prune_states

        return prune_states(open_project(self._root, use_applied=True))

    def republish(self) -> dict[str, dict[str, int]]:
        """Copy all records of the state to the Valkey of `store.url` again.

        Raises:
            UsageError: `store.url` is not set.
        """
        from tailorbird.platform.features.republish import republish

        return republish(open_project(self._root, use_applied=True))

    def historical(self, entity_table: Any, *, feature_names: Sequence[str] | None = None) -> Frame:
        """Return the features of past requests, each value as it was known at that time.

        The values are bit-identical to those that a server read at that time. All events are held
        in memory: `tailorbird features backfill` writes larger tables to files.

        Args:
            entity_table: columns `user_id`, `item_id` and `ts` (a time, UTC where it names no
                zone); an Arrow, pandas or Polars table, or a mapping of lists.
            feature_names: names of the features to compute; None computes all.

        Returns:
            The entity table with a column for each feature: numbers as float32 (missing is null),
            categories as 64-bit hashes of their texts (missing is null).

        Raises:
            UsageError: a column is missing, or a feature does not exist.
        """
        from tailorbird.features.offline.backfill import backfill, event_columns
        from tailorbird.features.offline.bulk import Requests
        from tailorbird.features.offline.profile_join import JoinedEvents

        project = open_project(self._root, use_applied=True)
        table = as_entity_table(entity_table)
        lake = Lake(project.paths.lake).pin_versions()
        if not lake.exists("events"):
            raise NotReadyError("the lake is empty", fix="project.import_files(…) brings events in")
        newest_log_position = lake.newest_log_position()
        requests = Requests(
            table["ts"].cast(TIME_TYPE).cast(pa.int64()).to_numpy(),
            np.full(table.num_rows, newest_log_position),
            table["user_id"],
            np.arange(table.num_rows),
            table["item_id"],
        )
        events = JoinedEvents(lake, project.features).table(event_columns(project.features))
        feature_rows = backfill(project.features, events, requests, only_columns=feature_names)
        for index, name in enumerate(feature_rows.numeric_names):
            values = feature_rows.numeric[:, index]
            table = table.append_column(name, pa.array(values, mask=np.isnan(values)))
        for index, name in enumerate(feature_rows.categorical_names):
            hashes = feature_rows.categorical[:, index]
            table = table.append_column(name, pa.array(hashes, mask=hashes == 0))
        return Frame(table)

    def online(self, user_id: str | int = "", item_ids: Sequence[str | int] = ()) -> Frame:
        """Return the features that a request would read now: one row per item, or one row of the
        user alone.

        Args:
            user_id: id of the user; "" is an unknown visitor.
            item_ids: ids of the items; without any, only the user's features are read.
        """
        from tailorbird.features import ReadRequest
        from tailorbird.features.online.read import Reader

        project = open_project(self._root, use_applied=True)
        user_text = to_id_text(user_id)
        requested_items = [to_id_text(item_id) for item_id in item_ids] or [""]
        request = ReadRequest(anonymous_id=None, user_id=user_text or None, now=SystemClock().now())
        reader = Reader(project.paths.state, project.features, workers=project.workers)
        try:
            feature_rows = reader.read(request, requested_items)
        finally:
            reader.close()
        columns: dict[str, pa.Array] = {"item_id": pa.array(requested_items, pa.string())}
        for index, name in enumerate(project.features.numeric):
            values = feature_rows.numeric[:, index]
            columns[name] = pa.array(values, mask=np.isnan(values))
        return Frame(pa.table(columns))

    def __repr__(self) -> str:
        return f"{len(self.names)} features: {', '.join(self.names)}"

    _repr_html_ = text_html


def as_entity_table(entity_table: Any) -> pa.Table:
    """Return a table of requests as Arrow, with ids as texts; raises UsageError if it is none."""
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
    for name in ("user_id", "item_id"):
        if table[name].type != pa.string():  # Numbers, or the texts of pandas and Polars.
            table = table.set_column(
                table.column_names.index(name), name, table[name].cast(pa.string())
            )
    if pa.types.is_large_string(table["ts"].type) or pa.types.is_string_view(table["ts"].type):
        table = table.set_column(
            table.column_names.index("ts"), "ts", table["ts"].cast(pa.string())
        )
    if pa.types.is_string(table["ts"].type):
        table = table.set_column(
            table.column_names.index("ts"), "ts", table["ts"].cast(pa.timestamp("us"))
        )
    return table
