"""Slate constraints and diversification: quotas, promotions, pins, MMR and a DPP.

All of them reorder; none leaves anything out.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.ranking.slot import Promotion, Quota

Rows = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
# Share of the kernel's diagonal that is an item's own, so that identical items stay invertible.
SELF_SIMILARITY = 0.1


def apply_constraints(
    codes: Sequence[Codes],
    quotas: Sequence[Quota],
    size: int,
    *,
    pins: Mapping[int, int] | None = None,
    promotions: Sequence[Promotion] = (),
    promoted: Sequence[Mask] = (),
    n: int = 0,
) -> Rows:
    """Order items so that the first `size` positions satisfy pins, quotas and promotions.

    The order is otherwise unchanged. Each position takes its pin, else the best remaining item that
    no quota forbids there, preferring those of a promotion that is short. Where quotas leave no
    item, the best remaining one is taken, since a short slate helps nobody. O(size * n * quotas).

    Args:
        codes: of each quota (n,): a code of each item's kind, the value of the quota's attribute,
            best item first; below 0 is no kind.
        pins: position, from 0 → the item's place.
        promoted: of each promotion (n,): which items it is for.
        n: how many items there are, where nothing else tells.
    """
    n = codes[0].size if codes else promoted[0].size if promoted else n
    remaining = np.ones(n, bool)
    pins = {position: item for position, item in (pins or {}).items() if position < min(size, n)}
    reserved = np.zeros(n, bool)
    reserved[list(pins.values())] = True
    exhausted = [np.zeros(n, bool) for _ in quotas]  # per quota, the items whose kind is exhausted
    slate: list[int] = []
    pinned_by_quota = [  # per quota, the pinned items that it counts from the start
        [
            item
            for position, item in pins.items()
            if not quota.window and (not quota.first or position < quota.first)
        ]
        for quota in quotas
    ]
    for exhausted_mask, code, quota, pinned_items in zip(
        exhausted, codes, quotas, pinned_by_quota, strict=True
    ):
        kinds, counts = np.unique(code[pinned_items], return_counts=True)
        exhausted_mask |= np.isin(code, kinds[(kinds >= 0) & (counts >= quota.most)])
    for position in range(min(size, n)):
        item = (
            pins[position]
            if position in pins
            else _choose_item(
                remaining & ~reserved, position, quotas, exhausted, promotions, promoted, slate
            )
        )
        slate.append(item)
        remaining[item] = False
        for quota_index, (code, quota) in enumerate(zip(codes, quotas, strict=True)):
            if quota.window:
                exhausted[quota_index] = _exhausted_items(
                    code, slate[-quota.window + 1 :] if quota.window > 1 else [], quota.most
                )
            elif (
                code[item] >= 0
                and np.count_nonzero(
                    code[[*dict.fromkeys((*slate, *pinned_by_quota[quota_index]))]] == code[item]
                )
                >= quota.most
            ):
                exhausted[quota_index] |= code == code[item]
    return np.concatenate([np.array(slate, np.intp), np.flatnonzero(remaining)])


def _choose_item(
    remaining: Mask,
    position: int,
    quotas: Sequence[Quota],
    exhausted: Sequence[Mask],
    promotions: Sequence[Promotion],
    promoted: Sequence[Mask],
    slate: Sequence[int],
) -> int:
    """Return the index of the item for a position."""
    is_allowed = remaining.copy()
    for quota, exhausted_mask in zip(quotas, exhausted, strict=True):
        if not quota.first or position < quota.first:
            is_allowed &= ~exhausted_mask
    is_allowed = is_allowed if is_allowed.any() else remaining
    for promotion, is_promoted in zip(promotions, promoted, strict=True):
        if (
            np.count_nonzero(is_promoted[list(slate)]) < promotion.required_count(position + 1)
            and (promoted_remaining := is_allowed & is_promoted).any()
        ):
            is_allowed = promoted_remaining
    return int(np.argmax(is_allowed))


@dataclass(frozen=True)
class SlateConstraints:
    """The constraints of a slate: quotas and promotions over all candidates, and fixed positions.

    Whoever changes the slate afterwards respects them.

    Attributes:
        codes, promoted: as for `apply_constraints`, (n,) by candidate.
        fixed_positions: positions, from 0, that a pin holds.
    """

    quotas: Sequence[Quota] = ()
    codes: Sequence[Codes] = ()
    promotions: Sequence[Promotion] = ()
    promoted: Sequence[Mask] = ()
    fixed_positions: frozenset[int] = frozenset()

    @property
    def is_unconstrained(self) -> bool:
        """True if there is no quota and no promotion."""
        return not self.quotas and not self.promotions

    @property
    def window_max(self) -> int:
        """The longest window of any quota, 0 without one."""
        return max((quota.window for quota in self.quotas), default=0)

    def count_violations(self, slate: Rows) -> int:
        """Count the violations of quotas and promotions by a slate (candidates, in order).

        The count is 0 wherever there were enough candidates.
        """
        violations = 0
        for quota, code in zip(self.quotas, self.codes, strict=True):
            kinds = code[slate].tolist()
            kinds_by_span = [kinds[: quota.first or len(kinds)]]
            if quota.window:
                kinds_by_span = [
                    kinds[start : start + quota.window]
                    for start in range(max(1, len(kinds) - quota.window + 1))
                ]
            for span in kinds_by_span:
                violations += sum(
                    max(0, count - quota.most) for kind, count in Counter(span).items() if kind >= 0
                )
        for promotion, is_promoted in zip(self.promotions, self.promoted, strict=True):
            promoted_count = 0
            for positions, is_item_promoted in enumerate(is_promoted[slate].tolist(), 1):
                promoted_count += is_item_promoted
                violations += max(0, promotion.required_count(positions) - promoted_count)
        return violations

    def added_violations(self, slate: Rows, position: int, items: Rows) -> npt.NDArray[np.int64]:
        """Return the change in violations (m,) if each of `items` takes a position.

        It is below 0 where the number of violations shrinks.
        """
        increase = np.zeros(items.size, np.int64)
        current_item = np.array([slate[position]])
        for quota, code in zip(self.quotas, self.codes, strict=True):
            kinds = code[slate]
            spans = [(0, quota.first or slate.size)]
            if quota.window:
                last_start = max(0, slate.size - quota.window)
                starts = range(max(0, position - quota.window + 1), min(position, last_start) + 1)
                spans = [(start, start + quota.window) for start in starts]
            for start, end in spans:
                if not start <= position < end:
                    continue
                other_kinds = np.delete(kinds[start:end], position - start)
                for sign, placed_items in (
                    (1, items),
                    (-1, current_item),
                ):  # An item of an exhausted kind is a violation.
                    candidate_kinds = code[placed_items]
                    is_exhausted = (candidate_kinds >= 0) & (
                        np.count_nonzero(other_kinds[:, None] == candidate_kinds, axis=0)
                        >= quota.most
                    )
                    increase += sign * is_exhausted
        for promotion, is_promoted in zip(self.promotions, self.promoted, strict=True):
            shortfall = (
                np.array([promotion.required_count(n) for n in range(position + 1, slate.size + 1)])
                - np.cumsum(is_promoted[slate])[position:]
            )
            shortfall_by_change = {
                change: int(np.maximum(0, shortfall - change).sum()) for change in (-1, 0, 1)
            }
            promoted_changes = is_promoted[items].astype(int) - int(is_promoted[slate[position]])
            increase += np.array(
                [
                    shortfall_by_change[change] - shortfall_by_change[0]
                    for change in promoted_changes.tolist()
                ],
                np.int64,
            )
        return increase


def _exhausted_items(code: Codes, nearby: Sequence[int], limit: int) -> npt.NDArray[np.bool_]:
    """Return a mask of the items whose kind occurs `limit` times among the nearby ones."""
    kinds, counts = np.unique(code[list(nearby)], return_counts=True)
    return np.isin(code, kinds[(counts >= limit) & (kinds >= 0)])


def attribute_similarity(codes: Sequence[Codes]) -> Floats:
    """Return the similarity of items, (n, n) in [0, 1]: the share of attributes on which two agree.

    A missing value agrees only with itself.
    """
    n = codes[0].size
    similarity = np.zeros((n, n))
    for code in codes:
        similarity += (code[:, None] == code[None, :]) & (code >= 0)[:, None]
    similarity /= len(codes)
    np.fill_diagonal(similarity, 1.0)
    return similarity


def dpp(
    values: Floats, similarity: npt.NDArray[np.floating], size: int, *, balance: float = 0.7
) -> Rows:
    """Order items by a determinantal point process.

    Each next item adds most to the log-determinant of the kernel of those chosen.

    The kernel is diag(q) S diag(q), with q = exp(a * value), a = balance / (2 (1 - balance)) and
    values scaled to [0, 1]. A tenth of S is the identity, so that identical items can both be
    chosen. Greedy, by updating a Cholesky factor: O(size² * n). Source: Chen, Zhang and Zhou,
    NeurIPS 2018, algorithm 1 and eq. 14.

    Args:
        values: (n,).
        similarity: (n, n), positive semidefinite with ones on the diagonal, such as that of
            `attribute_similarity`.
        size: how many places are chosen so; the rest follows by value.
    """
    n = values.size
    low, high = (float(values.min()), float(values.max())) if n else (0.0, 0.0)
    scaled_values = (values - low) / (high - low) if high > low else np.zeros(n)
    quality = (
        balance / max(1.0 - balance, 1e-9) * scaled_values
    )  # of the kernel's determinant, as a logarithm
    kernel = (1.0 - SELF_SIMILARITY) * similarity + SELF_SIMILARITY * np.eye(n)
    factors = np.zeros((min(size, n), n))
    gain = np.ones(n)  # gain of the determinant of S if an item is added
    remaining = np.ones(n, bool)
    selected: list[int] = []
    for step in range(min(size, n)):
        best = int(
            np.argmax(np.where(remaining, quality + np.log(np.maximum(gain, 1e-12)), -np.inf))
        )
        selected.append(best)
        remaining[best] = False
        if gain[best] > 1e-12:
            new_factor = (kernel[best] - factors[:step, best] @ factors[:step]) / np.sqrt(
                gain[best]
            )
            factors[step] = new_factor
            gain = gain - new_factor * new_factor
    return _then_by_value(selected, remaining, values)


def mmr(
    values: Floats, similarity: npt.NDArray[np.floating], size: int, *, balance: float = 0.7
) -> Rows:
    """Order items by maximal marginal relevance.

    Each next item maximises balance * value - (1 - balance) * similarity to those before.

    Source: Carbonell and Goldstein, SIGIR 1998. Values are scaled to [0, 1] first, so that
    `balance` means the same for every slot. O(size * n).

    Args:
        values: (n,).
        similarity: (n, n), in [0, 1].
        size: how many places are chosen so; the rest follows by value.
    """
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    scaled_values = (values - low) / (high - low) if high > low else np.zeros_like(values)
    largest_similarity = np.zeros(values.size)
    remaining = np.ones(values.size, bool)
    selected: list[int] = []
    for _ in range(min(size, values.size)):
        gain = balance * scaled_values - (1.0 - balance) * largest_similarity
        best = int(np.argmax(np.where(remaining, gain, -np.inf)))
        selected.append(best)
        remaining[best] = False
        largest_similarity = np.maximum(largest_similarity, similarity[best])
    return _then_by_value(selected, remaining, values)


def _then_by_value(
    selected: Sequence[int], remaining: npt.NDArray[np.bool_], values: Floats
) -> Rows:
    value_order = np.argsort(-values, kind="stable")
    return np.concatenate([np.array(selected, np.intp), value_order[remaining[value_order]]])
