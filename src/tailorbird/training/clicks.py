"""Training and test sets from logs that hold what people chose but not what they were shown.

A request is put before an event (or before a session's first event). Its candidates are those that
the slot's own sources gave at that moment, and what the slot would not show again to the person is
left out (`training.replaying`). What a person chose is a row only where a source gave it: a server
cannot show anything else. How often that was so is the candidate recall, and a test counts the rest
as missed.

Negatives may be sampled: each is kept with a chance that falls with its rank in the source that
ranks it best, since a model has to tell the truth from what is hot now rather than from what hardly
anybody wants. A kept one has the weight 1 ÷ chance, so that weighted rows have the prior of the
full list. Nothing of the request's own event or after it is known to any source.
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
from tailorbird.training.coding import Codes, interesting
from tailorbird.training.dataset import Dataset, Missed, context_of
from tailorbird.training.replaying import Part, Progress, Replay, Slates

Ints = npt.NDArray[np.int64]

HARD = 20  # ranks up to about here are kept alike often


@dataclass(frozen=True)
class Scheme:
    """How requests are drawn.

    Attributes:
        type: the event type that is the target.
        truth: `event`: a request before each event, whose item is the truth; `session`: one before
            each session (or, without a session_id, each event), whose items all are.
        before_looks: whether requests stand before the looks at the very item that most of these
            events follow, where they do; see `training.before_looks`.
        seed: of every draw.
    """

    type: str = "click"
    truth: str = "event"
    before_looks: bool = True
    seed: int = 7


def choices(
    events: pa.Table, people: Codes, items: Codes, scheme: Scheme, *, ts_from: int, ts_to: int
) -> Dataset:
    """All requests with ts_from ≤ t < ts_to, in order of time, whose only rows are the truth.

    Args:
        events: the lake's `events` (columns of ROUTED), at least over that time.

    Raises:
        NotReadyError: no such event.
    """
    kept = events.filter(interesting(events, (scheme.type,)))
    t = micros(kept["ts"])
    order = np.lexsort((kept["p"].to_numpy(), t))
    kept = kept.take(pa.array(order)).combine_chunks()
    t, p = t[order], kept["p"].to_numpy()
    person, item = people.encode(kept["person"]), items.encode(kept["item_id"])
    member = (
        _sessions(kept, person, len(people)) if scheme.truth == "session" else np.arange(len(t))
    )
    first = np.full(member.max(initial=-1) + 1, len(t))
    np.minimum.at(first, member, np.arange(len(t)))
    begin = first[member]
    rows = np.lexsort((np.arange(len(t)), begin))
    rows = rows[(t[begin[rows]] >= ts_from) & (t[begin[rows]] < ts_to)]
    if not len(rows):
        raise NotReadyError(
            f"no event of type {scheme.type!r} in the window",
            fix="tailorbird import FORMAT PATH, or widen the window",
        )
    starts, size = np.unique(begin[rows], return_counts=True)
    ones = np.ones(len(rows))
    return Dataset(
        t[starts]
        + 1,  # just behind what came before it in the log, where times are coarse, such as days
        p[starts]
        - 1,  # the request's own event is routed at p, so what was known just before it is p − 1
        person[starts],
        context_of(kept).take(pa.array(starts)),
        np.concatenate(([0], np.cumsum(size))).astype(np.int64),
        item[rows],
        np.zeros(len(rows), np.int32),
        ones,
        {scheme.type: ones > 0},
        ones,
        people,
        items,
        asdict(scheme) | {"rows": "the truth alone", "requests": len(starts)},
    )


@dataclass(frozen=True)
class Drawn:
    """Requests with their candidates, and beside each what baselines would show.

    Attributes:
        data: whose rows are the candidates; requests in order of time.
        slates: by baseline, of these requests.
        truths, found: how many things were chosen, and how many of them were candidates.
    """

    data: Dataset
    slates: Mapping[str, Slates]
    truths: int
    found: int


def with_candidates(
    data: Dataset,
    replay: Replay,
    scheme: Scheme,
    *,
    negatives: int = 0,
    progress: Progress = lambda done, total: None,
) -> Iterator[Drawn]:
    """Yield the same requests with the candidates that the slot's sources gave, a chunk at a time.

    Args:
        data: from `choices`.
        negatives: how many of a request's negatives are kept, weighted: for training; 0 keeps all
            rows, for a test.
    """
    rng = np.random.default_rng(scheme.seed)
    for part in replay.drawn(data, progress=progress):
        yield _drawn(data, part, scheme, negatives, rng)


def sampled(
    data: Dataset,
    replay: Replay,
    scheme: Scheme,
    negatives: int,
    progress: Progress = lambda done, total: None,
) -> Dataset:
    """Return all requests with some of their candidates, weighted: for training.

    Raises:
        NotReadyError: no source gave anything that people chose.
    """
    drawn = list(with_candidates(data, replay, scheme, negatives=negatives, progress=progress))
    truths, found = sum(each.truths for each in drawn), sum(each.found for each in drawn)
    if not found:
        what = (
            f"no source of candidates gave any of the {truths:,} things that people chose "
            f"({scheme.type})"
        )
        raise NotReadyError(
            what, fix="import more history, widen the window, or add sources to the slot"
        )
    whole, _ = joined([each.data for each in drawn])
    candidates = sum(each.data.scheme["candidates"] for each in drawn)
    told = {
        "rows": "candidates of the slot's sources",
        "requests": whole.requests,
        "negatives": negatives,
    }
    told |= {
        "candidate_recall": found / max(truths, 1),
        "candidates_mean": round(candidates / max(data.requests, 1), 1),
    }
    return replace(whole, scheme={**data.scheme, **told})


def joined(parts: Sequence[Dataset]) -> tuple[Dataset, Ints]:
    """Put data sets of different requests together, in order of time; and which request of them one
    after another each is.
    """
    first, counts = parts[0], np.cumsum([0, *(part.requests for part in parts)])
    sizes = np.concatenate([np.diff(part.offsets) for part in parts])
    missed = Missed(
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
        if first.live is None
        else np.concatenate([part.live for part in parts if part.live is not None])
    )
    whole = replace(
        first,
        **columns,
        context=pa.concat_tables([part.context for part in parts]),
        offsets=np.concatenate(([0], np.cumsum(sizes))).astype(np.int64),
        labels={
            head: np.concatenate([part.labels[head] for part in parts]) for head in first.labels
        },
        live=live,
        missed=missed,
    )
    order = by_time(whole)
    return (whole if bool(np.all(np.diff(order) == 1)) else whole.take(order)), order


def by_time(data: Dataset) -> Ints:
    """Return the requests in order of time, and of one time in that of the log."""
    return np.lexsort((data.p if data.p.ndim == 1 else data.p[:, 0], data.t))


def scheme_of(events: pa.Table, head: str) -> Scheme:
    """Return a scheme that fits a log: whether a session is one basket."""
    kept = events.filter(interesting(events, (head,)))
    sessions = kept.filter(pc.is_valid(kept["session_id"]))
    basket = head == "purchase" and sessions.num_rows > 2 * max(
        1, len(pc.unique(sessions["session_id"]))
    )
    return Scheme(type=head, truth="session" if basket else "event")


def _sessions(kept: pa.Table, person: Ints, people: int) -> Ints:
    """Which session each event belongs to; an event without one is its own."""
    named = pc.if_else(pc.is_valid(kept["session_id"]), kept["session_id"], kept["event_id"])
    code = Codes.of(named).encode(named)
    _, member = np.unique(code * (people + 1) + person + 1, return_inverse=True)
    return member


def _drawn(
    data: Dataset, part: Part, scheme: Scheme, negatives: int, rng: np.random.Generator
) -> Drawn:
    """Label the candidates of some requests."""
    picked, items = part.request, max(len(data.items), 1)
    own = data.take(picked)
    truth = np.unique(own.request * items + own.item)
    request = np.repeat(np.arange(len(picked)), part.size)
    key = request * items + part.item
    order = np.argsort(key, kind="stable")
    at = np.searchsorted(key[order], truth)
    at = np.minimum(at, max(len(key) - 1, 0))
    found = key[order][at] == truth if len(key) else np.zeros(len(truth), bool)
    label = np.zeros(len(key), bool)
    label[order[at[found]]] = True
    kept, weight = _sample(
        request, label, part.rank.astype(np.float64), negatives, len(picked), rng
    )
    counts = np.bincount(request[kept], minlength=len(picked))
    offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    missed = Missed(truth[~found] // items, truth[~found] % items)
    rows = Dataset(
        own.t,
        own.p,
        own.person,
        own.context,
        offsets,
        part.item[kept],
        np.zeros(len(kept), np.int32),
        np.ones(len(kept)),
        {scheme.type: label[kept]},
        weight,
        data.people,
        data.items,
        {**data.scheme, "candidates": len(key)},
        part.live[kept],
        missed,
    )
    order = by_time(rows)
    if not bool(np.all(np.diff(order) == 1)):
        rows = rows.take(order)
        slates = {name: each.take(order) for name, each in part.slates.items()}
        return Drawn(rows, slates, len(truth), int(found.sum()))
    return Drawn(rows, part.slates, len(truth), int(found.sum()))


def _sample(
    request: Ints,
    label: npt.NDArray[np.bool_],
    rank: npt.NDArray[np.float64],
    negatives: int,
    requests: int,
    rng: np.random.Generator,
) -> tuple[Ints, npt.NDArray[np.float64]]:
    """Rows to keep, ascending, and their weights: each negative by itself, with a chance that falls
    with its rank.
    """
    if not negatives:
        return np.arange(len(request)), np.ones(len(request))
    wanted = np.where(label, 0.0, 1.0 / (rank + HARD))
    chance = np.where(label, 1.0, 0.0)
    for _ in range(4):  # those that reach 1 leave their surplus to the others
        open_ = ~label & (chance < 1.0)
        spare = negatives - np.bincount(request, ~label & ~open_, minlength=requests)
        total = np.bincount(request, np.where(open_, wanted, 0.0), minlength=requests)
        share = np.maximum(spare, 0.0) / np.maximum(total, 1e-12)
        chance[open_] = np.minimum(1.0, wanted[open_] * share[request[open_]])
    kept = np.flatnonzero(rng.random(len(request)) < chance)
    return kept, 1.0 / chance[kept]


def sources_told(sources: Mapping[str, int], scheme: Mapping[str, Any]) -> str:
    """A sentence on where candidates came from, for reports."""
    named = ", ".join(f"{limit} by {name}" for name, limit in sources.items() if limit)
    found = f"they held what people chose in {scheme['candidate_recall']:.1%} of cases"
    return (
        f"at most {named}, as of each moment: {scheme['candidates_mean']:,.0f} candidates a "
        f"request; {found}"
    )
