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
    events: pa.Table, requests: pa.ChunkedArray, denominators: Mapping[str, str], horizon: int
) -> Moments:
    """Return clicks per item seen of these requests, within a time after each.

    Args:
        events: with `experiments.outcomes.COLUMNS`.
        requests: ids of the requests that count.
        denominators: of each slot, "impression" or "answer".
        horizon: microseconds.
    """
    totals = NO_CLICKS
    is_answer = pc.equal(events["type"], "answer")
    for slot in pc.unique(events["slot"].filter(is_answer)).drop_null().to_pylist():
        outcomes = match_outcomes(events, slot, horizon)
        table = outcomes.table
        is_counted = pc.is_in(table["request_id"], value_set=requests.combine_chunks()).to_numpy()
        person, persons = encode_values(table["person"])
        is_own = is_counted[outcomes.response] & (outcomes.kind[outcomes.response] == RESPONSE)
        kind, person_index = outcomes.kind[outcomes.row][is_own], person[outcomes.response][is_own]
        clicks = np.bincount(person_index[kind == CLICK], minlength=len(persons)).astype(np.float64)
        if denominators.get(slot, "impression") == "impression":
            seen = np.bincount(person_index[kind == IMPRESSION], minlength=len(persons)).astype(
                np.float64
            )
        else:
            rows = np.flatnonzero(is_counted & (outcomes.kind == RESPONSE))
            size = pc.fill_null(pc.list_value_length(table["items"]), 0).to_numpy()
            seen = np.bincount(person[rows], size[rows], len(persons)).astype(np.float64)
        totals += Moments.from_totals(clicks[seen > 0], seen[seen > 0])
    return totals
