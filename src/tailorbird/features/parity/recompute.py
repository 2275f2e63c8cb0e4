"""Parity check: every feature that a response logged, recomputed at the response's own (t, p).

It shares no state with the server: `features.offline.backfill` computes the values from the lake's
events, and the logged ones come from the lake's `answers`. `tailorbird features verify` prints the
report. How much arrived late is another question, which p = ∞ answers.
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
from tailorbird.events.contract.schema import micros
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.offline.backfill import BackfilledRows, History, RaggedSequence, Requests
from tailorbird.features.offline.positions import positions_of
from tailorbird.features.request import unpack_sequences

Bools = npt.NDArray[np.bool_]

ROWS_MAX = 200_000  # rows (items of responses) recomputed at a time
EXAMPLES_MAX = 20
# Mark in `degraded`: events behind the response's features were erased from the lake since, see
# `privacy.rewrite_tables`
ERASED_EXEMPTION = "erased"


@dataclass(frozen=True)
class Difference:
    """A logged or read value that differs from the recomputed one.

    `item` is "" for a sequence, which belongs to the request. `person`, `t` and `p`, or the
    `positions` of all parts, are arguments for `features show … --why`; `request_id` is "" for a
    sample.
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
    """The result of a comparison.

    Attributes:
        answers: number of responses compared.
        compared: values compared: a number and a category of each item, a sequence of each
            response.
        unequal: values that differ in any bit (NaN equals NaN).
        by_feature: column → values that differ, 0 included; `compared_by_feature`: values compared.
        examples: some of them.
        skipped: responses that cannot be compared: of another schema, or degraded without features.
        exempt: responses that may have read what erased people contributed.
        pending: responses that read events that the lake does not have yet.
        dropped: values that differ, but belong to entities that a cap may have dropped; not counted
            as unequal.
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

    def add_compared(self, name: str, values: int) -> None:
        """Count `values` values of a column as compared."""
        self.compared_by_feature[name] = self.compared_by_feature.get(name, 0) + values
        self.compared += values

    def add_unequal(self, name: str, unequal_values: int) -> None:
        self.by_feature[name] += unequal_values
        self.unequal += unequal_values

    def add_difference(self, difference: Difference, examples: int = EXAMPLES_MAX) -> None:
        """Record one value that differs."""
        self.add_unequal(difference.feature, 1)
        if len(self.examples) < examples:
            self.examples.append(difference)


def empty_report(features: FeatureSet) -> ParityReport:
    """Return a report of all columns with nothing compared."""
    return ParityReport(
        by_feature=dict.fromkeys((*features.numeric, *features.categorical, *features.sequences), 0)
    )


def parity(
    features: FeatureSet,
    events: pa.Table,
    responses: pa.Table,
    *,
    complete_to: int | None = None,
    only: Sequence[str] | None = None,
    dropped: Mapping[str, int] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ParityReport:
    """Recompute the features of logged responses and compare them bit for bit.

    Args:
        events: the lake's events, at least `backfill.event_columns`; all that the responses may
            have counted.
        responses: rows of the lake's `answers`.
        complete_to: the p up to which the events are complete; by default the newest of them.
        only: compare these columns only.
        dropped: kinds with entities dropped by a cap, and the newest event time among these; see
            `features.state.eviction`.
        progress: called with the number of responses compared so far and in total.
    Raises:
        DamageError: the number of a response's features does not match its items and the schema.
    """
    report = empty_report(features)
    newest = (pc.max(events["p"]).as_py() or 0) if complete_to is None else complete_to
    logged = comparable_responses(features, newest, responses, report)
    if not logged.num_rows:
        return report
    history = History(features, events, only=only)
    done = 0
    for part in _list_parts(logged):
        requests = requests_of(part)
        compare_responses(
            features,
            part,
            history.rows(requests),
            report,
            Exemptions(history, requests, dropped or {}),
        )
        done += part.num_rows
        progress(done, logged.num_rows)
    return report


class ExemptionSource(Protocol):
    """Says which values may depend on dropped entities; see `History.exempt_rows`."""

    def exempt_rows(self, requests: Requests, until: Mapping[str, int]) -> dict[str, Bools]: ...


class Exemptions:
    """The rows that may differ because a cap dropped what they depend on from the state."""

    def __init__(
        self, history: ExemptionSource, requests: Requests, dropped: Mapping[str, int]
    ) -> None:
        self._history, self._requests, self._dropped = history, requests, dropped

    @cached_property
    def _rows(self) -> dict[str, Bools]:
        return self._history.exempt_rows(self._requests, self._dropped)

    def non_exempt(
        self, name: str, rows: npt.NDArray[np.intp], report: ParityReport
    ) -> npt.NDArray[np.intp]:
        """Return the differing rows of a column without exemption; exempt ones are counted in the
        report.
        """
        if not self._dropped or not len(rows):
            return rows
        is_exempt = self._rows[name][rows]
        report.dropped += int(np.count_nonzero(is_exempt))
        return rows[~is_exempt]

    def is_request_exempt(self, name: str, index: int, report: ParityReport) -> bool:
        """Return whether a request's sequence is exempt, and count it if so."""
        rows = np.flatnonzero(np.asarray(self._requests.row_request) == index)[:1]
        return bool(len(rows)) and not len(self.non_exempt(name, rows, report))


