"""The ranking of one arm, and the slate that is drafted from those of two."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tailorbird.ranking.policy.interleaving import TeamDraft
from tailorbird.ranking.policy.policy import attribute_codes
from tailorbird.ranking.policy.slate_distribution import Slate
from tailorbird.ranking.reasons import Reason
from tailorbird.serving.pipeline.record import reasons_for
from tailorbird.serving.pipeline.request import Ranking, Request
from tailorbird.serving.pipeline.stages import Stages

# Items of each ranking that may be drafted, in sizes of the slate, because quotas skip some.
DRAFT_DEPTH = 3


def interleave(
    request: Request,
    arm_requests: Sequence[Request],
    rankings: Sequence[Ranking],
    stages: Stages,
    size: int,
) -> tuple[Ranking, Slate, list[Reason]]:
    """Draft a slate from the best of both arms, with the values and reasons of each item's arm.

    Exploration of the slots is left out, so that the draft alone decides the propensities.
    """
    top_rankings = []
    reasons_per_team = []
    for arm_request, ranking in zip(arm_requests, rankings, strict=True):
        order, _ = stages.order_candidates(arm_request, ranking.candidates, ranking.values, size)
        top_ranking = ranking.select(order[: DRAFT_DEPTH * size])
        top_rankings.append(top_ranking)
        ranked_slate = Slate(
            np.arange(len(top_ranking.candidates)), np.ones(len(top_ranking.candidates))
        )
        reasons_per_team.append(
            reasons_for(
                arm_request,
                top_ranking.candidates,
                ranked_slate,
                is_ranked=ranking.scores is not None,
            )
        )
        request.has_stale_features |= arm_request.has_stale_features
        request.contributed_counts = arm_request.contributed_counts | request.contributed_counts
    first_candidates, second_candidates = (ranking.candidates for ranking in top_rankings)
    all_candidates = first_candidates.concat(
        second_candidates.select(
            np.flatnonzero(~np.isin(second_candidates.keys, first_candidates.keys))
        )
    )
    position_by_key = {key: position for position, key in enumerate(all_candidates.keys.tolist())}
    positions_of_second = np.array(
        [position_by_key[key] for key in second_candidates.keys.tolist()], np.intp
    )
    quota_limits = [
        (attribute_codes(request.index, all_candidates.rows, quota.by), quota.most)
        for quota in dict.fromkeys(
            quota for arm_request in arm_requests for quota in arm_request.slot.all_quotas
        )
        if request.index is not None
    ]
    slate = stages.draw_drafted_slate(
        TeamDraft(np.arange(len(first_candidates)), positions_of_second, size, quota_limits)
    )
    shown_candidates = all_candidates.select(slate.items)
    rank_by_key_per_team = [
        {key: rank for rank, key in enumerate(candidates.keys.tolist())}
        for candidates in (first_candidates, second_candidates)
    ]
    teams_and_keys = [
        (team if team >= 0 else int(key not in rank_by_key_per_team[0]), key)
        for team, key in zip(slate.teams, shown_candidates.keys.tolist(), strict=True)
    ]
    teams_and_ranks = [(team, rank_by_key_per_team[team][key]) for team, key in teams_and_keys]
    model_values, text_values, values = (
        np.array(
            [getattr(top_rankings[team], name)[rank] for team, rank in teams_and_ranks], np.float64
        )
        for name in ("model_values", "text_values", "values")
    )
    sources = [top_rankings[team].candidates.sources[rank] for team, rank in teams_and_ranks]
    drafted_ranking = Ranking(
        replace(shown_candidates, sources=sources), model_values, text_values, values
    )
    return drafted_ranking, slate, [reasons_per_team[team][rank] for team, rank in teams_and_ranks]
