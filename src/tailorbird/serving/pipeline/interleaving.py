"""The ranking of one arm, and the slate that is drafted from those of two."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tailorbird.features import Rows
from tailorbird.ranking.bundle import Scores
from tailorbird.ranking.policy.interleaving import TeamDraft
from tailorbird.ranking.policy.policy import attribute_codes
from tailorbird.ranking.policy.slate_distribution import Slate
from tailorbird.ranking.reasons import Reason
from tailorbird.serving.pipeline.explain import select_rows
from tailorbird.serving.pipeline.record import reasons_for
from tailorbird.serving.pipeline.request import Candidates, Floats, Matrix, Request, RowIndices
from tailorbird.serving.pipeline.stages import Stages

DEPTH = 3  # items of each ranking that may be drafted, in sizes of the slate: quotas skip some


@dataclass(frozen=True)
class Ranking:
    """Candidates with the values that order them, shape (n,), and what the model read and said.

    Attributes:
        model_values: the values before those of the search are added.
        text_values: the values before boosts.
        live: live columns, if the model scored.
    """

    candidates: Candidates
    model_values: Floats
    text_values: Floats
    values: Floats
    rows: Rows | None = None
    scores: Scores | None = None
    live: Matrix | None = None

    def select(self, positions: RowIndices) -> "Ranking":
        """Return the candidates at some positions, in that order."""
        scores = self.scores
        if scores is not None:
            heads = {name: column[positions] for name, column in scores.heads.items()}
            scores = Scores(heads, scores.value[positions])
        return Ranking(
            self.candidates.select(positions),
            self.model_values[positions],
            self.text_values[positions],
            self.values[positions],
            None if self.rows is None else select_rows(self.rows, positions),
            scores,
            None if self.live is None else self.live[positions],
        )


def interleave(
    request: Request,
    arms: Sequence[Request],
    rankings: Sequence[Ranking],
    stages: Stages,
    size: int,
) -> tuple[Ranking, Slate, list[Reason]]:
    """Draft a slate from the best of both arms, with the values and reasons of each item's arm.

    Exploration of the slots is left out, so that the draft alone decides the propensities.
    """
    top_rankings, reasons = [], []
    for arm, ranking in zip(arms, rankings, strict=True):
        order, _ = stages.order(arm, ranking.candidates, ranking.values, size)
        drafted_ranking = ranking.select(order[: DEPTH * size])
        top_rankings.append(drafted_ranking)
        ranked_slate = Slate(
            np.arange(len(drafted_ranking.candidates)), np.ones(len(drafted_ranking.candidates))
        )
        reasons.append(
            reasons_for(
                arm, drafted_ranking.candidates, ranked_slate, is_ranked=ranking.scores is not None
            )
        )
        request.has_stale_features |= arm.has_stale_features
        request.contributed_counts = arm.contributed_counts | request.contributed_counts
    first, second = (ranking.candidates for ranking in top_rankings)
    all_candidates = first.concat(second.select(np.flatnonzero(~np.isin(second.keys, first.keys))))
    index_by_key = {key: number for number, key in enumerate(all_candidates.keys.tolist())}
    positions_of_second = np.array([index_by_key[key] for key in second.keys.tolist()], np.intp)
    limits = [
        (attribute_codes(request.index, all_candidates.rows, quota.by), quota.most)
        for quota in dict.fromkeys(quota for arm in arms for quota in arm.slot.all_quotas)
        if request.index is not None
    ]
    slate = stages.draft(TeamDraft(np.arange(len(first)), positions_of_second, size, limits))
    shown = all_candidates.select(slate.items)
    ranks = [
        {key: rank for rank, key in enumerate(candidates.keys.tolist())}
        for candidates in (first, second)
    ]
    item_owners = [
        (team if team >= 0 else int(key not in ranks[0]), key)
        for team, key in zip(slate.teams, shown.keys.tolist(), strict=True)
    ]
    picks = [(team, ranks[team][key]) for team, key in item_owners]
    model_values, text_values, values = (
        np.array([getattr(top_rankings[team], name)[rank] for team, rank in picks], np.float64)
        for name in ("model_values", "text_values", "values")
    )
    sources = [top_rankings[team].candidates.sources[rank] for team, rank in picks]
    shown = Candidates(shown.rows, shown.ids, shown.keys, sources, shown.scores)
    drafted = Ranking(shown, model_values, text_values, values)
    return drafted, slate, [reasons[team][rank] for team, rank in picks]
