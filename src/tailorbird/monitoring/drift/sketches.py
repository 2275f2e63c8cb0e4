"""Histograms of one hour of the lake, for drift: one Parquet file an hour.

    data/monitoring/sketches/2026-11-24/13.parquet

The response log has the features, scores and candidate sources of each response already, so serving
pays nothing for them, and a killed server loses none. A number falls into one of four bins an
octave, by sign; missing values, zero and categories have bins of their own. An hour is computed
once, `SETTLE_US` after its end.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events import DAY, HOUR, MINUTE
from tailorbird.events.contract.schema import TIME
from tailorbird.lake import Lake
from tailorbird.monitoring.drift.detect import TRAFFIC, Signal
from tailorbird.monitoring.hour_files import HourFiles

SETTLE_US = 10 * MINUTE
MISSING = ""
RESPONSES = (
    "schema_hash",
    "numeric",
    "scores",
    "candidate_sources",
    "candidate_counts",
    "device",
    "country",
    "degraded",
    "latency_us",
    "model",
)
FIELDS = ("item_id", "session_id", "request_id", "price", "dwell_ms", "page", "user_id")
EVENTS = ("type", "device", "agent", *FIELDS)
SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("kind", pa.string()),
        ("category", pa.bool_()),
        ("bin", pa.string()),
        ("count", pa.float64()),
    ]
)
_REPORTED = ("click", "impression", "view", "cart", "purchase", "search")

Row = tuple[str, str, bool, str, float]


class SketchStore:
    """Reads and completes the sketches of a project.

    Args:
        folder: `data/monitoring/sketches`.
        numeric: names of the numeric features, in the order of the response log.
        schema_hash: of these features; other responses count without features.
    """

    def __init__(self, folder: Path, lake: Lake, numeric: Sequence[str], schema_hash: str) -> None:
        self._files, self._lake = HourFiles(folder), lake
        self._numeric, self._schema_hash = list(numeric), schema_hash

    def refresh(self, since: int, now: int) -> int:
        """Compute the finished hours that are missing; return their number."""
        missing = [
            hour
            for hour in range(since // HOUR * HOUR, now - HOUR - SETTLE_US, HOUR)
            if not self._files.path(hour).is_file()
        ]
        by_day: dict[int, list[int]] = {}
        for hour in missing:
            by_day.setdefault(hour // DAY, []).append(hour)
        has_answers = self._lake.exists("answers")
        for hours in by_day.values():
            span = hours[0], hours[-1] + HOUR
            events = self._lake.events((*EVENTS, "ts"), *span)
            answers = self._lake.answers((*RESPONSES, "ts"), *span) if has_answers else None
            for hour in hours:
                rows = _event_rows(_within(events, hour))
                if answers is not None:
                    rows += self._response_rows(_within(answers, hour))
                self._files.write(hour, _table_of(rows))
        return len(missing)

    def read(self, since: int, until: int) -> tuple[list[Signal], int]:
        """Return the signals of the hours in [since, until), and the first hour, microseconds.

        Hours before the first event are left out; the first hour is `until` without any.
        """
        tables = self._files.read(since, until // HOUR * HOUR)
        used = [hour for hour, table in tables.items() if table.num_rows]
        if not used:
            return [], until
        first, last = min(used), max(tables)
        count = (last - first) // HOUR + 1
        parts = [
            table.append_column("hour", pa.array(np.full(table.num_rows, (hour - first) // HOUR)))
            for hour, table in tables.items()
            if hour >= first and table.num_rows
        ]
        return _signals(pa.concat_tables(parts), count), first

    def _response_rows(self, answers: pa.Table) -> list[Row]:
        if not answers.num_rows:
            return []
        rows: list[Row] = [("responses", TRAFFIC, False, "all", float(answers.num_rows))]
        rows += _category("device", "device", answers["device"])
        rows += _category("country", "country", answers["country"])
        rows += _category("model", "model", answers["model"])
        latency = answers["latency_us"].cast(pa.float64()).fill_null(0.0).to_numpy()
        rows += _number("latency", "latency", latency[latency > 0])
        rows += _category(
            "degraded",
            "degraded",
            pa.chunked_array(
                [pa.array([(each or ["nothing"])[0] for each in answers["degraded"].to_pylist()])]
            ),
        )
        first_scores = pc.list_flatten(pc.list_slice(answers["scores"].combine_chunks(), 0, 1))
        rows += _number("score", "score", first_scores.to_numpy(zero_copy_only=False))
        rows += _sources(answers)
        own = answers.filter(pc.equal(answers["schema_hash"], self._schema_hash))
        for name, values in _features(own["numeric"], self._numeric):
            rows += _number(name, "feature", values)
        return rows


def _table_of(rows: list[Row]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(SCHEMA)
    return pa.table(
        [pa.array(list(column), field.type) for column, field in zip(columns, SCHEMA, strict=True)],
        schema=SCHEMA,
    )


def _within(table: pa.Table, hour: int) -> pa.Table:
    start, stop = pa.scalar(hour, TIME), pa.scalar(hour + HOUR, TIME)
    return table.filter((pc.field("ts") >= start) & (pc.field("ts") < stop))


def bins_of(values: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """Return the bin of each number: four an octave, by sign; 0 for zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        octave = np.floor(4.0 * np.log2(np.abs(values.astype(np.float64)))) + 81
    bins = np.clip(np.nan_to_num(octave, nan=0.0, posinf=241, neginf=0), 1, 241)
    return np.where(values == 0, 0, np.sign(values) * bins).astype(np.int64)