def comparable_responses(
    features: FeatureSet, newest: int, responses: pa.Table, report: ParityReport
) -> pa.Table:
    """Return the responses comparable with a lake that is complete up to `newest`; count the
    others.
    """
    has_schema = pc.equal(responses["schema_hash"], features.schema_hash)
    items = pc.list_value_length(responses["items"])
    has_features = pc.greater(
        pc.list_value_length(responses["numeric" if features.numeric else "categorical"]), 0
    )
    logged = responses.filter(pc.and_(pc.and_(has_schema, has_features), pc.greater(items, 0)))
    report.skipped = responses.num_rows - logged.num_rows
    if "degraded" in logged.column_names and len(logged):
        unlinked = pc.list_parent_indices(logged["degraded"]).filter(
            pc.equal(pc.list_flatten(logged["degraded"]), ERASED_EXEMPTION)
        )
        logged = logged.filter(
            pc.invert(
                pc.is_in(
                    pa.array(np.arange(len(logged))),
                    value_set=unlinked.combine_chunks().cast(pa.int64()),
                )
            )
        )
    report.exempt = responses.num_rows - report.skipped - logged.num_rows
    arrived = logged.filter(pc.less_equal(logged["p"], newest))
    report.pending = logged.num_rows - arrived.num_rows
    return arrived


def _list_parts(responses: pa.Table) -> Iterator[pa.Table]:
    ends = np.cumsum(pc.list_value_length(responses["items"]).to_numpy())
    start = 0
    while start < responses.num_rows:
        rows_before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, rows_before + ROWS_MAX, side="right")))
        yield responses.slice(start, stop - start).combine_chunks()
        start = stop


def requests_of(responses: pa.Table) -> Requests:
    """Return logged responses as past requests, with a row for each of their items."""
    return Requests(
        t=micros(responses["ts"]),
        p=positions_of(responses),
        person=responses["person"],
        session_id=responses["session_id"],
        device=responses["device"],
        country=responses["country"],
        local_hour=responses["local_hour"],
        query=responses["query"],
        row_request=np.repeat(np.arange(responses.num_rows), _sequence_lengths(responses)),
        row_item=pc.list_flatten(responses["items"]),
    )


def _sequence_lengths(responses: pa.Table) -> npt.NDArray[np.int64]:
    return pc.list_value_length(responses["items"]).to_numpy().astype(np.int64)


