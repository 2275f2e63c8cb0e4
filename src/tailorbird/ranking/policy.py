"""The policy: from values to an order of all candidates; of that, `ranking.exploration` makes the
answer, with its propensities.

    values ─► boosts ─► order by value ─► diversity of the best ─► pins, quotas, promotions ─►
    exploration within these ─► answer

What an item may be shown at all, stands in `ranking.rules`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tailorbird.ranking.diversity import Bounds, Codes, Mask, dpp, keep_to, likeness, mmr
from tailorbird.ranking.slot import Diversity, Promotion, Quota
from tailorbird.retrieval import Index, TextColumn

Keys = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Shape:
    """What a slot asks of its answers, for the candidates of one request.

    Attributes:
        rows: (n,): of the candidates in the index, -1 for one that it does not know.
        pins: position, from 0 → place among the candidates.
        promoted: of each promotion (n,): for which candidates it is.
    """

    index: Index | None
    rows: Rows
    quotas: Sequence[Quota] = ()
    diversity: Diversity | None = None
    pins: Mapping[int, int] = field(default_factory=dict)
    promotions: Sequence[Promotion] = ()
    promoted: Sequence[Mask] = ()

    def bounds(self) -> Bounds:
        """What of it exploration keeps to."""
        codes = (
            [codes_of(self.index, self.rows, quota.by) for quota in self.quotas]
            if self.index is not None
            else []
        )
        quotas = self.quotas if self.index is not None else ()
        return Bounds(quotas, codes, self.promotions, self.promoted, frozenset(self.pins))


def arranged(values: Floats, size: int, spec: Shape, constraints: Bounds | None = None) -> Rows:
    """All candidates in order: those of the answer first (`size` of them), then the rest by value.

    Args:
        values: (n,), higher is better; ties keep the candidates' order.
        size: of the answer.
        bounds: `shape.bounds()`, where they are known already.
    """
    order = np.argsort(-values, kind="stable")
    if (
        spec.index is not None
        and spec.diversity is not None
        and spec.diversity.balance < 1
        and order.size
    ):
        order = _diverse(values, order, size, spec.index, spec.rows, spec.diversity)
    constraints = spec.bounds() if constraints is None else constraints
    if constraints.free and not spec.pins:
        return order
    place_of = np.empty(order.size, np.intp)
    place_of[order] = np.arange(order.size)
    constrained_order = keep_to(
        [code[order] for code in constraints.codes],
        constraints.quotas,
        size,
        pins={position: int(place_of[place]) for position, place in spec.pins.items()},
        promotions=constraints.promotions,
        promoted=[those[order] for those in constraints.promoted],
        n=order.size,
    )
    return order[constrained_order]


def boosted(values: Floats, factors: Sequence[tuple[float, Mask]]) -> Floats:
    """Values with boosts: each moves those of its items by factor - 1 of their size."""
    moved = values.copy()
    for factor, those in factors:
        moved[those] += (factor - 1.0) * np.abs(moved[those])
    return moved


def codes_of(index: Index, rows: Rows, attribute: str) -> Codes:
    """A code (n,) for each item that is equal where the attribute is; -1 where it is missing or the
    item is not known.
    """
    column = index.attributes.get(attribute)
    if column is None:
        return np.full(rows.size, -1, np.int64)
    at = np.maximum(rows, 0)
    if isinstance(column, TextColumn):
        codes = column.codes[at].astype(np.int64)
    else:
        distinct, codes = np.unique(column[at], return_inverse=True)
        codes = np.where(np.isnan(distinct)[codes], -1, codes)
    return np.where(rows >= 0, codes, -1)


def _diverse(
    values: Floats, order: Rows, size: int, index: Index, rows: Rows, diversity: Diversity
) -> Rows:
    best = order[: max(size, diversity.among)]
    similarity = likeness([codes_of(index, rows[best], name) for name in diversity.by])
    pick = dpp if diversity.method == "dpp" else mmr
    return np.concatenate(
        [best[pick(values[best], similarity, size, balance=diversity.balance)], order[best.size :]]
    )
