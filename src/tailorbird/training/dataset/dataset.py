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
from tailorbird.training.dataset.codes import Codes
from tailorbird.training.dataset.return_labels import censor_labels, return_targets

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

CONTEXT = ("person", "session_id", "device", "country", "referrer", "local_hour")


@dataclass(frozen=True)
class MissedPositives:
    """Chosen items that were no candidates: pairs of request and item code, sorted by request.

    Arrays have shape (m,).
    """

    request: Ints
    item: Ints

    def take(self, requests: Ints, count: int) -> "MissedPositives":
        """Select the pairs of some of `count` requests, in their order."""
        new_index = np.full(count, -1, np.int64)
        new_index[requests] = np.arange(len(requests))
        new_request = new_index[self.request]
        retained = np.flatnonzero(new_request >= 0)
        retained = retained[np.argsort(new_request[retained], kind="stable")]
        return MissedPositives(new_request[retained], self.item[retained])


@dataclass(frozen=True)
class Dataset:
    """Requests in order of time, and the rows of each, one after the other.

    Attributes:
        t, p: shape (requests,): a row's features are those known at (t, p); p has a column per
            partition of the state where several workers keep it.
        person: shape (requests,), code in `people`, −1 if unknown.
        context: table of requests with the columns of `select_context`.
        offsets: shape (requests + 1,).
        item: shape (n,), code in `items`.
        position: shape (n,), from 1 as shown; 0 for a candidate that was never shown.
        propensity: shape (n,), probability with which it was shown there; 1 where unknown.
        labels: target → shape (n,): whether it happened; for returning (`ranking.policy.targets`)
            1, 0, or NaN where unknown.
        weight: shape (n,), number of rows of the full set that a sampled row stands for.
        people, items: codes of users and items.
        scheme: how rows were chosen, in words and numbers, for reports and manifests.
        live: shape (n, columns), live columns as in `ranking.encode.live`; None where they were
            not read.
        missed: chosen items that no source gave, which are no rows.
    """

    t: Ints
    p: Ints
    person: Ints
    context: pa.Table
    offsets: Ints
    item: Ints
    position: npt.NDArray[np.int32]
    propensity: npt.NDArray[np.float64]
    labels: Mapping[str, npt.NDArray]
    weight: npt.NDArray[np.float64]
    people: Codes
    items: Codes
    scheme: Mapping[str, Any] = field(default_factory=dict)
    live: npt.NDArray[np.float32] | None = None
    missed: MissedPositives = field(
        default_factory=lambda: MissedPositives(np.zeros(0, np.int64), np.zeros(0, np.int64))
    )

    @property
    def requests(self) -> int:
        return len(self.t)

    @property
    def rows(self) -> int:
        return len(self.item)

    @property
    def request(self) -> Ints:
        """Return the request of each row, shape (n,)."""
        return np.repeat(np.arange(self.requests), np.diff(self.offsets))

    def digest(self) -> str:
        """Return a hash of requests, rows and labels; equal sets have equal hashes."""
        digest = hashlib.blake2b(digest_size=16)
        for column in (
            self.t,
            self.p,
            self.person,
            self.offsets,
            self.item,
            self.position,
            self.propensity,
            self.weight,
        ):
            digest.update(np.ascontiguousarray(column).tobytes())
        for name in sorted(self.labels):
            label = self.labels[name]
            digest.update(
                name.encode()
                + b"\0"
                + (np.packbits(label) if label.dtype == bool else label).tobytes()
            )
        for codes in (self.people, self.items):
            digest.update("\0".join(codes.values.to_pylist()).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def gain(self, objective: Mapping[str, float]) -> npt.NDArray[np.float64]:
        """Return the value of each row by the slot's formula, shape (n,).

        Returning is left out, since it is the same for all rows of a request.
        """
        gain = np.zeros(self.rows)
        for head in item_heads(objective):
            if head in self.labels:
                gain += objective[head] * self.labels[head]
        return gain

    def censor(self, moment: int) -> "Dataset":
        """Set labels to NaN that were unknown at a moment: return windows that reach beyond it."""
        return (
            replace(self, labels=censor_labels(self.labels, self.t[self.request], moment))
            if return_targets(self.labels)
            else self
        )

    def take(self, requests: Ints) -> "Dataset":
        """Select some requests, in the given order."""
        size = np.diff(self.offsets)[requests]
        offsets = np.concatenate(([0], np.cumsum(size))).astype(np.int64)
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[requests] - offsets[:-1], size)
        return self._select(requests, offsets, rows)

    def filter_rows(self, rows: Bools) -> "Dataset":
        """Select some rows, and drop requests left without any."""
        size = np.bincount(self.request[rows], minlength=self.requests)
        requests = np.flatnonzero(size)
        return self._select(
            requests,
            np.concatenate(([0], np.cumsum(size[requests]))).astype(np.int64),
            np.flatnonzero(rows),
        )

    def chunks(self, rows_max: int) -> Iterator["Dataset"]:
        """Yield the requests in order, in chunks of at most `rows_max` rows (or one request)."""
        start = 0
        while start < self.requests:
            stop = max(
                start + 1,
                int(np.searchsorted(self.offsets, self.offsets[start] + rows_max, side="right"))
                - 1,
            )
            yield self.take(np.arange(start, min(stop, self.requests)))
            start = stop

    def _select(self, requests: Ints, offsets: Ints, rows: Ints) -> "Dataset":
        labels = {name: label[rows] for name, label in self.labels.items()}
        request_columns = (
            self.t[requests],
            self.p[requests],
            self.person[requests],
            self.context.take(pa.array(requests)),
        )
        row_columns = (
            self.item[rows],
            self.position[rows],
            self.propensity[rows],
            labels,
            self.weight[rows],
        )
        live = None if self.live is None else self.live[rows]
        missed = self.missed.take(requests, self.requests)
        return Dataset(
            *request_columns,
            offsets,
            *row_columns,
            self.people,
            self.items,
            self.scheme,
            live,
            missed,
        )


def select_context(events: pa.Table) -> pa.Table:
    """Select the columns `CONTEXT` of events, and the search query where it was loaded.

    Only features about a query need the query.
    """
    return events.select(
        [*CONTEXT, *(name for name in ("answer_query",) if name in events.column_names)]
    )
