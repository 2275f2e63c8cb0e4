"""Training and test sets from logs that hold what people chose but not what they were shown.

A request is put before an event (or before a session's first event), and its candidates are drawn from sources as serving would:

    popular        the `popular` items most chosen in the `popular_window` before the last full `refresh` before the request
    item-to-item   what follows the person's last items, from the newest table with trained_until ≤ t
    own history    what the person chose before, newest first (where people choose the same item again)
    + the truth    which is added where no source found it; its share is told (`found`), since a real system cannot do so

Where people never choose an item twice, what the person chose before is taken out, of candidates and truth alike. Negatives may be
sampled: `negatives` of a request's candidates, evenly, each with the weight (all ÷ kept), so that weighted rows have the prior of
the full list. Requests are drawn evenly from all; nothing of the request's own event or after it is known to any source.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.errors import NotReadyError
from tailorbird.events import DAY, HOUR, micros
from tailorbird.models.baselines import History
from tailorbird.training.coding import interesting
from tailorbird.training.dataset import CONTEXT, Dataset
from tailorbird.training.item_to_item import Rolling

Ints = npt.NDArray[np.int64]

REQUESTS_AT_ONCE = 2_000


@dataclass(frozen=True)
class Scheme:
    """How requests and candidates are drawn.

    Attributes:
        type: the event type that is the target.
        truth: `event`: a request before each event, whose item is the truth; `session`: one before each session (or, without a
            session_id, each event), whose items all are.
        popular, popular_window, refresh: see the module; 1,000 items of the day before, counted anew each hour.
        item_to_item, own_history: how many candidates at most.
        repeats: whether people choose the same item again.
        negatives: how many negatives a request keeps; 0 keeps all.
        seed: of every draw.
    """

    type: str = "click"
    truth: str = "event"
    popular: int = 1_000
    popular_window: int = DAY
    refresh: int = HOUR
    item_to_item: int = 200
    own_history: int = 0
    repeats: bool = False
    negatives: int = 0
    seed: int = 7


@dataclass(frozen=True)
class Chosen:
    """Moments at which somebody chose something: one a request, in order of time, with the true items ragged beside."""

    row: Ints  # of the first event of the request in the table that it was drawn from
    t: Ints
    p: Ints
    person: Ints
    offsets: Ints
    truth: Ints
    context: pa.Table = field(repr=False, default_factory=lambda: pa.table({}))


def choices(events: pa.Table, history: History, codes: Any, scheme: Scheme, ts_from: int, ts_to: int) -> Chosen:
    """All requests with ts_from ≤ t < ts_to. `codes` has `people` and `items`."""
    kept = events.filter(interesting(events, (scheme.type,)))
    t = micros(kept["ts"])
    order = np.lexsort((kept["p"].to_numpy(), t))
    kept = kept.take(pa.array(order)).combine_chunks()
    t, p = t[order], kept["p"].to_numpy()
    person, item = codes.people.encode(kept["person"]), codes.items.encode(kept["item_id"])
    if scheme.truth == "session":
        named = pc.if_else(pc.is_valid(kept["session_id"]), kept["session_id"], kept["event_id"])
        group = named.dictionary_encode().combine_chunks() if isinstance(named, pa.ChunkedArray) else named.dictionary_encode()
        group = group.chunk(0) if isinstance(group, pa.ChunkedArray) else group
        _, member = np.unique(group.indices.to_numpy().astype(np.int64) * (len(codes.people) + 1) + person + 1, return_inverse=True)
    else:
        member = np.arange(len(t))
    first = np.full(member.max(initial=-1) + 1, len(t))
    np.minimum.at(first, member, np.arange(len(t)))
    inside = (t[first] >= ts_from) & (t[first] < ts_to)
    by_request = np.lexsort((np.arange(len(t)), first[member]))
    by_request = by_request[inside[member[by_request]]]
    starts = np.sort(first[inside])
    size = np.bincount(np.searchsorted(starts, first[member[by_request]]), minlength=len(starts))
    offsets = np.concatenate(([0], np.cumsum(size))).astype(np.int64)
    # the request's own event is routed at p, so what was known just before it is p − 1
    context = kept.select(list(CONTEXT)).take(pa.array(starts))
    return Chosen(starts, t[starts], p[starts] - 1, person[starts], offsets, item[by_request], context)


def clicks_dataset(
    events: pa.Table,
    history: History,
    codes: Any,
    scheme: Scheme,
    *,
    ts_from: int,
    ts_to: int,
    requests: int = 0,
    rolling: Rolling | None = None,
) -> Dataset:
    """Draw requests, candidates and labels from the log.

    Args:
        events: the lake's `events` (columns of ROUTED), at least over [ts_from, ts_to).
        history: interactions from the beginning of what is known; candidates look into it.
        codes: `people` and `items`, as in `history`.
        requests: how many to draw evenly from all; 0 takes all.
        rolling: item-to-item tables, where that source is used.

    Raises:
        NotReadyError: no such event.
    """
    chosen = choices(events, history, codes, scheme, ts_from, ts_to)
    total = len(chosen.t)
    if not total:
        raise NotReadyError(f"no event of type {scheme.type!r} in the window", fix="tailorbird import FORMAT PATH, or widen the window")
    rng = np.random.default_rng(scheme.seed)
    picked = np.sort(rng.choice(total, requests, replace=False)) if 0 < requests < total else np.arange(total)
    pools = _Pools(history, scheme)
    parts = [
        _draw(chosen, picked[start : start + REQUESTS_AT_ONCE], pools, history, rolling, scheme, rng)
        for start in range(0, len(picked), REQUESTS_AT_ONCE)
    ]
    parts = [part for part in parts if len(part.size)]
    if not parts:
        raise NotReadyError("no request is left after what people had before was taken out", fix="set repeats, or widen the window")
    request = np.concatenate([part.request for part in parts])
    size = np.concatenate([part.size for part in parts])
    n = int(size.sum())
    found = sum(part.found for part in parts) / max(sum(part.truths for part in parts), 1)
    told = asdict(scheme) | {
        "rows": "candidates drawn from sources and the truth",
        "requests_of": total,
        "requests": len(request),
        "candidates_mean": sum(part.drawn for part in parts) / len(request),
        "found": found,
    }
    return Dataset(
        chosen.t[request],
        chosen.p[request],
        chosen.person[request],
        chosen.context.take(pa.array(request)),
        np.concatenate(([0], np.cumsum(size))).astype(np.int64),
        np.concatenate([part.item for part in parts]),
        np.zeros(n, np.int32),
        np.ones(n),
        {scheme.type: np.concatenate([part.label for part in parts])},
        np.concatenate([part.weight for part in parts]),
        codes.people,
        codes.items,
        told,
    )


@dataclass(frozen=True)
class _Part:
    request: Ints
    size: Ints
    item: Ints
    label: npt.NDArray[np.bool_]
    weight: npt.NDArray[np.float64]
    drawn: int
    found: int
    truths: int


class _Pools:
    """The most popular items before each full `refresh`, counted once for each."""

    def __init__(self, history: History, scheme: Scheme) -> None:
        i = history.interactions
        order = np.argsort(i.ts, kind="stable")
        order = order[i.item[order] >= 0]
        self._ts, self._item, self._items = i.ts[order], i.item[order], i.items
        self._scheme = scheme
        self._known: dict[int, Ints] = {}

    def of(self, t: Ints) -> tuple[Ints, Ints]:
        """(request, item) of the pool of each request."""
        tick = t // self._scheme.refresh
        ticks, which = np.unique(tick, return_inverse=True)
        pools = [self._pool(int(each)) for each in ticks]
        size = np.array([len(pool) for pool in pools])
        flat, begin = np.concatenate(pools), np.cumsum(size) - size
        mine = size[which]
        at = np.arange(mine.sum()) + np.repeat(begin[which] - np.cumsum(mine) + mine, mine)
        return np.repeat(np.arange(len(t)), mine), flat[at]

    def _pool(self, tick: int) -> Ints:
        if tick not in self._known:
            end = tick * self._scheme.refresh
            low, high = np.searchsorted(self._ts, [end - self._scheme.popular_window, end])
            count = np.bincount(self._item[low:high], minlength=self._items)
            chosen = np.flatnonzero(count)
            if len(chosen) > self._scheme.popular:
                chosen = chosen[np.lexsort((chosen, -count[chosen]))[: self._scheme.popular]]
            self._known[tick] = np.sort(chosen)
        return self._known[tick]


def _draw(
    chosen: Chosen,
    picked: Ints,
    pools: _Pools,
    history: History,
    rolling: Rolling | None,
    scheme: Scheme,
    rng: np.random.Generator,
) -> _Part:
    """Candidates and labels of some requests."""
    t, person = chosen.t[picked], chosen.person[picked]
    items = history.interactions.items
    sources = [pools.of(t)]
    if rolling is not None and scheme.item_to_item:
        sources.append(rolling.best(history, t, person, scheme.item_to_item))
    if scheme.own_history:
        own, offsets = history.recent(person, t, scheme.own_history)
        sources.append((np.repeat(np.arange(len(t)), np.diff(offsets)), own))
    key = np.unique(np.concatenate([request * items + item for request, item in sources]))
    size = chosen.offsets[picked + 1] - chosen.offsets[picked]
    rows = np.arange(size.sum()) + np.repeat(chosen.offsets[picked] - np.cumsum(size) + size, size)
    truth = np.unique(np.repeat(np.arange(len(t)), size) * items + chosen.truth[rows])
    if not scheme.repeats:
        past, offsets = history.recent(person, t, 1 << 40)
        seen = np.repeat(np.arange(len(t)), np.diff(offsets)) * items + past
        key, truth = np.setdiff1d(key, seen, assume_unique=True), np.setdiff1d(truth, seen)
    found = int(np.isin(truth, key).sum())
    key = np.union1d(key, truth)
    label = np.isin(key, truth, assume_unique=True)
    request = key // items
    answerable = np.bincount(request, label, minlength=len(t)) > 0
    key, label, request = key[answerable[request]], label[answerable[request]], request[answerable[request]]
    drawn = len(key)
    kept, weight = _sample(request, label, scheme.negatives, len(t), rng)
    key, label, request = key[kept], label[kept], request[kept]
    counts = np.bincount(request, minlength=len(t))
    return _Part(picked[counts > 0], counts[counts > 0], key % items, label, weight, drawn, found, len(truth))


def _sample(
    request: Ints, label: npt.NDArray[np.bool_], negatives: int, requests: int, rng: np.random.Generator
) -> tuple[Ints, npt.NDArray[np.float64]]:
    """Rows to keep, ascending, and their weights."""
    if not negatives:
        return np.arange(len(request)), np.ones(len(request))
    draw = np.where(label, -1.0, rng.random(len(request)))
    order = np.lexsort((draw, request))
    positives = np.bincount(request, label, minlength=requests).astype(np.int64)
    nth = np.arange(len(order)) - np.searchsorted(request, request[order])
    kept = np.sort(order[nth < positives[request[order]] + negatives])
    all_negatives = np.bincount(request, ~label, minlength=requests)
    kept_negatives = np.minimum(all_negatives, negatives)
    each = all_negatives / np.maximum(kept_negatives, 1)
    return kept, np.where(label[kept], 1.0, each[request[kept]])


def sources_told(scheme: Mapping[str, Any]) -> str:
    """A sentence on how candidates were drawn, for reports."""
    window = scheme["popular_window"] / DAY
    text = f"{scheme['popular']:,} items most chosen in the {window:g} day(s) before, counted anew every {scheme['refresh'] / HOUR:g} h"
    if scheme["item_to_item"]:
        text += f"; {scheme['item_to_item']} by item-to-item"
    if scheme["own_history"]:
        text += f"; the person's own last {scheme['own_history']}"
    text += f"; the truth, which these sources had found in {scheme['found']:.1%}"
    return text + ("" if scheme["repeats"] else "; without what the person had before")
