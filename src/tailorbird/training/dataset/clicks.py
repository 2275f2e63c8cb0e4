"""Training and test sets from logs of what people chose, without what they were shown.

A request is placed before an event (or before the first event of a session). Its candidates are
those that the slot's own sources gave at that moment, without items that the slot would not show to
the person again (`training.dataset.replay`). A chosen item is a row only where a source gave it,
since a server cannot show anything else. The share of such items is the candidate recall; a test
counts the rest as missed.

Negatives may be sampled. The chance of keeping one falls with its rank in the source that ranks it
best: a model has to tell the positive from what is popular now, not from what hardly anybody wants.
A sampled row has the weight 1 ÷ chance, so weighted rows have the prior of the full list. No source
sees the request's own event or anything after it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.errors import NotReadyError
from tailorbird.events import micros
from tailorbird.training.dataset.codes import IdVocabulary, interaction_mask
from tailorbird.training.dataset.dataset import Dataset, MissedPositives, select_context
from tailorbird.training.dataset.replay import CandidateChunk, Progress, Replay
from tailorbird.training.dataset.slates import Slates

Ints = npt.NDArray[np.int64]

HARD_RANK = 20  # up to about this rank, negatives are kept equally often


@dataclass(frozen=True)
class SamplingScheme:
    """A scheme for drawing requests from a log.

    Attributes:
        type: event type that is the target.
        truth: `event` places a request before each event, with its item as the positive; `session`
            places one before each session (or, without a session_id, each event), with all of its
            items as positives.
        moves_before_visit: whether to move requests before the visits that most of these events
            follow; see `training.dataset.pre_visit`.
        seed: seed of every draw.
    """

    type: str = "click"
    truth: str = "event"
    moves_before_visit: bool = True
    seed: int = 7


def draw_requests(
    events: pa.Table,
    person_vocabulary: IdVocabulary,
    item_vocabulary: IdVocabulary,
    scheme: SamplingScheme,
    *,
    ts_from: int,
    ts_to: int,
) -> Dataset:
    """Draw requests with ts_from ≤ t < ts_to in order of time; their rows are the positives.

    Args:
        events: the lake's `events` (columns of ROUTED), at least over that time.

    Raises:
        NotReadyError: there is no such event.
    """
    positive_events = events.filter(interaction_mask(events, (scheme.type,)))
    t = micros(positive_events["ts"])
    event_order = np.lexsort((positive_events["p"].to_numpy(), t))
    positive_events = positive_events.take(pa.array(event_order)).combine_chunks()
    t = t[event_order]
    log_position = positive_events["p"].to_numpy()
    person_codes = person_vocabulary.encode(positive_events["person"])
    item_codes = item_vocabulary.encode(positive_events["item_id"])
    session_code = (
        _session_codes(positive_events, person_codes, len(person_vocabulary))
        if scheme.truth == "session"
        else np.arange(len(t))
    )
    session_start_rows = np.full(session_code.max(initial=-1) + 1, len(t))
    np.minimum.at(session_start_rows, session_code, np.arange(len(t)))
    request_start_row = session_start_rows[session_code]
    rows = np.lexsort((np.arange(len(t)), request_start_row))
    rows = rows[(t[request_start_row[rows]] >= ts_from) & (t[request_start_row[rows]] < ts_to)]
    if not len(rows):
        raise NotReadyError(
            f"no event of type {scheme.type!r} in the window",
            fix="tailorbird import FORMAT PATH, or widen the window",
        )
    first_rows, sizes = np.unique(request_start_row[rows], return_counts=True)
    ones = np.ones(len(rows))
    return Dataset(
        # Just after the events before it, where times are coarse, such as days.
        t[first_rows] + 1,
        # The request's own event is routed at p, so p − 1 is what was known just before it.
        log_position[first_rows] - 1,
        person_codes[first_rows],
        select_context(positive_events).take(pa.array(first_rows)),
        np.concatenate(([0], np.cumsum(sizes))).astype(np.int64),
        item_codes[rows],
        np.zeros(len(rows), np.int32),
        ones,
        {scheme.type: ones > 0},
        ones,
        person_vocabulary,
        item_vocabulary,
        asdict(scheme) | {"rows": "the truth alone", "requests": len(first_rows)},
    )


@dataclass(frozen=True)
class DrawnRequests:
    """Requests with their candidates, and the slates of baselines for them.

    Attributes:
        data: requests in order of time; the candidates are the rows.
        slates: slates of these requests by baseline.
        positive_count, retrieved_positive_count: chosen items, and those that were candidates.
    """

    data: Dataset
    slates: Mapping[str, Slates]
    positive_count: int
    retrieved_positive_count: int


def draw_candidates(
    data: Dataset,
    replay: Replay,
    scheme: SamplingScheme,
    *,
    negatives_per_request: int = 0,
    progress: Progress = lambda done, total: None,
) -> Iterator[DrawnRequests]:
    """Yield the requests with the candidates that the slot's sources gave, one chunk at a time.

    Args:
        data: from `draw_requests`.
        negatives_per_request: weighted negatives to keep, for training; 0 keeps all rows, for a
            test.
    """
    rng = np.random.default_rng(scheme.seed)
    for chunk in replay.iterate_candidates(data, progress=progress):
        yield _label_candidates(data, chunk, scheme, negatives_per_request, rng)


def sample_negatives(
    data: Dataset,
    replay: Replay,
    scheme: SamplingScheme,
    negatives_per_request: int,
    progress: Progress = lambda done, total: None,
) -> Dataset:
    """Return all requests with a weighted sample of their candidates, for training.

    Raises:
        NotReadyError: no source gave any chosen item.
    """
    chunks = list(
        draw_candidates(
            data, replay, scheme, negatives_per_request=negatives_per_request, progress=progress
        )
    )
    positive_count = sum(chunk.positive_count for chunk in chunks)
    recalled_count = sum(chunk.retrieved_positive_count for chunk in chunks)
    if not recalled_count:
        problem = (
            f"no source of candidates gave any of the {positive_count:,} things that people chose "
            f"({scheme.type})"
        )
        raise NotReadyError(
            problem, fix="import more history, widen the window, or add sources to the slot"
        )
    dataset, _ = concat_datasets([chunk.data for chunk in chunks])
    candidate_count = sum(chunk.data.provenance["candidates"] for chunk in chunks)
    description = {
        "rows": "candidates of the slot's sources",
        "requests": dataset.request_count,
        "negatives": negatives_per_request,
    }
    description |= {
        "candidate_recall": recalled_count / max(positive_count, 1),
        "candidates_mean": round(candidate_count / max(data.request_count, 1), 1),
    }
    return replace(dataset, provenance={**data.provenance, **description})


def concat_datasets(parts: Sequence[Dataset]) -> tuple[Dataset, Ints]:
    """Concatenate data sets of different requests in order of time.

    Return also the order: the index of each request in the parts, one after another.
    """
    first_part = parts[0]
    request_starts = np.cumsum([0, *(part.request_count for part in parts)])
    sizes = np.concatenate([np.diff(part.offsets) for part in parts])
    missed_positives = MissedPositives(
        np.concatenate(
            [
                part.missed_positives.request_index + start
                for part, start in zip(parts, request_starts, strict=False)
            ]
        ),
        np.concatenate([part.missed_positives.item_codes for part in parts]),
    )
    column_names = (
        "t",
        "log_position",
        "person_codes",
        "item_codes",
        "position",
        "propensity",
        "weight",
    )
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in column_names
    }
    live_values = (
        None
        if first_part.live_values is None
        else np.concatenate([part.live_values for part in parts if part.live_values is not None])
    )
    combined_data = replace(
        first_part,
        **columns,
        context=pa.concat_tables([part.context for part in parts]),
        offsets=np.concatenate(([0], np.cumsum(sizes))).astype(np.int64),
        labels={
            head: np.concatenate([part.labels[head] for part in parts])
            for head in first_part.labels
        },
        live_values=live_values,
        missed_positives=missed_positives,
    )
    order = time_order(combined_data)
    return (
        combined_data if bool(np.all(np.diff(order) == 1)) else combined_data.take(order)
    ), order


def time_order(data: Dataset) -> Ints:
    """Return the order of requests by time, ties by log position."""
    return np.lexsort(
        (data.log_position if data.log_position.ndim == 1 else data.log_position[:, 0], data.t)
    )


def infer_scheme(events: pa.Table, head: str) -> SamplingScheme:
    """Choose a scheme that fits a log: a session is one basket if purchases come in sessions."""
    positive_events = events.filter(interaction_mask(events, (head,)))
    session_events = positive_events.filter(pc.is_valid(positive_events["session_id"]))
    has_baskets = head == "purchase" and session_events.num_rows > 2 * max(
        1, len(pc.unique(session_events["session_id"]))
    )
    return SamplingScheme(type=head, truth="session" if has_baskets else "event")


def _session_codes(events: pa.Table, person_codes: Ints, person_count: int) -> Ints:
    """Return the session code of each event; an event without a session has one of its own."""
    session_ids = pc.if_else(
        pc.is_valid(events["session_id"]), events["session_id"], events["event_id"]
    )
    id_codes = IdVocabulary.of(session_ids).encode(session_ids)
    _, session_codes = np.unique(
        id_codes * (person_count + 1) + person_codes + 1, return_inverse=True
    )
    return session_codes


def _label_candidates(
    data: Dataset,
    chunk: CandidateChunk,
    scheme: SamplingScheme,
    negatives_per_request: int,
    rng: np.random.Generator,
) -> DrawnRequests:
    """Label the candidates of some requests."""
    chunk_request_indexes = chunk.request_indexes
    item_count = max(len(data.item_vocabulary), 1)
    chunk_requests = data.take(chunk_request_indexes)
    positive_keys = np.unique(chunk_requests.request_index * item_count + chunk_requests.item_codes)
    request_index = np.repeat(np.arange(len(chunk_request_indexes)), chunk.sizes)
    candidate_keys = request_index * item_count + chunk.item_codes
    order = np.argsort(candidate_keys, kind="stable")
    matched_indexes = np.searchsorted(candidate_keys[order], positive_keys)
    matched_indexes = np.minimum(matched_indexes, max(len(candidate_keys) - 1, 0))
    is_candidate = (
        candidate_keys[order][matched_indexes] == positive_keys
        if len(candidate_keys)
        else np.zeros(len(positive_keys), bool)
    )
    label = np.zeros(len(candidate_keys), bool)
    label[order[matched_indexes[is_candidate]]] = True
    sampled_rows, weight = _sample_rows(
        request_index,
        label,
        chunk.best_rank.astype(np.float64),
        negatives_per_request,
        len(chunk_request_indexes),
        rng,
    )
    row_counts = np.bincount(request_index[sampled_rows], minlength=len(chunk_request_indexes))
    offsets = np.concatenate(([0], np.cumsum(row_counts))).astype(np.int64)
    missed_positives = MissedPositives(
        positive_keys[~is_candidate] // item_count, positive_keys[~is_candidate] % item_count
    )
    labelled_data = Dataset(
        chunk_requests.t,
        chunk_requests.log_position,
        chunk_requests.person_codes,
        chunk_requests.context,
        offsets,
        chunk.item_codes[sampled_rows],
        np.zeros(len(sampled_rows), np.int32),
        np.ones(len(sampled_rows)),
        {scheme.type: label[sampled_rows]},
        weight,
        data.person_vocabulary,
        data.item_vocabulary,
        {**data.provenance, "candidates": len(candidate_keys)},
        chunk.live_values[sampled_rows],
        missed_positives,
    )
    order = time_order(labelled_data)
    if not bool(np.all(np.diff(order) == 1)):
        labelled_data = labelled_data.take(order)
        slates = {name: slate.take(order) for name, slate in chunk.slates.items()}
        return DrawnRequests(labelled_data, slates, len(positive_keys), int(is_candidate.sum()))
    return DrawnRequests(labelled_data, chunk.slates, len(positive_keys), int(is_candidate.sum()))


def _sample_rows(
    request_index: Ints,
    label: npt.NDArray[np.bool_],
    rank: npt.NDArray[np.float64],
    negatives_per_request: int,
    request_count: int,
    rng: np.random.Generator,
) -> tuple[Ints, npt.NDArray[np.float64]]:
    """Return the rows to keep, ascending, and their weights.

    Each negative is sampled on its own, with a chance that falls with its rank.
    """
    if not negatives_per_request:
        return np.arange(len(request_index)), np.ones(len(request_index))
    priority = np.where(label, 0.0, 1.0 / (rank + HARD_RANK))
    chance = np.where(label, 1.0, 0.0)
    for _ in range(4):  # rows that reach a chance of 1 leave their surplus to the others
        is_below_one = ~label & (chance < 1.0)
        remaining_negatives = negatives_per_request - np.bincount(
            request_index, ~label & ~is_below_one, minlength=request_count
        )
        priority_total = np.bincount(
            request_index, np.where(is_below_one, priority, 0.0), minlength=request_count
        )
        scale = np.maximum(remaining_negatives, 0.0) / np.maximum(priority_total, 1e-12)
        chance[is_below_one] = np.minimum(
            1.0, priority[is_below_one] * scale[request_index[is_below_one]]
        )
    rows = np.flatnonzero(rng.random(len(request_index)) < chance)
    return rows, 1.0 / chance[rows]


def describe_sources(source_limits: Mapping[str, int], provenance: Mapping[str, Any]) -> str:
    """Describe in one sentence where candidates came from."""
    limits = ", ".join(f"{limit} by {name}" for name, limit in source_limits.items() if limit)
    recall_note = f"they held what people chose in {provenance['candidate_recall']:.1%} of cases"
    return (
        f"at most {limits}, as of each moment: {provenance['candidates_mean']:,.0f} candidates a "
        f"request; {recall_note}"
    )
