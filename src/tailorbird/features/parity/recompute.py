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

    `item` is "" for a sequence, which belongs to the request. `person`, `t` and `log_position`, or
    the `log_positions` of all parts, are arguments for `features show … --why`; `request_id` is ""
    for a
    sample.
    """

    feature: str
    request_id: str
    item: str
    logged: object
    recomputed: object
    person: str = ""
    t: int = 0
    log_position: int = 0
    log_positions: tuple[int, ...] = ()


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


def compute_parity(
    features: FeatureSet,
    events: pa.Table,
    responses: pa.Table,
    *,
    complete_position: int | None = None,
    only_columns: Sequence[str] | None = None,
    dropped_ts_by_kind: Mapping[str, int] | None = None,
    progress: Callable[[int, int], None] = lambda compared_count, total: None,
) -> ParityReport:
    """Recompute the features of logged responses and compare them bit for bit.

    Args:
        events: the lake's events, at least `backfill.event_columns`; all that the responses may
            have counted.
        responses: rows of the lake's `answers`.
        complete_position: the p up to which the events are complete; by default the newest of them.
        only_columns: compare these columns only.
        dropped_ts_by_kind: kinds with entities dropped by a cap, and the newest event time
            among these; see `features.state.eviction`.
        progress: called with the number of responses compared so far and in total.
    Raises:
        DamageError: the number of a response's features does not match its items and the schema.
    """
    report = empty_report(features)
    newest_position = (
        (pc.max(events["p"]).as_py() or 0) if complete_position is None else complete_position
    )
    comparable = comparable_responses(features, newest_position, responses, report)
    if not comparable.num_rows:
        return report
    history = History(features, events, only_columns=only_columns)
    compared_count = 0
    for chunk in _split_responses(comparable):
        requests = requests_of(chunk)
        compare_responses(
            features,
            chunk,
            history.rows(requests),
            report,
            Exemptions(history, requests, dropped_ts_by_kind or {}),
        )
        compared_count += chunk.num_rows
        progress(compared_count, comparable.num_rows)
    return report


class ExemptionSource(Protocol):
    """Says which values may depend on dropped entities; see `History.exempt_rows`."""

    def exempt_rows(
        self, requests: Requests, dropped_ts_by_kind: Mapping[str, int]
    ) -> dict[str, Bools]: ...


class Exemptions:
    """The rows that may differ because a cap dropped what they depend on from the state."""

    def __init__(
        self,
        exemption_source: ExemptionSource,
        requests: Requests,
        dropped_ts_by_kind: Mapping[str, int],
    ) -> None:
        self._exemption_source = exemption_source
        self._requests = requests
        self._dropped_ts_by_kind = dropped_ts_by_kind

    @cached_property
    def _exempt_rows(self) -> dict[str, Bools]:
        return self._exemption_source.exempt_rows(self._requests, self._dropped_ts_by_kind)

    def non_exempt(
        self, name: str, rows: npt.NDArray[np.intp], report: ParityReport
    ) -> npt.NDArray[np.intp]:
        """Return the differing rows of a column without exemption; exempt ones are counted in the
        report.
        """
        if not self._dropped_ts_by_kind or not len(rows):
            return rows
        is_exempt = self._exempt_rows[name][rows]
        report.dropped += int(np.count_nonzero(is_exempt))
        return rows[~is_exempt]

    def is_request_exempt(self, name: str, request_index: int, report: ParityReport) -> bool:
        """Return whether a request's sequence is exempt, and count it if so."""
        rows = np.flatnonzero(np.asarray(self._requests.row_request) == request_index)[:1]
        return bool(len(rows)) and not len(self.non_exempt(name, rows, report))


def comparable_responses(
    features: FeatureSet, complete_position: int, responses: pa.Table, report: ParityReport
) -> pa.Table:
    """Return the responses comparable with a lake that is complete up to `complete_position`; count
    the others.
    """
    has_schema = pc.equal(responses["schema_hash"], features.schema_hash)
    items = pc.list_value_length(responses["items"])
    has_features = pc.greater(
        pc.list_value_length(responses["numeric" if features.numeric else "categorical"]), 0
    )
    comparable = responses.filter(pc.and_(pc.and_(has_schema, has_features), pc.greater(items, 0)))
    report.skipped = responses.num_rows - comparable.num_rows
    if "degraded" in comparable.column_names and len(comparable):
        erased_rows = pc.list_parent_indices(comparable["degraded"]).filter(
            pc.equal(pc.list_flatten(comparable["degraded"]), ERASED_EXEMPTION)
        )
        comparable = comparable.filter(
            pc.invert(
                pc.is_in(
                    pa.array(np.arange(len(comparable))),
                    value_set=erased_rows.combine_chunks().cast(pa.int64()),
                )
            )
        )
    report.exempt = responses.num_rows - report.skipped - comparable.num_rows
    comparable_now = comparable.filter(pc.less_equal(comparable["p"], complete_position))
    report.pending = comparable.num_rows - comparable_now.num_rows
    return comparable_now


