"""Clicks soon after a response, of each person."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.experiments.outcomes import (
    CLICK,
    IMPRESSION,
    RESPONSE,
    encode_values,
    match_outcomes,
)
from tailorbird.experiments.statistics import Moments

NO_CLICKS = Moments(0, 0.0, 0.0, 0.0, 0.0, 0.0)


def clicks_per_person(
    events: pa.Table,
    requests: pa.ChunkedArray,
    denominator_by_slot: Mapping[str, str],
    horizon_us: int,
) -> Moments:
    """Return clicks per item seen of these requests, within a time after each.

    Args:
        events: with `experiments.outcomes.COLUMNS`.
        requests: ids of the requests that count.
        denominator_by_slot: of each slot, "impression" or "answer".
        horizon_us: microseconds.
    """
    totals = NO_CLICKS
    is_answer = pc.equal(events["type"], "answer")
    for slot in pc.unique(events["slot"].filter(is_answer)).drop_null().to_pylist():
        outcomes = match_outcomes(events, slot, horizon_us)
        table = outcomes.table
        is_counted = pc.is_in(table["request_id"], value_set=requests.combine_chunks()).to_numpy()
        person_of_row, persons = encode_values(table["person"])
        is_of_response = is_counted[outcomes.response_row] & (
            outcomes.kind[outcomes.response_row] == RESPONSE
        )
        kind = outcomes.kind[outcomes.event_row][is_of_response]
        person_index = person_of_row[outcomes.response_row][is_of_response]
        clicks = np.bincount(person_index[kind == CLICK], minlength=len(persons)).astype(np.float64)
        if denominator_by_slot.get(slot, "impression") == "impression":
            seen = np.bincount(person_index[kind == IMPRESSION], minlength=len(persons)).astype(
                np.float64
            )
        else:
            rows = np.flatnonzero(is_counted & (outcomes.kind == RESPONSE))
            slate_sizes = pc.fill_null(pc.list_value_length(table["items"]), 0).to_numpy()
            seen = np.bincount(person_of_row[rows], slate_sizes[rows], len(persons)).astype(
                np.float64
            )
        totals += Moments.from_totals(clicks[seen > 0], seen[seen > 0])
    return totals
