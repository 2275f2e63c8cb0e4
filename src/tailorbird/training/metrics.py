"""Figures of quality, over ragged lists and over single predictions, as arrays that can be
resampled by user.

Two families. *Pointwise* (`auc`, `log_loss`, `calibration`) judge a probability against a label.
*Listwise* (`ndcg`, `recall`, `reciprocal_rank`, `coverage`, `novelty`) judge the order within each
request's list; `rank_lists` does the sorting once for all of them. What belongs to one request is
returned as one number for each request, so that intervals can be taken over users: that is
`training.bootstrap`. Which slices and baselines are judged is `training.evaluate`.

A request's rows lie together: request r owns rows offsets[r]:offsets[r + 1]. Ties in score are
broken by a stated hash of the row's number, never by the order of the rows, which may know the
truth.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

CELLS_MAX = 4_000_000  # of the padded matrix that ranks a chunk of lists: 32 MB


@dataclass(frozen=True)
class Ranked:
    """Where the positives of each list ended up, and what stood at the top.

    Attributes:
        request: shape (positives,), the list of each positive.
        row: shape (positives,), its row.
        rank: shape (positives,), from 1.
        gain: shape (positives,), the positive's label: 1, or more where some outcomes are worth
            more than others.
        positives: shape (requests,), how many positives a list has.
        lengths: shape (requests,), how many rows.
        top: shape (requests, k), row numbers of the first k, −1 where a list is shorter.
        missed: shape (requests,), how many positives are in no row of the list, and `missed_gain`,
            what each would have been worth.
    """

    request: Ints
    row: Ints
    rank: Ints
    gain: Floats
    positives: Ints
    lengths: Ints
    top: Ints
    missed: Ints
    missed_gain: float = 1.0

    @property
    def judged(self) -> npt.NDArray[np.bool_]:
        """Which lists had anything to find."""
        return self.positives + self.missed > 0

    @property
    def found(self) -> Floats:
        """The share of the positives that are in any row, shape (requests,); NaN with nothing to
        find.
        """
        return _divide(
            self.positives.astype(np.float64), (self.positives + self.missed).astype(np.float64)
        )

    def only(self, positives: npt.NDArray[np.bool_], missed: Ints) -> "Ranked":
        """The same lists where only some of the positives count as such, and so many of the missed;
        ranks stay those in the whole list.
        """
        request = self.request[positives]
        count = np.bincount(request, minlength=len(self.positives))
        of_some = (request, self.row[positives], self.rank[positives], self.gain[positives], count)
        return Ranked(*of_some, self.lengths, self.top, missed, self.missed_gain)


def rank_lists(
    score: npt.NDArray[np.floating],
    label: npt.NDArray,
    offsets: Ints,
    *,
    k: int = 10,
    seed: int = 0,
    missed: Ints | None = None,
    missed_gain: float = 1.0,
) -> Ranked:
    """Rank all lists at once: O(n · positives of a list) comparisons and a partial sort, no loop
    over requests.

    Args:
        score: shape (n,), higher is better; NaN counts as the lowest.
        label: shape (n,), above 0 is positive, and its gain.
        offsets: shape (requests + 1,).
        k: how many of the top to keep.
        seed: of the hash that breaks ties.
        missed, missed_gain: shape (requests,), positives that are in no row; see `Ranked`.
    """
    assert score.shape == label.shape
    assert offsets[-1] == len(score)
    lengths = np.diff(offsets)
    value = np.where(np.isnan(score), -np.inf, score).astype(np.float64)
    running = np.concatenate(([0], np.cumsum(label > 0)))
    positives = running[offsets[1:]] - running[offsets[:-1]]
    top = np.full((len(lengths), k), -1, np.int64)
    rows, ranks = [], []
    by_length = np.argsort(
        lengths, kind="stable"
    )  # lists of like length together, so that padding stays small
    for chunk in _chunks(by_length, lengths):
        found, rank = _rank_chunk(value, label, offsets, chunk, top, seed)
        rows.append(found)
        ranks.append(rank)
    row = np.concatenate(rows) if rows else np.zeros(0, np.int64)
    rank = np.concatenate(ranks) if ranks else np.zeros(0, np.int64)
    request = np.searchsorted(offsets, row, side="right") - 1
    order = np.lexsort((rank, request))
    of_positives = request[order], row[order], rank[order], label[row[order]].astype(np.float64)
    missed = np.zeros(len(lengths), np.int64) if missed is None else missed
    return Ranked(*of_positives, positives, lengths, top, missed, missed_gain)


def ndcg(ranked: Ranked, k: int = 10) -> Floats:
    """Normalised discounted cumulative gain, shape (requests,); NaN for a list with nothing to
    find.

    DCG = Σ over positives at rank ≤ k of gain / log2(rank + 1), divided by that of the best order
    of all positives, missed ones too.
    """
    size = len(ranked.positives)
    lists = np.concatenate([ranked.request, np.repeat(np.arange(size), ranked.missed)])
    gain = np.concatenate(
        [ranked.gain, np.full(len(lists) - len(ranked.request), ranked.missed_gain)]
    )
    best = np.lexsort((-gain, lists))
    lists = lists[best]
    nth = 1 + np.arange(len(best)) - np.searchsorted(lists, lists)  # rank in the best order
    dcg = totals(ranked.request, ranked.gain * _discount(ranked.rank, k), size)
    return _divide(dcg, totals(lists, gain[best] * _discount(nth, k), size))


def recall(ranked: Ranked, k: int = 10) -> Floats:
    """Share of a list's positives among its first k, divided by the best possible (min(positives,
    k)); NaN with nothing to find.

    With one positive this is the hit rate.
    """
    hits = totals(ranked.request, ranked.rank <= k, len(ranked.positives))
    return _divide(hits, np.minimum(ranked.positives + ranked.missed, k).astype(np.float64))


def hit_rate(ranked: Ranked, k: int = 20) -> Floats:
    """1 where any positive is among the first k of a list, else 0, shape (requests,); NaN with
    nothing to find.
    """
    hits = totals(ranked.request, ranked.rank <= k, len(ranked.positives))
    return np.where(ranked.judged, np.minimum(hits, 1.0), np.nan)


def reciprocal_rank(ranked: Ranked) -> Floats:
    """1 / rank of the first positive, 0 where all were missed, shape (requests,); NaN with nothing
    to find. Its mean is MRR.
    """
    best = np.full(len(ranked.positives), np.inf)
    np.minimum.at(best, ranked.request, ranked.rank.astype(np.float64))
    return np.where(ranked.judged, 1.0 / best, np.nan)


def list_auc(ranked: Ranked) -> Floats:
    """The chance that a positive stands above a negative of its own list, shape (requests,); NaN
    where a class is empty.

    From ranks alone: the j-th best positive at rank r has r − j negatives above it.
    """
    size = len(ranked.positives)
    nth = 1 + np.arange(len(ranked.rank)) - np.searchsorted(ranked.request, ranked.request)
    above = totals(ranked.request, ranked.rank - nth, size)
    negatives = ranked.lengths - ranked.positives
    return 1.0 - _divide(above, (ranked.positives * negatives).astype(np.float64))


def coverage(ranked: Ranked, item: Ints, catalogue: int) -> float:
    """Share of the catalogue that stands in the top k of at least one list; `item` holds the code
    of each row's item.
    """
    shown = ranked.top[ranked.top >= 0]
    return len(np.unique(item[shown])) / max(catalogue, 1)


def novelty(ranked: Ranked, item: Ints, share: Floats) -> Floats:
    """Mean self-information −log2(share) of the items in each top k, in bits, shape (requests,).

    `share[code]` is the item's share of all interactions before the test; an item never seen gets
    that of half an interaction.
    """
    known = share[share > 0]
    floor = known.min() / 2 if len(known) else 1.0
    bits = -np.log2(np.maximum(share, floor))
    filled = ranked.top >= 0
    rows = np.where(filled, ranked.top, 0)
    return _divide((bits[item[rows]] * filled).sum(axis=1), filled.sum(axis=1).astype(np.float64))


def auc(score: npt.NDArray[np.floating], label: npt.NDArray, weight: Floats | None = None) -> float:
    """Area under the ROC curve: the chance that a positive is above a negative, ties counted half.
    NaN if a class is empty.
    """
    weight = np.ones(len(score)) if weight is None else weight
    _, positive, negative = _by_score(score, label, weight)
    below = np.cumsum(negative) - negative
    total = positive.sum() * negative.sum()
    return float((positive * (below + 0.5 * negative)).sum() / total) if total > 0 else float("nan")


def auc_influence(score: npt.NDArray[np.floating], label: npt.NDArray) -> Floats:
    """How much each row moves the AUC, shape (n,); the rows' sum is 0.

    Resampling rows with weights w changes the AUC by Σ (w − 1) · influence, to first order
    (Obuchowski, Biometrics 1997).
    """
    weight = np.ones(len(score))
    group, positive, negative = _by_score(score, label, weight)
    positives, negatives = positive.sum(), negative.sum()
    if not positives or not negatives:
        return np.full(len(score), np.nan)
    below = (np.cumsum(negative) - 0.5 * negative) / negatives
    above = 1.0 - (np.cumsum(positive) - 0.5 * positive) / positives
    value = (positive * below).sum() / positives
    return np.where(
        label > 0, (below[group] - value) / positives, (above[group] - value) / negatives
    )


def log_losses(probability: npt.NDArray[np.floating], label: npt.NDArray) -> Floats:
    """−ln of the probability given to what happened, shape (n,); probabilities are kept 1e-7 away
    from 0 and 1.
    """
    p = np.clip(probability.astype(np.float64), 1e-7, 1 - 1e-7)
    return np.where(label > 0, -np.log(p), -np.log1p(-p))


def deviances(expected: npt.NDArray[np.floating], amount: npt.NDArray) -> Floats:
    """The Poisson deviance of each row, shape (n,): of an amount from 0 on beside what was expected
    of it.
    """
    mean, found = np.maximum(expected.astype(np.float64), 1e-9), amount.astype(np.float64)
    ratio = np.log(np.where(found > 0, found / mean, 1.0))
    return 2.0 * (found * ratio - (found - mean))


def log_loss(probability: npt.NDArray[np.floating], label: npt.NDArray) -> float:
    """Mean of `log_losses`."""
    return float(log_losses(probability, label).mean())


@dataclass(frozen=True)
class Calibration:
    """Predictions in bins of equal mass beside what happened: the reliability diagram and two
    summaries of it.

    Attributes:
        bin: shape (n,), the bin of each row. count, predicted, observed: shape (bins,).
        error: Σ count/n · |predicted − observed|: ECE. It is above 0 even for a perfect model, by
            chance alone, and more so the fewer rows: compare models on the same rows only, and read
            `debiased` for how far off the model really is.
        debiased: √max(0, Σ count/n · ((predicted − observed)² − observed(1 − observed)/(count −
            1))), an L2 error whose square has the noise's expectation taken off (Kumar, Liang, Ma,
            NeurIPS 2019, section 5).
    """

    bin: Ints
    count: Floats
    predicted: Floats
    observed: Floats
    error: float
    debiased: float


def calibration(
    probability: npt.NDArray[np.floating], label: npt.NDArray, bins: int = 15
) -> Calibration:
    """Put predictions into bins of equal mass; equal predictions always share a bin."""
    p = probability.astype(np.float64)
    edges = np.unique(np.quantile(p, np.linspace(0, 1, bins + 1)[1:-1])) if len(p) else np.zeros(0)
    index = np.searchsorted(edges, p, side="left")
    bins = len(edges) + 1
    count = totals(index, np.ones(len(p)), bins)
    predicted = _divide(totals(index, p, bins), count)
    observed = _divide(totals(index, label > 0, bins), count)
    return Calibration(
        index, count, predicted, observed, *calibration_errors(count, predicted, observed)
    )


def calibration_errors(count: Floats, predicted: Floats, observed: Floats) -> tuple[float, float]:
    """ECE and its debiased L2 sibling, from what each bin holds; see `Calibration`."""
    filled = count > 0
    share = count[filled] / count.sum()
    gap = predicted[filled] - observed[filled]
    noise = observed[filled] * (1 - observed[filled]) / np.maximum(count[filled] - 1, 1)
    return float((share * np.abs(gap)).sum()), float(
        np.sqrt(max(0.0, (share * (gap**2 - noise)).sum()))
    )


def totals(index: Ints, weight: npt.NDArray, size: int = 0) -> Floats:
    """Σ weight of the rows with each index, shape (max(size, largest index + 1),), in float64."""
    return np.bincount(index, weight, minlength=size).astype(np.float64, copy=False)


def tiebreak(rows: Ints, seed: int = 0) -> npt.NDArray[np.uint32]:
    """A fixed pseudo-random number for each row: the finaliser of MurmurHash3 over the row's number
    and the seed.
    """
    h = (rows.astype(np.uint64) ^ np.uint64((seed * 0x9E3779B9) & 0xFFFFFFFF)).astype(np.uint32)
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0xC2B2AE35)
    return h ^ (h >> np.uint32(16))


def _chunks(by_length: Ints, lengths: Ints) -> list[Ints]:
    """Requests in runs whose padded matrix stays below CELLS_MAX cells; empty lists are left out."""
    by_length = by_length[lengths[by_length] > 0]
    chunks, start = [], 0
    while start < len(by_length):
        width = lengths[by_length[start:]]  # ascending, so the last of a run is its width
        cells = width * np.arange(1, len(width) + 1)
        stop = start + max(1, int(np.searchsorted(cells, CELLS_MAX, side="right")))
        chunks.append(by_length[start:stop])
        start = stop
    return chunks


def _rank_chunk(
    value: Floats, label: npt.NDArray, offsets: Ints, chunk: Ints, top: Ints, seed: int
) -> tuple[Ints, Ints]:
    """Fill `top` for the requests of `chunk`; return row and rank of each of their positives."""
    lengths = offsets[chunk + 1] - offsets[chunk]
    width = int(lengths[-1])
    column = np.arange(width)
    padding = column[None, :] >= lengths[:, None]
    rows = np.where(padding, 0, offsets[chunk][:, None] + column[None, :])
    score = value[rows]
    tie = tiebreak(rows, seed)
    # padding sorts behind everything, a real −inf included
    k = min(top.shape[1], width)
    order = _first(score, tie, padding, k)
    kept = np.take_along_axis(padding, order, axis=1)
    top[chunk, :k] = np.where(kept, -1, np.take_along_axis(rows, order, axis=1))

    positive = (label[rows] > 0) & ~padding
    listed, placed = np.nonzero(positive)
    nth = np.arange(len(listed)) - np.searchsorted(
        listed, listed
    )  # which positive of its list this is
    rank = np.zeros(len(listed), np.int64)
    for turn in range(int(nth.max(initial=-1)) + 1):
        mine = np.flatnonzero(nth == turn)
        own, at = listed[mine], placed[mine]
        mark, mark_tie = score[own, at][:, None], tie[own, at][:, None]
        ahead = (score[own] > mark) | ((score[own] == mark) & (tie[own] < mark_tie))
        rank[mine] = 1 + (ahead & ~padding[own]).sum(axis=1)
    return rows[listed, placed], rank


def _first(
    score: Floats, tie: npt.NDArray[np.uint32], padding: npt.NDArray[np.bool_], k: int
) -> Ints:
    """Columns of the k best of each line, in order, ties by `tie`; padding last."""
    width = score.shape[1]
    if width > 4 * k:
        # A partial sort may cut through a run of ties at rank k: such lines are sorted whole.
        lowered = np.where(padding, -np.inf, score)
        part = np.argpartition(lowered, width - k, axis=1)[:, width - k :]
        edge = np.take_along_axis(lowered, part, axis=1).min(axis=1, keepdims=True)
        whole = (lowered >= edge).sum(axis=1) > k
        order = np.empty((len(score), k), np.int64)
        inner = np.lexsort(
            (np.take_along_axis(tie, part, axis=1), -np.take_along_axis(lowered, part, axis=1)),
            axis=1,
        )
        order[:] = np.take_along_axis(part, inner, axis=1)
        if whole.any():
            order[whole] = np.lexsort((tie[whole], -score[whole], padding[whole]), axis=1)[:, :k]
        return order
    return np.lexsort((tie, -score, padding), axis=1)[:, :k]


def _discount(rank: Ints, k: int) -> Floats:
    return np.where(rank <= k, 1.0 / np.log2(rank + 1.0), 0.0)


def _by_score(
    score: npt.NDArray[np.floating], label: npt.NDArray, weight: Floats
) -> tuple[Ints, Floats, Floats]:
    """The group of equal scores of each row, ascending, and each group's weight of positives and of
    negatives.
    """
    _, group = np.unique(score, return_inverse=True)
    positive = totals(group, np.where(label > 0, weight, 0.0))
    negative = totals(group, np.where(label > 0, 0.0, weight))
    return group, positive, negative


def _divide(a: Floats, b: Floats) -> Floats:
    """a / b, NaN where b is 0."""
    return np.divide(a, b, out=np.full(np.shape(a), np.nan), where=b > 0)
