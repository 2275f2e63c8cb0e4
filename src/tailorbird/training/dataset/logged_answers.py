"""Datasets from logged answers: the outcomes of the items that were shown."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.errors import NotReadyError
from tailorbird.events import micros
from tailorbird.events.clock import ATTRIBUTION
from tailorbird.features.offline.positions import positions_of, widen_positions
from tailorbird.ranking.policy.targets import is_amount_head, item_heads
from tailorbird.training.dataset.codes import (
    Codes,
    head_mask,
    human_mask,
    interleaved_mask,
    seconds_viewed,
)
from tailorbird.training.dataset.dataset import Bools, Dataset, select_context
from tailorbird.training.dataset.outcomes import OutcomeMatcher, Outcomes, ResponseItems
from tailorbird.training.dataset.return_labels import PresenceIndex, return_targets


def dataset_from_responses(
    events: pa.Table,
    slot: str,
    heads: Sequence[str],
    *,
    ts_from: int,
    mature_before: int,
    attribution: int = ATTRIBUTION,
    denominator: str = "impression",
    responses: pa.Table | None = None,
    people: Codes | None = None,
    items: Codes | None = None,
    extra_heads: Sequence[str] = (),
    arm: str = "",
    with_interleaved: bool = True,
) -> Dataset:
    """Build rows and labels of responses with ts_from ≤ t and t + attribution ≤ mature_before.

    Args:
        events: the lake's `events` (columns of ROUTED), in any order, with responses, impressions
            and outcomes.
        slot: name of the slot.
        heads: event types that are targets, or targets of `ranking.policy.targets`.
        mature_before: now minus the allowed lateness.
        responses: the lake's `answers`, if any: gives the p at which a response's features were read.
            A response without a row there (imported history) gets its own routed position.
        people, items: codes to use; by default those of the events.
        extra_heads: targets of other slots, which get labels but do not decide what a row is.
        arm: only responses of this EXPERIMENT:ARM; "" takes all.
        with_interleaved: whether drafts of two rankings are rows. Their propensity is 1.

    Raises:
        NotReadyError: there is no such response.
    """
    people = people or Codes.of(events["person"])
    items = items or Codes.of(events["item_id"], pc.list_flatten(events["items"]))
    slot_responses = _select_responses(
        events,
        slot,
        ts_from=ts_from,
        ts_to=mature_before - attribution,
        with_interleaved=with_interleaved,
    )
    unlabelled = _unlabelled_dataset(slot_responses, responses, people, items)
    request_ids = Codes.of(slot_responses["request_id"])
    slot_items, other_items = (
        _list_items(slot_responses, people, items),
        _list_items(_other_responses(events, slot_responses, ts_from), people, items),
    )
    matcher = OutcomeMatcher(
        unlabelled,
        request_ids.encode(slot_responses["request_id"]),
        slot_items,
        other_items,
        attribution,
    )
    labels = {
        head: _head_label(matcher, events, head, request_ids, people, items)
        for head in item_heads(heads)
    }
    is_seen = np.ones(unlabelled.rows, bool)
    if denominator == "impression":
        is_seen = matcher.match(_read_impressions(events, request_ids, people, items))
        # An outcome of any kind proves that the item was seen.
        is_seen |= (
            np.logical_or.reduce([label > 0 for label in labels.values()]) if labels else False
        )
    scheme = {
        "rows": f"items of answers of slot {slot!r}"
        + (", seen by the client" if denominator == "impression" else ""),
        "answers": slot_responses.num_rows,
        "attribution_us": attribution,
        "mature_before": mature_before,
    }
    labels |= {
        head: _head_label(matcher, events, head, request_ids, people, items)
        for head in item_heads(extra_heads)
        if head not in labels
    }
    if returning := return_targets((*heads, *extra_heads)):
        returns = PresenceIndex(events, people, mature_before)
        labels |= {
            head: returns.label(return_target, unlabelled.person, unlabelled.t)[unlabelled.request]
            for head, return_target in returning.items()
        }
    is_row = is_seen
    if arm:
        is_row = is_seen & _is_in_arm(slot_responses, arm)[unlabelled.request]
        scheme |= {"arm": arm}
    dataset = replace(unlabelled, labels=labels, scheme=scheme)
    return dataset if is_row.all() else dataset.filter_rows(is_row)


def _select_responses(
    events: pa.Table, slot: str, *, ts_from: int, ts_to: int, with_interleaved: bool
) -> pa.Table:
    """Return a slot's responses to people with ts_from ≤ t ≤ ts_to, by time.

    Raises:
        NotReadyError: there is none.
    """
    is_selected = pc.and_(
        pc.equal(events["type"], "answer"),
        pc.and_(pc.equal(events["slot"], slot), human_mask(events)),
    )
    rows = events.filter(is_selected)
    rows = rows.filter(
        pc.and_(pc.is_valid(rows["request_id"]), pc.greater(pc.list_value_length(rows["items"]), 0))
    )
    if not with_interleaved:
        rows = rows.filter(pc.invert(interleaved_mask(rows)))
    t = micros(rows["ts"])
    rows = rows.filter(pa.array((t >= ts_from) & (t <= ts_to)))
    rows = rows.sort_by([("ts", "ascending"), ("p", "ascending")]).combine_chunks()
    if not rows.num_rows:
        fix = (
            "let traffic run longer than the attribution window plus the allowed lateness, or "
            "import history with answers"
        )
        raise NotReadyError(f"slot {slot!r} has no answer whose outcomes are known by now", fix=fix)
    return rows


def _is_in_arm(slot_responses: pa.Table, arm: str) -> Bools:
    """Return which responses belong to an arm, shape (responses,)."""
    experiment, _, name = arm.rpartition(":")
    in_arm = pc.fill_null(
        pc.and_kleene(
            pc.equal(slot_responses["experiment"], experiment),
            pc.equal(slot_responses["arm"], name),
        ),
        False,
    ).to_numpy()
    if not in_arm.any():
        raise NotReadyError(
            f"the arm {arm} has no answer whose outcomes are known by now",
            fix="let the experiment run longer, or take a longer --window",
        )
    return in_arm


def _unlabelled_dataset(
    slot_responses: pa.Table, responses: pa.Table | None, people: Codes, items: Codes
) -> Dataset:
    """Return the responses as a data set without labels."""
    lists = slot_responses["items"].combine_chunks()
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
    size = pc.list_value_length(lists).to_numpy(zero_copy_only=False).astype(np.int64)
    offsets = np.concatenate(([0], np.cumsum(size))).astype(np.int64)
    item = items.encode(pc.list_flatten(lists))
    position = (np.arange(offsets[-1]) - np.repeat(offsets[:-1], size) + 1).astype(np.int32)
    logged_propensities = pc.list_flatten(slot_responses["propensities"])
    propensity = (
        logged_propensities.to_numpy().astype(np.float64)
        if len(logged_propensities) == len(item)
        else np.ones(len(item))
    )
    propensity = np.where(
        np.repeat(interleaved_mask(slot_responses).to_numpy(), size), 1.0, propensity
    )
    p = slot_responses["p"].to_numpy().copy()
    if responses is not None and responses.num_rows:
        response_row = (
            pc.fill_null(
                pc.index_in(
                    slot_responses["request_id"], value_set=responses["request_id"].combine_chunks()
                ),
                -1,
            )
            .to_numpy()
            .astype(np.int64)
        )
        response_positions = positions_of(responses)
        p = (
            p
            if response_positions.ndim == 1
            else widen_positions(p, response_positions.shape[1]).copy()
        )
        p[response_row >= 0] = response_positions[response_row[response_row >= 0]]
    return Dataset(
        micros(slot_responses["ts"]).copy(),
        p,
        people.encode(slot_responses["person"]),
        select_context(slot_responses),
        offsets,
        item,
        position,
        propensity,
        {},
        np.ones(len(item)),
        people,
        items,
    )


def _other_responses(events: pa.Table, slot_responses: pa.Table, ts_from: int) -> pa.Table:
    """Return other responses since `ts_from`: of other slots, or too young."""
    responses = events.filter(
        pc.and_(pc.equal(events["type"], "answer"), pc.is_valid(events["items"]))
    )
    is_other = ~np.isin(responses["p"].to_numpy(), slot_responses["p"].to_numpy()) & (
        micros(responses["ts"]) >= ts_from
    )
    return responses.take(pa.array(np.flatnonzero(is_other))).combine_chunks()


def _list_items(responses: pa.Table, people: Codes, items: Codes) -> ResponseItems:
    size = pc.list_value_length(responses["items"]).to_numpy().astype(np.int64)
    response_columns = (
        people.encode(responses["person"]),
        micros(responses["ts"]),
        responses["p"].to_numpy(),
    )
    person, ts, p = (np.repeat(column, size) for column in response_columns)
    return ResponseItems(person, items.encode(pc.list_flatten(responses["items"])), ts, p)


def _head_label(
    matcher: OutcomeMatcher,
    events: pa.Table,
    head: str,
    request_ids: Codes,
    people: Codes,
    items: Codes,
) -> npt.NDArray:
    """Return the label of each row: whether the head happened, or its amount."""
    outcomes = _head_outcomes(events, head, request_ids, people, items)
    return matcher.total(outcomes) if is_amount_head(head) else matcher.match(outcomes)


def _head_outcomes(
    events: pa.Table, head: str, request_ids: Codes, people: Codes, items: Codes
) -> Outcomes:
    """Return the events of a head that name an item."""
    matching = events.filter(pc.and_(head_mask(events, (head,)), pc.is_valid(events["item_id"])))
    matching = _drop_other_responses(matching, request_ids)
    columns = (
        request_ids.encode(matching["request_id"]),
        people.encode(matching["person"]),
        items.encode(matching["item_id"]),
        micros(matching["ts"]),
    )
    return Outcomes(*columns, seconds_viewed(matching) if is_amount_head(head) else None)


def _drop_other_responses(events: pa.Table, request_ids: Codes) -> pa.Table:
    """Drop events that name a response which is not in `request_ids`."""
    is_of_selected = pc.is_in(events["request_id"], value_set=request_ids.values)
    return events.filter(pc.or_(pc.is_null(events["request_id"]), is_of_selected))


def _read_impressions(
    events: pa.Table, request_ids: Codes, people: Codes, items: Codes
) -> Outcomes:
    """Return impressions, one per item; an impression event names one item or several."""
    impressions = _drop_other_responses(
        events.filter(pc.equal(events["type"], "impression")), request_ids
    ).combine_chunks()
    single = impressions.filter(pc.is_valid(impressions["item_id"]))
    multiple = impressions.filter(
        pc.and_(pc.is_null(impressions["item_id"]), pc.is_valid(impressions["items"]))
    )
    list_index = (
        pc.list_parent_indices(multiple["items"]).to_numpy()
        if multiple.num_rows
        else np.zeros(0, np.int64)
    )
    return Outcomes(
        np.concatenate(
            [
                request_ids.encode(single["request_id"]),
                request_ids.encode(multiple["request_id"])[list_index],
            ]
        ),
        np.concatenate(
            [people.encode(single["person"]), people.encode(multiple["person"])[list_index]]
        ),
        np.concatenate(
            [items.encode(single["item_id"]), items.encode(pc.list_flatten(multiple["items"]))]
        ),
        np.concatenate([micros(single["ts"]), micros(multiple["ts"])[list_index]]),
    )
