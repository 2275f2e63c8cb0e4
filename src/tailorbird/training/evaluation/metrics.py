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

PADDED_CELLS_MAX = 4_000_000  # cells of the padded matrix that ranks a chunk of lists: 32 MB


@dataclass(frozen=True)
class RankedLists:
    """Ranks of the positives of each list, and its top rows.

    Attributes:
        list_index: shape (positives,), the list of each positive.
        row: shape (positives,), its row.
        rank: shape (positives,), from 1.
        gain: shape (positives,), the positive's label: 1, or more where some outcomes are worth
            more.
        positive_counts: shape (requests,), positives of each list.
        lengths: shape (requests,), rows of each list.
        top_rows: shape (requests, k), row numbers of the first k, −1 where a list is shorter.
        missed_counts: shape (requests,), positives that are in no row of the list.
        missed_gain: gain of each missed positive.
    """

    list_index: Ints
    row: Ints
    rank: Ints
    gain: Floats
    positive_counts: Ints
    lengths: Ints
    top_rows: Ints
    missed_counts: Ints
    missed_gain: float = 1.0

    @property
    def has_positives(self) -> npt.NDArray[np.bool_]:
        """Return the mask of lists with at least one positive, missed ones included."""
        return self.positive_counts + self.missed_counts > 0

    @property
    def candidate_recall(self) -> Floats:
        """Return the share of positives in the list, shape (requests,); NaN without positives."""
        return divide(
            self.positive_counts.astype(np.float64),
            (self.positive_counts + self.missed_counts).astype(np.float64),
        )

    def restrict(self, is_retained: npt.NDArray[np.bool_], missed_counts: Ints) -> "RankedLists":
        """Return the lists with fewer positives; ranks stay those in the full list.

        Args:
            is_retained: mask of the positives that remain.
            missed_counts: shape (requests,), missed positives that remain.
        """
        list_index = self.list_index[is_retained]
        positive_counts = np.bincount(list_index, minlength=len(self.positive_counts))
        columns = (
            list_index,
            self.row[is_retained],
            self.rank[is_retained],
            self.gain[is_retained],
            positive_counts,
        )
        return RankedLists(*columns, self.lengths, self.top_rows, missed_counts, self.missed_gain)