def _check_shapes(features: FeatureSet, responses: pa.Table) -> None:
    items = _sequence_lengths(responses)
    for name, columns in (("numeric", features.numeric), ("categorical", features.categorical)):
        sizes = pc.fill_null(pc.list_value_length(responses[name]), 0).to_numpy()
        wrong = np.flatnonzero(sizes != items * len(columns))
        if len(wrong):
            row = int(wrong[0])
            raise DamageError(
                f"expected {items[row]} items × {len(columns)} {name} values, got {sizes[row]}",
                where=f"answer {responses['request_id'][row].as_py()}",
                fix="the server and this project declare different features under one schema "
                "hash; compare their versions",
            )


def compare_responses(
    features: FeatureSet,
    responses: pa.Table,
    rows: BackfilledRows,
    report: ParityReport,
    exemptions: Exemptions,
) -> None:
    """Add to `report` the comparison of responses with their recomputed `rows`.

    Raises DamageError as `parity`.
    """
    _check_shapes(features, responses)
    owner = np.repeat(np.arange(responses.num_rows), _sequence_lengths(responses))
    numbers = (
        pc.list_flatten(responses["numeric"])
        .to_numpy()
        .astype(np.float32)
        .reshape(len(owner), len(features.numeric))
    )
    keys = pc.list_flatten(responses["categorical"]).to_numpy().astype(np.int64).view(np.uint64)
    keys = keys.reshape(len(owner), len(features.categorical))
    report.answers += responses.num_rows
    for columns, names, logged, recomputed_table in (
        (features.numeric, rows.numeric_names, numbers, rows.numeric),
        (features.categorical, rows.categorical_names, keys, rows.categorical),
    ):
        for column, name in enumerate(names):
            logged_values, recomputed = logged[:, columns.index(name)], recomputed_table[:, column]
            is_unequal = unequal(logged_values, recomputed)
            report.add_compared(name, len(logged_values))
            unequal_rows = exemptions.non_exempt(name, np.flatnonzero(is_unequal), report)
            report.add_unequal(name, len(unequal_rows))
            for row in unequal_rows[: EXAMPLES_MAX - len(report.examples)]:
                item = pc.list_flatten(responses["items"])[int(row)].as_py()
                report.examples.append(
                    _describe_difference(
                        responses,
                        int(owner[row]),
                        name,
                        item,
                        logged_values[row].item(),
                        recomputed[row].item(),
                    )
                )
    if rows.sequences:
        _compare_sequences(responses, rows.sequences, report, exemptions)


def _compare_sequences(
    responses: pa.Table,
    sequences: dict[str, RaggedSequence],
    report: ParityReport,
    exemptions: Exemptions,
) -> None:
    for name in sequences:
        report.add_compared(name, responses.num_rows)
    for index, packed in enumerate(responses["sequences"].to_pylist()):
        logged = unpack_sequences(packed)
        for name, sequence in sequences.items():
            recomputed = sequence.of(index).lists()
            if logged.get(name) != recomputed and not exemptions.is_request_exempt(
                name, index, report
            ):
                report.add_difference(
                    _describe_difference(responses, index, name, "", logged.get(name), recomputed)
                )


def _describe_difference(
    responses: pa.Table, index: int, name: str, item: str, logged: object, recomputed: object
) -> Difference:
    request, person, p = (
        responses[column][index].as_py() for column in ("request_id", "person", "p")
    )
    parts = responses["positions"][index].as_py() if "positions" in responses.column_names else None
    t = int(micros(responses["ts"].slice(index, 1))[0])
    return Difference(
        name, request, item, logged, recomputed, person or "", t, p, tuple(parts or ())
    )


def unequal(values: npt.NDArray[Any], expected: npt.NDArray[Any]) -> Bools:
    """Return which values differ in any bit; all NaN are equal."""
    if values.dtype != np.float32:
        return values != expected
    value_bits, expected_bits = (
        np.where(np.isnan(side), np.float32(np.nan), side).view(np.uint32)
        for side in (values, expected)
    )
    return value_bits != expected_bits
