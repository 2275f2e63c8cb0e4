"""Choice of the requests to train on: logged answers, or visits if too few are labelled."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.errors import NotReadyError
from tailorbird.events import DAY, micros, parse_duration
from tailorbird.lake import Lake
from tailorbird.ranking.policy.targets import item_heads, item_probability_heads
from tailorbird.ranking.slot import Slot
from tailorbird.training.dataset.clicks import SamplingScheme, draw_requests, infer_scheme
from tailorbird.training.dataset.codes import IdVocabulary, interaction_mask
from tailorbird.training.dataset.dataset import Dataset
from tailorbird.training.dataset.logged_answers import dataset_from_responses
from tailorbird.training.dataset.pre_visit import move_before_visits

RowSource = Literal["auto", "answers", "clicks"]

NEGATIVES = 60  # of a drawn request in training and validation
# With fewer responses that have an outcome, the log's choices teach more: split in three, too few
# positives remain.
RESPONSES_MIN = 300


@dataclass(frozen=True)
class RowSettings:
    """Settings for the requests to load and their rows.

    Attributes:
        ts_from, as_of: start and end of the window.
        lateness_us: allowed lateness of events; younger responses are left out.
        row_source: `answers` or `clicks`; `auto` uses responses if enough have an outcome, else
            what people chose, if that is more.
        sampling_scheme: how to draw requests even if there are responses; None infers it if needed.
        extra_heads: targets of other slots, which get labels as well.
        arm: only responses of this EXPERIMENT:ARM; "" takes all.
    """

    ts_from: int
    as_of: int
    lateness_us: int = DAY
    row_source: RowSource = "auto"
    sampling_scheme: SamplingScheme | None = None
    extra_heads: Sequence[str] = ()
    arm: str = ""


def choose_requests(
    lake: Lake,
    events: pa.Table,
    person_vocabulary: IdVocabulary,
    item_vocabulary: IdVocabulary,
    slot: Slot,
    row_settings: RowSettings,
    complete_until: int,
) -> tuple[Dataset, SamplingScheme | None, str]:
    """Choose between logged responses and drawn requests.

    Returns:
        The requests, their scheme (None for responses), and the choice as a sentence.
    """
    logged_data = None
    if row_settings.row_source != "clicks" and row_settings.sampling_scheme is None:
        try:
            logged_data = _rows_from_responses(
                lake=lake,
                events=events,
                person_vocabulary=person_vocabulary,
                item_vocabulary=item_vocabulary,
                slot=slot,
                row_settings=row_settings,
                complete_until=complete_until,
            )
        except NotReadyError:
            _, chosen_count = _first_chosen_head(events, slot, row_settings)
            if row_settings.row_source == "answers" or (
                _has_responses(events, slot) and not chosen_count
            ):
                raise
    outcome_count = _count_with_outcome(logged_data, slot) if logged_data else 0
    outcome_note = (
        f"{outcome_count:,} answers of slot {slot.name!r} have an outcome that is known by now"
    )
    if logged_data and row_settings.arm:
        outcome_note += f". They are those of the arm {row_settings.arm}; features, candidates and"
        outcome_note += " popularity are of the whole log"
    if logged_data and row_settings.row_source == "answers":
        return logged_data, None, f"rows are logged answers, as asked for: {outcome_note}"
    if logged_data and outcome_count >= RESPONSES_MIN:
        return logged_data, None, f"rows are logged answers: {outcome_note}"
    head, chosen_count = _first_chosen_head(events, slot, row_settings)
    # Nearly all choices were made from these very responses.
    if logged_data and chosen_count < 2 * outcome_count:
        return (
            logged_data,
            None,
            f"rows are logged answers, though only {outcome_note}: the log holds hardly any {head} "
            "beside them",
        )
    scheme = row_settings.sampling_scheme or infer_scheme(events, head)
    data = draw_requests(
        events,
        person_vocabulary,
        item_vocabulary,
        scheme,
        ts_from=row_settings.ts_from,
        ts_to=row_settings.as_of,
    )
    source_note = (
        f"requests are put before what people chose ({data.row_count:,} of type {scheme.type})"
    )
    move_note = ""
    if (
        moved_requests := move_before_visits(
            events, data, scheme.type, parse_duration(slot.attribution)
        )
        if scheme.moves_before_visit
        else None
    ):
        data = moved_requests.data
        move_note = f"; {moved_requests.summary}"
    if row_settings.sampling_scheme or row_settings.row_source == "clicks":
        return data, scheme, f"{source_note}, as asked for{move_note}"
    if not _has_responses(events, slot):
        return data, scheme, f"{source_note}: slot {slot.name!r} has no logged answer{move_note}"
    return (
        data,
        scheme,
        f"{source_note}: only {outcome_note}, and {RESPONSES_MIN} are needed to learn from them"
        f"{move_note}",
    )


def _rows_from_responses(
    lake: Lake,
    events: pa.Table,
    person_vocabulary: IdVocabulary,
    item_vocabulary: IdVocabulary,
    slot: Slot,
    row_settings: RowSettings,
    complete_until: int,
) -> Dataset:
    return dataset_from_responses(
        events,
        slot.name,
        list(slot.objective),
        ts_from=row_settings.ts_from,
        complete_until=complete_until,
        attribution_us=parse_duration(slot.attribution),
        denominator=slot.denominator,
        response_log=lake.responses(["request_id", "p", "positions"])
        if lake.exists("answers")
        else None,
        person_vocabulary=person_vocabulary,
        item_vocabulary=item_vocabulary,
        extra_heads=row_settings.extra_heads,
        arm=row_settings.arm,
    )


def _has_responses(events: pa.Table, slot: Slot) -> bool:
    """Return whether the slot has any response."""
    is_answer = pc.and_(
        pc.equal(events["type"], "answer"), pc.fill_null(pc.equal(events["slot"], slot.name), False)
    )
    return bool(pc.any(is_answer).as_py())


def _count_with_outcome(logged_data: Dataset, slot: Slot) -> int:
    """Return the number of responses with an outcome that counts in the slot's objective."""
    has_outcome = np.logical_or.reduce(
        [logged_data.labels[head] > 0 for head in item_heads(slot.objective)]
    )
    return len(np.unique(logged_data.request_index[has_outcome]))


def _first_chosen_head(events: pa.Table, slot: Slot, row_settings: RowSettings) -> tuple[str, int]:
    """Return the objective's first head with an event in the window, and its number of events."""
    heads = item_probability_heads(slot.objective) or ["view"]
    t = micros(events["ts"])
    is_recent = (t >= row_settings.ts_from) & (t < row_settings.as_of)
    for head in heads:
        is_chosen = pc.and_(
            interaction_mask(events, (head,)), pc.is_valid(events["person"])
        ).to_numpy()
        if count := int(np.count_nonzero(is_chosen & is_recent)):
            return head, count
    return heads[0], 0
