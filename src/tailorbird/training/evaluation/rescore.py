"""Verification of served scores: score shown items again from logged features and compare.

Only the bundle is shared with the server: input is the lake's `answers`, scored by the same
encoder, models, calibration and formula. `tailorbird models verify` prints the report; `tailorbird
features verify` checks the logged features against the lake.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events import hash64s, micros
from tailorbird.events.clock import SECOND
from tailorbird.features.parity.recompute import ERASED_EXEMPTION
from tailorbird.features.request import Rows, Sequence, unpack_sequences
from tailorbird.ranking.bundle import Bundle
from tailorbird.ranking.policy.formula import parse_formula
from tailorbird.retrieval import Index
from tailorbird.retrieval.overlay import ItemVersion, overlay_versions, update_newest

# tolerances for scores computed on another machine
RELATIVE_TOLERANCE = 1e-6
ABSOLUTE_TOLERANCE = 1e-9
# A server may not have known an item's change this close to a response, or the response's time is
# not the server's own.
TIMING_TOLERANCE_US = 10 * SECOND
EXAMPLES_MAX = 20
COLUMNS = (
    "request_id",
    "ts",
    "model",
    "items",
    "numeric",
    "categorical",
    "sequences",
    "degraded",
    "formula",
    "values",
    "live",
)
ITEM_COLUMNS = ("id", "valid_from", "attributes", "timeless", "p", "received_at")

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ScoreDifference:
    """An item whose logged score differs from the recomputed one."""

    request_id: str
    item: str
    logged: float
    recomputed: float


@dataclass
class ScoreReport:
    """Counts of a comparison.

    Attributes:
        answers, scores: compared responses and scores.
        unequal: scores that differ by more than 1e-6 relative to their size.
        other_bits: scores that differ by less, in at least one bit.
        skipped: responses that no model ordered, without logged features, or with erased features.
        moved: scores left out because they depend on items that appeared or changed within seconds
            of the response, so it is unclear whether the server knew them; or on an item without a
            profile, which the server only knew from events.
        examples: some of the unequal scores.
    """

    answers: int = 0
    scores: int = 0
    unequal: int = 0
    other_bits: int = 0
    skipped: int = 0
    moved: int = 0
    examples: list[ScoreDifference] = field(default_factory=list)


class IndexOverlay:
    """A bundle's index overlaid with later catalogue changes, as servers do, at ascending times.

    Args:
        items: rows of the lake's `items`.
        is_joint: whether a change of one item affects the scores of others, as with vectors.
    """

    def __init__(self, base: Index, items: pa.Table, *, is_joint: bool) -> None:
        self._base = replace(base, text=None)
        self._index = replace(base, text=None)
        self._is_joint = is_joint
        self._versions = _later_versions(base, items)
        self._available_since = [version.known_since for _, version in self._versions]
        self._version_keys = (
            hash64s([item for item, _ in self._versions])
            if self._versions
            else np.zeros(0, np.uint64)
        )
        self._newest_versions: dict[str, ItemVersion] = {}
        self._available_count = self._applied_count = 0

    def index_at(self, ts: int, item_keys: npt.NDArray[np.uint64]) -> tuple[Index, frozenset[str]]:
        """Return the index at a time, and the items that changed around it.

        A server may or may not have known the changes of these items.

        Args:
            item_keys: items that the scores depend on. If none of them is new or changed, an older
                index gives the same scores.
        """
        while (
            self._available_count < len(self._versions)
            and self._available_since[self._available_count] <= ts
        ):
            update_newest(self._newest_versions, *self._versions[self._available_count])
            self._available_count += 1
        pending_keys = self._version_keys[self._applied_count : self._available_count]
        if pending_keys.size and (
            self._is_joint
            or (self._index.find(pending_keys) < 0).any()
            or np.isin(pending_keys, item_keys).any()
        ):
            self._applied_count = self._available_count
            self._index = overlay_versions(self._base, self._newest_versions, with_texts=False)
        start = bisect_left(self._available_since, ts - TIMING_TOLERANCE_US)
        stop = bisect_right(self._available_since, ts + TIMING_TOLERANCE_US)
        return self._index, frozenset(item for item, _ in self._versions[start:stop])


def _later_versions(base: Index, items: pa.Table) -> list[tuple[str, ItemVersion]]:
    """Return the versions of items that appeared or changed after an index, in the order known."""
    valid_from = micros(items["valid_from"])
    available_from = np.maximum(valid_from, micros(items["received_at"]))
    ids = items["id"].to_pylist()
    starts = np.where(
        items["timeless"].to_numpy(zero_copy_only=False).astype(bool), 0, valid_from
    ).tolist()
    attribute_texts = items["attributes"].to_pylist()
    log_positions = items["p"].to_pylist()
    records = zip(attribute_texts, starts, available_from.tolist(), log_positions, strict=True)
    versions = [
        ItemVersion(text or "{}", start, available, log_position)
        for text, start, available, log_position in records
    ]
    is_new = (base.find_ids(ids) < 0).tolist()
    changed_ids = {
        item
        for item, new, version in zip(ids, is_new, versions, strict=True)
        if new or version.is_later_than(base)
    }
    changed_items = [
        (item, version) for item, version in zip(ids, versions, strict=True) if item in changed_ids
    ]
    return sorted(changed_items, key=lambda entry: (entry[1].known_since, entry[1].log_position))


def rescore_responses(
    bundle: Bundle,
    responses: Iterable[pa.Table],
    items: pa.Table,
    *,
    progress: Callable[[int], None] = lambda done_count: None,
) -> ScoreReport:
    """Score shown items again and compare.

    Args:
        responses: batches of the lake's `answers` with `COLUMNS`, ascending in time; other versions
            are skipped.
        items: rows of the lake's `items` with `ITEM_COLUMNS`.
        progress: called with the number of responses so far.
    """
    report = ScoreReport()
    overlay = IndexOverlay(bundle.index, items, is_joint=bundle.space is not None)
    done_count = 0
    for batch in responses:
        version_responses = batch.filter(pc.equal(batch["model"], bundle.version))
        version_responses = version_responses.set_column(
            version_responses.column_names.index("ts"),
            "ts",
            version_responses["ts"].cast(pa.int64()),
        ).sort_by("ts")
        for row in version_responses.to_pylist():
            if _is_complete(row):
                _compare_response(bundle, row, overlay, report)
            else:
                report.skipped += 1
            done_count += 1
            progress(done_count)
    return report


def _is_complete(row: dict) -> bool:
    """Return whether all inputs of the model were logged and not erased since."""
    items = row["items"] or []
    values = row["values"] or []
    return (
        bool(items)
        and len(values) == len(items)
        and bool(row["numeric"] or row["categorical"])
        and ERASED_EXEMPTION not in row["degraded"]
    )


def _compare_response(
    bundle: Bundle, row: dict, overlay: IndexOverlay, report: ScoreReport
) -> None:
    item_ids: list[str] = row["items"]
    rows = _logged_rows(bundle, row)
    item_keys = hash64s(item_ids)
    sequence_items = np.concatenate(
        [sequence.item for sequence in rows.sequences.values()] or [np.zeros(0, np.uint64)]
    )
    index, recently_changed_items = overlay.index_at(
        row["ts"], np.concatenate([item_keys, sequence_items])
    )
    changed_ids = sorted(recently_changed_items)
    # Vectors compare an item with all others.
    if recently_changed_items and (
        bundle.space is not None or np.isin(sequence_items, hash64s(changed_ids)).any()
    ):
        report.moved += len(item_ids)
        return
    is_comparable = np.array([item not in recently_changed_items for item in item_ids]) & (
        index.find(item_keys) >= 0
    )
    objective = parse_formula(row["formula"]) if row["formula"] else None
    overlaid_bundle = (
        bundle.without_tower() if "vectors" in row["degraded"] else bundle
    ).with_index(index)
    live_values = (
        np.array(row["live"], np.float32).reshape(len(item_ids), -1) if row["live"] else None
    )
    logged_values = np.array(row["values"], np.float64)
    recomputed_values = overlaid_bundle.score(
        rows, item_keys, objective=objective, live_columns=live_values
    ).value
    is_different = is_comparable & (logged_values != recomputed_values)
    is_unequal = is_different & ~np.isclose(
        logged_values, recomputed_values, rtol=RELATIVE_TOLERANCE, atol=ABSOLUTE_TOLERANCE
    )
    report.answers += 1
    report.scores += int(is_comparable.sum())
    report.moved += int((~is_comparable).sum())
    report.unequal += int(is_unequal.sum())
    report.other_bits += int((is_different & ~is_unequal).sum())
    for row_index in np.flatnonzero(is_unequal)[: EXAMPLES_MAX - len(report.examples)]:
        report.examples.append(
            ScoreDifference(
                row["request_id"],
                item_ids[row_index],
                float(logged_values[row_index]),
                float(recomputed_values[row_index]),
            )
        )


def _logged_rows(bundle: Bundle, row: dict) -> Rows:
    """Return the logged features of one response."""
    count = len(row["items"])
    numeric = np.array(row["numeric"] or (), np.float32).reshape(count, len(bundle.columns.numeric))
    categorical = (
        np.array(row["categorical"] or (), np.int64)
        .view(np.uint64)
        .reshape(count, len(bundle.columns.categorical))
    )
    sequences = {
        name: Sequence(np.array(item, np.uint64), np.array(kind, np.uint64), np.array(ts, np.int64))
        for name, (item, kind, ts, *_) in unpack_sequences(row["sequences"]).items()
    }
    return Rows(numeric, categorical, sequences, t=row["ts"], commit=0, log_position=0)
