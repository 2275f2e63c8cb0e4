"""Ranking and prediction metrics as arrays per request or row, for resampling by user.

*Pointwise* metrics (`auc`, `log_loss`, `calibration`) compare a probability with a label.
*Listwise* metrics (`ndcg`, `recall`, `reciprocal_rank`, `coverage`, `novelty`) evaluate the order
within each request's list; `rank_lists` sorts once for all of them. They return one number per
request, so `training.evaluation.bootstrap` can compute intervals over users.
`training.evaluation.evaluate` decides on slices and baselines.

Request r owns rows offsets[r]:offsets[r + 1]. Ties in score are broken by a hash of the row number,
never by row order, which may depend on the labels.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

CELLS_MAX = 4_000_000  # cells of the padded matrix that ranks a chunk of lists: 32 MB


@dataclass(frozen=True)
class RankedLists:
    """Ranks of the positives of each list, and its top rows.

    Attributes:
        request: shape (positives,), the list of each positive.
        row: shape (positives,), its row.
        rank: shape (positives,), from 1.
        gain: shape (positives,), the positive's label: 1, or more where some outcomes are worth
            more.
        positives: shape (requests,), positives of each list.
        lengths: shape (requests,), rows of each list.
        top: shape (requests, k), row numbers of the first k, −1 where a list is shorter.
        missed: shape (requests,), positives that are in no row of the list.
        missed_gain: gain of each missed positive.
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
    def has_positives(self) -> npt.NDArray[np.bool_]:
        """Return the mask of lists with at least one positive, missed ones included."""
        return self.positives + self.missed > 0

    @property
    def candidate_recall(self) -> Floats:
        """Return the share of positives in the list, shape (requests,); NaN without positives."""
        return divide(
            self.positives.astype(np.float64), (self.positives + self.missed).astype(np.float64)
        )

    def restrict(self, positives: npt.NDArray[np.bool_], missed: Ints) -> "RankedLists":
        """Return the lists with fewer positives; ranks stay those in the full list.

        Args:
            positives: mask of the positives that remain.
            missed: shape (requests,), missed positives that remain.
        """
        request = self.request[positives]
        count = np.bincount(request, minlength=len(self.positives))
        columns = (request, self.row[positives], self.rank[positives], self.gain[positives], count)
        return RankedLists(*columns, self.lengths, self.top, missed, self.missed_gain)


def rank_lists(
    score: npt.NDArray[np.floating],
    label: npt.NDArray,
    offsets: Ints,
    *,
    k: int = 10,
    seed: int = 0,
    missed: Ints | None = None,
    missed_gain: float = 1.0,
) -> RankedLists:
    """Rank all lists at once, without a loop over requests.

    Takes O(n · positives of a list) comparisons and a partial sort.

    Args:
        score: shape (n,), higher is better; NaN counts as the lowest.
        label: shape (n,), above 0 is positive, and its gain.
        offsets: shape (requests + 1,).
        k: number of top rows to keep.
        seed: seed of the hash that breaks ties.
        missed, missed_gain: shape (requests,), positives that are in no row; see `RankedLists`.
    """
    assert score.shape == label.shape
    assert offsets[-1] == len(score)
    lengths = np.diff(offsets)
    value = np.where(np.isnan(score), -np.inf, score).astype(np.float64)
    running = np.concatenate(([0], np.cumsum(label > 0)))
    positives = running[offsets[1:]] - running[offsets[:-1]]
    top = np.full((len(lengths), k), -1, np.int64)
    rows, ranks = [], []
    # Lists of similar length are ranked together, so that padding stays small.
    by_length = np.argsort(lengths, kind="stable")
    for chunk in _split_chunks(by_length, lengths):
        positive_rows, rank = _rank_chunk(value, label, offsets, chunk, top, seed)
        rows.append(positive_rows)
        ranks.append(rank)
    row = np.concatenate(rows) if rows else np.zeros(0, np.int64)
    rank = np.concatenate(ranks) if ranks else np.zeros(0, np.int64)
    request = np.searchsorted(offsets, row, side="right") - 1
    order = np.lexsort((rank, request))
    columns = request[order], row[order], rank[order], label[row[order]].astype(np.float64)
    missed = np.zeros(len(lengths), np.int64) if missed is None else missed
    return RankedLists(*columns, positives, lengths, top, missed, missed_gain)


def ndcg(ranked: RankedLists, k: int = 10) -> Floats:
    """Return the normalised discounted cumulative gain, shape (requests,); NaN without positives.

    DCG = Σ over positives at rank ≤ k of gain / log2(rank + 1), divided by the DCG of the best
    order of all positives, including missed ones.
    """
    size = len(ranked.positives)
    lists = np.concatenate([ranked.request, np.repeat(np.arange(size), ranked.missed)])
    gain = np.concatenate(
        [ranked.gain, np.full(len(lists) - len(ranked.request), ranked.missed_gain)]
    )
    ideal_order = np.lexsort((-gain, lists))
    lists = lists[ideal_order]
    ideal_rank = 1 + np.arange(len(ideal_order)) - np.searchsorted(lists, lists)
    dcg = totals(ranked.request, ranked.gain * _rank_discount(ranked.rank, k), size)
    return divide(dcg, totals(lists, gain[ideal_order] * _rank_discount(ideal_rank, k), size))