def _number(name: str, kind: str, values: npt.NDArray[np.floating]) -> list[Row]:
    finite = values[np.isfinite(values)]
    bins, counts = np.unique(bins_of(finite), return_counts=True)
    rows = [
        (name, kind, False, str(each), float(count))
        for each, count in zip(bins.tolist(), counts.tolist(), strict=True)
    ]
    missing = len(values) - len(finite)
    return [*rows, (name, kind, False, MISSING, float(missing))] if missing else rows


def _category(name: str, kind: str, column: pa.ChunkedArray) -> list[Row]:
    counted = pc.value_counts(column)
    return [
        (name, kind, True, value or MISSING, float(count))
        for value, count in zip(
            counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True
        )
    ]


def _event_rows(events: pa.Table) -> list[Row]:
    """Return what was reported: types, missing fields by type, bots, and their number."""
    reported = events.filter(pc.is_in(events["type"], pa.array(_REPORTED)))
    rows: list[Row] = []
    if reported.num_rows:
        rows.append(("events", TRAFFIC, False, "all", float(reported.num_rows)))
        rows += _category("event types", "event_types", reported["type"])
        rows += _category("agent", "agent", pc.fill_null(reported["agent"], "person"))
        rows += _category("event device", "event_device", reported["device"])
    items = pc.sum(pc.equal(events["type"], "item")).as_py() or 0
    if items:
        rows.append(("item profiles", TRAFFIC, False, "all", float(items)))
    for type_ in pc.unique(reported["type"]).to_pylist():
        own = reported.filter(pc.equal(reported["type"], type_))
        for field in FIELDS:
            missing = own[field].null_count
            name, known = f"{type_}.{field}", own.num_rows - missing
            rows.append((name, "field", True, MISSING, float(missing)))
            if known:
                rows.append((name, "field", True, "set", float(known)))
    return rows


def _sources(answers: pa.Table) -> list[Row]:
    totals: dict[str, float] = {}
    for names, counts in zip(
        answers["candidate_sources"].to_pylist(),
        answers["candidate_counts"].to_pylist(),
        strict=True,
    ):
        for name, count in zip(names or (), counts or (), strict=False):
            totals[name] = totals.get(name, 0.0) + count
    # Counted in responses, because candidates of one response are not independent.
    scale = answers.num_rows / max(1.0, sum(totals.values()))
    return [("sources", "source", True, name, total * scale) for name, total in totals.items()]


def _features(
    column: pa.ChunkedArray, names: list[str]
) -> list[tuple[str, npt.NDArray[np.floating]]]:
    """Return each feature of the first item of each response."""
    lists = column.combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    flat = pc.list_flatten(lists).to_numpy(zero_copy_only=False)
    starts = (np.cumsum(lengths) - lengths)[lengths >= len(names)]
    return [(name, flat[starts + index]) for index, name in enumerate(names)] if len(starts) else []


def _signals(table: pa.Table, hours: int) -> list[Signal]:
    signals = []
    order = pc.sort_indices(table, [("name", "ascending")])
    table = table.take(order)
    names = table["name"].combine_chunks().dictionary_encode()
    codes = names.indices.to_numpy()
    borders = np.flatnonzero(np.diff(codes, prepend=-1))
    for first, last in zip(borders, [*borders[1:], len(codes)], strict=True):
        part = table.slice(int(first), int(last - first))
        kind, is_category = part["kind"][0].as_py(), part["category"][0].as_py()
        labels = pc.unique(part["bin"]).to_pylist()
        values = sorted(
            (label for label in labels if label != MISSING),
            key=str if is_category or kind == TRAFFIC else int,
        )
        index = {MISSING: 0, **{label: place + 1 for place, label in enumerate(values)}}
        counts = np.zeros((hours, len(index)))
        bins = np.array([index[label] for label in part["bin"].to_pylist()], np.int64)
        np.add.at(counts, (part["hour"].to_numpy(), bins), part["count"].to_numpy())
        if kind == TRAFFIC:
            counts = counts.sum(axis=1, keepdims=True)
        labels_in_order = ("missing", *values)
        signals.append(Signal(part["name"][0].as_py(), counts, is_category, kind, labels_in_order))
    return signals
