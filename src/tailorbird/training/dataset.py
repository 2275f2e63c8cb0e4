"""Training sets from logged answers: a row for each item that was seen, with what came of it.

    answer (t, p, person, items shown)  ×  item   →   position, propensity, labels {click, purchase, …}

An outcome belongs to the answer that its request_id and item name; without a request_id, to the
person's last answer with the item, in whichever slot, if that is no longer ago than the slot's
attribution window: two slots never both have it. Only answers whose window and the allowed lateness
have passed are taken: a younger row without a click may still get one. Where a slot's denominator
is `impression`, only positions that the client reported as seen (or that led to an outcome, so must
have been) are rows; with `answer` all shown items are.

Sets from logs that hold clicks and no answers are drawn in `training.clicks`; how rows become
features, in `training.matrix`.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.errors import NotReadyError
from tailorbird.events import MINUTE, micros
from tailorbird.features.positions import positions_of, widened
from tailorbird.ranking.targets import is_amount, of_items
from tailorbird.training.coding import Codes, happened, people_only, seconds_viewed
from tailorbird.training.returning import Returns, censored, of_return

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

CONTEXT = ("person", "session_id", "device", "country", "referrer", "local_hour")


@dataclass(frozen=True)
class Missed:
    """What people chose that was no candidate of their request: pairs of request and item code, by
    request; shape (m,) each.
    """

    request: Ints
    item: Ints

    def take(self, requests: Ints, count: int) -> "Missed":
        """Those of some of `count` requests, in their order."""
        place = np.full(count, -1, np.int64)
        place[requests] = np.arange(len(requests))
        mine = place[self.request]
        kept = np.flatnonzero(mine >= 0)
        kept = kept[np.argsort(mine[kept], kind="stable")]
        return Missed(mine[kept], self.item[kept])


@dataclass(frozen=True)
class Dataset:
    """Requests in order of time, and the rows of each, one after the other.

    Attributes:
        t, p: shape (requests,): the features of a row are those known at (t, p); p by part of the
        state, where several workers kept it.
        person: shape (requests,), code in `people`, −1 for nobody.
        context: a table of requests as `context_of` gives it.
        offsets: shape (requests + 1,).
        item: shape (n,), code in `items`.
        position: shape (n,), from 1 as shown; 0 for a candidate that was never shown.
        propensity: shape (n,), with which probability it was shown there; 1 where unknown.
        labels: target → shape (n,): whether it happened; of returning (`ranking.targets`) 1, 0, or
            NaN where it is not known (yet).
        weight: shape (n,), how many rows of the full set a sampled row stands for. people, items:
        the codes.
        scheme: how rows were chosen, in words and numbers, for reports and manifests.
        live: shape (n, columns), columns that are read live, as `ranking.live` has them; None where
            they were not read.
        missed: what was chosen and is no row, since no source gave it.
    """

    t: Ints
    p: Ints
    person: Ints
    context: pa.Table
    offsets: Ints
    item: Ints
    position: npt.NDArray[np.int32]
    propensity: npt.NDArray[np.float64]
    labels: Mapping[str, npt.NDArray]
    weight: npt.NDArray[np.float64]
    people: Codes
    items: Codes
    scheme: Mapping[str, Any] = field(default_factory=dict)
    live: npt.NDArray[np.float32] | None = None
    missed: Missed = field(
        default_factory=lambda: Missed(np.zeros(0, np.int64), np.zeros(0, np.int64))
    )

    @property
    def requests(self) -> int:
        return len(self.t)

    @property
    def rows(self) -> int:
        return len(self.item)

    @property
    def request(self) -> Ints:
        """The request of each row, shape (n,)."""
        return np.repeat(np.arange(self.requests), np.diff(self.offsets))

    def digest(self) -> str:
        """A hash of the requests, rows and labels: equal for sets that are equal."""
        digest = hashlib.blake2b(digest_size=16)
        for column in (
            self.t,
            self.p,
            self.person,
            self.offsets,
            self.item,
            self.position,
            self.propensity,
            self.weight,
        ):
            digest.update(np.ascontiguousarray(column).tobytes())
        for name in sorted(self.labels):
            label = self.labels[name]
            digest.update(
                name.encode()
                + b"\0"
                + (np.packbits(label) if label.dtype == bool else label).tobytes()
            )
        for codes in (self.people, self.items):
            digest.update("\0".join(codes.values.to_pylist()).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def gain(self, objective: Mapping[str, float]) -> npt.NDArray[np.float64]:
        """What each row was worth by the slot's value formula, shape (n,); without returning, which
        tells no rows of a request apart.
        """
        gain = np.zeros(self.rows)
        for head in of_items(objective):
            if head in self.labels:
                gain += objective[head] * self.labels[head]
        return gain

    def known_at(self, moment: int) -> "Dataset":
        """The same rows with the labels that were known at a moment: windows of returning that
        reach over it are not.
        """
        return (
            replace(self, labels=censored(self.labels, self.t[self.request], moment))
            if of_return(self.labels)
            else self
        )

    def take(self, requests: Ints) -> "Dataset":
        """Some requests, in the given order."""
        size = np.diff(self.offsets)[requests]
        offsets = np.concatenate(([0], np.cumsum(size))).astype(np.int64)
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[requests] - offsets[:-1], size)
        return self._chosen(requests, offsets, rows)

    def keep(self, rows: Bools) -> "Dataset":
        """Some rows; requests left without any are dropped."""
        size = np.bincount(self.request[rows], minlength=self.requests)
        requests = np.flatnonzero(size)
        return self._chosen(
            requests,
            np.concatenate(([0], np.cumsum(size[requests]))).astype(np.int64),
            np.flatnonzero(rows),
        )

    def chunks(self, rows_max: int) -> Iterator["Dataset"]:
        """The same requests in order, in pieces of at most `rows_max` rows (or one request)."""
        start = 0
        while start < self.requests:
            stop = max(
                start + 1,
                int(np.searchsorted(self.offsets, self.offsets[start] + rows_max, side="right"))
                - 1,
            )
            yield self.take(np.arange(start, min(stop, self.requests)))
            start = stop

    def _chosen(self, requests: Ints, offsets: Ints, rows: Ints) -> "Dataset":
        labels = {name: label[rows] for name, label in self.labels.items()}
        of_requests = (
            self.t[requests],
            self.p[requests],
            self.person[requests],
            self.context.take(pa.array(requests)),
        )
        of_rows = (
            self.item[rows],
            self.position[rows],
            self.propensity[rows],
            labels,
            self.weight[rows],
        )
        live = None if self.live is None else self.live[rows]
        missed = self.missed.take(requests, self.requests)
        return Dataset(
            *of_requests, offsets, *of_rows, self.people, self.items, self.scheme, live, missed
        )


def context_of(events: pa.Table) -> pa.Table:
    """The columns `CONTEXT` of events, and what was searched for, where that was loaded: only
    features about a query need it.
    """
    return events.select(
        [*CONTEXT, *(name for name in ("answer_query",) if name in events.column_names)]
    )


def answers_dataset(
    events: pa.Table,
    slot: str,
    heads: Sequence[str],
    *,
    ts_from: int,
    mature_before: int,
    attribution: int = 30 * MINUTE,
    denominator: str = "impression",
    answers: pa.Table | None = None,
    people: Codes | None = None,
    items: Codes | None = None,
    further: Sequence[str] = (),
) -> Dataset:
    """Rows and labels of a slot's answers with ts_from ≤ t and t + attribution ≤ mature_before.

    Args:
        events: the lake's `events` (columns of ROUTED), any order; answers, impressions and
            outcomes are found in it.
        heads: event types that are targets, or what `ranking.targets` names.
        mature_before: now less the allowed lateness.
        answers: the lake's `answers`, if there: gives the p that an answer's features were read at.
            An answer without a row there (imported history) gets its own routed position.
        people, items: codes to use; those of the events otherwise.
        further: targets of other slots, which get labels and have no say in what a row is.

    Raises:
        NotReadyError: no such answer.
    """
    people = people or Codes.of(events["person"])
    items = items or Codes.of(events["item_id"], pc.list_flatten(events["items"]))
    shown = events.filter(
        pc.and_(
            pc.equal(events["type"], "answer"),
            pc.and_(pc.equal(events["slot"], slot), people_only(events)),
        )
    )
    shown = shown.filter(
        pc.and_(
            pc.is_valid(shown["request_id"]), pc.greater(pc.list_value_length(shown["items"]), 0)
        )
    )
    t = micros(shown["ts"])
    shown = shown.take(
        pa.array(np.flatnonzero((t >= ts_from) & (t + attribution <= mature_before)))
    )
    shown = shown.sort_by([("ts", "ascending"), ("p", "ascending")]).combine_chunks()
    if not shown.num_rows:
        fix = (
            "let traffic run longer than the attribution window plus the allowed lateness, or "
            "import history with answers"
        )
        raise NotReadyError(f"slot {slot!r} has no answer whose outcomes are known by now", fix=fix)
    base = _rows_of(shown, answers, people, items)
    request_ids = Codes.of(shown["request_id"])
    ours, others = (
        _listed(shown, people, items),
        _listed(_others(events, shown, ts_from), people, items),
    )
    matcher = _Matcher(base, request_ids.encode(shown["request_id"]), ours, others, attribution)
    labels = {
        head: _label(matcher, events, head, request_ids, people, items) for head in of_items(heads)
    }
    seen = np.ones(base.rows, bool)
    if denominator == "impression":
        seen = matcher.match(_seen(events, request_ids, people, items))
        # an outcome of any kind proves that the item was seen
        seen |= np.logical_or.reduce([label > 0 for label in labels.values()]) if labels else False
    scheme = {
        "rows": f"items of answers of slot {slot!r}"
        + (", seen by the client" if denominator == "impression" else ""),
        "answers": shown.num_rows,
        "attribution_us": attribution,
        "mature_before": mature_before,
    }
    labels |= {
        head: _label(matcher, events, head, request_ids, people, items)
        for head in of_items(further)
        if head not in labels
    }
    if returning := of_return((*heads, *further)):
        returns = Returns(events, people, mature_before)
        labels |= {
            head: returns.label(asked, base.person, base.t)[base.request]
            for head, asked in returning.items()
        }
    full = replace(base, labels=labels, scheme=scheme)
    return full if seen.all() else full.keep(seen)


def _rows_of(shown: pa.Table, answers: pa.Table | None, people: Codes, items: Codes) -> Dataset:
    """The answers as a data set without labels."""
    lists = (
        shown["items"].combine_chunks()
        if isinstance(shown["items"], pa.ChunkedArray)
        else shown["items"]
    )
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
    size = pc.list_value_length(lists).to_numpy(zero_copy_only=False).astype(np.int64)
    offsets = np.concatenate(([0], np.cumsum(size))).astype(np.int64)
    item = items.encode(pc.list_flatten(lists))
    position = (np.arange(offsets[-1]) - np.repeat(offsets[:-1], size) + 1).astype(np.int32)
    given = pc.list_flatten(shown["propensities"])
    propensity = (
        given.to_numpy().astype(np.float64) if len(given) == len(item) else np.ones(len(item))
    )
    p = shown["p"].to_numpy().copy()
    if answers is not None and answers.num_rows:
        at = (
            pc.fill_null(
                pc.index_in(shown["request_id"], value_set=answers["request_id"].combine_chunks()),
                -1,
            )
            .to_numpy()
            .astype(np.int64)
        )
        read = positions_of(answers)
        p = p if read.ndim == 1 else widened(p, read.shape[1]).copy()
        p[at >= 0] = read[at[at >= 0]]
    return Dataset(
        micros(shown["ts"]).copy(),
        p,
        people.encode(shown["person"]),
        context_of(shown),
        offsets,
        item,
        position,
        propensity,
        {},
        np.ones(len(item)),
        people,
        items,
    )


@dataclass(frozen=True)
class _Outcomes:
    """Events that may belong to an answer: codes of request (−1: names none), person and item, and
    the time; shape (m,) each.

    Attributes:
        amount: shape (m,), what each adds to the label; None where all that counts is that they are
            there.
    """

    request: Ints
    person: Ints
    item: Ints
    ts: Ints
    amount: npt.NDArray[np.float64] | None = None


@dataclass(frozen=True)
class _Listed:
    """Items of answers, one after the other: codes of person and item, time and routed position;
    shape (m,) each.
    """

    person: Ints
    item: Ints
    ts: Ints
    p: Ints


class _Matcher:
    """Finds the row of an answer that an outcome belongs to.

    Args:
        request_code: shape (requests,), the code of each answer's request_id.
        ours: the rows of `base`.
        others: items of answers that are no rows; what follows them is theirs.
    """

    def __init__(
        self, base: Dataset, request_code: Ints, ours: _Listed, others: _Listed, attribution: int
    ) -> None:
        self._base = base
        self._attribution = attribution
        self._items = len(base.items)
        self._request = base.request
        self._by_request = _Lookup(request_code[self._request] * self._items + base.item)
        person, item, ts, p = (
            np.concatenate([getattr(ours, name), getattr(others, name)])
            for name in ("person", "item", "ts", "p")
        )
        row = np.concatenate([np.arange(base.rows), np.full(len(others.ts), -1)])
        known = np.flatnonzero(person >= 0)
        pair = person[known] * self._items + item[known]
        order = known[np.lexsort((p[known], ts[known], pair))]
        self._row, self._ts = row[order], ts[order]
        self._times, rank = np.unique(self._ts, return_inverse=True)
        self._bits = len(self._times).bit_length()
        self._pairs, self._pair_code = np.unique(
            person[order] * self._items + item[order], return_inverse=True
        )
        self._packed = (self._pair_code << self._bits) | rank

    def match(self, outcomes: _Outcomes) -> Bools:
        """Which rows got at least one of the outcomes, shape (n,)."""
        row = self._rows_of(outcomes)
        hit = np.zeros(self._base.rows, bool)
        hit[row[row >= 0]] = True
        return hit

    def total(self, outcomes: _Outcomes) -> npt.NDArray[np.float32]:
        """What the outcomes of each row amount to, shape (n,)."""
        row = self._rows_of(outcomes)
        assert outcomes.amount is not None
        return np.bincount(row[row >= 0], outcomes.amount[row >= 0], self._base.rows).astype(
            np.float32
        )

    def _rows_of(self, outcomes: _Outcomes) -> Ints:
        """The row that each outcome belongs to, −1 where to none, shape (m,)."""
        found = np.full(len(outcomes.ts), -1, np.int64)
        named = np.flatnonzero((outcomes.request >= 0) & (outcomes.item >= 0))
        row = self._by_request.find(outcomes.request[named] * self._items + outcomes.item[named])
        late = outcomes.ts[named] - self._base.t[self._request[row]]
        found[named] = np.where((row >= 0) & (late >= 0) & (late < self._attribution), row, -1)
        free = np.flatnonzero(
            (outcomes.request < 0) & (outcomes.person >= 0) & (outcomes.item >= 0)
        )
        found[free] = self._last_answer(
            outcomes.person[free], outcomes.item[free], outcomes.ts[free]
        )
        return found

    def _last_answer(self, person: Ints, item: Ints, ts: Ints) -> Ints:
        """Rows of the person's last answer with the item before ts and within the window; −1 for
        outcomes without one.
        """
        if not len(self._pairs) or not len(person):
            return np.full(len(person), -1, np.int64)
        pair = person * self._items + item
        code = np.minimum(np.searchsorted(self._pairs, pair), len(self._pairs) - 1)
        rank = np.searchsorted(self._times, ts)  # answers with t < ts have a smaller rank
        at = np.searchsorted(self._packed, (code << self._bits) | rank) - 1
        place = np.maximum(at, 0)
        row, age = self._row[place], ts - self._ts[place]
        fits = (
            (at >= 0)
            & (self._pairs[code] == pair)
            & (self._pair_code[place] == code)
            & (age < self._attribution)
        )
        return np.where(fits, row, -1)


class _Lookup:
    """First row with each key."""

    def __init__(self, key: Ints) -> None:
        self._order = np.argsort(key, kind="stable")
        self._sorted = key[self._order]

    def find(self, key: Ints) -> Ints:
        if not len(self._sorted):
            return np.full(len(key), -1, np.int64)
        at = np.minimum(np.searchsorted(self._sorted, key), len(self._sorted) - 1)
        return np.where(self._sorted[at] == key, self._order[at], -1)


def _others(events: pa.Table, shown: pa.Table, ts_from: int) -> pa.Table:
    """Answers since `ts_from` that are not among `shown`: of other slots, or so young that they are
    no rows yet.
    """
    found = events.filter(pc.and_(pc.equal(events["type"], "answer"), pc.is_valid(events["items"])))
    other = ~np.isin(found["p"].to_numpy(), shown["p"].to_numpy()) & (
        micros(found["ts"]) >= ts_from
    )
    return found.take(pa.array(np.flatnonzero(other))).combine_chunks()


def _listed(answers: pa.Table, people: Codes, items: Codes) -> _Listed:
    size = pc.list_value_length(answers["items"]).to_numpy().astype(np.int64)
    of_answers = (people.encode(answers["person"]), micros(answers["ts"]), answers["p"].to_numpy())
    person, ts, p = (np.repeat(column, size) for column in of_answers)
    return _Listed(person, items.encode(pc.list_flatten(answers["items"])), ts, p)


def _label(
    matcher: _Matcher, events: pa.Table, head: str, request_ids: Codes, people: Codes, items: Codes
) -> npt.NDArray:
    """What came of each row: whether, or of an amount how much."""
    outcomes = _outcomes(events, head, request_ids, people, items)
    return matcher.total(outcomes) if is_amount(head) else matcher.match(outcomes)


def _outcomes(
    events: pa.Table, head: str, request_ids: Codes, people: Codes, items: Codes
) -> _Outcomes:
    """Events of a head that name an item."""
    found = events.filter(pc.and_(happened(events, (head,)), pc.is_valid(events["item_id"])))
    found = _here(found, request_ids)
    by = (
        request_ids.encode(found["request_id"]),
        people.encode(found["person"]),
        items.encode(found["item_id"]),
        micros(found["ts"]),
    )
    return _Outcomes(*by, seconds_viewed(found) if is_amount(head) else None)


def _here(found: pa.Table, request_ids: Codes) -> pa.Table:
    """Without what names another slot's answer, or one outside the window: that belongs there and
    to no answer of ours.
    """
    ours = pc.is_in(found["request_id"], value_set=request_ids.values)
    return found.filter(pc.or_(pc.is_null(found["request_id"]), ours))


def _seen(events: pa.Table, request_ids: Codes, people: Codes, items: Codes) -> _Outcomes:
    """Impressions, one for each item; an impression names one item or several."""
    found = _here(
        events.filter(pc.equal(events["type"], "impression")), request_ids
    ).combine_chunks()
    one = found.filter(pc.is_valid(found["item_id"]))
    many = found.filter(pc.and_(pc.is_null(found["item_id"]), pc.is_valid(found["items"])))
    parents = (
        pc.list_parent_indices(many["items"]).to_numpy() if many.num_rows else np.zeros(0, np.int64)
    )
    return _Outcomes(
        np.concatenate(
            [request_ids.encode(one["request_id"]), request_ids.encode(many["request_id"])[parents]]
        ),
        np.concatenate([people.encode(one["person"]), people.encode(many["person"])[parents]]),
        np.concatenate(
            [items.encode(one["item_id"]), items.encode(pc.list_flatten(many["items"]))]
        ),
        np.concatenate([micros(one["ts"]), micros(many["ts"])[parents]]),
    )