def recall(ranked: RankedLists, k: int = 10) -> Floats:
    """Return recall at k divided by the best possible, min(positives, k); NaN without positives.

    With one positive this is the hit rate.
    """
    hits = totals(ranked.request, ranked.rank <= k, len(ranked.positives))
    return divide(hits, np.minimum(ranked.positives + ranked.missed, k).astype(np.float64))


def hit_rate(ranked: RankedLists, k: int = 20) -> Floats:
    """Return 1 for lists with a positive in the first k, else 0, shape (requests,).

    NaN for lists without positives.
    """
    hits = totals(ranked.request, ranked.rank <= k, len(ranked.positives))
    return np.where(ranked.has_positives, np.minimum(hits, 1.0), np.nan)


def reciprocal_rank(ranked: RankedLists) -> Floats:
    """Return 1 / rank of the first positive, shape (requests,); its mean is MRR.

    0 where all positives were missed; NaN without positives.
    """
    best = np.full(len(ranked.positives), np.inf)
    np.minimum.at(best, ranked.request, ranked.rank.astype(np.float64))
    return np.where(ranked.has_positives, 1.0 / best, np.nan)


def list_auc(ranked: RankedLists) -> Floats:
    """Return the AUC within each list, shape (requests,); NaN where a class is empty.

    Computed from ranks alone: the j-th best positive at rank r has r − j negatives above it.
    """
    size = len(ranked.positives)
    positive_number = (
        1 + np.arange(len(ranked.rank)) - np.searchsorted(ranked.request, ranked.request)
    )
    positives_above = totals(ranked.request, ranked.rank - positive_number, size)
    negatives = ranked.lengths - ranked.positives
    return 1.0 - divide(positives_above, (ranked.positives * negatives).astype(np.float64))


def coverage(ranked: RankedLists, item: Ints, catalogue: int) -> float:
    """Return the share of the catalogue in the top k of at least one list.

    Args:
        item: shape (n,), code of each row's item.
    """
    shown = ranked.top[ranked.top >= 0]
    return len(np.unique(item[shown])) / max(catalogue, 1)


def novelty(ranked: RankedLists, item: Ints, share: Floats) -> Floats:
    """Return the mean self-information −log2(share) of each top k, in bits, shape (requests,).

    `share[code]` is the item's share of all interactions before the test; an item never seen counts
    as half an interaction.
    """
    seen_shares = share[share > 0]
    floor = seen_shares.min() / 2 if len(seen_shares) else 1.0
    bits = -np.log2(np.maximum(share, floor))
    filled = ranked.top >= 0
    rows = np.where(filled, ranked.top, 0)
    return divide((bits[item[rows]] * filled).sum(axis=1), filled.sum(axis=1).astype(np.float64))


def auc(score: npt.NDArray[np.floating], label: npt.NDArray, weight: Floats | None = None) -> float:
    """Return the area under the ROC curve; NaN if a class is empty.

    The probability that a positive ranks above a negative; ties count half.
    """
    weight = np.ones(len(score)) if weight is None else weight
    _, positive, negative = _by_score(score, label, weight)
    negatives_below = np.cumsum(negative) - negative
    total = positive.sum() * negative.sum()
    return (
        float((positive * (negatives_below + 0.5 * negative)).sum() / total)
        if total > 0
        else float("nan")
    )


def auc_influence(score: npt.NDArray[np.floating], label: npt.NDArray) -> Floats:
    """Return the influence of each row on the AUC, shape (n,); the influences sum to 0.

    Resampling rows with weights w changes the AUC by Σ (w − 1) · influence, to first order
    (Obuchowski, Biometrics 1997).
    """
    weight = np.ones(len(score))
    group, positive, negative = _by_score(score, label, weight)
    positives, negatives = positive.sum(), negative.sum()
    if not positives or not negatives:
        return np.full(len(score), np.nan)
    negatives_below = (np.cumsum(negative) - 0.5 * negative) / negatives
    positives_above = 1.0 - (np.cumsum(positive) - 0.5 * positive) / positives
    value = (positive * negatives_below).sum() / positives
    return np.where(
        label > 0,
        (negatives_below[group] - value) / positives,
        (positives_above[group] - value) / negatives,
    )


def log_losses(probability: npt.NDArray[np.floating], label: npt.NDArray) -> Floats:
    """Return the log loss of each row, shape (n,); probabilities are clipped by 1e-7."""
    p = np.clip(probability.astype(np.float64), 1e-7, 1 - 1e-7)
    return np.where(label > 0, -np.log(p), -np.log1p(-p))


