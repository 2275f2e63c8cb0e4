"""Training and test sets from logs that hold what people chose but not what they were shown.

A request is put before an event (or before a session's first event), and its candidates are drawn from sources as serving would:

    popular        the `popular` items most chosen in the `popular_window` before the last full `refresh` before the request
    item-to-item   what follows the person's last items, from the newest table with trained_until ≤ t
    sessions, stan what sessions like the person's newest went on to, by the same indexes; where the slot asks for it
    by segment     what is popular or trending in the request's country or on its device, likewise
    own history    what the person chose before, newest first (where people choose the same item again)
    + the truth    which is added to a test list where no source found it; how often that was needed is told (`found`), since a real
                   system cannot do so. In training such a truth is left out: a candidate that no source could have given would
                   be known by that, and a model would learn to tell truths from how they got into the list

Where people never choose an item twice, what the person chose before is taken out, of candidates and truth alike.

Negatives may be sampled: each is kept with a chance that falls with its rank in the source that ranks it best, since a model has to
tell the truth from what is hot now rather than from what hardly anybody wants; a kept one has the weight 1 ÷ chance, so that
weighted rows have the prior of the full list. Nothing of the request's own event or after it is known to any source.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.errors import NotReadyError
from tailorbird.events import DAY, HOUR, MINUTE, micros
from tailorbird.models.baselines import History
from tailorbird.retrieval.candidates import BY_SEGMENT, kind_of
from tailorbird.training.coding import Codes, interesting
from tailorbird.training.dataset import Dataset, context_of
from tailorbird.training.item_to_item import Rolling

Ints = npt.NDArray[np.int64]

REQUESTS_AT_ONCE = 2_000
HOT = 8  # the pool is ordered by the last eighth of its window
HARD = 20  # ranks up to about here are kept alike often


@dataclass(frozen=True)
class Scheme:
    """How requests and candidates are drawn.

    Attributes:
        type: the event type that is the target.
        truth: `event`: a request before each event, whose item is the truth; `session`: one before each session (or, without a
            session_id, each event), whose items all are.
        popular, popular_window, refresh: see the module; 1,000 items of the day before, counted anew each hour.
        item_to_item, own_history, sessions, stan: how many candidates at most.
        segments: the same of each source by segment, such as `popular_by:country`.
        repeats: whether people choose the same item again.
        before_looks: whether requests stand before the looks at the very item that most of these events follow, where they do; see
            `training.before_looks`.
        seed: of every draw.
    """

    type: str = "click"
    truth: str = "event"
    popular: int = 1_000
    popular_window: int = DAY
    refresh: int = HOUR
    item_to_item: int = 200
    own_history: int = 0
    sessions: int = 0
    stan: int = 0
    segments: Mapping[str, int] = field(default_factory=dict)
    repeats: bool = False
    before_looks: bool = True
    seed: int = 7


def choices(events: pa.Table, people: Codes, items: Codes, scheme: Scheme, *, ts_from: int, ts_to: int) -> Dataset:
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
    member = _sessions(kept, person, len(people)) if scheme.truth == "session" else np.arange(len(t))
    first = np.full(member.max(initial=-1) + 1, len(t))
    np.minimum.at(first, member, np.arange(len(t)))
    begin = first[member]
    rows = np.lexsort((np.arange(len(t)), begin))
    rows = rows[(t[begin[rows]] >= ts_from) & (t[begin[rows]] < ts_to)]
    if not len(rows):
        raise NotReadyError(f"no event of type {scheme.type!r} in the window", fix="tailorbird import FORMAT PATH, or widen the window")
    starts, size = np.unique(begin[rows], return_counts=True)
    ones = np.ones(len(rows))
    return Dataset(
        t[starts],
        p[starts] - 1,  # the request's own event is routed at p, so what was known just before it is p − 1
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


def with_candidates(data: Dataset, history: History, scheme: Scheme, *, rolling: Rolling | None = None, negatives: int = 0) -> Dataset:
    """The same requests with the candidates that the sources give beside the truth.

    Args:
        data: from `choices`.
        history: interactions from the beginning of what is known; the sources look into it.
        rolling: item-to-item tables, where that source is used.
        negatives: how many of a request's negatives are kept, weighted, and truths that no source found are left out: for training;
            0 keeps all rows, for a test, with a weight of 0 truths that no source found, and requests of which none was found: lists are
            judged by them, probabilities are not.

    Raises:
        NotReadyError: nothing is left to ask about.
    """
    rng = np.random.default_rng(scheme.seed)
    pools = _Pools(history, scheme)
    starts = range(0, data.requests, REQUESTS_AT_ONCE)
    slices = [np.arange(start, min(start + REQUESTS_AT_ONCE, data.requests)) for start in starts]
    parts = [_draw(data, picked, pools, history, rolling, scheme, negatives, rng) for picked in slices]
    request, size = (np.concatenate([getattr(part, name) for part in parts]) for name in ("request", "size"))
    if not len(request):
        _refuse(sum(part.truths for part in parts), data, scheme)
    told = {
        "rows": "candidates drawn from sources, and the truth",
        "requests": len(request),
        "candidates_mean": round(sum(part.drawn for part in parts) / len(request), 1),
        "found": sum(part.found for part in parts) / max(sum(part.truths for part in parts), 1),
        "negatives": negatives,
    }
    item, label, weight = (np.concatenate([getattr(part, name) for part in parts]) for name in ("item", "label", "weight"))
    return Dataset(
        data.t[request],
        data.p[request],
        data.person[request],
        data.context.take(pa.array(request)),
        np.concatenate(([0], np.cumsum(size))).astype(np.int64),
        item,
        np.zeros(len(item), np.int32),
        np.ones(len(item)),
        {scheme.type: label},
        weight,
        data.people,
        data.items,
        {**data.scheme, **told},
    )


def _refuse(truths: int, data: Dataset, scheme: Scheme) -> NoReturn:
    """Nothing is left to ask about: people had all of it before, or no source could have offered it."""
    if not truths:
        raise NotReadyError("no request is left after what people had before was taken out", fix="widen the window")
    items = len(np.unique(data.item))
    why = f"no source of candidates holds any of the {truths:,} things that people chose ({scheme.type}), {items:,} items all in all"
    raise NotReadyError(
        f"{why}: each was chosen too rarely before", fix="import more history, widen the window, or learn from logged answers"
    )


def guess_scheme(events: pa.Table, head: str, sources: Mapping[str, int] = MappingProxyType({})) -> Scheme:
    """A scheme that fits a log: whether people choose the same item again, and whether a session is one basket.

    Args:
        sources: of the slot, of which `sessions`, `stan` and those by segment are asked as it does.
    """
    asked: dict[str, Any] = {name: sources.get(name, 0) for name in ("sessions", "stan")}
    asked["segments"] = {name: limit for name, limit in sources.items() if kind_of(name) in BY_SEGMENT}
    kept = events.filter(interesting(events, (head,)))
    if not kept.num_rows:
        return Scheme(type=head, **asked)
    pairs = kept.group_by(["person", "item_id"]).aggregate([]).num_rows
    repeats = pairs < 0.8 * kept.num_rows
    sessions = kept.filter(pc.is_valid(kept["session_id"]))
    basket = head == "purchase" and sessions.num_rows > 2 * max(1, len(pc.unique(sessions["session_id"])))
    ts = micros(kept["ts"])
    days = max(1.0, (int(ts.max()) - int(ts.min())) / DAY)
    # a pool of 1,000 items needs enough choices to be counted from
    window = next((span for span in (1, 7, 28, 90) if kept.num_rows / days * span >= 5_000), 365)
    refresh = HOUR if window == 1 else DAY
    truth, own = ("session" if basket else "event"), (300 if repeats else 0)
    return Scheme(type=head, truth=truth, repeats=repeats, popular_window=window * DAY, refresh=refresh, own_history=own, **asked)


def _sessions(kept: pa.Table, person: Ints, people: int) -> Ints:
    """Which session each event belongs to; an event without one is its own."""
    named = pc.if_else(pc.is_valid(kept["session_id"]), kept["session_id"], kept["event_id"])
    code = Codes.of(named).encode(named)
    _, member = np.unique(code * (people + 1) + person + 1, return_inverse=True)
    return member


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
    """The most popular items before each full `refresh`, hottest first, counted once for each."""

    def __init__(self, history: History, scheme: Scheme) -> None:
        i = history.interactions
        order = np.argsort(i.ts, kind="stable")
        order = order[i.item[order] >= 0]
        self._ts, self._item, self._items = i.ts[order], i.item[order], i.items
        self._scheme = scheme
        self._known: dict[int, Ints] = {}

    def of(self, t: Ints) -> "_Found":
        """The pool of each request."""
        tick = t // self._scheme.refresh
        ticks, which = np.unique(tick, return_inverse=True)
        pools = [self._pool(int(each)) for each in ticks]
        size = np.array([len(pool) for pool in pools])
        flat, begin = np.concatenate(pools), np.cumsum(size) - size
        mine = size[which]
        rank = np.arange(mine.sum()) - np.repeat(np.cumsum(mine) - mine, mine)
        return _Found(np.repeat(np.arange(len(t)), mine), flat[np.repeat(begin[which], mine) + rank], rank)

    def _pool(self, tick: int) -> Ints:
        if tick not in self._known:
            end = tick * self._scheme.refresh
            window = self._scheme.popular_window
            low, hot, high = np.searchsorted(self._ts, [end - window, end - window // HOT, end])
            count = np.bincount(self._item[low:high], minlength=self._items)
            now = np.bincount(self._item[hot:high], minlength=self._items)
            chosen = np.flatnonzero(count)
            chosen = chosen[np.lexsort((chosen, -count[chosen]))[: self._scheme.popular]]
            self._known[tick] = chosen[np.argsort(-now[chosen], kind="stable")]
        return self._known[tick]


@dataclass(frozen=True)
class _Found:
    """What a source found: request, item and the item's rank in it, from 0; shape (m,) each."""

    request: Ints
    item: Ints
    rank: Ints


