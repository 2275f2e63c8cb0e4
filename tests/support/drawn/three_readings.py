"""One script of events and requests, read three ways: by the plain reference, the backfill and the
stream; what differs is told.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tests.support.drawn.events import ITEMS, START, Step

from tailorbird.events.clock import SimulatedClock
from tailorbird.events.contract.schema import ROUTED
from tailorbird.features import FeatureSet
from tailorbird.features.offline.backfill import backfill
from tailorbird.features.online.read import Reader
from tailorbird.features.online.shuffle import Shuffle
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.features.parity.sampled import SampledRead, requests_of
from tailorbird.features.reference import reference as plain
from tailorbird.features.reference.point_in_time import routed_events
from tailorbird.features.state.key_partition import KeyPart
from tailorbird.stream import Block, open_writer


def table(rows: Any) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=ROUTED)


def play_stream(
    folder: Path,
    features: FeatureSet,
    steps: list[Step],
    workers: int = 1,
    *,
    shuffled: bool = False,
) -> tuple[pa.Table, list[SampledRead]]:
    """Play the steps through log, workers and reader: all events with their p, and what was read.

    Several workers are never all as far as each other; `shuffled` has each read the log that a
    shuffle writes for it.
    """
    clock = SimulatedClock(START)
    folder.mkdir(exist_ok=True)
    routed, reads = folder / "routed.db", []
    logs = [folder / f"part-{number}.db" if shuffled else routed for number in range(workers)]
    all_rows: list[dict] = []

    def open_worker(number: int) -> FeatureWorker:
        return FeatureWorker(
            logs[number], folder / "state", features, clock=clock, part=KeyPart(number, workers)
        )

    with ExitStack() as stack:
        log = stack.enter_context(open_writer(routed, partition="routed", first_position=1))
        shuffle = stack.enter_context(Shuffle(routed, logs, features)) if shuffled else None
        running_workers = [open_worker(number) for number in range(workers)]
        stack.callback(lambda: [worker.close() for worker in running_workers])
        for step_number, step in enumerate(steps):
            if step.restart:
                restarted_worker = step_number % workers
                running_workers[restarted_worker].close()
                running_workers[restarted_worker] = open_worker(restarted_worker)
            rows = [row | {"p": log.end() + index} for index, row in enumerate(step.events)]
            all_rows += rows
            if rows:
                log.append([Block("events", len(rows), to_payload(table(rows)))])
            if shuffle is not None:
                shuffle.step()
            for number, worker in enumerate(running_workers):
                if workers == 1 or (step_number + number) % workers:
                    worker.step()
            reader = Reader(folder / "state", features, workers=workers)
            reads.append(SampledRead(step.request, ITEMS, reader.read(step.request, list(ITEMS))))
            reader.close()
    return table(all_rows), reads


def to_payload(events: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, events.schema) as writer:
        writer.write_table(events)
    return sink.getvalue().to_pybytes()


def float_bits(value: float) -> int:
    number = np.float32(value)
    return 0x7FC00000 if np.isnan(number) else int(number.view(np.uint32))


def _value_bits(value: int | float) -> int:
    """A number of a sequence as its bits; what is no number is an int as it is."""
    return int(np.float64(value).view(np.uint64)) if isinstance(value, float) else value


def _transpose(columns: list[list[int]]) -> list[list[int]]:
    return [list(row) for row in zip(*columns, strict=True)]


def find_differences(features: FeatureSet, events: pa.Table, reads: list[SampledRead]) -> list[str]:
    """Every value that is not the same in reference, backfill and stream."""
    differences = []
    rows = backfill(features, events, requests_of(reads))
    routed = routed_events(events)
    for request_index, sampled_read in enumerate(reads):
        reference_request = plain.ReadRequest(
            **{**vars(sampled_read.request), "person": sampled_read.rows.person}
        )
        for item_index, item in enumerate(ITEMS):

            def reference_value(
                name: str,
                reference_request: Any = reference_request,
                item: str | None = item,
                sampled_read: Any = sampled_read,
            ) -> Any:
                return plain.compute_value(
                    features,
                    name,
                    reference_request,
                    item,
                    sampled_read.rows.t,
                    sampled_read.rows.log_positions or sampled_read.rows.log_position,
                    routed,
                )

            row = request_index * len(ITEMS) + item_index
            for column, name in enumerate(features.numeric):
                values = [
                    float(reference_value(name)),
                    rows.numeric[row, column],
                    sampled_read.rows.numeric[item_index, column],
                ]
                if len({float_bits(value) for value in values}) > 1:
                    differences.append(
                        f"{name} of {item} in request {request_index}: reference, backfill, stream = "
                        f"{values}"
                    )
            for column, name in enumerate(features.categorical):
                values = [
                    int(reference_value(name)),
                    int(rows.categorical[row, column]),
                    int(sampled_read.rows.categorical[item_index, column]),
                ]
                if len(set(values)) > 1:
                    differences.append(
                        f"{name} of {item} in request {request_index}: reference, backfill, stream = "
                        f"{values}"
                    )
            for name in features.sequences:
                backfilled_sequence, stream_sequence = (
                    rows.sequences[name].of(request_index).to_lists(),
                    sampled_read.rows.sequences[name].to_lists(),
                )
                values = [
                    [[_value_bits(value) for value in row] for row in reference_value(name)],
                    *map(_transpose, (backfilled_sequence, stream_sequence)),
                ]
                if not values[0] == values[1] == values[2]:
                    differences.append(
                        f"{name} in request {request_index}: reference, backfill, stream = {values}"
                    )
    return differences
