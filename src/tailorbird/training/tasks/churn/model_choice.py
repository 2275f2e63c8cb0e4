"""Choice of the models and calibrations of a cut, by the outcomes of earlier cuts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tailorbird.ranking.calibration import Calibration, Identity, fit_platt
from tailorbird.ranking.churn.bundle import to_log_odds
from tailorbird.training.evaluation.metrics import log_loss
from tailorbird.training.fit.calibrate import CalibrationChoice, choose_calibration
from tailorbird.training.tasks.churn.fit import BLEND, DIRECT_MODELS, HAZARD_MODELS, FittedModels
from tailorbird.training.tasks.churn.labels import Floats, Ints, Window

DEFAULT_ORDER = (
    BLEND,
    HAZARD_MODELS[0],
    HAZARD_MODELS[1],
    DIRECT_MODELS[0],
    DIRECT_MODELS[1],
)  # preference without evidence
VALIDATION_CUTS = 3  # later cuts that a choice needs

SCALE_BOUNDS = (0.5, 2.0)  # bounds for expected purchases; beyond them the model is wrong
UNCALIBRATED = CalibrationChoice(Identity(), {}, 0)  # uncalibrated


@dataclass(frozen=True)
class OriginScores:
    """Predictions made at an origin.

    Attributes:
        person: the scored people.
        raw_probabilities: candidate → P(gone), shape (n,), uncalibrated.
        purchases: candidate → expected purchases, uncalibrated; empty without a count model.
    """

    window: Window
    person: Ints
    raw_probabilities: Mapping[str, Floats]
    purchases: Mapping[str, Floats]


@dataclass(frozen=True)
class ModelChoice:
    """The model and calibration chosen on the cuts that were finished.

    Attributes:
        losses: candidate → mean log loss on those cuts after Platt scaling; see
            `choose_model`.
        scale: factor of the expected purchases.
        finished_count: number of finished cuts; with fewer than `VALIDATION_CUTS` no model is
            chosen.
        count_model: the model of expected purchases; "" without any.
        errors: candidate → mean absolute error of expected purchases on those cuts, after
            correcting their total; see `choose_count_model`.
    """

    model: str
    calibration: CalibrationChoice
    losses: Mapping[str, float]
    scale: float
    finished_count: int
    count_model: str = ""
    errors: Mapping[str, float] = field(default_factory=dict)

    @property
    def calibrator(self) -> Calibration:
        return self.calibration.calibration

    @property
    def uncalibrated_reason(self) -> str:
        """Explain why there was too little data to choose a calibration, or return ""."""
        if self.calibration.mean_losses:
            return ""
        return (
            f"{self.calibration.evaluated_periods} of the {VALIDATION_CUTS} origins that it takes "
            "had people enough and began when an earlier one was over"
        )

    @property
    def description(self) -> str:
        """One-line summary of the choice."""
        losses_text = ", ".join(
            f"{name} {loss:.4f}"
            for name, loss in sorted(self.losses.items(), key=lambda entry: entry[1])
        )
        evidence = f"by how well it told people apart at earlier origins (log loss): {losses_text}"
        if self.finished_count < VALIDATION_CUTS:
            evidence = (
                f"as {self.finished_count} of the {VALIDATION_CUTS} earlier origins that a choice "
                "takes were over"
            )
        calibration = (
            f"none, as {self.uncalibrated_reason}"
            if self.uncalibrated_reason
            else self.calibration.summary
        )
        return f"{self.model}, {evidence}; calibration {calibration}; {self._count_description}"

    @property
    def _count_description(self) -> str:
        if not self.count_model:
            return "no expected purchases"
        losses_text = ", ".join(
            f"{name} {error:.4f}"
            for name, error in sorted(self.errors.items(), key=lambda entry: entry[1])
        )
        evidence = (
            f" by mean absolute error, totals set right: {losses_text},"
            if self.finished_count >= VALIDATION_CUTS and len(self.errors) > 1
            else ""
        )
        return f"purchases of {self.count_model}{evidence} times {self.scale:.3f}"


@dataclass(frozen=True)
class Cut:
    """An origin whose outcome is known.

    Attributes:
        churned, bought: outcomes, shape (n,).
        probability: calibrated P(gone) of the chosen model; `purchases` likewise.
        baselines: name → P(gone).
        baseline_expected_purchases: count model → expected purchases.
        fitted: the models of the origin.
    """

    scores: OriginScores
    churned: npt.NDArray[np.bool_]
    bought: Floats
    choice: ModelChoice
    probability: Floats
    purchases: Floats | None
    baselines: Mapping[str, Floats]
    baseline_expected_purchases: Mapping[str, Floats]
    fitted: FittedModels
    frequency: Floats  # purchases before the origin
    # People merged into another user within gap and window are left out: their label is unknown.
    merged: int = 0


def choose_model(
    finished_cuts: Sequence[Cut],
    candidates: Sequence[str],
    window: Window,
    half_life: float,
    count_candidates: Sequence[str] = (),
) -> ModelChoice:
    """Choose the candidate with the lowest log loss on finished cuts, and its calibration.

    With fewer than `VALIDATION_CUTS` finished cuts nothing is chosen: the blend is used,
    uncalibrated, because one or two cuts are a season and no proof. Candidates are compared by
    their log loss after Platt scaling on the cut itself: a level that moves with the season is no
    merit of a candidate, and is left to the calibration.

    Args:
        half_life: age in windows at which a cut weighs half, as in training; 0 weighs all cuts
            the same.
        count_candidates: candidates for expected purchases, the default first.
    """
    default_name = next(name for name in DEFAULT_ORDER if name in candidates)
    if not finished_cuts:
        return ModelChoice(
            default_name, UNCALIBRATED, {}, 1.0, 0, count_candidates[0] if count_candidates else ""
        )
    ages = np.array(
        [(window.origin - cut.scores.window.origin) / window.length for cut in finished_cuts]
    )
    weights = 0.5 ** (ages / half_life) if half_life else np.ones(len(finished_cuts))
    comparable_names = [
        name
        for name in candidates
        if all(name in cut.scores.raw_probabilities for cut in finished_cuts)
    ]
    losses = {
        name: float(
            np.average([_discrimination_loss(cut, name) for cut in finished_cuts], weights=weights)
        )
        for name in comparable_names
    }
    model = (
        min(losses, key=lambda name: losses[name])
        if losses and len(finished_cuts) >= VALIDATION_CUTS
        else default_name
    )
    calibration = (
        _fit_calibration(finished_cuts, model, weights)
        if model in comparable_names
        else UNCALIBRATED
    )
    count_model, errors = choose_count_model(finished_cuts, count_candidates, weights)
    return ModelChoice(
        model,
        calibration,
        losses,
        _purchase_scale(finished_cuts, count_model),
        len(finished_cuts),
        count_model,
        errors,
    )


def choose_count_model(
    finished_cuts: Sequence[Cut], count_candidates: Sequence[str], weights: Floats
) -> tuple[str, dict[str, float]]:
    """Choose the model of expected purchases with the lowest error, and return all errors.

    With fewer than `VALIDATION_CUTS` cuts the default is used. Each candidate's total is corrected
    in each cut: if most people buy nothing, an absolute error prefers models that predict too
    little. The level is left to `_purchase_scale`.

    Args:
        weights: weight of each cut.
    """
    if not count_candidates:
        return "", {}
    comparable_names = [
        name
        for name in count_candidates
        if all(
            name in cut.scores.purchases and cut.scores.purchases[name].sum() > 0
            for cut in finished_cuts
        )
    ]
    errors = {
        name: float(np.average([_count_error(cut, name) for cut in finished_cuts], weights=weights))
        for name in comparable_names
    }
    return min(errors, key=lambda name: errors[name]) if errors and len(
        finished_cuts
    ) >= VALIDATION_CUTS else count_candidates[0], errors


def _count_error(cut: Cut, name: str) -> float:
    """Return the mean absolute error of purchase counts, after correcting their total."""
    expected = cut.scores.purchases[name]
    return float(np.abs(expected * (cut.bought.sum() / expected.sum()) - cut.bought).mean())


def _discrimination_loss(cut: Cut, name: str) -> float:
    """Return a candidate's log loss after Platt scaling on the cut itself."""
    logits = to_log_odds(cut.scores.raw_probabilities[name])
    scaled_probability = fit_platt(logits, cut.churned.astype(np.float64)).apply(logits)
    return log_loss(scaled_probability, cut.churned)


