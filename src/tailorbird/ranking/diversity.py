"""What shapes an answer: quotas, promotions and pins, maximal marginal relevance, a determinantal
point process.

All reorder; none leaves anything out.
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
# what of an item is its own even where all attributes agree, so that a kernel of equals can be
# inverted
OWN = 0.1


def keep_to(
    codes: Sequence[Codes],
    quotas: Sequence[Quota],
    size: int,
    *,
    pins: Mapping[int, int] | None = None,
    promotions: Sequence[Promotion] = (),
    promoted: Sequence[Mask] = (),
    n: int = 0,
) -> Rows:
    """Places of ordered items such that the first `size` have the pinned ones where they belong and
    keep to quotas and promotions.

    In their order otherwise. Each position takes its pin, else the best item left that no quota
    forbids there, of those that a promotion wants there if it lacks some; where no item is left
    that quotas allow, the best item left: a short answer helps nobody. O(size * n * quotas).

    Args:
        codes: of each quota (n,): what the items are, best first; below 0 is nothing.
        pins: position, from 0 → the item's place.
        promoted: of each promotion (n,): which items it is for.
        n: how many items there are, where nothing else tells.
    """
    n = codes[0].size if codes else promoted[0].size if promoted else n
    left = np.ones(n, bool)
    pins = {position: place for position, place in (pins or {}).items() if position < min(size, n)}
    reserved = np.zeros(n, bool)
    reserved[list(pins.values())] = True
    exhausted = [
        np.zeros(n, bool) for _ in quotas
    ]  # of each quota: the items of which there are as many as may be
    answer: list[int] = []
    pinned_ahead = [
        [
            place
            for at, place in pins.items()
            if not quota.window and (not quota.first or at < quota.first)
        ]
        for quota in quotas
    ]
    for taken, code, quota, ahead in zip(exhausted, codes, quotas, pinned_ahead, strict=True):
        kinds, counts = np.unique(code[ahead], return_counts=True)
        taken |= np.isin(code, kinds[(kinds >= 0) & (counts >= quota.most)])
    for position in range(min(size, n)):
        place = (
            pins[position]
            if position in pins
            else _best(left & ~reserved, position, quotas, exhausted, promotions, promoted, answer)
        )
        answer.append(place)
        left[place] = False
        for at, (code, quota) in enumerate(zip(codes, quotas, strict=True)):
            if quota.window:
                exhausted[at] = _exhausted_items(
                    code, answer[-quota.window + 1 :] if quota.window > 1 else [], quota.most
                )
            elif (
                code[place] >= 0
                and np.count_nonzero(code[[*dict.fromkeys((*answer, *pinned_ahead[at]))]] == code[place])
                >= quota.most
            ):
                exhausted[at] |= code == code[place]
    return np.concatenate([np.array(answer, np.intp), np.flatnonzero(left)])


def _best(
    remaining: Mask,
    position: int,
    quotas: Sequence[Quota],
    full: Sequence[Mask],
    promotions: Sequence[Promotion],
    promoted: Sequence[Mask],
    answer: Sequence[int],
) -> int:
    """The place of the item that comes at a position."""
    allowed = remaining.copy()
    for quota, taken in zip(quotas, full, strict=True):
        if not quota.first or position < quota.first:
            allowed &= ~taken
    allowed = allowed if allowed.any() else remaining
    for promotion, those in zip(promotions, promoted, strict=True):
        if (
            np.count_nonzero(those[list(answer)]) < promotion.least(position + 1)
            and (promoted_remaining := allowed & those).any()
        ):
            allowed = promoted_remaining
    return int(np.argmax(allowed))


@dataclass(frozen=True)
class Bounds:
    """What an answer keeps to, for whoever changes it afterwards: quotas and promotions over all
    candidates, and positions that stay.

    Attributes:
        codes, promoted: as for `keep_to`, (n,) by candidate.
        fixed: positions, from 0, that a pin holds.
    """

    quotas: Sequence[Quota] = ()
    codes: Sequence[Codes] = ()
    promotions: Sequence[Promotion] = ()
    promoted: Sequence[Mask] = ()
    fixed: frozenset[int] = frozenset()

    @property
    def free(self) -> bool:
        """Whether anything may be changed."""
        return not self.quotas and not self.promotions

    @property
    def widest(self) -> int:
        """Of the windows of quotas, 0 without any."""
        return max((quota.window for quota in self.quotas), default=0)

    def broken(self, answer: Rows) -> int:
        """How often an answer (candidates, in order) breaks a quota or a promotion: 0 wherever
        there were candidates enough.
        """
        violations = 0
        for quota, code in zip(self.quotas, self.codes, strict=True):
            kinds = code[answer].tolist()
            spans = [kinds[: quota.first or len(kinds)]]
            if quota.window:
                spans = [
                    kinds[start : start + quota.window]
                    for start in range(max(1, len(kinds) - quota.window + 1))
                ]
            for span in spans:
                violations += sum(
                    max(0, count - quota.most) for kind, count in Counter(span).items() if kind >= 0
                )
        for promotion, those in zip(self.promotions, self.promoted, strict=True):
            there = 0
            for positions, has in enumerate(those[answer].tolist(), 1):
                there += has
                violations += max(0, promotion.least(positions) - there)
        return violations

    def added(self, answer: Rows, at: int, items: Rows) -> npt.NDArray[np.int64]:
        """By how much `broken` grows (m,) where another item stands at a position, for each of
        `items`; below 0 where it shrinks.
        """
        increase = np.zeros(items.size, np.int64)
        own = np.array([answer[at]])
        for quota, code in zip(self.quotas, self.codes, strict=True):
            kinds = code[answer]
            spans = [(0, quota.first or answer.size)]
            if quota.window:
                last = max(0, answer.size - quota.window)
                starts = range(max(0, at - quota.window + 1), min(at, last) + 1)
                spans = [(start, start + quota.window) for start in starts]
            for start, end in spans:
                if not start <= at < end:
                    continue
                other_kinds = np.delete(kinds[start:end], at - start)
                for sign, those in (
                    (1, items),
                    (-1, own),
                ):  # one more of a kind of which there are enough is one too many
                    candidate_kinds = code[those]
                    crowded = (candidate_kinds >= 0) & (
                        np.count_nonzero(other_kinds[:, None] == candidate_kinds, axis=0) >= quota.most
                    )
                    increase += sign * crowded
        for promotion, those in zip(self.promotions, self.promoted, strict=True):
            lacking = (
                np.array([promotion.least(n) for n in range(at + 1, answer.size + 1)])
                - np.cumsum(those[answer])[at:]
            )
            lacks = {gained: int(np.maximum(0, lacking - gained).sum()) for gained in (-1, 0, 1)}
            gained = those[items].astype(int) - int(those[answer[at]])
            increase += np.array([lacks[each] - lacks[0] for each in gained.tolist()], np.int64)
        return increase


def _exhausted_items(code: Codes, near: Sequence[int], most: int) -> npt.NDArray[np.bool_]:
    """The items of whose kind there are `most` among those near."""
    kinds, counts = np.unique(code[list(near)], return_counts=True)
    return np.isin(code, kinds[(counts >= most) & (kinds >= 0)])


def likeness(codes: Sequence[Codes]) -> Floats:
    """How alike items are, (n, n) in [0, 1]: the share of the attributes in which two agree.
    Missing agrees with nothing but itself.
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
    """An order by a determinantal point process: each next item adds most to the log-determinant of
    the kernel of those chosen.

    The kernel is diag(q) S diag(q), with q = exp(a * value), a = balance / (2 (1 - balance)) and
    values scaled to [0, 1]; of S, a tenth is each item's own, so that equals can both be chosen.
    Greedy, by updating a Cholesky factor: O(size² * n). Source: Chen, Zhang and Zhou, NeurIPS 2018,
    algorithm 1 and eq. 14.

    Args:
        values: (n,).
        similarity: (n, n), positive semidefinite with ones on the diagonal, such as `likeness`.
        size: how many places are chosen so; the rest follows by value.
    """
    n = values.size
    low, high = (float(values.min()), float(values.max())) if n else (0.0, 0.0)
    scaled = (values - low) / (high - low) if high > low else np.zeros(n)
    quality = (
        balance / max(1.0 - balance, 1e-9) * scaled
    )  # of the kernel's determinant, as a logarithm
    kernel = (1.0 - OWN) * similarity + OWN * np.eye(n)
    factors = np.zeros((min(size, n), n))
    gain = np.ones(n)  # of the determinant of S, when an item joins those chosen
    left = np.ones(n, bool)
    chosen: list[int] = []
    for step in range(min(size, n)):
        best = int(np.argmax(np.where(left, quality + np.log(np.maximum(gain, 1e-12)), -np.inf)))
        chosen.append(best)
        left[best] = False
        if gain[best] > 1e-12:
            new = (kernel[best] - factors[:step, best] @ factors[:step]) / np.sqrt(gain[best])
            factors[step] = new
            gain = gain - new * new
    return _then_by_value(chosen, left, values)


def mmr(
    values: Floats, similarity: npt.NDArray[np.floating], size: int, *, balance: float = 0.7
) -> Rows:
    """An order by maximal marginal relevance: each next item maximises balance * value - (1 -
    balance) * likeness to those before.

    Source: Carbonell and Goldstein, SIGIR 1998. Values are scaled to [0, 1] first, so that
    `balance` means the same for every slot. O(size * n).

    Args:
        values: (n,).
        similarity: (n, n), in [0, 1].
        size: how many places are chosen so; the rest follows by value.
    """
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
    nearest = np.zeros(values.size)
    left = np.ones(values.size, bool)
    chosen: list[int] = []
    for _ in range(min(size, values.size)):
        gain = balance * scaled - (1.0 - balance) * nearest
        best = int(np.argmax(np.where(left, gain, -np.inf)))
        chosen.append(best)
        left[best] = False
        nearest = np.maximum(nearest, similarity[best])
    return _then_by_value(chosen, left, values)


def _then_by_value(chosen: Sequence[int], left: npt.NDArray[np.bool_], values: Floats) -> Rows:
    rest = np.argsort(-values, kind="stable")
    return np.concatenate([np.array(chosen, np.intp), rest[left[rest]]])
