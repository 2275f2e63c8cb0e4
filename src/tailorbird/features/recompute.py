"""Whether serving read what the lake says: every feature that an answer logged, computed again at
the answer's own (t, p).

It shares no state with the server: the values come from the lake's events by `features.backfill`,
the logged ones from the lake's `answers`. `tailorbird features verify` prints the report; how much
was late is another question, which p = ∞ answers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.errors import DamageError
from tailorbird.events.schema import micros
from tailorbird.features.backfill import BackfilledRows, History, RaggedSequence, Requests
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.positions import positions_of
from tailorbird.features.request import unpack_sequences

Bools = npt.NDArray[np.bool_]

ROWS_MAX = 200_000  # rows (items of answers) that are recomputed at a time
EXAMPLES_MAX = 20
# in `degraded`: what the answer's features were made of was taken out of the lake since, see
# `privacy.rows`
UNLINKED = "erased"


@dataclass(frozen=True)
class Difference:
    """A value that was logged, or read, otherwise than it is recomputed; `item` is "" for a
    sequence, which belongs to the request.

    `person`, `t` and `p`, or the `positions` of all parts, are what `features show … --why` asks
    for; `request_id` is "" where nobody asked but a sample.
    """

    feature: str
    request_id: str
    item: str
    logged: object
    recomputed: object
    person: str = ""
    t: int = 0
    p: int = 0
    positions: tuple[int, ...] = ()


@dataclass
class ParityReport:
    """What came of a comparison.

    Attributes:
        answers: answers compared.
        compared: values compared: a number and a category of each item, a sequence of each answer.
        unequal: values that differ in any bit (NaN equals NaN).
        by_feature: column → values that differ, 0 included; `compared_by_feature`: values compared.
        examples: some of them.
        skipped: answers that cannot be compared: of another schema, or degraded so that no features
            were read.
        exempt: answers that may have read what erased people contributed.
        pending: answers that read events which are not among those given: the lake is not yet
            there.
        dropped: values that differ, but are of entities that a cap may have dropped; not among the
            unequal ones.
    """

    answers: int = 0
    compared: int = 0
    unequal: int = 0
    by_feature: dict[str, int] = field(default_factory=dict)
    compared_by_feature: dict[str, int] = field(default_factory=dict)
    examples: list[Difference] = field(default_factory=list)
    skipped: int = 0
    exempt: int = 0
    pending: int = 0
    dropped: int = 0

    def look(self, name: str, values: int) -> None:
        """So many values of a column are compared."""
        self.compared_by_feature[name] = self.compared_by_feature.get(name, 0) + values
        self.compared += values

    def count(self, name: str, differ: int) -> None:
        self.by_feature[name] += differ
        self.unequal += differ

    def note(self, difference: Difference, examples: int = EXAMPLES_MAX) -> None:
        """One value that differs."""
        self.count(difference.feature, 1)
        if len(self.examples) < examples:
            self.examples.append(difference)


def empty_report(features: FeatureSet) -> ParityReport:
    """Nothing compared yet, of all columns."""
    return ParityReport(
        by_feature=dict.fromkeys((*features.numeric, *features.categorical, *features.sequences), 0)
    )


def parity(
    features: FeatureSet,
    events: pa.Table,
    answers: pa.Table,
    *,
    known: int | None = None,
    only: Sequence[str] | None = None,
    dropped: Mapping[str, int] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ParityReport:
    """Recompute the features of logged answers and compare them to the bit.

    Args:
        events: the lake's events, at least `backfill.event_columns`; all that the answers may have
            counted.
        answers: rows of the lake's `answers`.
        known: up to which p the events are complete; by default the newest of them.
        only: compare these columns only.
        dropped: kinds of which a cap dropped some, and when the newest of these was last heard of;
            see `features.idle`.
        progress: told how many answers of how many were compared.
    Raises:
        DamageError: an answer's features are not as many as its items and the schema ask for.
    """
    report = empty_report(features)
    newest = (pc.max(events["p"]).as_py() or 0) if known is None else known
    logged = readable(features, newest, answers, report)
    if not logged.num_rows:
        return report
    history = History(features, events, only=only)
    done = 0
    for part in _parts(logged):
        requests = requests_of(part)
        compare_answers(
            features,
            part,
            history.rows(requests),
            report,
            Excused(history, requests, dropped or {}),
        )
        done += part.num_rows
        progress(done, logged.num_rows)
    return report


class Heard(Protocol):
    """Says which values depend on entities that were heard of; see `History.heard_of`."""

    def heard_of(self, requests: Requests, until: Mapping[str, int]) -> dict[str, Bools]: ...


class Excused:
    """Which rows may differ because a cap dropped what they depend on: the state no longer has it,
    and the lake does.
    """

    def __init__(self, history: Heard, requests: Requests, dropped: Mapping[str, int]) -> None:
        self._history, self._requests, self._dropped = history, requests, dropped

    @cached_property
    def _rows(self) -> dict[str, Bools]:
        return self._history.heard_of(self._requests, self._dropped)

    def left(
        self, name: str, rows: npt.NDArray[np.intp], report: ParityReport
    ) -> npt.NDArray[np.intp]:
        """Of rows that differ in a column those without that excuse; the others are counted in the
        report.
        """
        if not self._dropped or not len(rows):
            return rows
        excused = self._rows[name][rows]
        report.dropped += int(np.count_nonzero(excused))
        return rows[~excused]

    def request(self, name: str, index: int, report: ParityReport) -> bool:
        """Whether the value of a request, a sequence, has that excuse; then it is counted."""
        rows = np.flatnonzero(np.asarray(self._requests.row_request) == index)[:1]
        return bool(len(rows)) and not len(self.left(name, rows, report))


def readable(
    features: FeatureSet, newest: int, answers: pa.Table, report: ParityReport
) -> pa.Table:
    """The answers that can be compared with a lake that is complete up to p = `newest`; the others
    are counted.
    """
    same = pc.equal(answers["schema_hash"], features.schema_hash)
    items = pc.list_value_length(answers["items"])
    read = pc.greater(
        pc.list_value_length(answers["numeric" if features.numeric else "categorical"]), 0
    )
    logged = answers.filter(pc.and_(pc.and_(same, read), pc.greater(items, 0)))
    report.skipped = answers.num_rows - logged.num_rows
    if "degraded" in logged.column_names and len(logged):
        changed = pc.list_parent_indices(logged["degraded"]).filter(
            pc.equal(pc.list_flatten(logged["degraded"]), UNLINKED)
        )
        logged = logged.filter(
            pc.invert(
                pc.is_in(
                    pa.array(np.arange(len(logged))),
                    value_set=changed.combine_chunks().cast(pa.int64()),
                )
            )
        )
    report.exempt = answers.num_rows - report.skipped - logged.num_rows
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
        p=positions_of(answers),
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
                fix="the server and this project declare different features under one schema "
                "hash; compare their versions",
            )


def compare_answers(
    features: FeatureSet,
    answers: pa.Table,
    rows: BackfilledRows,
    report: ParityReport,
    excused: Excused,
) -> None:
    """Add to `report` what comes of some answers, whose columns were recomputed as `rows`. Raises
    DamageError as `parity`.
    """
    _check_shapes(features, answers)
    owner = np.repeat(np.arange(answers.num_rows), _lengths(answers))
    numbers = (
        pc.list_flatten(answers["numeric"])
        .to_numpy()
        .astype(np.float32)
        .reshape(len(owner), len(features.numeric))
    )
    keys = pc.list_flatten(answers["categorical"]).to_numpy().astype(np.int64).view(np.uint64)
    keys = keys.reshape(len(owner), len(features.categorical))
    report.answers += answers.num_rows
    for columns, names, logged, found in (
        (features.numeric, rows.numeric_names, numbers, rows.numeric),
        (features.categorical, rows.categorical_names, keys, rows.categorical),
    ):
        for place, name in enumerate(names):
            own, recomputed = logged[:, columns.index(name)], found[:, place]
            differ = unequal(own, recomputed)
            report.look(name, len(own))
            wrong = excused.left(name, np.flatnonzero(differ), report)
            report.count(name, len(wrong))
            for row in wrong[: EXAMPLES_MAX - len(report.examples)]:
                item = pc.list_flatten(answers["items"])[int(row)].as_py()
                report.examples.append(
                    _difference(
                        answers,
                        int(owner[row]),
                        name,
                        item,
                        own[row].item(),
                        recomputed[row].item(),
                    )
                )
    if rows.sequences:
        _compare_sequences(answers, rows.sequences, report, excused)


def _compare_sequences(
    answers: pa.Table, found: dict[str, RaggedSequence], report: ParityReport, excused: Excused
) -> None:
    for name in found:
        report.look(name, answers.num_rows)
    for index, packed in enumerate(answers["sequences"].to_pylist()):
        logged = unpack_sequences(packed)
        for name, sequence in found.items():
            recomputed = sequence.of(index).lists()
            if logged.get(name) != recomputed and not excused.request(name, index, report):
                report.note(_difference(answers, index, name, "", logged.get(name), recomputed))


def _difference(
    answers: pa.Table, index: int, name: str, item: str, logged: object, recomputed: object
) -> Difference:
    request, person, p = (
        answers[column][index].as_py() for column in ("request_id", "person", "p")
    )
    parts = answers["positions"][index].as_py() if "positions" in answers.column_names else None
    t = int(micros(answers["ts"].slice(index, 1))[0])
    return Difference(
        name, request, item, logged, recomputed, person or "", t, p, tuple(parts or ())
    )


def unequal(values: npt.NDArray[Any], others: npt.NDArray[Any]) -> Bools:
    """Which values differ in any bit, all NaN being alike."""
    if values.dtype != np.float32:
        return values != others
    ours, theirs = (
        np.where(np.isnan(each), np.float32(np.nan), each).view(np.uint32)
        for each in (values, others)
    )
    return ours != theirs
