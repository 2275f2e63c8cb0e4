"""Datasets from logged answers: the outcomes of the items that were shown."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.errors import NotReadyError
from tailorbird.events import micros
from tailorbird.events.clock import ATTRIBUTION_WINDOW
from tailorbird.features.offline.positions import positions_of, to_position_columns
from tailorbird.ranking.policy.targets import is_amount_head, item_heads
from tailorbird.training.dataset.codes import (
    IdVocabulary,
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
    complete_until: int,
    attribution_us: int = ATTRIBUTION_WINDOW,
    denominator: str = "impression",
    response_log: pa.Table | None = None,
    person_vocabulary: IdVocabulary | None = None,
    item_vocabulary: IdVocabulary | None = None,
    extra_heads: Sequence[str] = (),
    arm: str = "",
    with_interleaved: bool = True,
) -> Dataset:
    """Build rows and labels of responses with ts_from ≤ t and t + attribution_us ≤ complete_until.

    Args:
        events: the lake's `events` (columns of ROUTED), in any order, with responses, impressions
            and outcomes.
        slot: name of the slot.
        heads: event types that are targets, or targets of `ranking.policy.targets`.
        complete_until: now minus the allowed lateness.
        denominator: rows are items that the client reported as seen (`impression`), or all shown
            items (`answer`).
        response_log: the lake's `answers`, if any: gives the log position at which a response's
            features were read. A response without a row there (imported history) gets its own
            routed position.
        person_vocabulary, item_vocabulary: codes to use; by default those of the events.
        extra_heads: targets of other slots, which get labels but do not decide what a row is.
        arm: only responses of this EXPERIMENT:ARM; "" takes all.
        with_interleaved: whether drafts of two rankings are rows. Their propensity is 1.

    Raises:
        NotReadyError: there is no such response.
    """
    person_vocabulary = person_vocabulary or IdVocabulary.of(events["person"])
    item_vocabulary = item_vocabulary or IdVocabulary.of(
        events["item_id"], pc.list_flatten(events["items"])
    )
    slot_responses = _select_responses(
        events,
        slot,
        ts_from=ts_from,
        ts_to=complete_until - attribution_us,
        with_interleaved=with_interleaved,
    )
    unlabelled_data = _unlabelled_dataset(
        slot_responses, response_log, person_vocabulary, item_vocabulary
    )
    request_vocabulary = IdVocabulary.of(slot_responses["request_id"])
    slot_items = _flatten_response_items(slot_responses, person_vocabulary, item_vocabulary)
    other_items = _flatten_response_items(
        _other_responses(events, slot_responses, ts_from), person_vocabulary, item_vocabulary
    )
    matcher = OutcomeMatcher(
        unlabelled_data,
        request_vocabulary.encode(slot_responses["request_id"]),
        slot_items,
        other_items,
        attribution_us,
    )
    labels = {
        head: _head_label(
            matcher=matcher,
            events=events,
            head=head,
            request_vocabulary=request_vocabulary,
            person_vocabulary=person_vocabulary,
            item_vocabulary=item_vocabulary,
        )
        for head in item_heads(heads)
    }
    is_seen = np.ones(unlabelled_data.row_count, bool)
    if denominator == "impression":
        is_seen = matcher.match_rows(
            _read_impressions(events, request_vocabulary, person_vocabulary, item_vocabulary)
        )
        # An outcome of any kind proves that the item was seen.
        is_seen |= (
            np.logical_or.reduce([label > 0 for label in labels.values()]) if labels else False
        )
    provenance = {
        "rows": f"items of answers of slot {slot!r}"
        + (", seen by the client" if denominator == "impression" else ""),
        "answers": slot_responses.num_rows,
        "attribution_us": attribution_us,
        "mature_before": complete_until,
    }
    labels |= {
        head: _head_label(
            matcher=matcher,
            events=events,
            head=head,
            request_vocabulary=request_vocabulary,
            person_vocabulary=person_vocabulary,
            item_vocabulary=item_vocabulary,
        )
        for head in item_heads(extra_heads)
        if head not in labels
    }
    if return_target_by_head := return_targets((*heads, *extra_heads)):
        presence_index = PresenceIndex(events, person_vocabulary, complete_until)
        labels |= {
            head: presence_index.label(
                return_target, unlabelled_data.person_codes, unlabelled_data.t
            )[unlabelled_data.request_index]
            for head, return_target in return_target_by_head.items()
        }
    is_retained_row = is_seen
    if arm:
        is_retained_row = is_seen & _is_in_arm(slot_responses, arm)[unlabelled_data.request_index]
        provenance |= {"arm": arm}
    dataset = replace(unlabelled_data, labels=labels, provenance=provenance)
    return dataset if is_retained_row.all() else dataset.filter_rows(is_retained_row)


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
    responses = events.filter(is_selected)
    responses = responses.filter(
        pc.and_(
            pc.is_valid(responses["request_id"]),
            pc.greater(pc.list_value_length(responses["items"]), 0),
        )
    )
    if not with_interleaved:
        responses = responses.filter(pc.invert(interleaved_mask(responses)))
    t = micros(responses["ts"])
    responses = responses.filter(pa.array((t >= ts_from) & (t <= ts_to)))
    responses = responses.sort_by([("ts", "ascending"), ("p", "ascending")]).combine_chunks()
    if not responses.num_rows:
        fix = (
            "let traffic run longer than the attribution window plus the allowed lateness, or "
            "import history with answers"
        )
        raise NotReadyError(f"slot {slot!r} has no answer whose outcomes are known by now", fix=fix)
    return responses


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
    slot_responses: pa.Table,
    response_log: pa.Table | None,
    person_vocabulary: IdVocabulary,
    item_vocabulary: IdVocabulary,
) -> Dataset:
    """Return the responses as a data set without labels."""
    item_lists = slot_responses["items"].combine_chunks()
    item_lists = item_lists.chunk(0) if isinstance(item_lists, pa.ChunkedArray) else item_lists
    sizes = pc.list_value_length(item_lists).to_numpy(zero_copy_only=False).astype(np.int64)
    offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    item_codes = item_vocabulary.encode(pc.list_flatten(item_lists))
    position = (np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes) + 1).astype(np.int32)
    logged_propensities = pc.list_flatten(slot_responses["propensities"])
    propensity = (
        logged_propensities.to_numpy().astype(np.float64)
        if len(logged_propensities) == len(item_codes)
        else np.ones(len(item_codes))
    )
    propensity = np.where(
        np.repeat(interleaved_mask(slot_responses).to_numpy(), sizes), 1.0, propensity
    )
    log_position = slot_responses["p"].to_numpy().copy()
    if response_log is not None and response_log.num_rows:
        response_log_rows = (
            pc.fill_null(
                pc.index_in(
                    slot_responses["request_id"],
                    value_set=response_log["request_id"].combine_chunks(),
                ),
                -1,
            )
            .to_numpy()
            .astype(np.int64)
        )
        read_positions = positions_of(response_log)
        log_position = (
            log_position
            if read_positions.ndim == 1
            else to_position_columns(log_position, read_positions.shape[1]).copy()
        )
        log_position[response_log_rows >= 0] = read_positions[
            response_log_rows[response_log_rows >= 0]
        ]
    return Dataset(
        micros(slot_responses["ts"]).copy(),
        log_position,
        person_vocabulary.encode(slot_responses["person"]),
        select_context(slot_responses),
        offsets,
        item_codes,
        position,
        propensity,
        {},
        np.ones(len(item_codes)),
        person_vocabulary,
        item_vocabulary,
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


def _flatten_response_items(
    responses: pa.Table, person_vocabulary: IdVocabulary, item_vocabulary: IdVocabulary
) -> ResponseItems:
    sizes = pc.list_value_length(responses["items"]).to_numpy().astype(np.int64)
    response_columns = (
        person_vocabulary.encode(responses["person"]),
        micros(responses["ts"]),
        responses["p"].to_numpy(),
    )
    person_code, ts, log_position = (np.repeat(column, sizes) for column in response_columns)
    return ResponseItems(
        person_code, item_vocabulary.encode(pc.list_flatten(responses["items"])), ts, log_position
    )


def _head_label(
    matcher: OutcomeMatcher,
    events: pa.Table,
    head: str,
    request_vocabulary: IdVocabulary,
    person_vocabulary: IdVocabulary,
    item_vocabulary: IdVocabulary,
) -> npt.NDArray:
    """Return the label of each row: whether the head happened, or its amount."""
    outcomes = _head_outcomes(events, head, request_vocabulary, person_vocabulary, item_vocabulary)
    return matcher.sum_amounts(outcomes) if is_amount_head(head) else matcher.match_rows(outcomes)


def _head_outcomes(
    events: pa.Table,
    head: str,
    request_vocabulary: IdVocabulary,
    person_vocabulary: IdVocabulary,
    item_vocabulary: IdVocabulary,
) -> Outcomes:
    """Return the events of a head that name an item."""
    head_events = events.filter(pc.and_(head_mask(events, (head,)), pc.is_valid(events["item_id"])))
    head_events = _drop_other_responses(head_events, request_vocabulary)
    columns = (
        request_vocabulary.encode(head_events["request_id"]),
        person_vocabulary.encode(head_events["person"]),
        item_vocabulary.encode(head_events["item_id"]),
        micros(head_events["ts"]),
    )
    return Outcomes(*columns, seconds_viewed(head_events) if is_amount_head(head) else None)


def _drop_other_responses(events: pa.Table, request_vocabulary: IdVocabulary) -> pa.Table:
    """Drop events that name a response which is not in `request_vocabulary`."""
    is_of_selected = pc.is_in(events["request_id"], value_set=request_vocabulary.values)
    return events.filter(pc.or_(pc.is_null(events["request_id"]), is_of_selected))


def _read_impressions(
    events: pa.Table,
    request_vocabulary: IdVocabulary,
    person_vocabulary: IdVocabulary,
    item_vocabulary: IdVocabulary,
) -> Outcomes:
    """Return impressions, one per item; an impression event names one item or several."""
    impressions = _drop_other_responses(
        events.filter(pc.equal(events["type"], "impression")), request_vocabulary
    ).combine_chunks()
    single_item = impressions.filter(pc.is_valid(impressions["item_id"]))
    multiple_items = impressions.filter(
        pc.and_(pc.is_null(impressions["item_id"]), pc.is_valid(impressions["items"]))
    )
    event_index = (
        pc.list_parent_indices(multiple_items["items"]).to_numpy()
        if multiple_items.num_rows
        else np.zeros(0, np.int64)
    )
    return Outcomes(
        np.concatenate(
            [
                request_vocabulary.encode(single_item["request_id"]),
                request_vocabulary.encode(multiple_items["request_id"])[event_index],
            ]
        ),
        np.concatenate(
            [
                person_vocabulary.encode(single_item["person"]),
                person_vocabulary.encode(multiple_items["person"])[event_index],
            ]
        ),
        np.concatenate(
            [
                item_vocabulary.encode(single_item["item_id"]),
                item_vocabulary.encode(pc.list_flatten(multiple_items["items"])),
            ]
        ),
        np.concatenate([micros(single_item["ts"]), micros(multiple_items["ts"])[event_index]]),
    )
