"""Training pipeline: requests → split → candidates → features → heads → evaluation → gate.

Everything is split by time: heads learn from the first part, early stopping and calibration use the
second, and every figure is of the third. In all parts, candidates are those that servers would have
had at each request's time. If the gate rejects the model and no evaluated model serves yet, the
best baseline becomes the champion.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tailorbird import faults
from tailorbird.events import Clock, to_iso
from tailorbird.features import FeatureSet
from tailorbird.lake import Lake
from tailorbird.ranking.baseline import default_baselines
from tailorbird.ranking.bundle import Bundle
from tailorbird.ranking.slot import Slot
from tailorbird.registry import Registry
from tailorbird.storage_paths import StoragePath
from tailorbird.training.baseline_bundle import serve_best_baseline
from tailorbird.training.bundle_files import write_model_bundle
from tailorbird.training.dataset.replay import select_live_columns
from tailorbird.training.dataset.rows import TrainingData, load_training_data
from tailorbird.training.dataset.split import Split
from tailorbird.training.evaluation.estimate import ChampionEstimate
from tailorbird.training.evaluation.gate import Decision, decide, describe_unevaluated
from tailorbird.training.fit.fit import FittedModel, fit
from tailorbird.training.fit.incremental import open_working_folder
from tailorbird.training.fit.inputs import SplitDatasets
from tailorbird.training.fit.resume import UnfinishedRun
from tailorbird.training.fit.retrieval import RetrievalChoice
from tailorbird.training.fit.warm_trees import WarmTrees, find_warm_trees
from tailorbird.training.judgement import Judgement
from tailorbird.training.leakage.backdated import describe_backdated_profiles
from tailorbird.training.notes import (
    comparison_notes,
    describe_training,
    lake_provenance,
    other_slot_notes,
    tuning_notes,
)
from tailorbird.training.report.card import render_model_card
from tailorbird.training.rivals import (
    Rivals,
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
    sampling_notes,
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
    reports: Path | None = None,
    settings: TrainSettings | None = None,
    heads: Sequence[str] = (),
    by: str = "train",
    owner: str = "",
    promote: bool = True,
    working_folder: Path | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> TrainReport:
    """Train a model for a slot, evaluate it, and promote it if it passes the gate.

    Args:
        heads: heads that other slots ask for. There is one champion for all slots, so it carries
            their heads too, learned from this slot's rows; they do not affect evaluation or gate.
            Heads with too few positives are left out, with a note.
        owner: who is responsible for the model; shown in its card.
        reports: folder for a page with tables and charts, `VERSION.html`; None writes none.
        working_folder: folder that nets keep between trainings: state of a killed training, weights for the
            next one, logs.
        promote: False keeps the model without promoting it, whatever the gate decides.
        progress: called with (stage, done, total).

    Raises:
        NotReadyError: the lake has nothing to learn from yet.
        UsageError: the data cannot be split, or no row differs from another.
        LockedError: another process trains a net for this slot.
    """
    with open_working_folder(
        working_folder, features, slot, (settings or TrainSettings()).resolve_quick(), clock
    ) as (unfinished, resolved):
        task = _Task(
            features,
            slot,
            Lake(lake).pinned(),  # data loaded during the training is for the next one
            Registry(registry, clock=clock),
            resolved,
            heads,
            by,
            owner,
            clock.now() if unfinished is None else unfinished.started_at,
            StageTimer(progress),
        )
        model = _fit(task)
        judgement = _judge(task, model)
        report = _publish(task, model, judgement, unfinished, promote=promote)
        if reports is None:
            return report
        # Importing matplotlib takes half a second, so only reports do it.
        from tailorbird.training.report.report import write_report_with_costs

        return write_report_with_costs(
            report,
            model.fitted,
            model.champion_bundle,
            len(model.training_data.item_codes),
            reports,
        )


@dataclass(frozen=True)
class _Task:
    """The request for a training, with the lake's version that it reads."""

    features: FeatureSet
    slot: Slot
    lake: Lake
    registry: Registry
    settings: TrainSettings
    heads: Sequence[str]
    by: str
    owner: str
    now: int
    timer: StageTimer