def _draw(
    data: Dataset,
    picked: Ints,
    pools: _Pools,
    history: History,
    rolling: Rolling | None,
    scheme: Scheme,
    negatives: int,
    rng: np.random.Generator,
) -> _Part:
    """Candidates and labels of some requests, which follow each other."""
    t, person = data.t[picked], data.person[picked]
    items = history.interactions.items
    context = data.context.take(pa.array(picked))
    key, ease = _merged(_sources(t, person, context, pools, history, rolling, scheme), items)
    low, high = data.offsets[picked[0]], data.offsets[picked[-1] + 1]
    size = np.diff(data.offsets[picked[0] : picked[-1] + 2])
    truth = np.unique(np.repeat(np.arange(len(t)), size) * items + data.item[low:high])
    if not scheme.repeats:
        past, offsets = history.recent(person, t, 1 << 40)
        seen = np.repeat(np.arange(len(t)), np.diff(offsets)) * items + past
        kept = ~_among(key, seen)
        key, ease, truth = key[kept], ease[kept], truth[~_among(truth, np.unique(seen))]
    found = _among(key, truth)
    missing = truth[~_among(truth, key[found])] if not negatives else truth[:0]
    order = np.argsort(np.concatenate([key, missing]), kind="stable")
    drawn = (np.arange(len(order)) < len(key))[order]
    key, ease = np.concatenate([key, missing])[order], np.concatenate([ease, np.zeros(len(missing))])[order]
    label = np.concatenate([found, np.ones(len(missing), bool)])[order]
    request = key // items
    answerable = (np.bincount(request, label, minlength=len(t)) > 0)[request]
    key, ease, label, request, drawn = key[answerable], ease[answerable], label[answerable], request[answerable], drawn[answerable]
    asked = (np.bincount(request, label & drawn, minlength=len(t)) > 0)[request] & drawn  # as training has them
    kept, weight = _sample(request, label, ease, negatives, len(t), rng)
    weight *= asked[kept]
    chosen = key[kept]
    counts = np.bincount(request[kept], minlength=len(t))
    told = (len(key), int(found.sum()), len(truth))
    return _Part(picked[counts > 0], counts[counts > 0], chosen % items, label[kept], weight, *told)