def deviances(expected: npt.NDArray[np.floating], amount: npt.NDArray) -> Floats:
    """Return the Poisson deviance of each row's expected amount, shape (n,)."""
    mean, observed = np.maximum(expected.astype(np.float64), 1e-9), amount.astype(np.float64)
    ratio = np.log(np.where(observed > 0, observed / mean, 1.0))
    return 2.0 * (observed * ratio - (observed - mean))


def log_loss(probability: npt.NDArray[np.floating], label: npt.NDArray) -> float:
    """Return the mean of `log_losses`."""
    return float(log_losses(probability, label).mean())


def totals(index: Ints, weight: npt.NDArray, size: int = 0) -> Floats:
    """Return Σ weight by index in float64, shape (max(size, largest index + 1),)."""
    return np.bincount(index, weight, minlength=size).astype(np.float64, copy=False)


def tiebreak(rows: Ints, seed: int = 0) -> npt.NDArray[np.uint32]:
    """Return a pseudo-random number per row: MurmurHash3's finaliser over row number and seed."""
    h = (rows.astype(np.uint64) ^ np.uint64((seed * 0x9E3779B9) & 0xFFFFFFFF)).astype(np.uint32)
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0xC2B2AE35)
    return h ^ (h >> np.uint32(16))


def _split_chunks(by_length: Ints, lengths: Ints) -> list[Ints]:
    """Split non-empty requests into runs whose padded matrix has at most CELLS_MAX cells."""
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
    # Padding sorts after everything, including scores of −inf.
    k = min(top.shape[1], width)
    order = _top_columns(score, tie, padding, k)
    is_padding = np.take_along_axis(padding, order, axis=1)
    top[chunk, :k] = np.where(is_padding, -1, np.take_along_axis(rows, order, axis=1))

    positive = (label[rows] > 0) & ~padding
    list_index, column_index = np.nonzero(positive)
    # The number of earlier positives in the same list.
    positive_number = np.arange(len(list_index)) - np.searchsorted(list_index, list_index)
    rank = np.zeros(len(list_index), np.int64)
    for number in range(int(positive_number.max(initial=-1)) + 1):
        current_pairs = np.flatnonzero(positive_number == number)
        list_row, position = list_index[current_pairs], column_index[current_pairs]
        own_score, own_tie = score[list_row, position][:, None], tie[list_row, position][:, None]
        is_ahead = (score[list_row] > own_score) | (
            (score[list_row] == own_score) & (tie[list_row] < own_tie)
        )
        rank[current_pairs] = 1 + (is_ahead & ~padding[list_row]).sum(axis=1)
    return rows[list_index, column_index], rank


def _top_columns(
    score: Floats, tie: npt.NDArray[np.uint32], padding: npt.NDArray[np.bool_], k: int
) -> Ints:
    """Return the columns of the k best of each line, in order, ties by `tie`; padding last."""
    width = score.shape[1]
    if width > 4 * k:
        # A partial sort may cut a run of ties at rank k, so such lines are sorted fully.
        padded_score = np.where(padding, -np.inf, score)
        top_columns = np.argpartition(padded_score, width - k, axis=1)[:, width - k :]
        lowest_top_score = np.take_along_axis(padded_score, top_columns, axis=1).min(
            axis=1, keepdims=True
        )
        has_ties = (padded_score >= lowest_top_score).sum(axis=1) > k
        order = np.empty((len(score), k), np.int64)
        top_order = np.lexsort(
            (
                np.take_along_axis(tie, top_columns, axis=1),
                -np.take_along_axis(padded_score, top_columns, axis=1),
            ),
            axis=1,
        )
        order[:] = np.take_along_axis(top_columns, top_order, axis=1)
        if has_ties.any():
            order[has_ties] = np.lexsort(
                (tie[has_ties], -score[has_ties], padding[has_ties]), axis=1
            )[:, :k]
        return order
    return np.lexsort((tie, -score, padding), axis=1)[:, :k]


def _rank_discount(rank: Ints, k: int) -> Floats:
    return np.where(rank <= k, 1.0 / np.log2(rank + 1.0), 0.0)


def _by_score(
    score: npt.NDArray[np.floating], label: npt.NDArray, weight: Floats
) -> tuple[Ints, Floats, Floats]:
    """Return the score group of each row, ascending, and positive and negative weight per group."""
    _, group = np.unique(score, return_inverse=True)
    positive = totals(group, np.where(label > 0, weight, 0.0))
    negative = totals(group, np.where(label > 0, 0.0, weight))
    return group, positive, negative


def divide(a: Floats, b: Floats) -> Floats:
    """Return a / b, NaN where b is 0."""
    return np.divide(a, b, out=np.full(np.shape(a), np.nan), where=b > 0)