def rank_lists(
    score: npt.NDArray[np.floating],
    label: npt.NDArray,
    offsets: Ints,
    *,
    k: int = 10,
    seed: int = 0,
    missed_counts: Ints | None = None,
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
        missed_counts: shape (requests,), positives that are in no row.
        missed_gain: gain of each of them.
    """
    assert score.shape == label.shape
    assert offsets[-1] == len(score)
    lengths = np.diff(offsets)
    finite_scores = np.where(np.isnan(score), -np.inf, score).astype(np.float64)
    positives_before = np.concatenate(([0], np.cumsum(label > 0)))
    positive_counts = positives_before[offsets[1:]] - positives_before[offsets[:-1]]
    top_rows = np.full((len(lengths), k), -1, np.int64)
    row_parts = []
    rank_parts = []
    # Lists of similar length are ranked together, so that padding stays small.
    lists_by_length = np.argsort(lengths, kind="stable")
    for list_indexes in _split_chunks(lists_by_length, lengths):
        positive_rows, rank = _rank_chunk(
            scores=finite_scores,
            label=label,
            offsets=offsets,
            list_indexes=list_indexes,
            top_rows=top_rows,
            seed=seed,
        )
        row_parts.append(positive_rows)
        rank_parts.append(rank)
    row = np.concatenate(row_parts) if row_parts else np.zeros(0, np.int64)
    rank = np.concatenate(rank_parts) if rank_parts else np.zeros(0, np.int64)
    list_index = np.searchsorted(offsets, row, side="right") - 1
    order = np.lexsort((rank, list_index))
    columns = list_index[order], row[order], rank[order], label[row[order]].astype(np.float64)
    missed_counts = np.zeros(len(lengths), np.int64) if missed_counts is None else missed_counts
    return RankedLists(*columns, positive_counts, lengths, top_rows, missed_counts, missed_gain)


def ndcg(ranked: RankedLists, k: int = 10) -> Floats:
    """Return the normalised discounted cumulative gain, shape (requests,); NaN without positives.

    DCG = Σ over positives at rank ≤ k of gain / log2(rank + 1), divided by the DCG of the best
    order of all positives, including missed ones.
    """
    list_count = len(ranked.positive_counts)
    list_index = np.concatenate(
        [ranked.list_index, np.repeat(np.arange(list_count), ranked.missed_counts)]
    )
    gain = np.concatenate(
        [ranked.gain, np.full(len(list_index) - len(ranked.list_index), ranked.missed_gain)]
    )
    ideal_order = np.lexsort((-gain, list_index))
    list_index = list_index[ideal_order]
    ideal_rank = 1 + np.arange(len(ideal_order)) - np.searchsorted(list_index, list_index)
    dcg = sum_by_index(ranked.list_index, ranked.gain * _rank_discount(ranked.rank, k), list_count)
    return divide(
        dcg, sum_by_index(list_index, gain[ideal_order] * _rank_discount(ideal_rank, k), list_count)
    )


def recall(ranked: RankedLists, k: int = 10) -> Floats:
    """Return recall at k divided by the best possible, min(positives, k); NaN without positives.

    With one positive this is the hit rate.
    """
    hits = sum_by_index(ranked.list_index, ranked.rank <= k, len(ranked.positive_counts))
    return divide(
        hits, np.minimum(ranked.positive_counts + ranked.missed_counts, k).astype(np.float64)
    )


def hit_rate(ranked: RankedLists, k: int = 20) -> Floats:
    """Return 1 for lists with a positive in the first k, else 0, shape (requests,).

    NaN for lists without positives.
    """
    hits = sum_by_index(ranked.list_index, ranked.rank <= k, len(ranked.positive_counts))
    return np.where(ranked.has_positives, np.minimum(hits, 1.0), np.nan)


def reciprocal_rank(ranked: RankedLists) -> Floats:
    """Return 1 / rank of the first positive, shape (requests,); its mean is MRR.

    0 where all positives were missed; NaN without positives.
    """
    best_rank = np.full(len(ranked.positive_counts), np.inf)
    np.minimum.at(best_rank, ranked.list_index, ranked.rank.astype(np.float64))
    return np.where(ranked.has_positives, 1.0 / best_rank, np.nan)


def list_auc(ranked: RankedLists) -> Floats:
    """Return the AUC within each list, shape (requests,); NaN where a class is empty.

    Computed from ranks alone: the j-th best positive at rank r has r − j negatives above it.
    """
    list_count = len(ranked.positive_counts)
    positive_ordinal = (
        1 + np.arange(len(ranked.rank)) - np.searchsorted(ranked.list_index, ranked.list_index)
    )
    negatives_above = sum_by_index(ranked.list_index, ranked.rank - positive_ordinal, list_count)
    negatives = ranked.lengths - ranked.positive_counts
    return 1.0 - divide(negatives_above, (ranked.positive_counts * negatives).astype(np.float64))


def coverage(ranked: RankedLists, item_codes: Ints, catalogue_size: int) -> float:
    """Return the share of the catalogue in the top k of at least one list.

    Args:
        item_codes: shape (n,), code of each row's item.
    """
    shown_rows = ranked.top_rows[ranked.top_rows >= 0]
    return len(np.unique(item_codes[shown_rows])) / max(catalogue_size, 1)


def novelty(ranked: RankedLists, item_codes: Ints, item_shares: Floats) -> Floats:
    """Return the mean self-information −log2(share) of each top k, in bits, shape (requests,).

    `item_shares[code]` is the item's share of all interactions before the test; an item never seen
    counts as half an interaction.
    """
    seen_shares = item_shares[item_shares > 0]
    smallest_share = seen_shares.min() / 2 if len(seen_shares) else 1.0
    self_information = -np.log2(np.maximum(item_shares, smallest_share))
    is_filled = ranked.top_rows >= 0
    rows = np.where(is_filled, ranked.top_rows, 0)
    return divide(
        (self_information[item_codes[rows]] * is_filled).sum(axis=1),
        is_filled.sum(axis=1).astype(np.float64),
    )


def auc(score: npt.NDArray[np.floating], label: npt.NDArray, weight: Floats | None = None) -> float:
    """Return the area under the ROC curve; NaN if a class is empty.

    The probability that a positive ranks above a negative; ties count half.
    """
    weight = np.ones(len(score)) if weight is None else weight
    _, positive_weight, negative_weight = _group_by_score(score, label, weight)
    negatives_below = np.cumsum(negative_weight) - negative_weight
    pair_weight = positive_weight.sum() * negative_weight.sum()
    return (
        float((positive_weight * (negatives_below + 0.5 * negative_weight)).sum() / pair_weight)
        if pair_weight > 0
        else float("nan")
    )


def auc_influence(score: npt.NDArray[np.floating], label: npt.NDArray) -> Floats:
    """Return the influence of each row on the AUC, shape (n,); the influences sum to 0.

    Resampling rows with weights w changes the AUC by Σ (w − 1) · influence, to first order
    (Obuchowski, Biometrics 1997).
    """
    weight = np.ones(len(score))
    group, positive_weight, negative_weight = _group_by_score(score, label, weight)
    positive_total = positive_weight.sum()
    negative_total = negative_weight.sum()
    if not positive_total or not negative_total:
        return np.full(len(score), np.nan)
    negative_share_below = (np.cumsum(negative_weight) - 0.5 * negative_weight) / negative_total
    positive_share_above = 1 - (np.cumsum(positive_weight) - 0.5 * positive_weight) / positive_total
    auc_value = (positive_weight * negative_share_below).sum() / positive_total
    return np.where(
        label > 0,
        (negative_share_below[group] - auc_value) / positive_total,
        (positive_share_above[group] - auc_value) / negative_total,
    )


def log_losses(probability: npt.NDArray[np.floating], label: npt.NDArray) -> Floats:
    """Return the log loss of each row, shape (n,); probabilities are clipped by 1e-7."""
    p = np.clip(probability.astype(np.float64), 1e-7, 1 - 1e-7)
    return np.where(label > 0, -np.log(p), -np.log1p(-p))


def deviances(expected: npt.NDArray[np.floating], amount: npt.NDArray) -> Floats:
    """Return the Poisson deviance of each row's expected amount, shape (n,)."""
    mean = np.maximum(expected.astype(np.float64), 1e-9)
    observed = amount.astype(np.float64)
    ratio = np.log(np.where(observed > 0, observed / mean, 1.0))
    return 2.0 * (observed * ratio - (observed - mean))


def log_loss(probability: npt.NDArray[np.floating], label: npt.NDArray) -> float:
    """Return the mean of `log_losses`."""
    return float(log_losses(probability, label).mean())


def sum_by_index(index: Ints, weight: npt.NDArray, size: int = 0) -> Floats:
    """Return Σ weight by index in float64, shape (max(size, largest index + 1),)."""
    return np.bincount(index, weight, minlength=size).astype(np.float64, copy=False)


def tiebreak_hash(rows: Ints, seed: int = 0) -> npt.NDArray[np.uint32]:
    """Return a pseudo-random number per row: MurmurHash3's finaliser over row number and seed."""
    h = (rows.astype(np.uint64) ^ np.uint64((seed * 0x9E3779B9) & 0xFFFFFFFF)).astype(np.uint32)
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0xC2B2AE35)
    return h ^ (h >> np.uint32(16))