def _sources(
    t: Ints, person: Ints, context: pa.Table, pools: _Pools, history: History, rolling: Rolling | None, scheme: Scheme
) -> list[_Found]:
    found = [pools.of(t)]
    if rolling is not None and scheme.item_to_item:
        request, item = rolling.best(history, t, person, scheme.item_to_item)
        found.append(_ranked(request, item))
    for name, n in (("sessions", scheme.sessions), ("stan", scheme.stan)):
        if n and rolling is not None and rolling.sessions is not None:
            found.append(_ranked(*rolling.sessions.best(name, history, t, person, n)))
    for name, n in scheme.segments.items():
        if rolling is not None and rolling.segments is not None:
            found.append(_ranked(*rolling.segments.best(name, t, context, n)))
    if scheme.own_history:
        own, offsets = history.recent(person, t, scheme.own_history)
        request = np.repeat(np.arange(len(t)), np.diff(offsets))
        found.append(_Found(request, own, offsets[request + 1] - 1 - np.arange(len(own))))
    return found


def _ranked(request: Ints, item: Ints) -> _Found:
    """What a source found, the best first within a request."""
    order = np.argsort(request, kind="stable")
    request, item = request[order], item[order]
    return _Found(request, item, np.arange(len(request)) - np.searchsorted(request, request))


