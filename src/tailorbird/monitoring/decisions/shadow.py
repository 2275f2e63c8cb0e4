"""Judge a version that scores in shadow: its scores, errors and time beside the champion's."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

SCORED_MIN = 500
ERRORS_MAX = 0.01
AGREEMENT_MIN = 0.0  # mean rank correlation; a version that turns the order round is refused
COLUMNS = ("values", "shadow", "shadow_scores")


@dataclass(frozen=True)
class ShadowVerdict:
    """The decision: `wait`, `pass` or `end`.

    Attributes:
        scored, failed, not_finite: numbers of responses.
        agreement: mean Spearman correlation with the champion's scores of the same items.
    """

    action: str
    reason: str
    scored: int = 0
    failed: int = 0
    not_finite: int = 0
    agreement: float = float("nan")


def judge_shadow(
    answers: pa.Table, version: str, *, is_overdue: bool, scored_min: int = SCORED_MIN
) -> ShadowVerdict:
    """Decide on a shadow.

    Args:
        answers: with `COLUMNS`, since the shadow began.
        is_overdue: the time limit has passed.
        scored_min: number of scored responses from which it is judged.
    """
    scored = failed = not_finite = 0
    agreements = []
    for values, shadow, scores in zip(
        *(answers[name].to_pylist() for name in COLUMNS), strict=True
    ):
        if shadow != version:
            continue
        if not scores:
            failed += 1
            continue
        scored += 1
        mine = np.array(scores, np.float64)
        if not np.isfinite(mine).all():
            not_finite += 1
        elif values and len(values) == len(scores) > 1:
            agreements.append(_rank_correlation(np.array(values), mine))
    agreement = float(np.nanmean(agreements)) if agreements else float("nan")
    counts = (scored, failed, not_finite, agreement)
    if not_finite:
        return ShadowVerdict(
            "end", f"{not_finite:,} answers had a score that is not finite", *counts
        )
    if failed > 5 and failed > ERRORS_MAX * (scored + failed):
        return ShadowVerdict("end", f"it failed {failed:,} of {scored + failed:,} answers", *counts)
    if scored < scored_min:
        if not is_overdue:
            return ShadowVerdict("wait", f"{scored:,} of {scored_min:,} answers scored", *counts)
        if not scored and answers.num_rows >= scored_min:
            reason = f"it scored none of {answers.num_rows:,} answers: servers refuse it"
            return ShadowVerdict("end", reason, *counts)
    if agreement < AGREEMENT_MIN:
        reason = f"it turns the champion's order round: rank correlation {agreement:+.2f}"
        return ShadowVerdict("end", reason, *counts)
    text = "" if np.isnan(agreement) else f", rank correlation with the champion {agreement:+.2f}"
    return ShadowVerdict("pass", f"{scored:,} answers scored, {failed:,} failed{text}", *counts)


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    a_rank, b_rank = a.argsort().argsort(), b.argsort().argsort()
    return float(np.corrcoef(a_rank, b_rank)[0, 1])
