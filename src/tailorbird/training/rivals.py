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
from tailorbird.ranking.own_models import code_digest, own_families
from tailorbird.ranking.slot import Slot
from tailorbird.registry import Registry
from tailorbird.training.dataset.indexes import IndexSeries
from tailorbird.training.dataset.rows import TrainingData
from tailorbird.training.dataset.split import Split
from tailorbird.training.evaluation.estimate import ChampionEstimate, estimate_against_champion
from tailorbird.training.evaluation.evaluate import (
    Scorer,
    evaluate_scorers,
    explain_mismatch,
    merge_live_columns,
    version_scorer,
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
    names = {*settings.challengers, settings.architecture} & set(own_families())
    return {"models.py": f"{sorted(names)} {code_digest()}"} if names else {}


@dataclass(frozen=True)
class Rivals:
    """Registry bundles to compare with: the champion, and the last winner by superiority."""

    bundles: Mapping[str, Bundle]
    champion: str = ""
    anchor: str = ""


def load_rivals(
    registry: Registry, champion: Bundle | None, features: FeatureSet, slot: Slot
) -> Rivals:
    if champion is None:
        return Rivals({})
    anchor_version = str(champion.manifest.metrics.get("about", {}).get("anchor", ""))
    bundles = {champion.version: champion}
    paths = {info.version: info.path for info in registry.versions()}
    if anchor_version and anchor_version != champion.version and anchor_version in paths:
        try:
            anchor = Bundle.load(paths[anchor_version], schema_hash=None)
        except BundleError:
            return Rivals(bundles, champion.version)
        readable = anchor.features is not None or anchor.schema_hash == features.schema_hash
        if readable and not explain_mismatch(anchor, slot):
            return Rivals(bundles | {anchor_version: anchor}, champion.version, anchor_version)
    return Rivals(bundles, champion.version)


def evaluate_rivals(
    training_data: TrainingData,
    features: FeatureSet,
    parts: SplitDatasets,
    plan: CandidatePlan,
    index_series: IndexSeries,
    fitted: FittedModel,
    rivals: Rivals,
    slot: Slot,
    test_from: int,
    settings: TrainSettings,
    timer: StageTimer,
) -> Evaluation:
    """Evaluate the new model, its rivals and all baselines on the test part."""
    live_columns = merge_live_columns(
        [plan.live, *(bundle.encoder.live for bundle in rivals.bundles.values())]
    )
    scorers: dict[str, Scorer] = {
        MODEL_NAME: partial(
            fitted.score,
            index_series=index_series,
            objective=slot.objective,
            live_columns=live_columns,
        )
    }
    for version, bundle in rivals.bundles.items():
        scorers[version] = version_scorer(
            bundle, index_series, slot.objective, live_columns, features, training_data.events
        )
    replay = plan.replay(training_data, features, live_columns, baselines=plan.baselines)
    return evaluate_scorers(
        training_data,
        features,
        parts.test,
        replay,
        plan.sources,
        scorers,
        slot.objective,
        as_of=test_from,
        seed=settings.seed,
        progress=timer.report,
    )


def estimate_off_policy(
    lake: Lake,
    training_data: TrainingData,
    features: FeatureSet,
    split: Split,
    plan: CandidatePlan,
    index_series: IndexSeries,
    fitted: FittedModel,
    rivals: Rivals,
    slot: Slot,
    settings: TrainSettings,
    timer: StageTimer,
) -> ChampionEstimate | None:
    """Estimate from the log what the new model and the champion earn; None without a champion."""
    champion = rivals.bundles.get(rivals.champion)
    if champion is None or not training_data.is_logged:
        return None
    live_columns = merge_live_columns([plan.live, champion.encoder.live])
    scorers: dict[str, Scorer] = {
        MODEL_NAME: partial(
            fitted.score,
            index_series=index_series,
            objective=slot.objective,
            live_columns=live_columns,
        ),
        champion.version: version_scorer(
            champion, index_series, slot.objective, live_columns, features, training_data.events
        ),
    }
    timer.report("off-policy", 0, 1)
    estimate = estimate_against_champion(
        lake,
        training_data,
        features,
        slot,
        plan.replay(training_data, features, live_columns),
        index_series,
        scorers,
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
    path = registry.champion()
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
    why = explain_mismatch(bundle, slot)
    return path.name, None if why else bundle, why