def _merged(found: list[_Found], items: int) -> tuple[Ints, npt.NDArray[np.float64]]:
    """Each (request, item) once, as a key, ascending, and its best rank in any source."""
    key = np.concatenate([each.request * items + each.item for each in found])
    rank = np.concatenate([each.rank for each in found]).astype(np.float64)
    order = np.argsort(key, kind="stable")
    key, rank = key[order], rank[order]
    first = np.flatnonzero(np.diff(key, prepend=-1))
    return key[first], np.minimum.reduceat(rank, first) if len(first) else rank


def _among(key: Ints, some: Ints) -> npt.NDArray[np.bool_]:
    """Which of the ascending keys are among `some`; `some` is the shorter one."""
    among = np.zeros(len(key), bool)
    if len(key):
        at = np.minimum(np.searchsorted(key, some), len(key) - 1)
        among[at[key[at] == some]] = True
    return among


def _sample(
    request: Ints, label: npt.NDArray[np.bool_], rank: npt.NDArray[np.float64], negatives: int, requests: int, rng: np.random.Generator
) -> tuple[Ints, npt.NDArray[np.float64]]:
    """Rows to keep, ascending, and their weights: each negative by itself, with a chance that falls with its rank."""
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


def sources_told(scheme: Mapping[str, Any]) -> str:
    """A sentence on how candidates were drawn, for reports."""
    window, refresh = _span(scheme["popular_window"]), _span(scheme["refresh"])
    text = f"the {scheme['popular']:,} items most chosen in the {window} before, counted anew every {refresh}"
    if scheme["item_to_item"]:
        text += f"; up to {scheme['item_to_item']} by item-to-item"
    if asked := [f"{scheme[name]} by {told}" for name, told in (("sessions", "V-SkNN"), ("stan", "STAN")) if scheme.get(name)]:
        text += f"; up to {' and '.join(asked)} over the newest sessions"
    if by := scheme.get("segments"):
        text += f"; {', '.join(f'{n} of {name}' for name, n in by.items())}"
    if scheme["own_history"]:
        text += f"; what the person chose in the last {scheme['own_history']} choices"
    text += f"; and the truth, which these sources had found in {scheme['found']:.1%} of cases"
    text += "" if scheme["repeats"] else "; without what the person had before"
    return f"{text}: {scheme['candidates_mean']:,.0f} candidates a request"


def _span(microseconds: int) -> str:
    for unit, name in ((DAY, "d"), (HOUR, "h"), (MINUTE, "min")):
        if microseconds >= unit:
            return f"{microseconds / unit:g} {name}"
    return f"{microseconds / 1e6:g} s"
