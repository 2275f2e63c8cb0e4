"""Validate a training: is it sound, and what is it worth, for whom, and by what?

At several origins in time, the model that training would fit (`training.backtests.model`) learns
from the past and is evaluated on what follows, with the baselines and with other ways of training
(`training.backtests.variants`). Leakage is checked first (`training.backtests.leaks`). Only the
report is kept; nothing is promoted. All metrics are NDCG@10 with the slot's formula over all
origins, with intervals over people.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from tailorbird.errors import UsageError
from tailorbird.events import Clock, to_iso
from tailorbird.features import FeatureSet
from tailorbird.lake import Lake
from tailorbird.ranking.slot import Slot
from tailorbird.storage_paths import StoragePath
from tailorbird.training.backtests.leaks import (
    Finding,
    find_backdated_imports,
    find_backdated_items,
    find_lookahead,
    find_repeated_events,
    find_target_leakage,
    findings_from_ranking,
)
from tailorbird.training.backtests.model import (
    TREES,
    build_fit_request,
    fit_model,
    resolve_settings,
)
from tailorbird.training.backtests.report import (
    OverfitGap,
    PartFigures,
    ValidationReport,
    holm_adjust,
)
from tailorbird.training.backtests.variants import Variant, build_variants
from tailorbird.training.dataset.completion import EvaluationRows
from tailorbird.training.evaluation import metrics
from tailorbird.training.evaluation.bootstrap import Interval
from tailorbird.training.evaluation.figures import PRIMARY_METRIC, Evaluation
from tailorbird.training.evaluation.judge import Evaluator, interaction_shares
from tailorbird.training.fit.architecture import allows_net
from tailorbird.training.settings import AUTO, Progress, TrainSettings
from tailorbird.training.tuning.architectures import CalibratedModel, FitRequest
from tailorbird.training.tuning.rows import (
    SegmentedRequests,
    describe_splits,
    encode_splits,
    segment_requests,
)
from tailorbird.training.tuning.splits import Split, SplitPart

Floats = npt.NDArray[np.float64]
FitOutput = TypeVar("FitOutput")

MODEL_NAME = "tailorbird"
OVERFIT_MIN = 0.1  # drop in AUC from training to holdout that counts as overfitting


@dataclass(frozen=True)
class ValidateSettings:
    """Settings of a validation.

    Attributes:
        train: the training that is validated.
        splits: number of origins.
        judged: maximum holdout requests of each origin.
        variants: whether to try other ways of training too, which takes most of the time.
        tuned_to: the slot's tuned architecture, if another one was requested.
    """

    train: TrainSettings = field(default_factory=TrainSettings)
    splits: int = 3
    judged: int = 6_000
    variants: bool = True
    seed: int = 7
    tuned_to: str = ""

    def __post_init__(self) -> None:
        for name in ("splits", "judged"):
            if getattr(self, name) < 1:
                raise UsageError(
                    f"expected at least 1, got {getattr(self, name)}", where=f"--{name}"
                )


def validate(
    features: FeatureSet,
    slot: Slot,
    *,
    lake: StoragePath,
    clock: Clock,
    settings: ValidateSettings = ValidateSettings(),
    signals: Mapping[str, Any] | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> ValidationReport:
    """Validate the training of a slot's model.

    Args:
        signals: results of an earlier `features rank` on the slot; its leaks are reported and
            its subset is tried.

    Raises:
        NotReadyError: there is too little data to evaluate each origin.
        UsageError: the architecture is unknown, not installed, or it diverged.
    """
    train_settings = settings.train.with_quick_applied()
    allows_nets = allows_net(train_settings)
    segmented_requests = segment_requests(
        features,
        slot,
        Lake(lake),
        clock.now(),
        settings.splits,
        train_settings,
        progress,
        include_test=True,
    )
    splits = encode_splits(
        segmented_requests,
        features,
        slot,
        train_settings,
        judged_max=settings.judged,
        progress=progress,
        uniform_holdout=True,
        for_nets=allows_nets,
    )
    progress("leaks", 0, 1)
    findings = [
        *_find_leaks(splits, segmented_requests, features, settings.seed),
        *find_backdated_imports(Lake(lake), features),
        *findings_from_ranking(signals or {}),
    ]
    progress("leaks", 1, 1)
    newest_split, _ = splits[-1]
    variants = _build_variants(newest_split, features, settings, signals or {})
    request = build_fit_request(train_settings, settings.seed)
    models, scores_by_origin, skipped_variants = _fit_origins_and_variants(
        splits, variants, request, progress
    )
    evaluation, overfit_gaps = _evaluate_origins(
        segmented_requests, splits, models, scores_by_origin, slot.objective, settings.seed
    )
    kind_by_variant = {variant.name: variant.kind for variant in variants}
    tests = holm_adjust(
        [
            (name, kind_by_variant.get(name, "baseline"), gain)
            for name, gain in evaluation.differences.items()
        ]
    )
    fitted_architectures = [model.model.architecture for model in models]
    findings += _find_overfit(overfit_gaps, is_net=fitted_architectures[-1] != TREES)
    substitution = _describe_substitution(train_settings.architecture, settings.tuned_to)
    notes = [
        segmented_requests.training_data.source_note,
        *_describe_auto_choice(
            train_settings.architecture, fitted_architectures, allows_nets=allows_nets
        ),
        *skipped_variants,
    ]
    about = describe_splits(segmented_requests, [split for split, _ in splits])
    about["splits"] = [
        {**split_summary, "architecture": name}
        for split_summary, name in zip(about["splits"], fitted_architectures, strict=True)
    ]
    about |= {
        "seed": settings.seed,
        "tuned": "; ".join(note for note in (train_settings.tuned, substitution) if note) or "no",
        "architecture": train_settings.architecture,
        "settings": {name: resolve_settings(name, request) for name in fitted_architectures},
    }
    return ValidationReport(
        slot.name,
        evaluation,
        tuple(tests),
        tuple(overfit_gaps),
        _build_learning_curve(evaluation),
        tuple(findings),
        tuple(notes),
        about,
        substitution,
    )


def _evaluate_origins(
    segmented_requests: SegmentedRequests,
    splits: Sequence[tuple[Split, EvaluationRows]],
    models: Sequence[CalibratedModel],
    scores_by_origin: Sequence[Mapping[str, Floats]],
    objective: Mapping[str, float],
    seed: int,
) -> tuple[Evaluation, list[OverfitGap]]:
    """Evaluate all models on the holdout requests of each origin, and measure overfitting."""
    history = segmented_requests.training_data.history
    evaluator = Evaluator(history, interaction_shares(history, 0), objective, seed=seed)
    overfit_gaps: list[OverfitGap] = []
    for origin_index, ((split, holdout), model) in enumerate(zip(splits, models, strict=True)):
        holdout_start = segmented_requests.borders[origin_index + 1]
        origin_label = f"from {to_iso(holdout_start)[:16]}"
        overfit_gaps += _measure_overfit_gaps(origin_label, split, model)
        evaluator.set_popularity(interaction_shares(history, holdout_start))
        evaluator.add(
            holdout.rows,
            {**scores_by_origin[origin_index], **holdout.baseline_values},
            model.predict_probabilities(split.holdout.matrix),
            holdout.slates,
            slice_name=origin_label,
        )
    return evaluator.build_evaluation(MODEL_NAME), overfit_gaps


def _fit_origins_and_variants(
    splits: Sequence[tuple[Split, EvaluationRows]],
    variants: Sequence[Variant],
    request: FitRequest,
    progress: Progress,
) -> tuple[list[CalibratedModel], list[dict[str, Floats]], list[str]]:
    """Fit the model of each origin, and score holdout rows with it and with each variant.

    Variants that could not be fitted at every origin are left out, with a note.
    """
    architecture = request.train_settings.architecture
    models = _fit_each_origin(
        architecture, splits, lambda split: fit_model(split, request), progress
    )
    scores_by_origin = [
        {MODEL_NAME: model.predict_values(split.holdout.matrix)}
        for model, (split, _) in zip(models, splits, strict=True)
    ]
    skipped_variants = []
    for variant in variants:
        label = (
            variant.name if variant.kind == "architecture" else f"{architecture}, {variant.name}"
        )
        fit_and_predict = variant.fit_and_predict
        variant_scores = _fit_each_origin(
            label, splits, lambda split, fit=fit_and_predict: fit(split, request), progress
        )
        complete_scores = [row_scores for row_scores in variant_scores if row_scores is not None]
        if len(complete_scores) < len(splits):  # it would be compared on other requests
            skipped_variants.append(
                f"{variant.name} was left out: too little to learn from, or it "
                "diverged, at some origin"
            )
            continue
        for origin_scores, row_scores in zip(scores_by_origin, complete_scores, strict=True):
            origin_scores[variant.name] = row_scores
    return models, scores_by_origin, skipped_variants


def _fit_each_origin(
    label: str,
    splits: Sequence[tuple[Split, EvaluationRows]],
    fit: Callable[[Split], FitOutput],
    progress: Progress,
) -> list[FitOutput]:
    """Return the output of a fit at each origin, reporting progress under a label."""
    outputs = []
    for origin_index, (split, _) in enumerate(splits):
        progress(label, origin_index, len(splits))
        outputs.append(fit(split))
    progress(label, len(splits), len(splits))
    return outputs


def _describe_substitution(architecture: str, tuned_to: str) -> str:
    return (
        f"All figures are of {architecture}, which was asked for, not of {tuned_to}, which "
        "the slot is tuned to"
        if tuned_to
        else ""
    )


def _describe_auto_choice(
    architecture: str, fitted_architectures: Sequence[str], *, allows_nets: bool
) -> list[str]:
    """Describe the choice of `auto`."""
    if architecture != AUTO:
        return []
    if not allows_nets:
        return [
            "auto took gbdt, as torch is not installed: pip install 'tailorbird[deep]' lets "
            "it try nets"
        ]
    return [f"auto took, by what each origin watched: {', '.join(fitted_architectures)}"]


def _find_leaks(
    splits: Sequence[tuple[Split, EvaluationRows]],
    segmented_requests: SegmentedRequests,
    features: FeatureSet,
    seed: int,
) -> list[Finding]:
    """Return suspected leaks in the largest split and in the log."""
    split, holdout = splits[-1]
    column_findings = [
        finding
        for head in split.objective
        for finding in find_target_leakage(
            split.names, split.train.matrix, split.train.labels[head], head
        )
    ]
    first_finding_by_subject = {
        column_finding.subject: column_finding for column_finding in reversed(column_findings)
    }
    unique_findings = list(reversed(first_finding_by_subject.values()))
    training_data = segmented_requests.training_data
    return [
        *unique_findings,
        *find_lookahead(training_data, holdout.rows, features, seed=seed),
        *find_backdated_items(training_data),
        *find_repeated_events(training_data.interactions_by_type, segmented_requests.borders[:-1]),
    ]


def _build_variants(
    split: Split, features: FeatureSet, settings: ValidateSettings, signals: Mapping[str, Any]
) -> list[Variant]:
    if not settings.variants:
        return []
    columns_to_keep = signals.get("subset", {}).get("keep", ())
    return build_variants(
        split.names,
        features,
        columns_to_keep,
        defaults=bool(settings.train.tuned),
        layout=split.layout,
    )


def _measure_overfit_gaps(origin: str, split: Split, model: CalibratedModel) -> list[OverfitGap]:
    overfit_gaps = []
    probabilities_of_parts: list[tuple[SplitPart, Mapping[str, Floats]]] = [
        (split.train, model.predict_probabilities(split.train.matrix)),
        (split.validation, model.predict_probabilities(split.served_matrix)),
        (split.holdout, model.predict_probabilities(split.holdout.matrix)),
    ]
    for head in split.objective:
        aucs = [
            metrics.auc(probabilities[head], part.labels[head], part.weight)
            for part, probabilities in probabilities_of_parts
        ]
        losses = [
            _weighted_mean(metrics.log_losses(probabilities[head], part.labels[head]), part.weight)
            for part, probabilities in probabilities_of_parts
        ]
        overfit_gaps.append(OverfitGap(origin, head, PartFigures(*aucs), PartFigures(*losses)))
    return overfit_gaps


def _weighted_mean(values: Floats, weights: Floats) -> float:
    """Return the weighted mean, NaN without weight.

    Weights are all zero if no source found the chosen items.
    """
    return float(np.average(values, weights=weights)) if weights.sum() > 0 else float("nan")


def _find_overfit(overfit_gaps: Sequence[OverfitGap], *, is_net: bool) -> list[Finding]:
    findings = []
    advice = (
        "more dropout or weight decay, fewer epochs"
        if is_net
        else "fewer leaves, more rows of a leaf"
    )
    for head in dict.fromkeys(gap.head for gap in overfit_gaps):
        head_gaps = [gap for gap in overfit_gaps if gap.head == head and np.isfinite(gap.overfit)]
        mean_overfit = float(np.mean([gap.overfit for gap in head_gaps])) if head_gaps else 0.0
        if mean_overfit > OVERFIT_MIN:
            auc_text = (
                f"{np.mean([gap.auc.train for gap in head_gaps]):.3f} on what it learned from, "
                f"{np.mean([gap.auc.holdout for gap in head_gaps]):.3f} later"
            )
            advice_text = f"{advice} or more data may help: tailorbird tune"
            findings.append(
                Finding("look", f"head {head}", f"over-fit: an AUC of {auc_text}; {advice_text}")
            )
    return findings


def _build_learning_curve(evaluation: Evaluation) -> dict[float, Interval]:
    from tailorbird.training.backtests.variants import TRAINING_SHARES, share_variant_name

    learning_curve = {
        share: evaluation.intervals[share_variant_name(share)][PRIMARY_METRIC]
        for share in TRAINING_SHARES
        if share_variant_name(share) in evaluation.intervals
    }
    model_interval = evaluation.intervals[MODEL_NAME][PRIMARY_METRIC]
    return {**learning_curve, 1.0: model_interval} if learning_curve else {}
