"""Matching of outcomes, such as clicks, to the shown items that they followed."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.training.dataset.dataset import Bools, Dataset, Ints


@dataclass(frozen=True)
class Outcomes:
    """Events that may belong to a response: codes of request, person and item, and the time.

    Arrays have shape (m,).

    Attributes:
        request: code of the request, −1 where the event names none.
        amount: amount that each event adds to the label; None for labels that only count events.
    """

    request: Ints
    person: Ints
    item: Ints
    ts: Ints
    amount: npt.NDArray[np.float64] | None = None


@dataclass(frozen=True)
class ResponseItems:
    """Items of responses, one after the other: codes of person and item, time and routed position.

    Arrays have shape (m,).
    """

    person: Ints
    item: Ints
    ts: Ints
    p: Ints


class OutcomeMatcher:
    """Matches outcomes to the rows of responses.

    Args:
        request_code: shape (requests,), the code of each response's request_id.
        slot_items: the rows of `base`.
        other_items: items of responses that are no rows; outcomes that follow them belong to them.
    """

    def __init__(
        self,
        data: Dataset,
        request_code: Ints,
        slot_items: ResponseItems,
        other_items: ResponseItems,
        attribution: int,
    ) -> None:
        self._data = data
        self._attribution = attribution
        self._items = len(data.items)
        self._request = data.request
        self._by_request = _FirstRowLookup(request_code[self._request] * self._items + data.item)
        person, item, ts, p = (
            np.concatenate([getattr(slot_items, name), getattr(other_items, name)])
            for name in ("person", "item", "ts", "p")
        )
        row = np.concatenate([np.arange(data.rows), np.full(len(other_items.ts), -1)])
        identified = np.flatnonzero(person >= 0)
        pair = person[identified] * self._items + item[identified]
        order = identified[np.lexsort((p[identified], ts[identified], pair))]
        self._row, self._ts = row[order], ts[order]
        self._times, rank = np.unique(self._ts, return_inverse=True)
        self._rank_bits = len(self._times).bit_length()
        self._pairs, self._pair_code = np.unique(
            person[order] * self._items + item[order], return_inverse=True
        )
        self._packed_keys = (self._pair_code << self._rank_bits) | rank

    def match(self, outcomes: Outcomes) -> Bools:
        """Return the mask of rows with at least one of the outcomes, shape (n,)."""
        row = self._match_rows(outcomes)
        hit = np.zeros(self._data.rows, bool)
        hit[row[row >= 0]] = True
        return hit

    def total(self, outcomes: Outcomes) -> npt.NDArray[np.float32]:
        """Return the total amount of the outcomes of each row, shape (n,)."""
        row = self._match_rows(outcomes)
        assert outcomes.amount is not None
        return np.bincount(row[row >= 0], outcomes.amount[row >= 0], self._data.rows).astype(
            np.float32
        )

    def _match_rows(self, outcomes: Outcomes) -> Ints:
        """Return the row of each outcome, −1 without one, shape (m,)."""
        rows = np.full(len(outcomes.ts), -1, np.int64)
        with_request = np.flatnonzero((outcomes.request >= 0) & (outcomes.item >= 0))
        row = self._by_request.find(
            outcomes.request[with_request] * self._items + outcomes.item[with_request]
        )
        age = outcomes.ts[with_request] - self._data.t[self._request[row]]
        rows[with_request] = np.where((row >= 0) & (age >= 0) & (age < self._attribution), row, -1)
        without_request = np.flatnonzero(
            (outcomes.request < 0) & (outcomes.person >= 0) & (outcomes.item >= 0)
        )
        rows[without_request] = self._last_response_rows(
            outcomes.person[without_request],
            outcomes.item[without_request],
            outcomes.ts[without_request],
        )
        return rows

    def _last_response_rows(self, person: Ints, item: Ints, ts: Ints) -> Ints:
        """Return the row of the person's last response with the item, −1 without one.

        The response must lie before ts and within the attribution window.
        """
        if not len(self._pairs) or not len(person):
            return np.full(len(person), -1, np.int64)
        pair = person * self._items + item
        code = np.minimum(np.searchsorted(self._pairs, pair), len(self._pairs) - 1)
        rank = np.searchsorted(self._times, ts)  # answers with t < ts have a smaller rank
        last = np.searchsorted(self._packed_keys, (code << self._rank_bits) | rank) - 1
        index = np.maximum(last, 0)
        row, age = self._row[index], ts - self._ts[index]
        is_match = (
            (last >= 0)
            & (self._pairs[code] == pair)
            & (self._pair_code[index] == code)
            & (age < self._attribution)
        )
        return np.where(is_match, row, -1)


class _FirstRowLookup:
    """Lookup of the first row with each key."""

    def __init__(self, key: Ints) -> None:
        self._order = np.argsort(key, kind="stable")
        self._sorted_keys = key[self._order]

    def find(self, key: Ints) -> Ints:
        if not len(self._sorted_keys):
            return np.full(len(key), -1, np.int64)
        index = np.minimum(np.searchsorted(self._sorted_keys, key), len(self._sorted_keys) - 1)
        return np.where(self._sorted_keys[index] == key, self._order[index], -1)
