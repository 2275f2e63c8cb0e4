"""Load and evaluate what a new model must beat: the champion and the last winner."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b

import msgspec

from tailorbird.errors import BundleError
from tailorbird.features import FeatureSet
from tailorbird.lake import Lake
from tailorbird.ranking.bundle import Bundle
from tailorbird.ranking.own_models import code_digest, own_estimator_classes
from tailorbird.ranking.slot import Slot
from tailorbird.registry import Registry
from tailorbird.training.dataset.indexes import IndexSeries
from tailorbird.training.dataset.rows import TrainingData
from tailorbird.training.dataset.split import Split
from tailorbird.training.evaluation.estimate import ChampionEstimate, estimate_against_champion
from tailorbird.training.evaluation.evaluate import (
    Scorer,
    build_version_scorer,
    evaluate_scorers,
    explain_head_mismatch,
    merge_live_columns,
)
from tailorbird.training.evaluation.figures import Evaluation
from tailorbird.training.fit.fit import FittedModel
from tailorbird.training.fit.inputs import SplitDatasets
from tailorbird.training.settings import TrainSettings
from tailorbird.training.split_datasets import CandidatePlan
from tailorbird.training.stage_times import StageTimer

MODEL_NAME = "tailorbird"
# Settings that define how a model is made: neither its data nor the random draws.
RECIPE_SETTINGS = (
    "rows",
    "requests",
    "gbdt",
    "architecture",
    "retrieval",
    "tower",
    "position",
    "parameters",
    "leave_out",
    "preset",
    "shuffle",
)


def recipe_hash(features: FeatureSet, slot: Slot, settings: TrainSettings) -> str:
    """Return a hash of how a model is made; models with the same hash differ only in data."""
    recipe = {
        "schema": features.schema_hash,
        "slot": {
            name: repr(getattr(slot, name))
            for name in ("sources", "columns", "objective", "formula", "hide_seen", "rules")
        },
        "transforms": repr(features.transforms),
        "similarities": repr(features.similarities),
        "settings": {name: repr(getattr(settings, name)) for name in RECIPE_SETTINGS},
        **_own_recipe(settings),
    }
    return blake2b(msgspec.json.encode(recipe, order="sorted"), digest_size=8).hexdigest()


def _own_recipe(settings: TrainSettings) -> dict[str, str]:
    """Return which code of the project takes part in a training, if any does."""
    names = {*settings.challengers, settings.architecture} & set(own_estimator_classes())
    return {"models.py": f"{sorted(names)} {code_digest()}"} if names else {}


@dataclass(frozen=True)
class Rivals:
    """Registry bundles to compare with: the champion, and the last winner by superiority."""

    bundle_by_version: Mapping[str, Bundle]
    champion_version: str = ""
    anchor_version: str = ""


def load_rivals(
    registry: Registry, champion: Bundle | None, features: FeatureSet, slot: Slot
) -> Rivals:
    if champion is None:
        return Rivals({})
    anchor_version = str(champion.manifest.metrics.get("about", {}).get("anchor", ""))
    bundles = {champion.version: champion}
    path_by_version = {info.version: info.path for info in registry.versions()}
    if anchor_version and anchor_version != champion.version and anchor_version in path_by_version:
        try:
            anchor = Bundle.load(path_by_version[anchor_version], schema_hash=None)
        except BundleError:
            return Rivals(bundles, champion.version)
        is_readable = anchor.features is not None or anchor.schema_hash == features.schema_hash
        if is_readable and not explain_head_mismatch(anchor, slot):
            return Rivals(bundles | {anchor_version: anchor}, champion.version, anchor_version)
    return Rivals(bundles, champion.version)


def evaluate_rivals(
    training_data: TrainingData,
    features: FeatureSet,
    datasets: SplitDatasets,
    candidate_plan: CandidatePlan,
    index_series: IndexSeries,
    fitted_model: FittedModel,
    rivals: Rivals,
    slot: Slot,
    test_from: int,
    settings: TrainSettings,
    timer: StageTimer,
) -> Evaluation:
    """Evaluate the new model, its rivals and all baselines on the test part."""
    live_columns = merge_live_columns(
        [
            candidate_plan.live_columns,
            *(bundle.encoder.live_columns for bundle in rivals.bundle_by_version.values()),
        ]
    )
    scorers: dict[str, Scorer] = {
        MODEL_NAME: partial(
            fitted_model.score,
            index_series=index_series,
            objective=slot.objective,
            live_columns=live_columns,
        )
    }
    for version, bundle in rivals.bundle_by_version.items():
        scorers[version] = build_version_scorer(
            bundle=bundle,
            index_series=index_series,
            objective=slot.objective,
            live_columns=live_columns,
            features=features,
            events=training_data.events,
        )
    replay = candidate_plan.build_replay(
        training_data, features, live_columns, baselines=candidate_plan.baselines
    )
    return evaluate_scorers(
        training_data=training_data,
        features=features,
        test_data=datasets.test,
        replay=replay,
        source_limits=candidate_plan.source_limits,
        scorers=scorers,
        objective=slot.objective,
        as_of=test_from,
        seed=settings.seed,
        progress=timer.report,
    )


def estimate_off_policy(
    lake: Lake,
    training_data: TrainingData,
    features: FeatureSet,
    split: Split,
    candidate_plan: CandidatePlan,
    index_series: IndexSeries,
    fitted_model: FittedModel,
    rivals: Rivals,
    slot: Slot,
    settings: TrainSettings,
    timer: StageTimer,
) -> ChampionEstimate | None:
    """Estimate from the log what the new model and the champion earn; None without a champion."""
    champion = rivals.bundle_by_version.get(rivals.champion_version)
    if champion is None or not training_data.is_logged:
        return None
    live_columns = merge_live_columns([candidate_plan.live_columns, champion.encoder.live_columns])
    scorers: dict[str, Scorer] = {
        MODEL_NAME: partial(
            fitted_model.score,
            index_series=index_series,
            objective=slot.objective,
            live_columns=live_columns,
        ),
        champion.version: build_version_scorer(
            bundle=champion,
            index_series=index_series,
            objective=slot.objective,
            live_columns=live_columns,
            features=features,
            events=training_data.events,
        ),
    }
    timer.report("off-policy", 0, 1)
    estimate = estimate_against_champion(
        lake=lake,
        training_data=training_data,
        features=features,
        slot=slot,
        replay=candidate_plan.build_replay(training_data, features, live_columns),
        index_series=index_series,
        scorers=scorers,
        ts_from=max(split.validation_until, champion.manifest.window.ts_to),
        settings=settings,
    )
    timer.report("off-policy", 1, 1)
    return estimate


def load_champion(
    registry: Registry, features: FeatureSet, slot: Slot
) -> tuple[str, Bundle | None, str]:
    """Return the champion's version, its bundle if it can be evaluated, and else the reason.

    An index without a model is no champion.
    """
    path = registry.champion_folder()
    if path is None:
        return "", None, ""
    try:
        bundle = Bundle.load(path, schema_hash=None)
    except BundleError as error:
        return path.name, None, f"cannot be loaded: {error.message}"
    if not bundle.heads:
        return "", None, ""
    if bundle.schema_hash != features.schema_hash and bundle.features is None:
        return path.name, None, "has another schema, whose declarations it does not bring"
    mismatch = explain_head_mismatch(bundle, slot)
    return path.name, None if mismatch else bundle, mismatch
