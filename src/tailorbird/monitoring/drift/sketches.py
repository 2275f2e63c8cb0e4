"""Histograms of one hour of the lake, for drift: one Parquet file an hour.

    data/monitoring/sketches/2026-11-24/13.parquet

The response log has the features, scores and candidate sources of each response already, so serving
pays nothing for them, and a killed server loses none. `training.sketches` has the bins. An hour is
computed `SETTLE_US` after its end, and again if the lake got events of it later.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events import DAY, HOUR, MINUTE
from tailorbird.events.contract.schema import TIME
from tailorbird.lake import Lake
from tailorbird.monitoring.arrivals import Arrivals
from tailorbird.monitoring.drift.detect import CLICKED, LABEL, TRAFFIC, VECTOR, Signal
from tailorbird.monitoring.hour_files import POSITION, HourFiles
from tailorbird.training.sketches import MISSING, Row, count_categories, count_numbers, to_table

SETTLE_US = 10 * MINUTE
OF_SLOTS = ("feature", "score", VECTOR)  # kinds that are counted by slot
VISITS = ("events", "responses")  # signals of people; the others are also of profiles
VECTOR_HOURS = 7 * 24  # without an answer, after which the vectors of a version are left out
PLAUSIBLE = 0.1  # of the median day: what a first day has at least
RESPONSES = (
    "slot",
    "schema_hash",
    "numeric",
    "categorical",
    "scores",
    "candidate_sources",
    "candidate_counts",
    "device",
    "country",
    "degraded",
    "latency_us",
    "model",
    "user_vector",
)
FIELDS = ("item_id", "session_id", "request_id", "price", "dwell_ms", "page", "user_id")
EVENTS = ("type", "device", "agent", "items", *FIELDS)
_REPORTED = ("click", "impression", "view", "cart", "purchase", "search")

Floats = npt.NDArray[np.float64]


class SketchStore:
    """Reads and completes the sketches of a project.

    Args:
        folder: `data/monitoring/sketches`.
        numeric, categorical: names of the features, in the order of the response log.
        schema_hash: of these features; other responses count without features.
    """

    def __init__(
        self,
        folder: Path,
        lake: Lake,
        numeric: Sequence[str],
        schema_hash: str,
        categorical: Sequence[str] = (),
    ) -> None:
        self._files, self._lake = HourFiles(folder), lake
        self._numeric, self._categorical = numeric, categorical
        self._schema_hash = schema_hash

    def refresh(self, since: int, now: int) -> int:
        """Compute the finished hours that are missing, or got events since; return their number."""
        arrivals = Arrivals(self._lake)
        due_hours = [
            hour
            for hour in range(since // HOUR * HOUR, now - HOUR - SETTLE_US, HOUR)
            if (notes := self._files.notes(hour)) is None
            or arrivals.has_later(hour, hour + HOUR, notes.get(POSITION, 0))
        ]
        by_day: dict[int, list[int]] = {}
        for hour in due_hours:
            by_day.setdefault(hour // DAY, []).append(hour)
        has_responses = self._lake.exists("answers")
        for hours in by_day.values():
            span = hours[0], hours[-1] + HOUR
            events = self._lake.events((*EVENTS, "ts"), *span)
            responses = self._lake.responses((*RESPONSES, "ts"), *span) if has_responses else None
            for hour in hours:
                tables = [_with_slot(sketch_events(_within(events, hour)), "")]
                if responses is not None:
                    tables += self._response_tables(_within(responses, hour))
                notes = {POSITION: arrivals.position}
                self._files.write(hour, pa.concat_tables(tables), notes)
        return len(due_hours)

    def read(self, since: int, until: int) -> tuple[list[Signal], int]:
        """Return the signals of the hours in [since, until), and the first hour, microseconds.

        Hours before people came are left out; the first hour is `until` without any.
        """
        tables = self._files.read(since, until // HOUR * HOUR)
        opened = _first_visited(tables, until)
        tables = {hour: table for hour, table in tables.items() if hour >= opened}
        pairs, first = _read(tables, to_table([]), until)
        return [signal for signal, _ in pairs if _is_in_use(signal)], first

    def read_with(
        self, since: int, until: int, training: pa.Table, slot: str
    ) -> tuple[list[tuple[Signal, Floats]], int]:
        """Return features and scores of a slot, each with its histogram in the training.

        Both have the same bins. The first hour is that of the slot's first response.

        Args:
            training: as `training.sketches` writes it.
        """
        is_of_slot = pc.field("kind").isin(OF_SLOTS) & (pc.field("slot") == slot)
        tables = {
            hour: table.filter(is_of_slot)
            for hour, table in self._files.read(since, until // HOUR * HOUR).items()
        }
        return _read(tables, training.filter(pc.field("kind").isin(OF_SLOTS)), until)

    def _response_tables(self, responses: pa.Table) -> list[pa.Table]:
        if not responses.num_rows:
            return []
        tables = [_with_slot(_response_rows(responses), "")]
        for slot in pc.unique(responses["slot"]).to_pylist():
            slot_responses = responses.filter(pc.equal(responses["slot"], slot))
            tables.append(_with_slot(self._slot_rows(slot_responses), slot))
        return tables

    def _slot_rows(self, responses: pa.Table) -> list[Row]:
        """Return the features and the score of the first item of each response."""
        first_scores = pc.list_flatten(pc.list_slice(responses["scores"].combine_chunks(), 0, 1))
        rows = _number("score", "score", first_scores.to_numpy(zero_copy_only=False))
        slot_responses = responses.filter(pc.equal(responses["schema_hash"], self._schema_hash))
        numbers = _first_items(slot_responses["numeric"], len(self._numeric))
        rows += count_numbers("feature", self._numeric, numbers)
        hashes = _first_items(slot_responses["categorical"], len(self._categorical)).view(np.uint64)
        rows += count_categories("feature", self._categorical, hashes)
        return rows + _vector_rows(responses)


def _vector_rows(responses: pa.Table) -> list[Row]:
    """Return user vectors along fixed directions, by version: each tower has its own space."""
    with_vector = responses.filter(pc.greater(pc.list_value_length(responses["user_vector"]), 0))
    rows: list[Row] = []
    for version in pc.unique(with_vector["model"]).to_pylist():
        part = with_vector.filter(pc.equal(with_vector["model"], version))["user_vector"]
        values = pc.list_flatten(part).to_numpy().reshape(len(part), -1)
        names = [f"{VECTOR} {place} of {version}" for place in range(1, values.shape[1] + 1)]
        rows += count_numbers(VECTOR, names, values)
    return rows


def _is_in_use(signal: Signal) -> bool:
    """Return whether a signal is none of vectors, or of a version that answered lately."""
    return signal.kind != VECTOR or bool(signal.counts[-VECTOR_HOURS:].any())


def _first_visited(tables: Mapping[int, pa.Table], until: int) -> int:
    """Return the first hour with visitors of the first day with a plausible number of them.

    Profiles may be older than the site, and a clock may be wrong. It is `until` without any.
    """
    is_visit = (pc.field("kind") == TRAFFIC) & pc.field("name").isin(VISITS)
    visits = {
        hour: count
        for hour, table in tables.items()
        if (count := pc.sum(table.filter(is_visit)["count"]).as_py())
    }
    by_day: dict[int, float] = {}
    for hour, count in visits.items():
        by_day[hour // DAY] = by_day.get(hour // DAY, 0.0) + count
    least = PLAUSIBLE * float(np.median(list(by_day.values()))) if by_day else 0.0
    return min((hour for hour in visits if by_day[hour // DAY] >= least), default=until)


def _read(
    tables: Mapping[int, pa.Table], training: pa.Table, until: int
) -> tuple[list[tuple[Signal, Floats]], int]:
    """Return each signal with its histogram in the training, and the first hour."""
    tables_by_hour = {hour: table for hour, table in tables.items() if table.num_rows}
    if not tables_by_hour:
        return [], until
    first = min(tables_by_hour)
    count = (max(tables) - first) // HOUR + 1
    parts = [_with_hour(table, (hour - first) // HOUR) for hour, table in tables_by_hour.items()]
    # The training is one more hour, so that it has the same bins.
    learned = training.append_column("slot", pa.nulls(training.num_rows, pa.string()))
    parts.append(_with_hour(learned, count))
    return [
        (replace(signal, counts=signal.counts[:-1]), signal.counts[-1])
        for signal in signals_of(pa.concat_tables(parts), count + 1)
    ], first


def _with_hour(table: pa.Table, hour: int) -> pa.Table:
    return table.append_column("hour", pa.array(np.full(table.num_rows, hour, np.int64)))


def _with_slot(rows: list[Row], slot: str) -> pa.Table:
    table = to_table(rows)
    return table.append_column("slot", pa.array([slot] * table.num_rows, pa.string()))


def _response_rows(responses: pa.Table) -> list[Row]:
    """Return what was served in all slots: traffic, devices, models, latency, sources."""
    rows: list[Row] = [("responses", TRAFFIC, False, "all", float(responses.num_rows))]
    rows += _category("device", "device", responses["device"])
    rows += _category("country", "country", responses["country"])
    rows += _category("model", "model", responses["model"])
    latency = responses["latency_us"].cast(pa.float64()).fill_null(0.0).to_numpy()
    rows += _number("latency", "latency", latency[latency > 0])
    rows += _category(
        "degraded",
        "degraded",
        pa.chunked_array(
            [pa.array([(each or ["nothing"])[0] for each in responses["degraded"].to_pylist()])]
        ),
    )
    return rows + _sources(responses)


def _within(table: pa.Table, hour: int) -> pa.Table:
    start, stop = pa.scalar(hour, TIME), pa.scalar(hour + HOUR, TIME)
    return table.filter((pc.field("ts") >= start) & (pc.field("ts") < stop))


def _number(name: str, kind: str, values: npt.NDArray[np.floating]) -> list[Row]:
    return count_numbers(kind, [name], values[:, None])


def _category(name: str, kind: str, column: pa.ChunkedArray) -> list[Row]:
    value_counts = pc.value_counts(column)
    return [
        (name, kind, True, value or MISSING, float(count))
        for value, count in zip(
            value_counts.field("values").to_pylist(),
            value_counts.field("counts").to_pylist(),
            strict=True,
        )
    ]


def sketch_events(events: pa.Table) -> list[Row]:
    """Return what was reported: types, clicks, missing fields by type, bots, and their number."""
    reported_events = events.filter(pc.is_in(events["type"], pa.array(_REPORTED)))
    rows: list[Row] = []
    if reported_events.num_rows:
        rows.append(("events", TRAFFIC, False, "all", float(reported_events.num_rows)))
        rows += _category("event types", "event_types", reported_events["type"])
        rows += _category("agent", "agent", pc.fill_null(reported_events["agent"], "person"))
        rows += _category("event device", "event_device", reported_events["device"])
        rows += _clicks(reported_events)
    items = pc.sum(pc.equal(events["type"], "item")).as_py() or 0
    if items:
        rows.append(("item profiles", TRAFFIC, False, "all", float(items)))
    for type_ in pc.unique(reported_events["type"]).to_pylist():
        slot_responses = reported_events.filter(pc.equal(reported_events["type"], type_))
        for field in FIELDS:
            missing = slot_responses[field].null_count
            name, known_count = f"{type_}.{field}", slot_responses.num_rows - missing
            rows.append((name, "field", True, MISSING, float(missing)))
            if known_count:
                rows.append((name, "field", True, "set", float(known_count)))
    return rows


def _clicks(reported_events: pa.Table) -> list[Row]:
    """Return items that people clicked on, and saw only."""
    people = reported_events.filter(
        pc.fill_null(pc.not_equal(reported_events["agent"], "bot"), True)
    )
    lists = people["items"].filter(pc.equal(people["type"], "impression"))
    if not len(lists):
        return []
    seen = pc.sum(pc.fill_null(pc.list_value_length(lists), 1)).as_py()
    clicked = pc.sum(pc.equal(people["type"], "click")).as_py()
    both = {"seen": max(0.0, float(seen - clicked)), CLICKED: float(clicked)}
    return [("clicks", LABEL, True, name, count) for name, count in both.items()]


def _sources(responses: pa.Table) -> list[Row]:
    totals: dict[str, float] = {}
    for names, counts in zip(
        responses["candidate_sources"].to_pylist(),
        responses["candidate_counts"].to_pylist(),
        strict=True,
    ):
        for name, count in zip(names or (), counts or (), strict=False):
            totals[name] = totals.get(name, 0.0) + count
    # Counted in responses, because candidates of one response are not independent.
    scale = responses.num_rows / max(1.0, sum(totals.values()))
    return [("sources", "source", True, name, total * scale) for name, total in totals.items()]


def _first_items(column: pa.ChunkedArray, width: int) -> npt.NDArray:
    """Return the features of the first item of each response with any, shape (rows, width)."""
    lists = column.combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    flat = pc.list_flatten(lists).to_numpy(zero_copy_only=False)
    starts = (np.cumsum(lengths) - lengths)[(lengths >= width) & (lengths > 0)]
    return flat[starts[:, None] + np.arange(width)]


def signals_of(table: pa.Table, hours: int) -> list[Signal]:
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
