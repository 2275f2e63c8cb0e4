"""Label-free AUC under covariate shift: the error of ours, and of NannyML's CBPE on the same rows.

People of another kind come, and the chance of a click given what is known of them stays. The model
misses a part of that chance, and is calibrated on rows of the old people by isotonic regression.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.isotonic import IsotonicRegression

from benchmarks.peers.asking import HERE, run_script
from benchmarks.peers.install import MONITORING
from benchmarks.quality.monitoring.diagnosis import share_with_interval
from benchmarks.quality.monitoring.runs import mean_with_interval
from tailorbird.monitoring.figures.label_free import encode_seen, expect_performance

Floats = npt.NDArray[np.float64]
CALIBRATION_ROWS, ROWS = 50_000, 10_000


@dataclass(frozen=True)
class ShiftedScores:
    """Calibrated probabilities and clicks, before the shift (reference) and after."""

    reference_p: Floats
    reference_y: Floats
    p: Floats
    y: Floats


def draw_shift(seed: int) -> ShiftedScores:
    """Draw a site whose people change."""
    rng = np.random.default_rng(seed)
    base, slope, bend = rng.uniform(-3.0, -1.5), rng.uniform(0.5, 1.5), rng.uniform(0.0, 0.6)
    hidden = rng.uniform(0.0, 0.5)

    def draw(count: int, mean: float, width: float) -> tuple[Floats, Floats]:
        known, unknown = rng.normal(mean, width, count), rng.normal(0.0, 1.0, count)
        logit = base + slope * known + bend * np.sin(2.0 * known) + hidden * unknown
        clicked = rng.random(count) < 1.0 / (1.0 + np.exp(-logit))
        return 1.0 / (1.0 + np.exp(-(base + slope * known))), clicked.astype(np.float64)

    raw, label = draw(CALIBRATION_ROWS, 0.0, 1.0)
    calibration = IsotonicRegression(out_of_bounds="clip").fit(raw, label)
    reference, reference_y = draw(CALIBRATION_ROWS, 0.0, 1.0)
    shifted, y = draw(ROWS, rng.uniform(-0.8, 0.8), rng.uniform(0.6, 1.2))
    return ShiftedScores(
        calibration.predict(reference), reference_y, calibration.predict(shifted), y
    )


def measure_label_free(first_seed: int, sites: int) -> dict[str, Any]:
    """Return the mean absolute error of the AUC, and how often the interval holds the AUC."""
    samples = [draw_shift(first_seed + number) for number in range(sites)]
    errors: list[float] = []
    errors_before_shift: list[float] = []
    covered_count = 0
    truths = [exact_auc(each.p, each.y) for each in samples]
    for each, truth in zip(samples, truths, strict=True):
        codes = encode_seen(each.p, each.y > 0)
        expected = expect_performance(codes, np.ones(len(codes)), float(each.p.sum()))
        errors.append(abs(expected.auc - truth))
        errors_before_shift.append(abs(exact_auc(each.reference_p, each.reference_y) - truth))
        covered_count += expected.auc_low <= truth <= expected.auc_high
    return {
        "error": mean_with_interval(errors),
        "coverage": share_with_interval(covered_count, sites),
        "error_before_shift": mean_with_interval(errors_before_shift),
        **peer_errors(samples, truths, errors),
    }


def exact_auc(score: Floats, label: Floats) -> float:
    """Return the area under the ROC curve; ties count by half."""
    from scipy.stats import rankdata

    positives = label.sum()
    won = rankdata(score)[label > 0].sum() - positives * (positives + 1) / 2
    return float(won / (positives * (len(label) - positives)))


def peer_errors(
    drawn: list[ShiftedScores], truths: list[float], errors: list[float]
) -> dict[str, Any]:
    """Return the mean absolute error of NannyML, and that of ours less it, site by site.

    Both have the cause instead where it does not run.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npz"
        np.savez(
            path,
            reference_p=np.stack([each.reference_p for each in drawn]),
            reference_y=np.stack([each.reference_y for each in drawn]),
            p=np.stack([each.p for each in drawn]),
        )
        try:
            areas = json.loads(run_script(HERE / "cbpe.py", path, MONITORING))
        except RuntimeError as error:
            missing = {"value": None, "n": 0, "cause": str(error)}
            return {"error_nannyml": missing, "difference": missing}
    peer_errors_by_site = [abs(area - truth) for area, truth in zip(areas, truths, strict=True)]
    return {
        "error_nannyml": mean_with_interval(peer_errors_by_site),
        "difference": mean_with_interval(
            [a - b for a, b in zip(errors, peer_errors_by_site, strict=True)]
        ),
    }
