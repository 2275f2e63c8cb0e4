"""Training pipeline: requests → split → candidates → features → heads → evaluation → gate.

Everything is split by time: heads learn from the first part, early stopping and calibration use the
second, and every figure is of the third. In all parts, candidates are those that servers would have
had at each request's time. If the gate rejects the model and no evaluated model serves yet, the
best baseline becomes the champion.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tailorbird import faults
from tailorbird.events import Clock
from tailorbird.features import FeatureSet
from tailorbird.lake import Lake
from tailorbird.ranking.baseline import default_baselines
from tailorbird.ranking.slot import Slot
from tailorbird.registry import Registry
from tailorbird.storage_paths import StoragePath
from tailorbird.training.baseline_bundle import serve_best_baseline
from tailorbird.training.bundle_files import write_model_bundle
from tailorbird.training.challenger import Challenger, TrainingTask, describe_challenger, list_notes
from tailorbird.training.dataset.replay import select_live_columns
from tailorbird.training.dataset.rows import load_training_data
from tailorbird.training.evaluation.gate import decide, describe_unevaluated
from tailorbird.training.fit.fit import fit
from tailorbird.training.fit.incremental import open_working_folder
from tailorbird.training.fit.resume import UnfinishedRun
from tailorbird.training.fit.warm_trees import find_warm_trees
from tailorbird.training.judgement import Judgement
from tailorbird.training.report.card import render_model_card
from tailorbird.training.rivals import (
    estimate_off_policy,
    evaluate_rivals,
    load_champion,
    load_rivals,
    recipe_hash,
)
from tailorbird.training.settings import Progress, TrainReport, TrainSettings
from tailorbird.training.split_datasets import (
    CandidatePlan,
    build_retrieval,
    build_split_datasets,
    split_requests,
)
from tailorbird.training.stage_times import StageTimer


def train(
    features: FeatureSet,
    slot: Slot,
    *,
    lake: StoragePath,
    registry: Path,
    clock: Clock,
    reports_folder: Path | None = None,
    settings: TrainSettings | None = None,
    extra_heads: Sequence[str] = (),
    by: str = "train",
    owner: str = "",
    promote: bool = True,
    working_folder: Path | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> TrainReport:
    """Train a model for a slot, evaluate it, and promote it if it passes the gate.

    Args:
        extra_heads: heads that other slots ask for. There is one champion for all slots, so it
            carries their heads too, learned from this slot's rows; they do not affect evaluation or
            gate. Heads with too few positives are left out, with a note.
        owner: who is responsible for the model; shown in its card.
        reports_folder: folder for a page with tables and charts, `VERSION.html`; None writes none.
        working_folder: folder that nets keep between trainings: state of a killed training, weights
            for the next one, logs.
        promote: False keeps the model without promoting it, whatever the gate decides.
        progress: called with (stage, done, total).

    Raises:
        NotReadyError: the lake has nothing to learn from yet.
        UsageError: the data cannot be split, or no row differs from another.
        LockedError: another process trains a net for this slot.
    """
    with open_working_folder(
        working_folder, features, slot, (settings or TrainSettings()).with_quick_applied(), clock
    ) as (unfinished_run, resolved_settings):
        task = TrainingTask(
            features=features,
            slot=slot,
            lake=Lake(lake).pin_versions(),  # data loaded during the training is for the next one
            registry=Registry(registry, clock=clock),
            settings=resolved_settings,
            extra_heads=extra_heads,
            by=by,
            owner=owner,
            started_at=clock.now() if unfinished_run is None else unfinished_run.started_at,
            timer=StageTimer(progress),
        )
        challenger = _fit_challenger(task)
        judgement = _judge_challenger(task, challenger)
        report = _publish_challenger(task, challenger, judgement, unfinished_run, promote=promote)
        if reports_folder is None:
            return report
        # Importing matplotlib takes half a second, so only reports do it.
        from tailorbird.training.report.report import write_report_with_costs

        return write_report_with_costs(
            report,
            challenger.fitted_model,
            challenger.champion_bundle,
            len(challenger.training_data.item_vocabulary),
            reports_folder,
        )


def _fit_challenger(task: TrainingTask) -> Challenger:
    """Read the log, split it, compute candidates and features, and fit the heads."""
    features = task.features
    slot = task.slot
    settings = task.settings
    timer = task.timer
    timer.report("read", 0, 1)
    champion_version, champion_bundle, unevaluated_reason = load_champion(
        task.registry, features, slot
    )
    other_features = (
        [champion_bundle.features]
        if champion_bundle is not None and champion_bundle.features is not None
        else []
    )
    row_settings = settings.row_settings(task.started_at, task.extra_heads)
    training_data = load_training_data(
        task.lake, features, slot, row_settings, other_features=other_features
    )
    split = split_requests(training_data.dataset, training_data, settings)
    recipe = recipe_hash(features, slot, settings)
    warm_trees = find_warm_trees(
        settings=settings,
        recipe=recipe,
        champion=champion_bundle,
        features=features,
        registry=task.registry,
        training_data=training_data,
        split=split,
    )
    split, index_parts = warm_trees.restrict_split(
        split, training_data.dataset, settings.index_parts
    )
    timer.report("read", 1, 1)
    index_settings = replace(settings, index_parts=index_parts)
    retrieval = build_retrieval(
        training_data=training_data,
        features=features,
        slot=slot,
        split=split,
        settings=index_settings,
        timer=timer,
        champion_share=warm_trees.vector_share,
    )
    rivals = load_rivals(task.registry, champion_bundle, features, slot)
    candidate_plan = CandidatePlan(
        select_live_columns(features, slot), default_baselines(slot.sources), retrieval, slot
    )
    datasets, dropped_requests = build_split_datasets(
        training_data=training_data,
        features=features,
        data=training_data.dataset,
        split=split,
        candidate_plan=candidate_plan,
        settings=settings,
        timer=timer,
    )
    fitted_model = fit(
        training_data.events,
        features,
        datasets,
        retrieval.index_series,
        slot.objective,
        settings,
        with_positions=training_data.is_logged and slot.denominator == "answer",
        label_window_us=training_data.label_window_us,
        progress=timer.report,
        extra_heads=task.extra_heads,
        warm_trees=warm_trees,
    )
    return Challenger(
        champion_version=champion_version,
        champion_bundle=champion_bundle,
        unevaluated_reason=unevaluated_reason,
        training_data=training_data,
        split=split,
        retrieval=retrieval,
        rivals=rivals,
        candidate_plan=candidate_plan,
        datasets=datasets,
        dropped_requests=dropped_requests,
        fitted_model=fitted_model,
        warm_trees=warm_trees,
    )


def _judge_challenger(task: TrainingTask, challenger: Challenger) -> Judgement:
    """Evaluate the model beside its rivals, and let the gate decide."""
    features = task.features
    slot = task.slot
    settings = task.settings
    timer = task.timer
    index_series = challenger.retrieval.index_series
    evaluation = evaluate_rivals(
        training_data=challenger.training_data,
        features=features,
        datasets=challenger.datasets,
        candidate_plan=challenger.candidate_plan,
        index_series=index_series,
        fitted_model=challenger.fitted_model,
        rivals=challenger.rivals,
        slot=slot,
        test_from=challenger.split.validation_until,
        settings=settings,
        timer=timer,
    )
    estimate = estimate_off_policy(
        lake=task.lake,
        training_data=challenger.training_data,
        features=features,
        split=challenger.split,
        candidate_plan=challenger.candidate_plan,
        index_series=index_series,
        fitted_model=challenger.fitted_model,
        rivals=challenger.rivals,
        slot=slot,
        settings=settings,
        timer=timer,
    )
    return Judgement(
        evaluation,
        challenger.fitted_model,
        challenger.champion_version if challenger.champion_bundle is not None else "",
        describe_unevaluated(challenger.champion_version, challenger.unevaluated_reason)
        if challenger.unevaluated_reason
        else "",
        challenger.rivals,
        recipe_hash(features, slot, settings),
        estimate,
    )


def _publish_challenger(
    task: TrainingTask,
    challenger: Challenger,
    judgement: Judgement,
    unfinished_run: UnfinishedRun | None,
    *,
    promote: bool,
) -> TrainReport:
    """Add the bundle to the registry, and promote it or the best baseline if the gate says so."""
    registry = task.registry
    timer = task.timer
    evaluation = judgement.evaluation
    decision = decide(judgement.evidence())
    is_resumed = unfinished_run is not None and unfinished_run.is_resumed
    all_notes = list_notes(task, challenger, judgement.estimate, is_resumed=is_resumed)
    notes = tuple(note for note in all_notes if note not in decision.reasons)
    about = describe_challenger(task, challenger, judgement, decision)
    timer.report("bundle", 0, 1)
    card = render_model_card(
        slot=task.slot,
        evaluation=evaluation,
        decision=decision,
        about=about,
        notes=notes,
        by=task.by,
    )
    with tempfile.TemporaryDirectory(prefix="tailorbird-bundle-") as folder:
        write_model_bundle(
            folder=Path(folder),
            training_data=challenger.training_data,
            features=task.features,
            fitted_model=challenger.fitted_model,
            retrieval=challenger.retrieval,
            slot=task.slot,
            settings=task.settings,
            now=task.started_at,
            about=about,
            evaluation=evaluation,
            decision=decision,
            card=card,
        )
        faults.fire_if_armed("train.before_add")
        version = registry.add(Path(folder) / "bundle", by=task.by, why=decision.reason)
    faults.fire_if_armed("train.after_add")
    if unfinished_run is not None:
        unfinished_run.discard()
    fallback_version = ""
    if decision.is_accepted and promote:
        registry.promote(version, by=task.by, why=decision.reason)
    elif promote:
        fallback_version = serve_best_baseline(
            model_registry=registry,
            evaluation=evaluation,
            features=task.features,
            slot=task.slot,
            training_data=challenger.training_data,
            now=task.started_at,
            by=task.by,
            owner=task.owner,
            meaning=task.settings.meaning,
        )
    timer.report("bundle", 1, 1)
    datasets = challenger.datasets
    return TrainReport(
        version=version,
        promoted=decision.is_accepted and promote,
        champion=challenger.champion_version,
        decision=decision,
        evaluation=evaluation,
        row_counts={
            "train": datasets.train.row_count,
            "validation": datasets.validation.row_count,
            "test": evaluation.row_count,
        },
        heads=tuple(challenger.fitted_model.model_by_head),
        notes=notes,
        about=about,
        stage_seconds=timer.stage_seconds,
        fallback_version=fallback_version,
    )
