"""Whether serving read what the lake says: every feature that an answer logged, computed again at the answer's own (t, p).

It shares no state with the server: the values come from the lake's events by `features.backfill`, the logged ones from
the lake's `answers`. `tailorbird features verify` prints the report; how much was late is another question, which p = ∞
answers.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.errors import DamageError
from tailorbird.events.schema import micros
from tailorbird.features.backfill import BackfilledRows, History, RaggedSequence, Requests
from tailorbird.features.featureset import FeatureSet

Bools = npt.NDArray[np.bool_]

ROWS_MAX = 200_000  # rows (items of answers) that are recomputed at a time
EXAMPLES_MAX = 20

_sequences = msgspec.msgpack.Decoder(dict[str, list[list[int]]])


@dataclass(frozen=True)
class Difference:
    """A value that was logged otherwise than it is recomputed. `item` is "" for a sequence, which belongs to the request."""

    feature: str
    request_id: str
    item: str
    logged: object
    recomputed: object


@dataclass
class ParityReport:
    """What came of a comparison.

    Attributes:
        answers: answers compared.
        compared: values compared: a number and a category of each item, a sequence of each answer.
        unequal: values that differ in any bit (NaN equals NaN).
        by_feature: column → values that differ, 0 included.
        examples: some of them.
        skipped: answers that cannot be compared: of another schema, or degraded so that no features were read.
        pending: answers that read events which are not among those given: the lake is not yet there.
    """

    answers: int = 0
    compared: int = 0
    unequal: int = 0
    by_feature: dict[str, int] = field(default_factory=dict)
    examples: list[Difference] = field(default_factory=list)
    skipped: int = 0
    pending: int = 0

    def count(self, name: str, differ: int) -> None:
        self.by_feature[name] += differ
        self.unequal += differ


def parity(features: FeatureSet, events: pa.Table, answers: pa.Table) -> ParityReport:
    """Recompute the features of logged answers and compare them to the bit.

    Args:
        events: the lake's events, at least `backfill.event_columns`; all that the answers may have counted.
        answers: rows of the lake's `answers`.
    Raises:
        DamageError: an answer's features are not as many as its items and the schema ask for.
    """
    report = ParityReport(by_feature=dict.fromkeys((*features.numeric, *features.categorical, *features.sequences), 0))
    logged = _readable(features, events, answers, report)
    if not logged.num_rows:
        return report
    history = History(features, events)
    for part in _parts(logged):
        _check_shapes(features, part)
        _compare(features, part, history.rows(requests_of(part)), report)
    return report


def _readable(features: FeatureSet, events: pa.Table, answers: pa.Table, report: ParityReport) -> pa.Table:
    """The answers that can be compared; the others are counted."""
    same = pc.equal(answers["schema_hash"], features.schema_hash)
    items = pc.list_value_length(answers["items"])
    read = pc.greater(pc.list_value_length(answers["numeric" if features.numeric else "categorical"]), 0)
    logged = answers.filter(pc.and_(pc.and_(same, read), pc.greater(items, 0)))
    report.skipped = answers.num_rows - logged.num_rows
    newest = pc.max(events["p"]).as_py() or 0
    arrived = logged.filter(pc.less_equal(logged["p"], newest))
    report.pending = logged.num_rows - arrived.num_rows
    return arrived


def _parts(answers: pa.Table) -> Iterator[pa.Table]:
    ends = np.cumsum(pc.list_value_length(answers["items"]).to_numpy())
    start = 0
    while start < answers.num_rows:
        taken = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, taken + ROWS_MAX, side="right")))
        yield answers.slice(start, stop - start).combine_chunks()
        start = stop


def requests_of(answers: pa.Table) -> Requests:
    """Logged answers as requests of the past, with a row for each of their items."""
    return Requests(
        t=micros(answers["ts"]),
        p=answers["p"].to_numpy(),
        person=answers["person"],
        session_id=answers["session_id"],
        device=answers["device"],
        country=answers["country"],
        local_hour=answers["local_hour"],
        query=answers["query"],
        row_request=np.repeat(np.arange(answers.num_rows), _lengths(answers)),
        row_item=pc.list_flatten(answers["items"]),
    )


def _lengths(answers: pa.Table) -> npt.NDArray[np.int64]:
    return pc.list_value_length(answers["items"]).to_numpy().astype(np.int64)


def _check_shapes(features: FeatureSet, answers: pa.Table) -> None:
    items = _lengths(answers)
    for name, columns in (("numeric", features.numeric), ("categorical", features.categorical)):
        sizes = pc.fill_null(pc.list_value_length(answers[name]), 0).to_numpy()
        wrong = np.flatnonzero(sizes != items * len(columns))
        if len(wrong):
            row = int(wrong[0])
            raise DamageError(
                f"expected {items[row]} items × {len(columns)} {name} values, got {sizes[row]}",
                where=f"answer {answers['request_id'][row].as_py()}",
                fix="the server and this project declare different features under one schema hash; compare their versions",
            )


def _compare(features: FeatureSet, answers: pa.Table, rows: BackfilledRows, report: ParityReport) -> None:
    owner = np.repeat(np.arange(answers.num_rows), _lengths(answers))
    numbers = pc.list_flatten(answers["numeric"]).to_numpy().astype(np.float32).reshape(-1, len(features.numeric))
    keys = pc.list_flatten(answers["categorical"]).to_numpy().astype(np.int64).view(np.uint64).reshape(-1, len(features.categorical))
    report.answers += answers.num_rows
    report.compared += numbers.size + keys.size + answers.num_rows * len(features.sequences)
    for names, logged, found, differ in (
        (features.numeric, numbers, rows.numeric, _bits(numbers) != _bits(rows.numeric)),
        (features.categorical, keys, rows.categorical, keys != rows.categorical),
    ):
        for column, name in enumerate(names):
            wrong = np.flatnonzero(differ[:, column])
            report.count(name, len(wrong))
            for row in wrong[: EXAMPLES_MAX - len(report.examples)]:
                request = answers["request_id"][int(owner[row])].as_py()
                item = pc.list_flatten(answers["items"])[int(row)].as_py()
                report.examples.append(Difference(name, request, item, logged[row, column].item(), found[row, column].item()))
    if features.sequences:
        _compare_sequences(answers, rows.sequences, report)


def _compare_sequences(answers: pa.Table, found: dict[str, RaggedSequence], report: ParityReport) -> None:
    for index, packed in enumerate(answers["sequences"].to_pylist()):
        logged = _sequences.decode(packed) if packed else {}
        for name, sequence in found.items():
            recomputed = sequence.of(index).lists()
            if logged.get(name) != recomputed:
                report.count(name, 1)
                if len(report.examples) < EXAMPLES_MAX:
                    request = answers["request_id"][index].as_py()
                    report.examples.append(Difference(name, request, "", logged.get(name), recomputed))


def _bits(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    """The bits of each value, all NaN alike."""
    return np.where(np.isnan(values), np.float32(np.nan), values).view(np.uint32)
