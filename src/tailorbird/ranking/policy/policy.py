"""The ranking policy: from values to an order of all candidates.

`ranking.policy.exploration` draws the slate from it, with propensities.

    values ─► boosts ─► order by value ─► diversity of the best ─► pins, quotas, promotions ─►
    exploration within these ─► answer

`ranking.policy.rules` decides which items may be shown at all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tailorbird.ranking.policy.diversity import (
    Codes,
    Mask,
    SlateConstraints,
    apply_constraints,
    attribute_similarity,
    dpp,
    mmr,
)
from tailorbird.ranking.slot import Diversity, Promotion, Quota
from tailorbird.retrieval import Index, TextColumn

Keys = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SlateSpec:
    """A slot's specification of a slate, for the candidates of one request.

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

    def constraints(self) -> SlateConstraints:
        """Return the constraints that exploration respects."""
        codes = (
            [attribute_codes(self.index, self.rows, quota.by) for quota in self.quotas]
            if self.index is not None
            else []
        )
        quotas = self.quotas if self.index is not None else ()
        return SlateConstraints(quotas, codes, self.promotions, self.promoted, frozenset(self.pins))


def arrange_slate(
    values: Floats, size: int, spec: SlateSpec, constraints: SlateConstraints | None = None
) -> Rows:
    """Order all candidates: the slate's `size` items first, then the rest by value.

    Args:
        values: (n,), higher is better; ties keep the candidates' order.
        size: of the answer.
        constraints: `spec.constraints()`, if already computed.
    """
    order = np.argsort(-values, kind="stable")
    if (
        spec.index is not None
        and spec.diversity is not None
        and spec.diversity.balance < 1
        and order.size
    ):
        order = _diversify(values, order, size, spec.index, spec.rows, spec.diversity)
    constraints = spec.constraints() if constraints is None else constraints
    if constraints.is_unconstrained and not spec.pins:
        return order
    position_by_item = np.empty(order.size, np.intp)
    position_by_item[order] = np.arange(order.size)
    constrained_order = apply_constraints(
        [code[order] for code in constraints.codes],
        constraints.quotas,
        size,
        pins={position: int(position_by_item[item]) for position, item in spec.pins.items()},
        promotions=constraints.promotions,
        promoted=[mask[order] for mask in constraints.promoted],
        n=order.size,
    )
    return order[constrained_order]


def apply_boosts(values: Floats, factors: Sequence[tuple[float, Mask]]) -> Floats:
    """Apply boosts: each changes the values of its items by factor - 1 of their magnitude."""
    boosted_values = values.copy()
    for factor, mask in factors:
        boosted_values[mask] += (factor - 1.0) * np.abs(boosted_values[mask])
    return boosted_values


def attribute_codes(index: Index, rows: Rows, attribute: str) -> Codes:
    """Return a code (n,) per item that is equal where the attribute is.

    It is -1 where the attribute is missing or the item unknown.
    """
    column = index.attributes.get(attribute)
    if column is None:
        return np.full(rows.size, -1, np.int64)
    known_rows = np.maximum(rows, 0)
    if isinstance(column, TextColumn):
        codes = column.codes[known_rows].astype(np.int64)
    else:
        distinct_values, codes = np.unique(column[known_rows], return_inverse=True)
        codes = np.where(np.isnan(distinct_values)[codes], -1, codes)
    return np.where(rows >= 0, codes, -1)


def _diversify(
    values: Floats, order: Rows, size: int, index: Index, rows: Rows, diversity: Diversity
) -> Rows:
    best = order[: max(size, diversity.among)]
    similarity = attribute_similarity(
        [attribute_codes(index, rows[best], name) for name in diversity.by]
    )
    reorder = dpp if diversity.method == "dpp" else mmr
    return np.concatenate(
        [
            best[reorder(values[best], similarity, size, balance=diversity.balance)],
            order[best.size :],
        ]
    )
