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
from tailorbird.training.dataset.codes import Codes, interaction_mask
from tailorbird.training.dataset.dataset import Dataset, MissedPositives, select_context
from tailorbird.training.dataset.replay import CandidateChunk, Progress, Replay, Slates

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
        moves_before_visit: whether to move requests before the visits that most of these events follow;
            see `training.dataset.pre_visit`.
        seed: seed of every draw.
    """

    type: str = "click"
    truth: str = "event"
    moves_before_visit: bool = True
    seed: int = 7


def draw_requests(
    events: pa.Table,
    people: Codes,
    items: Codes,
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
    positives = events.filter(interaction_mask(events, (scheme.type,)))
    t = micros(positives["ts"])
    order = np.lexsort((positives["p"].to_numpy(), t))
    positives = positives.take(pa.array(order)).combine_chunks()
    t, p = t[order], positives["p"].to_numpy()
    person, item = people.encode(positives["person"]), items.encode(positives["item_id"])
    session_code = (
        _session_codes(positives, person, len(people))
        if scheme.truth == "session"
        else np.arange(len(t))
    )
    session_start = np.full(session_code.max(initial=-1) + 1, len(t))
    np.minimum.at(session_start, session_code, np.arange(len(t)))
    request_start = session_start[session_code]
    rows = np.lexsort((np.arange(len(t)), request_start))
    rows = rows[(t[request_start[rows]] >= ts_from) & (t[request_start[rows]] < ts_to)]
    if not len(rows):
        raise NotReadyError(
            f"no event of type {scheme.type!r} in the window",
            fix="tailorbird import FORMAT PATH, or widen the window",
        )
    first_rows, size = np.unique(request_start[rows], return_counts=True)
    ones = np.ones(len(rows))
    return Dataset(
        # Just after the events before it, where times are coarse, such as days.
        t[first_rows] + 1,
        # The request's own event is routed at p, so p − 1 is what was known just before it.
        p[first_rows] - 1,
        person[first_rows],
        select_context(positives).take(pa.array(first_rows)),
        np.concatenate(([0], np.cumsum(size))).astype(np.int64),
        item[rows],
        np.zeros(len(rows), np.int32),
        ones,
        {scheme.type: ones > 0},
        ones,
        people,
        items,
        asdict(scheme) | {"rows": "the truth alone", "requests": len(first_rows)},
    )


@dataclass(frozen=True)
class DrawnRequests:
    """Requests with their candidates, and the slates of baselines for them.

    Attributes:
        data: requests in order of time; the candidates are the rows.
        slates: slates of these requests by baseline.
        positives, retrieved_positives: number of chosen items, and of those that were candidates.
    """

    data: Dataset
    slates: Mapping[str, Slates]
    positives: int
    retrieved_positives: int


def draw_candidates(
    data: Dataset,
    replay: Replay,
    scheme: SamplingScheme,
    *,
    negatives: int = 0,
    progress: Progress = lambda done, total: None,
) -> Iterator[DrawnRequests]:
    """Yield the requests with the candidates that the slot's sources gave, one chunk at a time.

    Args:
        data: from `draw_requests`.
        negatives: weighted negatives to keep for each request, for training; 0 keeps all rows, for
            a test.
    """
    rng = np.random.default_rng(scheme.seed)
    for part in replay.draw_candidates(data, progress=progress):
        yield _label_candidates(data, part, scheme, negatives, rng)


def sample_negatives(
    data: Dataset,
    replay: Replay,
    scheme: SamplingScheme,
    negatives: int,
    progress: Progress = lambda done, total: None,
) -> Dataset:
    """Return all requests with a weighted sample of their candidates, for training.

    Raises:
        NotReadyError: no source gave any chosen item.
    """
    chunks = list(draw_candidates(data, replay, scheme, negatives=negatives, progress=progress))
    positives, recalled_count = (
        sum(chunk.positives for chunk in chunks),
        sum(chunk.retrieved_positives for chunk in chunks),
    )
    if not recalled_count:
        problem = (
            f"no source of candidates gave any of the {positives:,} things that people chose "
            f"({scheme.type})"
        )
        raise NotReadyError(
            problem, fix="import more history, widen the window, or add sources to the slot"
        )
    dataset, _ = concat_datasets([chunk.data for chunk in chunks])
    candidates = sum(chunk.data.scheme["candidates"] for chunk in chunks)
    description = {
        "rows": "candidates of the slot's sources",
        "requests": dataset.requests,
        "negatives": negatives,
    }
    description |= {
        "candidate_recall": recalled_count / max(positives, 1),
        "candidates_mean": round(candidates / max(data.requests, 1), 1),
    }
    return replace(dataset, scheme={**data.scheme, **description})


def concat_datasets(parts: Sequence[Dataset]) -> tuple[Dataset, Ints]:
    """Concatenate data sets of different requests in order of time.

    Return also the order: the index of each request in the parts, one after another.
    """
    dataset, counts = parts[0], np.cumsum([0, *(part.requests for part in parts)])
    sizes = np.concatenate([np.diff(part.offsets) for part in parts])
    missed = MissedPositives(
        np.concatenate(
            [part.missed.request + start for part, start in zip(parts, counts, strict=False)]
        ),
        np.concatenate([part.missed.item for part in parts]),
    )
    names = ("t", "p", "person", "item", "position", "propensity", "weight")
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in names
    }
    live = (
        None
        if dataset.live is None
        else np.concatenate([part.live for part in parts if part.live is not None])
    )
    combined_data = replace(
        dataset,
        **columns,
        context=pa.concat_tables([part.context for part in parts]),
        offsets=np.concatenate(([0], np.cumsum(sizes))).astype(np.int64),
        labels={
            head: np.concatenate([part.labels[head] for part in parts]) for head in dataset.labels
        },
        live=live,
        missed=missed,
    )
    order = time_order(combined_data)
    return (
        combined_data if bool(np.all(np.diff(order) == 1)) else combined_data.take(order)
    ), order


def time_order(data: Dataset) -> Ints:
    """Return the order of requests by time, ties by log position."""
    return np.lexsort((data.p if data.p.ndim == 1 else data.p[:, 0], data.t))


def infer_scheme(events: pa.Table, head: str) -> SamplingScheme:
    """Choose a scheme that fits a log: a session is one basket if purchases come in sessions."""
    positives = events.filter(interaction_mask(events, (head,)))
    sessions = positives.filter(pc.is_valid(positives["session_id"]))
    basket = head == "purchase" and sessions.num_rows > 2 * max(
        1, len(pc.unique(sessions["session_id"]))
    )
    return SamplingScheme(type=head, truth="session" if basket else "event")


def _session_codes(events: pa.Table, person: Ints, people: int) -> Ints:
    """Return the session code of each event; an event without a session has one of its own."""
    session_ids = pc.if_else(
        pc.is_valid(events["session_id"]), events["session_id"], events["event_id"]
    )
    code = Codes.of(session_ids).encode(session_ids)
    _, member = np.unique(code * (people + 1) + person + 1, return_inverse=True)
    return member


def _label_candidates(
    data: Dataset,
    part: CandidateChunk,
    scheme: SamplingScheme,
    negatives: int,
    rng: np.random.Generator,
) -> DrawnRequests:
    """Label the candidates of some requests."""
    requests, items = part.request, max(len(data.items), 1)
    subset = data.take(requests)
    truth = np.unique(subset.request * items + subset.item)
    request = np.repeat(np.arange(len(requests)), part.size)
    key = request * items + part.item
    order = np.argsort(key, kind="stable")
    matched_positions = np.searchsorted(key[order], truth)
    matched_positions = np.minimum(matched_positions, max(len(key) - 1, 0))
    is_candidate = (
        key[order][matched_positions] == truth if len(key) else np.zeros(len(truth), bool)
    )
    label = np.zeros(len(key), bool)
    label[order[matched_positions[is_candidate]]] = True
    sampled_rows, weight = _sample_rows(
        request, label, part.rank.astype(np.float64), negatives, len(requests), rng
    )
    counts = np.bincount(request[sampled_rows], minlength=len(requests))
    offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    missed = MissedPositives(truth[~is_candidate] // items, truth[~is_candidate] % items)
    rows = Dataset(
        subset.t,
        subset.p,
        subset.person,
        subset.context,
        offsets,
        part.item[sampled_rows],
        np.zeros(len(sampled_rows), np.int32),
        np.ones(len(sampled_rows)),
        {scheme.type: label[sampled_rows]},
        weight,
        data.people,
        data.items,
        {**data.scheme, "candidates": len(key)},
        part.live[sampled_rows],
        missed,
    )
    order = time_order(rows)
    if not bool(np.all(np.diff(order) == 1)):
        rows = rows.take(order)
        slates = {name: slate.take(order) for name, slate in part.slates.items()}
        return DrawnRequests(rows, slates, len(truth), int(is_candidate.sum()))
    return DrawnRequests(rows, part.slates, len(truth), int(is_candidate.sum()))


def _sample_rows(
    request: Ints,
    label: npt.NDArray[np.bool_],
    rank: npt.NDArray[np.float64],
    negatives: int,
    requests: int,
    rng: np.random.Generator,
) -> tuple[Ints, npt.NDArray[np.float64]]:
    """Return the rows to keep, ascending, and their weights.

    Each negative is sampled on its own, with a chance that falls with its rank.
    """
    if not negatives:
        return np.arange(len(request)), np.ones(len(request))
    priority = np.where(label, 0.0, 1.0 / (rank + HARD_RANK))
    chance = np.where(label, 1.0, 0.0)
    for _ in range(4):  # rows that reach a chance of 1 leave their surplus to the others
        is_open = ~label & (chance < 1.0)
        spare = negatives - np.bincount(request, ~label & ~is_open, minlength=requests)
        total = np.bincount(request, np.where(is_open, priority, 0.0), minlength=requests)
        share = np.maximum(spare, 0.0) / np.maximum(total, 1e-12)
        chance[is_open] = np.minimum(1.0, priority[is_open] * share[request[is_open]])
    rows = np.flatnonzero(rng.random(len(request)) < chance)
    return rows, 1.0 / chance[rows]


def describe_sources(sources: Mapping[str, int], scheme: Mapping[str, Any]) -> str:
    """Describe in one sentence where candidates came from."""
    limits = ", ".join(f"{limit} by {name}" for name, limit in sources.items() if limit)
    recall_note = f"they held what people chose in {scheme['candidate_recall']:.1%} of cases"
    return (
        f"at most {limits}, as of each moment: {scheme['candidates_mean']:,.0f} candidates a "
        f"request; {recall_note}"
    )
