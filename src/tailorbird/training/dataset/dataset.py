"""Training sets from logged responses: one row per item that was seen, labelled with its outcome.

    response (t, p, person, items shown) × item → position, propensity, labels {click, purchase, …}

An outcome belongs to the response that its request_id and item name. Without a request_id it
belongs to the person's last response with the item, in any slot, if that is within the slot's
attribution window; two slots never share one. Only responses whose window and allowed lateness have
passed are used, since a younger row without a click may still get one. With the denominator
`impression`, rows are the positions that the client reported as seen (or that led to an outcome,
and so must have been seen); with `answer`, all shown items.

Sets from logs with clicks but no responses are drawn in `training.dataset.clicks`;
`training.dataset.matrix` turns rows into features.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.ranking.policy.targets import item_heads
from tailorbird.training.dataset.codes import IdVocabulary
from tailorbird.training.dataset.return_labels import censor_labels, return_targets

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

CONTEXT_COLUMNS = ("person", "session_id", "device", "country", "referrer", "local_hour")


@dataclass(frozen=True)
class MissedPositives:
    """Chosen items that were no candidates: pairs of request and item code, sorted by request.

    Arrays have shape (m,).
    """

    request_index: Ints
    item_codes: Ints

    def take(self, request_indexes: Ints, request_count: int) -> "MissedPositives":
        """Select the pairs of some of `request_count` requests, in their order."""
        new_index = np.full(request_count, -1, np.int64)
        new_index[request_indexes] = np.arange(len(request_indexes))
        new_request = new_index[self.request_index]
        retained_pairs = np.flatnonzero(new_request >= 0)
        retained_pairs = retained_pairs[np.argsort(new_request[retained_pairs], kind="stable")]
        return MissedPositives(new_request[retained_pairs], self.item_codes[retained_pairs])


@dataclass(frozen=True)
class Dataset:
    """Requests in order of time, and the rows of each, one after the other.

    Attributes:
        t, log_position: shape (requests,): a row's features are those known at (t, p); p has a
            column per partition of the state where several workers keep it.
        person_codes: shape (requests,), code in `person_vocabulary`, −1 if unknown.
        context: table of requests with the columns of `select_context`.
        offsets: shape (requests + 1,).
        item_codes: shape (n,), code in `item_vocabulary`.
        position: shape (n,), from 1 as shown; 0 for a candidate that was never shown.
        propensity: shape (n,), probability with which it was shown there; 1 where unknown.
        labels: target → shape (n,): whether it happened; for returning (`ranking.policy.targets`)
            1, 0, or NaN where unknown.
        weight: shape (n,), number of rows of the full set that a sampled row stands for.
        person_vocabulary, item_vocabulary: codes of users and items.
        provenance: how rows were chosen, in words and numbers, for reports and manifests.
        live_values: shape (n, columns), live columns as in `ranking.encode.live`; None where they
            were not read.
        missed_positives: chosen items that no source gave, which are no rows.
    """

    t: Ints
    log_position: Ints
    person_codes: Ints
    context: pa.Table
    offsets: Ints
    item_codes: Ints
    position: npt.NDArray[np.int32]
    propensity: npt.NDArray[np.float64]
    labels: Mapping[str, npt.NDArray]
    weight: npt.NDArray[np.float64]
    person_vocabulary: IdVocabulary
    item_vocabulary: IdVocabulary
    provenance: Mapping[str, Any] = field(default_factory=dict)
    live_values: npt.NDArray[np.float32] | None = None
    missed_positives: MissedPositives = field(
        default_factory=lambda: MissedPositives(np.zeros(0, np.int64), np.zeros(0, np.int64))
    )

    @property
    def request_count(self) -> int:
        return len(self.t)

    @property
    def row_count(self) -> int:
        return len(self.item_codes)

    @property
    def request_index(self) -> Ints:
        """Return the request of each row, shape (n,)."""
        return np.repeat(np.arange(self.request_count), np.diff(self.offsets))

    def digest(self) -> str:
        """Return a hash of requests, rows and labels; equal sets have equal hashes."""
        hasher = hashlib.blake2b(digest_size=16)
        for column in (
            self.t,
            self.log_position,
            self.person_codes,
            self.offsets,
            self.item_codes,
            self.position,
            self.propensity,
            self.weight,
        ):
            hasher.update(np.ascontiguousarray(column).tobytes())
        for name in sorted(self.labels):
            label = self.labels[name]
            hasher.update(
                name.encode()
                + b"\0"
                + (np.packbits(label) if label.dtype == bool else label).tobytes()
            )
        for codes in (self.person_vocabulary, self.item_vocabulary):
            hasher.update("\0".join(codes.values.to_pylist()).encode("utf-8", "surrogatepass"))
        return hasher.hexdigest()

    def gain(self, objective: Mapping[str, float]) -> npt.NDArray[np.float64]:
        """Return the value of each row by the slot's formula, shape (n,).

        Returning is left out, since it is the same for all rows of a request.
        """
        gain = np.zeros(self.row_count)
        for head in item_heads(objective):
            if head in self.labels:
                gain += objective[head] * self.labels[head]
        return gain

    def censor(self, as_of: int) -> "Dataset":
        """Set labels to NaN that were unknown at `as_of`: return windows that reach beyond it."""
        return (
            replace(self, labels=censor_labels(self.labels, self.t[self.request_index], as_of))
            if return_targets(self.labels)
            else self
        )

    def take(self, request_indexes: Ints) -> "Dataset":
        """Select some requests, in the given order."""
        sizes = np.diff(self.offsets)[request_indexes]
        offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
        row_indexes = np.arange(offsets[-1]) + np.repeat(
            self.offsets[request_indexes] - offsets[:-1], sizes
        )
        return self._select(request_indexes, offsets, row_indexes)

    def filter_rows(self, row_mask: Bools) -> "Dataset":
        """Select some rows, and drop requests left without any."""
        sizes = np.bincount(self.request_index[row_mask], minlength=self.request_count)
        request_indexes = np.flatnonzero(sizes)
        return self._select(
            request_indexes,
            np.concatenate(([0], np.cumsum(sizes[request_indexes]))).astype(np.int64),
            np.flatnonzero(row_mask),
        )

    def chunks(self, rows_max: int) -> Iterator["Dataset"]:
        """Yield the requests in order, in chunks of at most `rows_max` rows (or one request)."""
        start = 0
        while start < self.request_count:
            stop = max(
                start + 1,
                int(np.searchsorted(self.offsets, self.offsets[start] + rows_max, side="right"))
                - 1,
            )
            yield self.take(np.arange(start, min(stop, self.request_count)))
            start = stop

    def _select(self, request_indexes: Ints, offsets: Ints, row_indexes: Ints) -> "Dataset":
        labels = {name: label[row_indexes] for name, label in self.labels.items()}
        request_columns = (
            self.t[request_indexes],
            self.log_position[request_indexes],
            self.person_codes[request_indexes],
            self.context.take(pa.array(request_indexes)),
        )
        row_columns = (
            self.item_codes[row_indexes],
            self.position[row_indexes],
            self.propensity[row_indexes],
            labels,
            self.weight[row_indexes],
        )
        live_values = None if self.live_values is None else self.live_values[row_indexes]
        missed_positives = self.missed_positives.take(request_indexes, self.request_count)
        return Dataset(
            *request_columns,
            offsets,
            *row_columns,
            self.person_vocabulary,
            self.item_vocabulary,
            self.provenance,
            live_values,
            missed_positives,
        )


def select_context(events: pa.Table) -> pa.Table:
    """Select the columns `CONTEXT_COLUMNS` of events, and the search query where it was loaded.

    Only features about a query need the query.
    """
    return events.select(
        [*CONTEXT_COLUMNS, *(name for name in ("answer_query",) if name in events.column_names)]
    )