def _split_chunks(lists_by_length: Ints, lengths: Ints) -> list[Ints]:
    """Split non-empty requests into runs whose padded matrix has at most PADDED_CELLS_MAX cells."""
    lists_by_length = lists_by_length[lengths[lists_by_length] > 0]
    chunks = []
    start = 0
    while start < len(lists_by_length):
        widths = lengths[lists_by_length[start:]]  # ascending, so the last of a run is its width
        padded_cells = widths * np.arange(1, len(widths) + 1)
        stop = start + max(1, int(np.searchsorted(padded_cells, PADDED_CELLS_MAX, side="right")))
        chunks.append(lists_by_length[start:stop])
        start = stop
    return chunks


def _rank_chunk(
    scores: Floats, label: npt.NDArray, offsets: Ints, list_indexes: Ints, top_rows: Ints, seed: int
) -> tuple[Ints, Ints]:
    """Fill `top_rows` for some lists; return row and rank of each of their positives."""
    lengths = offsets[list_indexes + 1] - offsets[list_indexes]
    width = int(lengths[-1])
    columns = np.arange(width)
    is_empty_cell = columns[None, :] >= lengths[:, None]
    rows = np.where(is_empty_cell, 0, offsets[list_indexes][:, None] + columns[None, :])
    padded_scores = scores[rows]
    tiebreaks = tiebreak_hash(rows, seed)
    # Padding sorts after everything, including scores of −inf.
    k = min(top_rows.shape[1], width)
    top_columns = _top_columns(padded_scores, tiebreaks, is_empty_cell, k)
    is_padding = np.take_along_axis(is_empty_cell, top_columns, axis=1)
    top_rows[list_indexes, :k] = np.where(
        is_padding, -1, np.take_along_axis(rows, top_columns, axis=1)
    )

    is_positive = (label[rows] > 0) & ~is_empty_cell
    list_index, column_index = np.nonzero(is_positive)
    # The number of earlier positives in the same list.
    positive_ordinal = np.arange(len(list_index)) - np.searchsorted(list_index, list_index)
    rank = np.zeros(len(list_index), np.int64)
    for ordinal in range(int(positive_ordinal.max(initial=-1)) + 1):
        current_positives = np.flatnonzero(positive_ordinal == ordinal)
        matrix_line = list_index[current_positives]
        position = column_index[current_positives]
        own_score = padded_scores[matrix_line, position][:, None]
        own_tiebreak = tiebreaks[matrix_line, position][:, None]
        is_ahead = (padded_scores[matrix_line] > own_score) | (
            (padded_scores[matrix_line] == own_score) & (tiebreaks[matrix_line] < own_tiebreak)
        )
        rank[current_positives] = 1 + (is_ahead & ~is_empty_cell[matrix_line]).sum(axis=1)
    return rows[list_index, column_index], rank