def _split_responses(responses: pa.Table) -> Iterator[pa.Table]:
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
        log_position=positions_of(responses),
        person=responses["person"],
        session_id=responses["session_id"],
        device=responses["device"],
        country=responses["country"],
        local_hour=responses["local_hour"],
        query=responses["query"],
        row_request=np.repeat(np.arange(responses.num_rows), _item_counts(responses)),
        row_item=pc.list_flatten(responses["items"]),
    )


def _item_counts(responses: pa.Table) -> npt.NDArray[np.int64]:
    return pc.list_value_length(responses["items"]).to_numpy().astype(np.int64)


def _check_shapes(features: FeatureSet, responses: pa.Table) -> None:
    item_counts = _item_counts(responses)
    for name, columns in (("numeric", features.numeric), ("categorical", features.categorical)):
        sizes = pc.fill_null(pc.list_value_length(responses[name]), 0).to_numpy()
        mismatched_rows = np.flatnonzero(sizes != item_counts * len(columns))
        if len(mismatched_rows):
            row = int(mismatched_rows[0])
            raise DamageError(
                f"expected {item_counts[row]} items × {len(columns)} {name} values, got {sizes[row]}",
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

    Raises DamageError as `compute_parity`.
    """
    _check_shapes(features, responses)
    request_of_row = np.repeat(np.arange(responses.num_rows), _item_counts(responses))
    logged_numbers = (
        pc.list_flatten(responses["numeric"])
        .to_numpy()
        .astype(np.float32)
        .reshape(len(request_of_row), len(features.numeric))
    )
    logged_categories = (
        pc.list_flatten(responses["categorical"]).to_numpy().astype(np.int64).view(np.uint64)
    )
    logged_categories = logged_categories.reshape(len(request_of_row), len(features.categorical))
    report.answers += responses.num_rows
    for columns, names, logged_table, recomputed_table in (
        (features.numeric, rows.numeric_names, logged_numbers, rows.numeric),
        (features.categorical, rows.categorical_names, logged_categories, rows.categorical),
    ):
        for column_index, name in enumerate(names):
            logged_values = logged_table[:, columns.index(name)]
            recomputed = recomputed_table[:, column_index]
            is_unequal = find_unequal(logged_values, recomputed)
            report.add_compared(name, len(logged_values))
            unequal_rows = exemptions.non_exempt(name, np.flatnonzero(is_unequal), report)
            report.add_unequal(name, len(unequal_rows))
            for row in unequal_rows[: EXAMPLES_MAX - len(report.examples)]:
                item = pc.list_flatten(responses["items"])[int(row)].as_py()
                report.examples.append(
                    _describe_difference(
                        responses,
                        int(request_of_row[row]),
                        name=name,
                        item=item,
                        logged=logged_values[row].item(),
                        recomputed=recomputed[row].item(),
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
    for response_index, packed_sequences in enumerate(responses["sequences"].to_pylist()):
        logged = unpack_sequences(packed_sequences)
        for name, sequence in sequences.items():
            recomputed = sequence.of(response_index).to_lists()
            if logged.get(name) != recomputed and not exemptions.is_request_exempt(
                name, response_index, report
            ):
                report.add_difference(
                    _describe_difference(
                        responses,
                        response_index,
                        name=name,
                        item="",
                        logged=logged.get(name),
                        recomputed=recomputed,
                    )
                )


def _describe_difference(
    responses: pa.Table,
    response_index: int,
    name: str,
    item: str,
    logged: object,
    recomputed: object,
) -> Difference:
    request_id, person, log_position = (
        responses[column][response_index].as_py() for column in ("request_id", "person", "p")
    )
    log_positions = (
        responses["positions"][response_index].as_py()
        if "positions" in responses.column_names
        else None
    )
    t = int(micros(responses["ts"].slice(response_index, 1))[0])
    return Difference(
        name,
        request_id=request_id,
        item=item,
        logged=logged,
        recomputed=recomputed,
        person=person or "",
        t=t,
        log_position=log_position,
        log_positions=tuple(log_positions or ()),
    )


def find_unequal(values: npt.NDArray[Any], expected: npt.NDArray[Any]) -> Bools:
    """Return which values differ in any bit; all NaN are equal."""
    if values.dtype != np.float32:
        return values != expected
    value_bits, expected_bits = (
        np.where(np.isnan(array), np.float32(np.nan), array).view(np.uint32)
        for array in (values, expected)
    )
    return value_bits != expected_bits