def _fit_calibration(finished_cuts: Sequence[Cut], name: str, weights: Floats) -> CalibrationChoice:
    """Return a candidate's calibration, or none if no cut began after another had finished."""
    cut_sizes = [len(cut.churned) for cut in finished_cuts]
    raw_probabilities = np.concatenate(
        [cut.scores.raw_probabilities[name] for cut in finished_cuts]
    )
    churned = np.concatenate([cut.churned for cut in finished_cuts])
    first_later_index = np.array([_find_first_later(finished_cuts, cut) for cut in finished_cuts])
    return choose_calibration(
        raw_probabilities,
        churned,
        np.repeat(np.arange(len(finished_cuts)), cut_sizes),
        np.repeat(weights, cut_sizes),
        label_period=np.repeat(first_later_index, cut_sizes),
        periods_min=VALIDATION_CUTS,
    )


def _find_first_later(finished_cuts: Sequence[Cut], cut: Cut) -> int:
    """Return the index of the first cut that begins when this one is finished."""
    return next(
        (
            k
            for k, later_cut in enumerate(finished_cuts)
            if later_cut.scores.window.origin >= cut.scores.window.stop
        ),
        len(finished_cuts),
    )


def _purchase_scale(finished_cuts: Sequence[Cut], count_model: str) -> float:
    """Return the factor for expected purchases.

    It is 1 unless scaling brought totals closer in enough later cuts.
    """
    usable_cuts = [
        cut
        for cut in finished_cuts
        if count_model in cut.scores.purchases
        and cut.scores.purchases[count_model].sum() > 0
        and cut.bought.sum() > 0
    ]
    ratios = [
        float(cut.bought.sum() / cut.scores.purchases[count_model].sum()) for cut in usable_cuts
    ]
    unscaled_errors = []
    scaled_errors = []
    for index, cut in enumerate(usable_cuts):
        earlier_ratios = [
            ratios[k]
            for k, earlier_cut in enumerate(usable_cuts)
            if earlier_cut.scores.window.stop <= cut.scores.window.origin
        ]
        if earlier_ratios:
            unscaled_errors.append(abs(1 / ratios[index] - 1))
            scaled_errors.append(abs(_bounded_geometric_mean(earlier_ratios) / ratios[index] - 1))
    return (
        _bounded_geometric_mean(ratios)
        if len(unscaled_errors) >= VALIDATION_CUTS
        and np.mean(scaled_errors) < np.mean(unscaled_errors)
        else 1.0
    )


def _bounded_geometric_mean(ratio: Sequence[float]) -> float:
    return float(np.clip(np.exp(np.mean(np.log(ratio))), *SCALE_BOUNDS))
