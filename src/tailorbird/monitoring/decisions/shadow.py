"""Judge a version that scores in shadow: its scores, errors and latency beside the champion's."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import rankdata

SCORED_MIN = 500
ERRORS_MAX = 0.01
AGREEMENT_MIN = 0.0  # mean rank correlation; a version that turns the order round is refused
TIMED_MIN = 10  # answers with the times of both, from which they are compared
RESPONSE_COLUMNS = ("values", "shadow", "shadow_scores", "shadow_us", "champion_us", "latency_us")


@dataclass(frozen=True)
class ShadowVerdict:
    """The decision: `wait`, `pass` or `end`.

    Attributes:
        scored, failed, not_finite: numbers of responses.
        agreement: mean Spearman correlation with the champion's scores of the same items, over the
            answers in which both have more than one value.
        shadow_ms, champion_ms: median time that each took to score the same items.
    """

    action: str
    reason: str
    scored: int = 0
    failed: int = 0
    not_finite: int = 0
    agreement: float = float("nan")
    shadow_ms: float = float("nan")
    champion_ms: float = float("nan")


def judge_shadow(
    responses: pa.Table,
    version: str,
    *,
    is_overdue: bool,
    scored_min: int = SCORED_MIN,
    latency_factor: float = 1.5,
) -> ShadowVerdict:
    """Decide on a shadow.

    Args:
        responses: with `RESPONSE_COLUMNS`, since the shadow began.
        is_overdue: the time limit has passed.
        scored_min: number of scored responses from which it is judged.
        latency_factor: factor of the champion's latency that a canary may have. A shadow is ended
            if the shown items alone take so long: all candidates take longer.
    """
    scored = failed = not_finite = 0
    correlations: list[float] = []
    for champion_scores, shadow_version, scores in zip(
        *(responses[name].to_pylist() for name in RESPONSE_COLUMNS[:3]), strict=True
    ):
        if shadow_version != version:
            continue
        if not scores:
            failed += 1
            continue
        scored += 1
        shadow_scores = np.array(scores, np.float64)
        if not np.isfinite(shadow_scores).all():
            not_finite += 1
        elif champion_scores and len(champion_scores) == len(scores):
            correlations.append(
                _rank_correlation(np.array(champion_scores, np.float64), shadow_scores)
            )
    correlations = [correlation for correlation in correlations if not np.isnan(correlation)]
    agreement = float(np.mean(correlations)) if correlations else float("nan")
    shadow_ms, champion_ms, latency_ms = _median_times_ms(responses, version)
    details = (scored, failed, not_finite, agreement, shadow_ms, champion_ms)
    if not_finite:
        return ShadowVerdict(
            "end", f"{not_finite:,} answers had a score that is not finite", *details
        )
    if failed > 5 and failed > ERRORS_MAX * (scored + failed):
        return ShadowVerdict(
            "end", f"it failed {failed:,} of {scored + failed:,} answers", *details
        )
    if scored < scored_min:
        if not is_overdue:
            return ShadowVerdict("wait", f"{scored:,} of {scored_min:,} answers scored", *details)
        if not scored and responses.num_rows >= scored_min:
            reason = f"it scored none of {responses.num_rows:,} answers: servers refuse it"
            return ShadowVerdict("end", reason, *details)
    if agreement < AGREEMENT_MIN:
        reason = f"it turns the champion's order round: rank correlation {agreement:+.2f}"
        return ShadowVerdict("end", reason, *details)
    text = "" if np.isnan(agreement) else f", rank correlation with the champion {agreement:+.2f}"
    if not np.isnan(champion_ms):
        times_text = (
            f"{shadow_ms:.2f} ms for the items of an answer, the champion {champion_ms:.2f} ms"
        )
        if shadow_ms - champion_ms > (latency_factor - 1.0) * latency_ms:
            reason = f"it takes {times_text}; an answer takes {latency_ms:.2f} ms"
            return ShadowVerdict("end", reason, *details)
        text += f", {times_text}"
    return ShadowVerdict("pass", f"{scored:,} answers scored, {failed:,} failed{text}", *details)


def _median_times_ms(responses: pa.Table, version: str) -> tuple[float, float, float]:
    """Return the median milliseconds of shadow, champion and answer; NaN with too few.

    The answer's are without the time of the comparison itself.
    """
    version_responses = responses.filter(
        pc.fill_null(pc.equal(responses["shadow"], version), False)
    )
    shadow_us, champion_us, latency_us = (
        version_responses[name].fill_null(0).to_numpy()
        for name in ("shadow_us", "champion_us", "latency_us")
    )
    is_timed = champion_us > 0
    if is_timed.sum() < TIMED_MIN:
        return float("nan"), float("nan"), float("nan")
    response_only_us = latency_us - shadow_us - champion_us
    medians = [
        float(np.median(times[is_timed])) / 1_000
        for times in (shadow_us, champion_us, response_only_us)
    ]
    return medians[0], medians[1], medians[2]


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return Spearman's correlation with mid-ranks; NaN if either has one value or a NaN."""
    if np.ptp(a) > 0 and np.ptp(b) > 0:
        return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])
    return float("nan")
