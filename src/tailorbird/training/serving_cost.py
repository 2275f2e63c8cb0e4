"""What columns cost a request, measured: bytes of the reading records that only they need, and
time.

    bytes    reading record with all declarations less the one without the column, for each record that a request reads
    finish   making the column for ITEMS candidates from lanes that are already there, as `features.finish` does
    read     `features.read.Reader` on a state that was built of the newest events, for all declarations or for some

What the computed columns take (item-to-item, popularity, age) is part of the index and not
measured; neither is scoring.
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
from tailorbird.events.keys import hash64s
from tailorbird.events.schema import ROUTED
from tailorbird.features import FeatureSet, ReadRequest, finish
from tailorbird.features.declare import WORDS, Derived
from tailorbird.features.layout import Layout, Spot, Step
from tailorbird.features.read import Reader
from tailorbird.features.runs import Runs
from tailorbird.features.worker import FeatureWorker
from tailorbird.lake import Lake

Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Keys = npt.NDArray[np.uint64]

ITEMS, GROUPS = (
    200,
    20,
)  # candidates of a request, and how many records of their categories and the like it reads
EVENTS = 30_000  # the newest, of which the state is built that is read
REQUESTS, REPEATS = 200, 15


@dataclass(frozen=True)
class Cost:
    """Attributes:
    record_bytes: of one reading record that only this column needs; 0 where others share what it is
    made from. request_bytes: of all records that a request reads of that entity. finish_us: of the
    column, for ITEMS candidates; NaN where it is not finished here.
    """

    record_bytes: int
    request_bytes: int
    finish_us: float


def records_read(features: FeatureSet, entity: int) -> int:
    """How many records of an entity a request reads at most."""
    names = features.layout.entities[entity].entity.fields
    return ITEMS if "item" in names else GROUPS if any("." in name for name in names) else 1


def request_bytes(features: FeatureSet) -> int:
    """Bytes of all reading records of a request."""
    return sum(
        one.reading_bytes * records_read(features, one.index) for one in features.layout.entities
    )


def without(
    features: FeatureSet, names: Sequence[str], event_types: Sequence[str]
) -> tuple[FeatureSet, tuple[str, ...]]:
    """The declarations without some, and those of them that had to stay because another is made
    from them.
    """
    by_name = {step.name: step for step in features.layout.steps}
    gone = set(names) & set(by_name)
    similarities = [one for one in features.similarities if one.name not in names]
    needed = {one.of for one in similarities}
    open_ = [
        feature.name
        for feature in features.features
        if isinstance(feature, Derived) and feature.name not in gone
    ]
    while open_:
        expression = by_name[open_.pop()].expression
        for other, _ in () if expression is None else expression.names:
            if other not in needed:
                needed.add(other)
                open_.append(other)
    kept = [
        feature
        for feature in features.features
        if feature.name not in gone or feature.name in needed
    ]
    if not kept:
        raise DeclarationError("no declaration would be left")
    return FeatureSet.from_declarations([*kept, *similarities], event_types=event_types), tuple(
        sorted(gone & needed)
    )


def costs(features: FeatureSet, event_types: Sequence[str]) -> dict[str, Cost]:
    """What each numeric and categorical column costs, by name."""
    whole = {one.entity: one for one in features.layout.entities}
    lanes = _Lanes(
        features.layout, {one.index: records_read(features, one.index) for one in whole.values()}
    )
    found = {}
    for step in features.layout.steps:
        if step.kind == "sequence":
            continue
        bytes_, per_request = 0, 0
        if len(features.features) > 1:
            fewer, stays = without(features, [step.name], event_types)
            left = {} if stays else {one.entity: one.reading_bytes for one in fewer.layout.entities}
            for entity, one in whole.items() if not stays else ():
                saved = one.reading_bytes - left.get(entity, 0)
                bytes_ += saved
                per_request += saved * records_read(features, one.index)
        found[step.name] = Cost(bytes_, per_request, _finish_us(step, lanes))
    return found


def read_us(features: Sequence[FeatureSet], lake: Lake) -> list[float]:
    """Median microseconds of reading ITEMS candidates for one person, for each of some sets of
    declarations on like states.

    Sets take turns, so that a busy machine is busy for all of them.
    """
    newest = int(lake.sql("SELECT max(p) AS p FROM events").column("p")[0].as_py() or 0)
    events = lake.sql(
        f"SELECT {', '.join(ROUTED.names)} FROM events WHERE p > {newest - EVENTS} ORDER BY p"
    ).cast(ROUTED)
    now = int(pc.max(events["ts"]).value) + 1
    people = _most(events["person"], REQUESTS)
    items = _most(events["item_id"], ITEMS)
    keys = hash64s(items)
    taken: list[list[float]] = [[] for _ in features]
    with tempfile.TemporaryDirectory(prefix="tailorbird-cost-") as folder:
        readers = []
        for place, one in enumerate(features):
            state = Path(folder) / str(place)
            with FeatureWorker(
                Path(folder) / "routed", state, one, clock=SimulatedClock(now)
            ) as worker:
                worker.bootstrap(lambda first: [events], newest)
            readers.append(Reader(state, one))
        for person in people:
            for place, reader in enumerate(readers):
                start = time.perf_counter()
                reader.read(ReadRequest(person=person, now=now), items, item_keys=keys)
                taken[place].append(time.perf_counter() - start)
        for reader in readers:
            reader.close()
    return [float(np.median(each)) * 1e6 if each else float("nan") for each in taken]


def _most(column: pa.ChunkedArray, count: int) -> list[str]:
    """The most frequent values."""
    counted = pc.value_counts(column.combine_chunks().drop_null())
    order = np.argsort(-counted.field("counts").to_numpy(), kind="stable")[:count]
    return counted.field("values").take(pa.array(order)).to_pylist()


def _finish_us(step: Step, lanes: "_Lanes") -> float:
    if step.operation == "derived":
        expression = step.expression
        assert expression is not None
        column = np.ones(ITEMS)
        return _us(lambda: expression.numbers(lambda name, kind: column, ITEMS))
    return _us(
        lambda: (
            finish.category(step, lanes)
            if step.kind == "categorical"
            else finish.number(step, lanes)
        )
    )


def _us(work: Callable[[], object]) -> float:
    """Microseconds of the fastest of some repeats: what it takes where nothing else disturbs."""
    best = float("inf")
    with np.errstate(all="ignore"):
        for _ in range(REPEATS):
            start = time.perf_counter()
            work()
            best = min(best, time.perf_counter() - start)
    return best * 1e6


class _Lanes:
    """Lanes full of numbers for one request; implements `finish.Lanes`."""

    def __init__(self, layout: Layout, records: dict[int, int]) -> None:
        self.rows = ITEMS
        self.t: Int64s = np.full(1, 1 << 50, np.int64)
        rng = np.random.default_rng(0)
        self._readings = {
            one.index: rng.integers(
                0, 1 << 20, (ITEMS if records[one.index] > 1 else 1, one.reading_lanes)
            )
            for one in layout.entities
        }

    def lane(self, spot: Spot) -> Int64s:
        return self._readings[spot.entity][:, spot.lane]

    def known(self, entity: int) -> Bools:
        return np.ones(1, np.bool_)

    def of_run(self, step: Step) -> npt.NDArray:
        ts = int(self.t[0]) - 1_000_000 * np.arange(step.length, 0, -1)
        hashed = np.ones(step.length, np.uint64)
        run = Runs(
            np.array([0, step.length]),
            ts,
            hashed,
            hashed,
            hashed,
            self.t,
            np.zeros(1, np.uint64),
            hashed,
        )
        if step.operation != "seen":
            return run.column(step)
        return run.seen(np.zeros(ITEMS, np.intp), np.arange(ITEMS, dtype=np.uint64))

    def query_words(self) -> Keys:
        return np.ones((1, WORDS), np.uint64)

    def context_number(self, field: str) -> Floats:
        return np.zeros(1)

    def context_key(self, field: str) -> Keys:
        return np.zeros(1, np.uint64)