def _top_columns(
    padded_scores: Floats,
    tiebreaks: npt.NDArray[np.uint32],
    is_empty_cell: npt.NDArray[np.bool_],
    k: int,
) -> Ints:
    """Return the columns of the k best of each line, in order; empty cells last."""
    width = padded_scores.shape[1]
    if width > 4 * k:
        # A partial sort may cut a run of ties at rank k, so such lines are sorted fully.
        masked_scores = np.where(is_empty_cell, -np.inf, padded_scores)
        top_columns = np.argpartition(masked_scores, width - k, axis=1)[:, width - k :]
        lowest_top_score = np.take_along_axis(masked_scores, top_columns, axis=1).min(
            axis=1, keepdims=True
        )
        has_ties = (masked_scores >= lowest_top_score).sum(axis=1) > k
        sorted_columns = np.empty((len(padded_scores), k), np.int64)
        top_order = np.lexsort(
            (
                np.take_along_axis(tiebreaks, top_columns, axis=1),
                -np.take_along_axis(masked_scores, top_columns, axis=1),
            ),
            axis=1,
        )
        sorted_columns[:] = np.take_along_axis(top_columns, top_order, axis=1)
        if has_ties.any():
            sorted_columns[has_ties] = np.lexsort(
                (tiebreaks[has_ties], -padded_scores[has_ties], is_empty_cell[has_ties]), axis=1
            )[:, :k]
        return sorted_columns
    return np.lexsort((tiebreaks, -padded_scores, is_empty_cell), axis=1)[:, :k]


def _rank_discount(rank: Ints, k: int) -> Floats:
    return np.where(rank <= k, 1.0 / np.log2(rank + 1.0), 0.0)


def _group_by_score(
    score: npt.NDArray[np.floating], label: npt.NDArray, weight: Floats
) -> tuple[Ints, Floats, Floats]:
    """Return the score group of each row, ascending, and positive and negative weight per group."""
    _, group = np.unique(score, return_inverse=True)
    positive_weight = sum_by_index(group, np.where(label > 0, weight, 0.0))
    negative_weight = sum_by_index(group, np.where(label > 0, 0.0, weight))
    return group, positive_weight, negative_weight


def divide(a: Floats, b: Floats) -> Floats:
    """Return a / b, NaN where b is 0."""
    return np.divide(a, b, out=np.full(np.shape(a), np.nan), where=b > 0)
