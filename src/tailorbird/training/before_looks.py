"""Requests before the look that led to a choice, and not before the choice.

    look at A ───── look at A ── cart A          a request before the cart would know that A was looked at a moment ago, and a model that
    ▲                            ▲               finds it again by that says what people end up with, and not what to offer them. So the
    asked here                   not here        request stands just before the visit to A began.

A visit is the looks at the very item, each within half an hour of the one before it. As an answer
is credited with what follows within the slot's attribution, a choice whose visit began longer
before is none of a request's, and is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.errors import NotReadyError
from tailorbird.events import MINUTE, micros, show_duration
from tailorbird.training.coding import INTERESTS, interesting
from tailorbird.training.dataset import Dataset, context_of

Ints = npt.NDArray[np.int64]

JUST_BEFORE = 30 * MINUTE  # a look at an item, of which a cart or a purchase is what came next
MOSTLY = 0.5  # of what is predicted
ASKED = "asked"  # in `Dataset.scheme`, of requests that were moved


@dataclass(frozen=True)
class Moved:
    """Requests that stand before looks.

    Attributes:
        share: of the choices, how many followed a look at the very item.
        left_out: how many requests are none, as the visit began longer before than the slot's
            attribution.
    """

    data: Dataset
    share: float
    left_out: int

    @property
    def told(self) -> str:
        """A sentence."""
        looked = (
            f"before {self.share:.0%} of these the person had looked at the very item within "
            f"{JUST_BEFORE // MINUTE} min"
        )
        gone = (
            f"; {self.left_out:,} whose looks began longer before than the slot's "
            "attribution are left out"
            if self.left_out
            else ""
        )
        return (
            f"{looked}, so each is asked just before that look, and what came of it is "
            f"predicted{gone}"
        )


def before_looks(events: pa.Table, data: Dataset, type_: str, attribution: int) -> Moved | None:
    """The same choices, asked before the looks that led to them; None where most followed none.

    Args:
        events: the lake's `events`.
        data: from `clicks.choices`, for events of `type_`.
        attribution: of the slot, microseconds.
    Raises:
        NotReadyError: every visit began longer before than that.
    """
    looks = _Looks.of(events, data, [each for each in INTERESTS if each != type_])
    first = looks.first(data)
    if (share := float(np.mean(first >= 0))) < MOSTLY:
        return None
    # Of a basket, the request stands before the earliest look at any of it.
    ts = np.where(
        first >= 0, looks.ts[first] + 1, data.t[data.request]
    )  # just behind what came before it, as `clicks.choices` has it
    order = np.lexsort((ts, data.request))
    earliest = order[data.offsets[:-1]]
    look, moved = first[earliest], first[earliest] >= 0
    p = np.where(moved, looks.p[look] - 1, data.p)
    context = pa.concat_tables([data.context, looks.context]).take(
        pa.array(np.where(moved, data.requests + look, np.arange(data.requests)))
    )
    asked = replace(
        data,
        t=ts[earliest],
        p=p,
        context=context,
        scheme={**data.scheme, ASKED: "before the look that led to it"},
    )
    kept = np.flatnonzero(data.t - asked.t < attribution)
    if not len(kept):
        what = (
            f"people looked at each of the {data.requests:,} things that they chose ({type_}) "
            "longer before than the slot's attribution"
        )
        raise NotReadyError(
            f"{what}, {show_duration(attribution)}", fix="lengthen the slot's attribution"
        )
    kept = kept[np.lexsort((asked.p[kept], asked.t[kept]))]
    return Moved(asked.take(kept), share, data.requests - len(kept))


@dataclass(frozen=True)
class _Looks:
    """Looks at items by person, item and time: when, routed where, and which was the first of the
    visit; shape (m,) each.

    Attributes:
        pair: of person and item, as a number, ascending.
        context: a table of as many rows.
    """

    pair: Ints
    ts: Ints
    p: Ints
    begin: Ints
    context: pa.Table
    items: int

    @classmethod
    def of(cls, events: pa.Table, data: Dataset, types: Sequence[str]) -> "_Looks":
        kept = events.filter(interesting(events, types))
        person, item, items = (
            data.people.encode(kept["person"]),
            data.items.encode(kept["item_id"]),
            len(data.items),
        )
        ts, p, pair = micros(kept["ts"]), kept["p"].to_numpy(), person * items + item
        order = np.lexsort((p, ts, pair))
        order = order[person[order] >= 0]
        pair, ts = pair[order], ts[order]
        opens = (np.diff(pair, prepend=-1) != 0) | (np.diff(ts, prepend=0) > JUST_BEFORE)
        begin = np.maximum.accumulate(np.where(opens, np.arange(len(ts)), 0))
        return cls(pair, ts, p[order], begin, context_of(kept).take(pa.array(order)), items)

    def first(self, data: Dataset) -> Ints:
        """Of each choice the first look of the visit that it followed, −1 where it followed none;
        shape (rows,).
        """
        person, t = data.person[data.request], data.t[data.request] - 1  # when it was chosen
        if not len(self.ts):
            return np.full(data.rows, -1, np.int64)
        pairs, code = np.unique(self.pair, return_inverse=True)
        times, rank = np.unique(self.ts, return_inverse=True)
        bits = len(times).bit_length()
        asked = person * self.items + data.item
        mine = np.minimum(np.searchsorted(pairs, asked), len(pairs) - 1)
        at = (
            np.searchsorted((code << bits) | rank, (mine << bits) | np.searchsorted(times, t)) - 1
        )  # the last one before t
        place = np.maximum(at, 0)
        followed = (
            (at >= 0)
            & (person >= 0)
            & (self.pair[place] == asked)
            & (t - self.ts[place] <= JUST_BEFORE)
        )
        return np.where(followed, self.begin[place], -1)