@dataclass(frozen=True)
class _Model:
    """A fitted model with the rows that it was fitted to, and the champion that it challenges.

    Attributes:
        champion_bundle: None if there is no champion, or `unjudged_reason` says why it is not
            evaluated.
        dropped_requests: requests left out for want of memory.
        warm_trees: the trees that it went on from, if any.
    """

    champion: str
    champion_bundle: Bundle | None
    unjudged_reason: str
    training_data: TrainingData
    split: Split
    retrieval: RetrievalChoice
    rivals: Rivals
    plan: CandidatePlan
    parts: SplitDatasets
    dropped_requests: int
    fitted: FittedModel
    warm_trees: WarmTrees


def _fit(task: _Task) -> _Model:
    """Read the log, split it, compute candidates and features, and fit the heads."""
    features, slot, settings, timer = task.features, task.slot, task.settings, task.timer
    timer.report("read", 0, 1)
    champion, champion_bundle, unjudged_reason = load_champion(task.registry, features, slot)
    other_features = (
        [champion_bundle.features]
        if champion_bundle is not None and champion_bundle.features is not None
        else []
    )
    rows = settings.row_settings(task.now, task.heads)
    training_data = load_training_data(
        task.lake, features, slot, rows, other_features=other_features
    )
    split = split_requests(training_data.data, training_data, settings)
    recipe = recipe_hash(features, slot, settings)
    warm_trees = find_warm_trees(
        settings, recipe, champion_bundle, features, task.registry, training_data, split
    )
    split, index_parts = warm_trees.restrict(split, training_data.data, settings.index_parts)
    timer.report("read", 1, 1)
    indexed = replace(settings, index_parts=index_parts)
    retrieval = build_retrieval(
        training_data, features, slot, split, indexed, timer, kept_share=warm_trees.share
    )
    rivals = load_rivals(task.registry, champion_bundle, features, slot)
    plan = CandidatePlan(
        select_live_columns(features, slot), default_baselines(slot.sources), retrieval, slot
    )
    parts, dropped_requests = build_split_datasets(
        training_data, features, training_data.data, split, plan, settings, timer
    )
    fitted = fit(
        training_data.events,
        features,
        parts,
        retrieval.series,
        slot.objective,
        settings,
        position=training_data.is_logged and slot.denominator == "answer",
        label_window=training_data.label_window,
        progress=timer.report,
        heads=task.heads,
        warm_trees=warm_trees,
    )
    champion_facts = champion, champion_bundle, unjudged_reason
    candidates = retrieval, rivals, plan
    return _Model(
        *champion_facts,
        training_data,
        split,
        *candidates,
        parts,
        dropped_requests,
        fitted,
        warm_trees,
    )


def _judge(task: _Task, model: _Model) -> Judgement:
    """Evaluate the model beside its rivals, and let the gate decide."""
    features, slot, settings, timer = task.features, task.slot, task.settings, task.timer
    series = model.retrieval.series
    evaluation = evaluate_rivals(
        model.training_data,
        features,
        model.parts,
        model.plan,
        series,
        model.fitted,
        model.rivals,
        slot,
        model.split.validation_until,
        settings,
        timer,
    )
    estimate = estimate_off_policy(
        task.lake,
        model.training_data,
        features,
        model.split,
        model.plan,
        series,
        model.fitted,
        model.rivals,
        slot,
        settings,
        timer,
    )
    return Judgement(
        evaluation,
        model.fitted,
        model.champion if model.champion_bundle is not None else "",
        describe_unevaluated(model.champion, model.unjudged_reason)
        if model.unjudged_reason
        else "",
        model.rivals,
        recipe_hash(features, slot, settings),
        estimate,
    )


