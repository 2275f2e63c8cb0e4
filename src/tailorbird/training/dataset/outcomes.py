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
        request_code: code of the request, −1 where the event names none.
        amount: amount that each event adds to the label; None for labels that only count events.
    """

    request_code: Ints
    person_code: Ints
    item_code: Ints
    ts: Ints
    amount: npt.NDArray[np.float64] | None = None


@dataclass(frozen=True)
class ResponseItems:
    """Items of responses, one after the other: codes of person and item, time and routed position.

    Arrays have shape (m,).
    """

    person_code: Ints
    item_code: Ints
    ts: Ints
    log_position: Ints


class OutcomeMatcher:
    """Matches outcomes to the rows of responses.

    Args:
        request_code: shape (requests,), the code of each response's request_id.
        slot_items: items of the rows of `data`.
        other_items: items of responses that are no rows; outcomes that follow them belong to them.
    """

    def __init__(
        self,
        data: Dataset,
        request_code: Ints,
        slot_items: ResponseItems,
        other_items: ResponseItems,
        attribution_us: int,
    ) -> None:
        self._data = data
        self._attribution_us = attribution_us
        self._item_count = len(data.item_vocabulary)
        self._request_index = data.request_index
        self._named_row_lookup = _FirstRowLookup(
            request_code[self._request_index] * self._item_count + data.item_codes
        )
        person_code, item_code, ts, log_position = (
            np.concatenate([getattr(slot_items, name), getattr(other_items, name)])
            for name in ("person_code", "item_code", "ts", "log_position")
        )
        rows = np.concatenate([np.arange(data.row_count), np.full(len(other_items.ts), -1)])
        identified_rows = np.flatnonzero(person_code >= 0)
        pair_key = person_code[identified_rows] * self._item_count + item_code[identified_rows]
        order = identified_rows[
            np.lexsort((log_position[identified_rows], ts[identified_rows], pair_key))
        ]
        self._rows = rows[order]
        self._ts = ts[order]
        self._sorted_times, time_rank = np.unique(self._ts, return_inverse=True)
        self._rank_bits = len(self._sorted_times).bit_length()
        self._sorted_pairs, self._pair_code = np.unique(
            person_code[order] * self._item_count + item_code[order], return_inverse=True
        )
        # One sortable integer: the pair's code in the high bits, the rank of the time below.
        self._packed_keys = (self._pair_code << self._rank_bits) | time_rank

    def match_rows(self, outcomes: Outcomes) -> Bools:
        """Return the mask of rows with at least one of the outcomes, shape (n,)."""
        rows = self._match_rows(outcomes)
        has_outcome = np.zeros(self._data.row_count, bool)
        has_outcome[rows[rows >= 0]] = True
        return has_outcome

    def sum_amounts(self, outcomes: Outcomes) -> npt.NDArray[np.float32]:
        """Return the total amount of the outcomes of each row, shape (n,)."""
        rows = self._match_rows(outcomes)
        assert outcomes.amount is not None
        return np.bincount(
            rows[rows >= 0], outcomes.amount[rows >= 0], self._data.row_count
        ).astype(np.float32)

    def _match_rows(self, outcomes: Outcomes) -> Ints:
        """Return the row of each outcome, −1 without one, shape (m,)."""
        rows = np.full(len(outcomes.ts), -1, np.int64)
        # Named outcomes carry their request's id; the others belong to the last response.
        named_outcomes = np.flatnonzero((outcomes.request_code >= 0) & (outcomes.item_code >= 0))
        named_rows = self._named_row_lookup.find(
            outcomes.request_code[named_outcomes] * self._item_count
            + outcomes.item_code[named_outcomes]
        )
        age = outcomes.ts[named_outcomes] - self._data.t[self._request_index[named_rows]]
        rows[named_outcomes] = np.where(
            (named_rows >= 0) & (age >= 0) & (age < self._attribution_us), named_rows, -1
        )
        unnamed_outcomes = np.flatnonzero(
            (outcomes.request_code < 0) & (outcomes.person_code >= 0) & (outcomes.item_code >= 0)
        )
        rows[unnamed_outcomes] = self._last_response_rows(
            outcomes.person_code[unnamed_outcomes],
            outcomes.item_code[unnamed_outcomes],
            outcomes.ts[unnamed_outcomes],
        )
        return rows

    def _last_response_rows(self, person_code: Ints, item_code: Ints, ts: Ints) -> Ints:
        """Return the row of the person's last response with the item, −1 without one.

        The response must lie before ts and within the attribution window.
        """
        if not len(self._sorted_pairs) or not len(person_code):
            return np.full(len(person_code), -1, np.int64)
        pair_key = person_code * self._item_count + item_code
        pair_code = np.minimum(
            np.searchsorted(self._sorted_pairs, pair_key), len(self._sorted_pairs) - 1
        )
        time_rank = np.searchsorted(
            self._sorted_times, ts
        )  # answers with t < ts have a smaller rank
        last_index = (
            np.searchsorted(self._packed_keys, (pair_code << self._rank_bits) | time_rank) - 1
        )
        index = np.maximum(last_index, 0)
        row = self._rows[index]
        age = ts - self._ts[index]
        is_match = (
            (last_index >= 0)
            & (self._sorted_pairs[pair_code] == pair_key)
            & (self._pair_code[index] == pair_code)
            & (age < self._attribution_us)
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
