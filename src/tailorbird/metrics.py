"""Metrics of ranked lists and of probabilities, as evaluations compute them.

lists = tb.metrics.rank_lists(score, gain, offsets)
tb.metrics.ndcg(lists).mean()
"""

from tailorbird.training.evaluation.metrics import (
    RankedLists,
    auc,
    coverage,
    hit_rate,
    list_auc,
    log_loss,
    ndcg,
    novelty,
    rank_lists,
    recall,
    reciprocal_rank,
)

__all__ = [
    "RankedLists",
    "auc",
    "coverage",
    "hit_rate",
    "list_auc",
    "log_loss",
    "ndcg",
    "novelty",
    "rank_lists",
    "recall",
    "reciprocal_rank",
]