def _publish(
    task: _Task,
    model: _Model,
    judgement: Judgement,
    unfinished: UnfinishedRun | None,
    *,
    promote: bool,
) -> TrainReport:
    """Add the bundle to the registry, and promote it or the best baseline if the gate says so."""
    registry, timer, evaluation = task.registry, task.timer, judgement.evaluation
    decision = decide(judgement.evidence())
    is_resumed = unfinished is not None and unfinished.is_resumed
    all_notes = _list_notes(task, model, judgement.estimate, is_resumed=is_resumed)
    notes = tuple(note for note in all_notes if note not in decision.reasons)
    about = _describe(task, model, judgement, decision)
    timer.report("bundle", 0, 1)
    card = render_model_card(task.slot, evaluation, decision, about, notes, task.by)
    with tempfile.TemporaryDirectory(prefix="tailorbird-bundle-") as folder:
        write_model_bundle(
            Path(folder),
            model.training_data,
            task.features,
            model.fitted,
            model.retrieval,
            task.slot,
            task.settings,
            task.now,
            about,
            evaluation,
            decision,
            card,
        )
        faults.at("train.before_add")
        version = registry.add(Path(folder) / "bundle", by=task.by, why=decision.reason)
    faults.at("train.after_add")
    if unfinished is not None:
        unfinished.discard()
    fallback_version = ""
    if decision.promote and promote:
        registry.promote(version, by=task.by, why=decision.reason)
    elif promote:
        fallback_version = serve_best_baseline(
            registry,
            evaluation,
            task.features,
            task.slot,
            model.training_data,
            task.now,
            by=task.by,
            owner=task.owner,
            meaning=task.settings.meaning,
        )
    timer.report("bundle", 1, 1)
    parts = model.parts
    return TrainReport(
        version,
        decision.promote and promote,
        model.champion,
        decision,
        evaluation,
        {"train": parts.train.rows, "validation": parts.validation.rows, "test": evaluation.rows},
        tuple(model.fitted.models),
        notes,
        about,
        timer.seconds,
        fallback_version=fallback_version,
    )


def _list_notes(
    task: _Task, model: _Model, estimate: ChampionEstimate | None, *, is_resumed: bool
) -> tuple[str, ...]:
    """Return what a reader of the report should know: sources, samples, limits, comparisons."""
    test_from, retrieval = model.split.validation_until, model.retrieval
    budget = task.settings.budget
    resumed_note = f"went on with the training that was begun at {to_iso(task.now)} and cut short"
    backdated = describe_backdated_profiles(task.lake, task.features, ("user",))
    return (
        model.training_data.source_note,
        *((resumed_note,) if is_resumed else ()),
        *((retrieval.summary,) if retrieval.summary else ()),
        *((budget["summary"],) if budget else ()),
        *tuning_notes(task.settings, test_from),
        *([model.warm_trees.summary] if model.warm_trees.summary else []),
        *sampling_notes(model.parts, model.dropped_requests),
        *model.fitted.notes,
        *(f"{profile_kind}: {why}" for profile_kind, why in backdated),
        *other_slot_notes(model.fitted, task.slot, task.registry, model.champion),
        *comparison_notes(
            model.champion,
            model.champion_bundle,
            model.unjudged_reason,
            model.parts.test,
            test_from,
        ),
        *((estimate.summary,) if estimate is not None else ()),
    )


def _describe(
    task: _Task, model: _Model, judgement: Judgement, decision: Decision
) -> dict[str, Any]:
    """Return `about` of the bundle's manifest: data, recipe, decision, columns, provenance."""
    training_data, settings, fitted = model.training_data, task.settings, model.fitted
    retrieval, estimate = model.retrieval, judgement.estimate
    return {
        **describe_training(
            task.slot,
            training_data,
            training_data.data,
            model.split,
            model.parts,
            model.plan,
            model.dropped_requests,
            settings,
            task.now,
        ),
        **({"budget": dict(settings.budget)} if settings.budget else {}),
        "recipe": judgement.recipe,
        "decided_by": decision.by,
        "anchor": judgement.anchor_after(decision),
        "architecture": fitted.architecture,
        **({"went_on_from": model.warm_trees.version} if model.warm_trees.version else {}),
        "owner": task.owner,
        "columns": fitted.encoder.describe_columns(),
        "calibration": {
            head: choice.summary for head, choice in fitted.calibration_choices.items()
        },
        **({"retrieval": dict(retrieval.figures)} if retrieval.figures else {}),
        **({"off_policy": estimate.to_dict()} if estimate is not None else {}),
        **lake_provenance(task.lake, training_data.data),
    }
