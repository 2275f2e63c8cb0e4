"""A training's task, its fitted challenger, and what report and manifest say of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tailorbird.events import to_iso
from tailorbird.features import FeatureSet
from tailorbird.lake import Lake
from tailorbird.ranking.bundle import Bundle
from tailorbird.ranking.slot import Slot
from tailorbird.registry import Registry
from tailorbird.training.dataset.rows import TrainingData
from tailorbird.training.dataset.split import Split
from tailorbird.training.evaluation.estimate import ChampionEstimate
from tailorbird.training.evaluation.gate import Decision
from tailorbird.training.fit.fit import FittedModel
from tailorbird.training.fit.inputs import SplitDatasets
from tailorbird.training.fit.retrieval import RetrievalChoice
from tailorbird.training.fit.warm_trees import WarmTrees
from tailorbird.training.judgement import Judgement
from tailorbird.training.leakage.backdated import describe_backdated_profiles
from tailorbird.training.notes import (
    comparison_notes,
    describe_training,
    lake_provenance,
    other_slot_notes,
    tuning_notes,
)
from tailorbird.training.rivals import Rivals
from tailorbird.training.settings import TrainSettings
from tailorbird.training.split_datasets import CandidatePlan, sampling_notes
from tailorbird.training.stage_times import StageTimer


@dataclass(frozen=True)
class TrainingTask:
    """The request for a training, with the lake's version that it reads."""

    features: FeatureSet
    slot: Slot
    lake: Lake
    registry: Registry
    settings: TrainSettings
    extra_heads: Sequence[str]
    by: str
    owner: str
    started_at: int
    timer: StageTimer


@dataclass(frozen=True)
class Challenger:
    """A fitted model with the rows that it was fitted to, and the champion that it challenges.

    Attributes:
        champion_bundle: None if there is no champion, or `unevaluated_reason` says why it is not
            evaluated.
        dropped_requests: requests left out for want of memory.
        warm_trees: the trees that it went on from, if any.
    """

    champion_version: str
    champion_bundle: Bundle | None
    unevaluated_reason: str
    training_data: TrainingData
    split: Split
    retrieval: RetrievalChoice
    rivals: Rivals
    candidate_plan: CandidatePlan
    datasets: SplitDatasets
    dropped_requests: int
    fitted_model: FittedModel
    warm_trees: WarmTrees


def list_notes(
    task: TrainingTask,
    challenger: Challenger,
    estimate: ChampionEstimate | None,
    *,
    is_resumed: bool,
) -> tuple[str, ...]:
    """Return what a reader of the report should know: sources, samples, limits, comparisons."""
    test_from = challenger.split.validation_until
    retrieval = challenger.retrieval
    budget = task.settings.budget
    resumed_note = (
        f"went on with the training that was begun at {to_iso(task.started_at)} and cut short"
    )
    backdated = describe_backdated_profiles(task.lake, task.features, ("user",))
    return (
        challenger.training_data.source_note,
        *((resumed_note,) if is_resumed else ()),
        *((retrieval.summary,) if retrieval.summary else ()),
        *((budget["summary"],) if budget else ()),
        *tuning_notes(task.settings, test_from),
        *([challenger.warm_trees.summary] if challenger.warm_trees.summary else []),
        *sampling_notes(challenger.datasets, challenger.dropped_requests),
        *challenger.fitted_model.notes,
        *(f"{profile_kind}: {why}" for profile_kind, why in backdated),
        *other_slot_notes(
            challenger.fitted_model, task.slot, task.registry, challenger.champion_version
        ),
        *comparison_notes(
            challenger.champion_version,
            challenger.champion_bundle,
            challenger.unevaluated_reason,
            challenger.datasets.test,
            test_from,
        ),
        *((estimate.summary,) if estimate is not None else ()),
    )


def describe_challenger(
    task: TrainingTask, challenger: Challenger, judgement: Judgement, decision: Decision
) -> dict[str, Any]:
    """Return `about` of the bundle's manifest: data, recipe, decision, columns, provenance."""
    training_data = challenger.training_data
    settings = task.settings
    fitted_model = challenger.fitted_model
    retrieval = challenger.retrieval
    estimate = judgement.estimate
    return {
        **describe_training(
            slot=task.slot,
            training_data=training_data,
            all_requests=training_data.dataset,
            split=challenger.split,
            datasets=challenger.datasets,
            candidate_plan=challenger.candidate_plan,
            dropped_count=challenger.dropped_requests,
            settings=settings,
            now=task.started_at,
        ),
        **({"budget": dict(settings.budget)} if settings.budget else {}),
        "recipe": judgement.recipe_hash,
        "decided_by": decision.rule,
        "anchor": judgement.anchor_after(decision),
        "architecture": fitted_model.architecture,
        **(
            {"went_on_from": challenger.warm_trees.champion_version}
            if challenger.warm_trees.champion_version
            else {}
        ),
        "owner": task.owner,
        "columns": fitted_model.encoder.describe_columns(),
        "calibration": {
            head: choice.summary for head, choice in fitted_model.calibration_choices.items()
        },
        **({"retrieval": dict(retrieval.measurements)} if retrieval.measurements else {}),
        **({"off_policy": estimate.to_dict()} if estimate is not None else {}),
        **lake_provenance(task.lake, training_data.dataset),
    }
