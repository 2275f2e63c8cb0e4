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
from tailorbird.events.contract.schema import TIME_TYPE
from tailorbird.lake import Lake
from tailorbird.monitoring.arrivals import Arrivals
from tailorbird.monitoring.drift.detect import (
    CLICKED_BIN,
    EVENTS_SIGNAL,
    LABEL_KIND,
    TRAFFIC_KIND,
    VECTOR_KIND,
    Signal,
)
from tailorbird.monitoring.hour_files import POSITION_KEY, HourFiles
from tailorbird.training.sketches import (
    MISSING,
    HistogramRow,
    count_categories,
    count_numbers,
    to_table,
)

SETTLE_US = 10 * MINUTE
# In the notes of an hour. One without it counts crawlers as people, and is computed again.
WITHOUT_CRAWLERS_KEY = b"without_crawlers"
SLOT_KINDS = ("feature", "score", VECTOR_KIND)  # kinds that are counted by slot
VISIT_SIGNALS = (EVENTS_SIGNAL, "responses")  # signals of people; the others are also of profiles
VECTOR_HOURS = 7 * 24  # without an answer, after which the vectors of a version are left out
PLAUSIBLE_SHARE = 0.1  # of the median day: what a first day has at least
RESPONSE_COLUMNS = (
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
CHECKED_FIELDS = ("item_id", "session_id", "request_id", "price", "dwell_ms", "page", "user_id")
EVENT_COLUMNS = ("type", "device", "agent", "items", *CHECKED_FIELDS)
_REPORTED_TYPES = ("click", "impression", "view", "cart", "purchase", "search")

Floats = npt.NDArray[np.float64]


class SketchStore:
    """Reads and completes the sketches of a project.

    Args:
        folder: `data/monitoring/sketches`.
        numeric_names, categorical_names: names of the features, in the order of the response log.
        schema_hash: of these features; other responses count without features.
    """

    def __init__(
        self,
        folder: Path,
        lake: Lake,
        numeric_names: Sequence[str],
        schema_hash: str,
        categorical_names: Sequence[str] = (),
    ) -> None:
        self._files = HourFiles(folder)
        self._lake = lake
        self._numeric_names = numeric_names
        self._categorical_names = categorical_names
        self._schema_hash = schema_hash

    def refresh(self, since: int, now: int) -> int:
        """Compute the finished hours that are missing, or got events since; return their number."""
        arrivals = Arrivals(self._lake)
        due_hours = [
            hour
            for hour in range(since // HOUR * HOUR, now - HOUR - SETTLE_US, HOUR)
            if (notes := self._files.read_notes(hour)) is None
            or notes.get(WITHOUT_CRAWLERS_KEY) is None
            or arrivals.has_later(hour, hour + HOUR, notes.get(POSITION_KEY, 0))
        ]
        hours_by_day: dict[int, list[int]] = {}
        for hour in due_hours:
            hours_by_day.setdefault(hour // DAY, []).append(hour)
        has_responses = self._lake.exists("answers")
        for hours in hours_by_day.values():
            ts_range = hours[0], hours[-1] + HOUR
            events = self._lake.events((*EVENT_COLUMNS, "ts"), *ts_range)
            responses = (
                self._lake.responses((*RESPONSE_COLUMNS, "ts"), *ts_range)
                if has_responses
                else None
            )
            for hour in hours:
                tables = [_with_slot(sketch_events(_rows_of_hour(events, hour)), "")]
                if responses is not None:
                    tables += self._response_tables(_rows_of_hour(responses, hour))
                notes = {POSITION_KEY: arrivals.position, WITHOUT_CRAWLERS_KEY: 1}
                self._files.write(hour, pa.concat_tables(tables), notes)
        return len(due_hours)

    def read(self, since: int, until: int) -> tuple[list[Signal], int]:
        """Return the signals of the hours in [since, until), and the first hour, microseconds.

        Hours before people came are left out; the first hour is `until` without any.
        """
        tables = self._files.read(since, until // HOUR * HOUR)
        first_visited = _first_visited(tables, until)
        tables = {hour: table for hour, table in tables.items() if hour >= first_visited}
        signal_pairs, first_hour = _to_signals(tables, to_table([]), until)
        return [signal for signal, _ in signal_pairs if _is_in_use(signal)], first_hour

    def read_with(
        self, since: int, until: int, training: pa.Table, slot: str
    ) -> tuple[list[tuple[Signal, Floats]], int]:
        """Return features and scores of a slot, each with its histogram in the training.

        Both have the same bins. The first hour is that of the slot's first response.

        Args:
            training: as `training.sketches` writes it.
        """
        is_of_slot = pc.field("kind").isin(SLOT_KINDS) & (pc.field("slot") == slot)
        tables = {
            hour: table.filter(is_of_slot)
            for hour, table in self._files.read(since, until // HOUR * HOUR).items()
        }
        return _to_signals(tables, training.filter(pc.field("kind").isin(SLOT_KINDS)), until)

    def _response_tables(self, responses: pa.Table) -> list[pa.Table]:
        if not responses.num_rows:
            return []
        tables = [_with_slot(_response_rows(responses), "")]
        for slot in pc.unique(responses["slot"]).to_pylist():
            slot_responses = responses.filter(pc.equal(responses["slot"], slot))
            tables.append(_with_slot(self._slot_rows(slot_responses), slot))
        return tables

    def _slot_rows(self, responses: pa.Table) -> list[HistogramRow]:
        """Return the features and the score of the first item of each response."""
        first_scores = pc.list_flatten(pc.list_slice(responses["scores"].combine_chunks(), 0, 1))
        rows = _number_rows("score", "score", first_scores.to_numpy(zero_copy_only=False))
        known_responses = responses.filter(pc.equal(responses["schema_hash"], self._schema_hash))
        numbers = _first_items(known_responses["numeric"], len(self._numeric_names))
        rows += count_numbers("feature", self._numeric_names, numbers)
        hashes = _first_items(known_responses["categorical"], len(self._categorical_names)).view(
            np.uint64
        )
        rows += count_categories("feature", self._categorical_names, hashes)
        return rows + _vector_rows(responses)


def _vector_rows(responses: pa.Table) -> list[HistogramRow]:
    """Return user vectors along fixed directions, by version: each tower has its own space."""
    with_vector = responses.filter(pc.greater(pc.list_value_length(responses["user_vector"]), 0))
    rows: list[HistogramRow] = []
    for version in pc.unique(with_vector["model"]).to_pylist():
        vectors = with_vector.filter(pc.equal(with_vector["model"], version))["user_vector"]
        values = pc.list_flatten(vectors).to_numpy().reshape(len(vectors), -1)
        names = [
            f"{VECTOR_KIND} {dimension} of {version}" for dimension in range(1, values.shape[1] + 1)
        ]
        rows += count_numbers(VECTOR_KIND, names, values)
    return rows


def _is_in_use(signal: Signal) -> bool:
    """Return whether a signal is none of vectors, or of a version that answered lately."""
    return signal.kind != VECTOR_KIND or bool(signal.counts[-VECTOR_HOURS:].any())


def _first_visited(tables: Mapping[int, pa.Table], until: int) -> int:
    """Return the first hour with visitors of the first day with a plausible number of them.

    Profiles may be older than the site, and a clock may be wrong. It is `until` without any.
    """
    is_visit = (pc.field("kind") == TRAFFIC_KIND) & pc.field("name").isin(VISIT_SIGNALS)
    visits_by_hour = {
        hour: count
        for hour, table in tables.items()
        if (count := pc.sum(table.filter(is_visit)["count"]).as_py())
    }
    visits_by_day: dict[int, float] = {}
    for hour, count in visits_by_hour.items():
        visits_by_day[hour // DAY] = visits_by_day.get(hour // DAY, 0.0) + count
    visits_min = (
        PLAUSIBLE_SHARE * float(np.median(list(visits_by_day.values()))) if visits_by_day else 0.0
    )
    return min(
        (hour for hour in visits_by_hour if visits_by_day[hour // DAY] >= visits_min), default=until
    )


def _to_signals(
    tables: Mapping[int, pa.Table], training: pa.Table, until: int
) -> tuple[list[tuple[Signal, Floats]], int]:
    """Return each signal with its histogram in the training, and the first hour."""
    tables_by_hour = {hour: table for hour, table in tables.items() if table.num_rows}
    if not tables_by_hour:
        return [], until
    first_hour = min(tables_by_hour)
    hour_count = (max(tables) - first_hour) // HOUR + 1
    hour_tables = [
        _with_hour(table, (hour - first_hour) // HOUR) for hour, table in tables_by_hour.items()
    ]
    # The training is one more hour, so that it has the same bins.
    training_rows = training.append_column("slot", pa.nulls(training.num_rows, pa.string()))
    hour_tables.append(_with_hour(training_rows, hour_count))
    return [
        (replace(signal, counts=signal.counts[:-1]), signal.counts[-1])
        for signal in build_signals(pa.concat_tables(hour_tables), hour_count + 1)
    ], first_hour


def _with_hour(table: pa.Table, hour: int) -> pa.Table:
    return table.append_column("hour", pa.array(np.full(table.num_rows, hour, np.int64)))


def _with_slot(rows: list[HistogramRow], slot: str) -> pa.Table:
    table = to_table(rows)
    return table.append_column("slot", pa.array([slot] * table.num_rows, pa.string()))


def _response_rows(responses: pa.Table) -> list[HistogramRow]:
    """Return what was served in all slots: traffic, devices, models, latency, sources."""
    rows: list[HistogramRow] = [
        ("responses", TRAFFIC_KIND, False, "all", float(responses.num_rows))
    ]
    rows += _category_rows("device", "device", responses["device"])
    rows += _category_rows("country", "country", responses["country"])
    rows += _category_rows("model", "model", responses["model"])
    latency = responses["latency_us"].cast(pa.float64()).fill_null(0.0).to_numpy()
    rows += _number_rows("latency", "latency", latency[latency > 0])
    rows += _category_rows(
        "degraded",
        "degraded",
        pa.chunked_array(
            [
                pa.array(
                    [(degraded or ["nothing"])[0] for degraded in responses["degraded"].to_pylist()]
                )
            ]
        ),
    )
    return rows + _source_rows(responses)


def _rows_of_hour(table: pa.Table, hour: int) -> pa.Table:
    start = pa.scalar(hour, TIME_TYPE)
    stop = pa.scalar(hour + HOUR, TIME_TYPE)
    return table.filter((pc.field("ts") >= start) & (pc.field("ts") < stop))


def _number_rows(name: str, kind: str, values: npt.NDArray[np.floating]) -> list[HistogramRow]:
    return count_numbers(kind, [name], values[:, None])


def _category_rows(name: str, kind: str, column: pa.ChunkedArray) -> list[HistogramRow]:
    value_counts = pc.value_counts(column)
    return [
        (name, kind, True, value or MISSING, float(count))
        for value, count in zip(
            value_counts.field("values").to_pylist(),
            value_counts.field("counts").to_pylist(),
            strict=True,
        )
    ]


def sketch_events(events: pa.Table) -> list[HistogramRow]:
    """Return what people reported: types, clicks, missing fields by type, and their number.

    Known crawlers count as agents only: their events lack what a tracker sends, and are as many as
    they like.
    """
    reported_events = events.filter(pc.is_in(events["type"], pa.array(_REPORTED_TYPES)))
    agents = pc.fill_null(reported_events["agent"], "person")
    people_events = reported_events.filter(pc.not_equal(agents, "bot"))
    rows = _category_rows("agent", "agent", agents)
    if people_events.num_rows:
        rows.append((EVENTS_SIGNAL, TRAFFIC_KIND, False, "all", float(people_events.num_rows)))
        rows += _category_rows("event types", "event_types", people_events["type"])
        rows += _category_rows("event device", "event_device", people_events["device"])
        rows += _click_rows(people_events)
    item_profile_count = pc.sum(pc.equal(events["type"], "item")).as_py() or 0
    if item_profile_count:
        rows.append(("item profiles", TRAFFIC_KIND, False, "all", float(item_profile_count)))
    for type_ in pc.unique(people_events["type"]).to_pylist():
        type_events = people_events.filter(pc.equal(people_events["type"], type_))
        for field in CHECKED_FIELDS:
            missing_count = type_events[field].null_count
            name = f"{type_}.{field}"
            known_count = type_events.num_rows - missing_count
            rows.append((name, "field", True, MISSING, float(missing_count)))
            if known_count:
                rows.append((name, "field", True, "set", float(known_count)))
    return rows


def _click_rows(people_events: pa.Table) -> list[HistogramRow]:
    """Return items that people clicked on, and saw only."""
    seen_lists = people_events["items"].filter(pc.equal(people_events["type"], "impression"))
    if not len(seen_lists):
        return []
    seen = pc.sum(pc.fill_null(pc.list_value_length(seen_lists), 1)).as_py()
    clicked = pc.sum(pc.equal(people_events["type"], "click")).as_py()
    count_by_bin = {"seen": max(0.0, float(seen - clicked)), CLICKED_BIN: float(clicked)}
    return [("clicks", LABEL_KIND, True, name, count) for name, count in count_by_bin.items()]


def _source_rows(responses: pa.Table) -> list[HistogramRow]:
    totals: dict[str, float] = {}
    for sources, counts in zip(
        responses["candidate_sources"].to_pylist(),
        responses["candidate_counts"].to_pylist(),
        strict=True,
    ):
        for name, count in zip(sources or (), counts or (), strict=False):
            totals[name] = totals.get(name, 0.0) + count
    # Counted in responses, because candidates of one response are not independent.
    scale = responses.num_rows / max(1.0, sum(totals.values()))
    return [("sources", "source", True, name, total * scale) for name, total in totals.items()]


def _first_items(column: pa.ChunkedArray, width: int) -> npt.NDArray:
    """Return the features of the first item of each response with any, shape (rows, width)."""
    lists = column.combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    flat_values = pc.list_flatten(lists).to_numpy(zero_copy_only=False)
    starts = (np.cumsum(lengths) - lengths)[(lengths >= width) & (lengths > 0)]
    return flat_values[starts[:, None] + np.arange(width)]


def build_signals(table: pa.Table, hours: int) -> list[Signal]:
    signals = []
    order = pc.sort_indices(table, [("name", "ascending")])
    table = table.take(order)
    names = table["name"].combine_chunks().dictionary_encode()
    codes = names.indices.to_numpy()
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    for first, stop in zip(starts, [*starts[1:], len(codes)], strict=True):
        signal_rows = table.slice(int(first), int(stop - first))
        kind = signal_rows["kind"][0].as_py()
        is_category = signal_rows["category"][0].as_py()
        labels = pc.unique(signal_rows["bin"]).to_pylist()
        bin_labels = sorted(
            (label for label in labels if label != MISSING),
            key=str if is_category or kind == TRAFFIC_KIND else int,
        )
        index_by_label = {
            MISSING: 0,
            **{label: position + 1 for position, label in enumerate(bin_labels)},
        }
        counts = np.zeros((hours, len(index_by_label)))
        bin_indexes = np.array(
            [index_by_label[label] for label in signal_rows["bin"].to_pylist()], np.int64
        )
        np.add.at(
            counts, (signal_rows["hour"].to_numpy(), bin_indexes), signal_rows["count"].to_numpy()
        )
        if kind == TRAFFIC_KIND:
            counts = counts.sum(axis=1, keepdims=True)
        labels_in_order = ("missing", *bin_labels)
        signals.append(
            Signal(signal_rows["name"][0].as_py(), counts, is_category, kind, labels_in_order)
        )
    return signals
