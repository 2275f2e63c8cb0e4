"""Measured cost of columns: bytes of records that only one column needs, and time.

    bytes    size of the reading record with all declarations, minus the size without the column,
             for each record that a request reads
    finish   computing the column for the candidates of a request, from loaded lanes, as
             `features.arithmetic.finish` does
    read     `features.online.read.Reader` on a state built from the newest events, for all
             declarations or for some

A reading record holds what a request reads of one key of an entity, such as an item, as lanes of 64
bits each. Computed columns (item-to-item, popularity, age) are part of the index and not measured;
neither is scoring.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.errors import DeclarationError
from tailorbird.events import SimulatedClock
from tailorbird.events.contract.schema import ROUTED
from tailorbird.events.keys import hash64s
from tailorbird.features import FeatureSet, ReadRequest
from tailorbird.features.arithmetic import finish
from tailorbird.features.arithmetic.runs import Runs
from tailorbird.features.declare.declarations import Derived
from tailorbird.features.declare.limits import WORDS_MAX
from tailorbird.features.layout.layout import Layout, RecordLane, Step
from tailorbird.features.online.read import Reader
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.lake import Lake

Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Keys = npt.NDArray[np.uint64]

# Candidates of a request, and records of their categories and the like that it reads.
CANDIDATES_PER_REQUEST = 200
GROUPS_PER_REQUEST = 20
NEWEST_EVENTS = 30_000  # newest events that the measured state is built from
MEASURED_REQUESTS = 200
REPEATS = 15


@dataclass(frozen=True)
class ColumnCost:
    """Cost of a column.

    Attributes:
        record_bytes: bytes of one reading record that only this column needs; 0 if its inputs are
            shared.
        request_bytes: the same for all records of the entity that a request reads.
        finish_us: microseconds to compute it for the candidates of a request; NaN where it is not
            finished here.
    """

    record_bytes: int
    request_bytes: int
    finish_us: float


def records_per_request(features: FeatureSet, entity_index: int) -> int:
    """Return the largest number of records of an entity that a request reads."""
    field_names = features.layout.entities[entity_index].entity.fields
    if "item" in field_names:
        return CANDIDATES_PER_REQUEST
    return GROUPS_PER_REQUEST if any("." in name for name in field_names) else 1


def count_request_bytes(features: FeatureSet) -> int:
    """Return the bytes of all reading records of a request."""
    return sum(
        entity.reading_bytes * records_per_request(features, entity.index)
        for entity in features.layout.entities
    )


def drop_declarations(
    features: FeatureSet, names: Sequence[str], event_types: Sequence[str]
) -> tuple[FeatureSet, tuple[str, ...]]:
    """Drop declarations; return the rest, and those that others are derived from and so stay."""
    step_by_name = {step.name: step for step in features.layout.steps}
    removed_names = set(names) & set(step_by_name)
    similarities = [
        similarity for similarity in features.similarities if similarity.name not in names
    ]
    needed_names = {similarity.of for similarity in similarities}
    pending_names = [
        feature.name
        for feature in features.features
        if isinstance(feature, Derived) and feature.name not in removed_names
    ]
    while pending_names:
        expression = step_by_name[pending_names.pop()].expression
        for input_name, _ in () if expression is None else expression.names:
            if input_name not in needed_names:
                needed_names.add(input_name)
                pending_names.append(input_name)
    retained_features = [
        feature
        for feature in features.features
        if feature.name not in removed_names or feature.name in needed_names
    ]
    if not retained_features:
        raise DeclarationError("no declaration would be left")
    return FeatureSet.from_declarations(
        [*retained_features, *similarities], event_types=event_types
    ), tuple(sorted(removed_names & needed_names))


def measure_costs(features: FeatureSet, event_types: Sequence[str]) -> dict[str, ColumnCost]:
    """Measure the cost of each numeric and categorical column, by name."""
    layout_by_entity = {entity.entity: entity for entity in features.layout.entities}
    lanes = _RandomLanes(
        features.layout,
        {
            entity.index: records_per_request(features, entity.index)
            for entity in layout_by_entity.values()
        },
    )
    column_costs = {}
    for step in features.layout.steps:
        if step.kind == "sequence":
            continue
        record_bytes = 0
        request_bytes = 0
        if len(features.features) > 1:
            reduced_features, needed_names = drop_declarations(features, [step.name], event_types)
            remaining_bytes = (
                {}
                if needed_names
                else {
                    entity.entity: entity.reading_bytes
                    for entity in reduced_features.layout.entities
                }
            )
            for entity, layout in layout_by_entity.items() if not needed_names else ():
                saved_bytes = layout.reading_bytes - remaining_bytes.get(entity, 0)
                record_bytes += saved_bytes
                request_bytes += saved_bytes * records_per_request(features, layout.index)
        column_costs[step.name] = ColumnCost(
            record_bytes, request_bytes, _measure_finish_us(step, lanes)
        )
    return column_costs


def measure_read_us(feature_sets: Sequence[FeatureSet], lake: Lake) -> list[float]:
    """Measure the median microseconds to read the candidates of one request, per feature set.

    Feature sets take turns, so that background load affects all of them.
    """
    newest_log_position = int(
        lake.sql("SELECT max(p) AS p FROM events").column("p")[0].as_py() or 0
    )
    events = lake.sql(
        f"SELECT {', '.join(ROUTED.names)} FROM events "
        f"WHERE p > {newest_log_position - NEWEST_EVENTS} ORDER BY p"
    ).cast(ROUTED)
    now = int(pc.max(events["ts"]).value) + 1
    people = _most_frequent(events["person"], MEASURED_REQUESTS)
    items = _most_frequent(events["item_id"], CANDIDATES_PER_REQUEST)
    item_keys = hash64s(items)
    durations_by_reader: list[list[float]] = [[] for _ in feature_sets]
    with tempfile.TemporaryDirectory(prefix="tailorbird-cost-") as folder:
        readers = []
        for index, feature_set in enumerate(feature_sets):
            state_folder = Path(folder) / str(index)
            with FeatureWorker(
                Path(folder) / "routed", state_folder, feature_set, clock=SimulatedClock(now)
            ) as worker:
                worker.bootstrap(lambda first: [events], newest_log_position)
            readers.append(Reader(state_folder, feature_set))
        for person in people:
            for index, reader in enumerate(readers):
                start = time.perf_counter()
                reader.read(ReadRequest(person=person, now=now), items, item_keys=item_keys)
                durations_by_reader[index].append(time.perf_counter() - start)
        for reader in readers:
            reader.close()
    return [
        float(np.median(durations)) * 1e6 if durations else float("nan")
        for durations in durations_by_reader
    ]


def _most_frequent(column: pa.ChunkedArray, count: int) -> list[str]:
    """Return the most frequent values."""
    value_counts = pc.value_counts(column.combine_chunks().drop_null())
    order = np.argsort(-value_counts.field("counts").to_numpy(), kind="stable")[:count]
    return value_counts.field("values").take(pa.array(order)).to_pylist()


def _measure_finish_us(step: Step, lanes: "_RandomLanes") -> float:
    if step.operation == "derived":
        expression = step.expression
        assert expression is not None
        column = np.ones(CANDIDATES_PER_REQUEST)
        return _best_us(
            lambda: expression.numbers(lambda name, kind: column, CANDIDATES_PER_REQUEST)
        )
    return _best_us(
        lambda: (
            finish.compute_category(step, lanes)
            if step.kind == "categorical"
            else finish.compute_number(step, lanes)
        )
    )


def _best_us(measured_call: Callable[[], object]) -> float:
    """Return the microseconds of the fastest of several repeats."""
    best = float("inf")
    with np.errstate(all="ignore"):
        for _ in range(REPEATS):
            start = time.perf_counter()
            measured_call()
            best = min(best, time.perf_counter() - start)
    return best * 1e6


class _RandomLanes:
    """Lanes of random numbers for one request; implements `finish.LaneSource`."""

    def __init__(self, layout: Layout, records_by_entity: dict[int, int]) -> None:
        self.rows = CANDIDATES_PER_REQUEST
        self.t: Int64s = np.full(1, 1 << 50, np.int64)
        rng = np.random.default_rng(0)
        self._readings = {
            entity.index: rng.integers(
                0,
                1 << 20,
                (
                    CANDIDATES_PER_REQUEST if records_by_entity[entity.index] > 1 else 1,
                    entity.reading_lanes,
                ),
            )
            for entity in layout.entities
        }

    def lane(self, record_lane: RecordLane) -> Int64s:
        return self._readings[record_lane.entity][:, record_lane.lane]

    def is_present(self, entity: int) -> Bools:
        return np.ones(1, np.bool_)

    def run_values(self, step: Step) -> npt.NDArray:
        ts = int(self.t[0]) - 1_000_000 * np.arange(step.length, 0, -1)
        key_column = np.ones(step.length, np.uint64)
        run = Runs(
            offsets=np.array([0, step.length]),
            ts=ts,
            item=key_column,
            type=key_column,
            session=key_column,
            t=self.t,
            request_session=np.zeros(1, np.uint64),
            value=key_column,
        )
        if step.operation != "seen":
            return run.column(step)
        return run.seen(
            np.zeros(CANDIDATES_PER_REQUEST, np.intp),
            np.arange(CANDIDATES_PER_REQUEST, dtype=np.uint64),
        )

    def query_words(self) -> Keys:
        return np.ones((1, WORDS_MAX), np.uint64)

    def context_number(self, field: str) -> Floats:
        return np.zeros(1)

    def context_key(self, field: str) -> Keys:
        return np.zeros(1, np.uint64)
