"""Notes of a training for its report and model card."""

from typing import Any

import numpy as np

from tailorbird.events import to_iso
from tailorbird.lake import Lake
from tailorbird.lake.delta.versions import to_manifest
from tailorbird.ranking.bundle import Bundle
from tailorbird.ranking.slot import Slot
from tailorbird.registry import Registry
from tailorbird.training.dataset.dataset import Dataset
from tailorbird.training.dataset.rows import TrainingData
from tailorbird.training.dataset.split import Split
from tailorbird.training.evaluation.gate import describe_unevaluated
from tailorbird.training.fit.fit import FittedModel
from tailorbird.training.fit.inputs import SplitDatasets
from tailorbird.training.settings import TrainSettings
from tailorbird.training.split_datasets import CandidatePlan


def lake_provenance(lake: Lake, dataset: Dataset) -> dict[str, Any]:
    """Return what the rows can be rebuilt from.

    `Lake(path, versions=versions.from_manifest(about["lake"]))` gives the same rows.
    """
    return {"lake": to_manifest(lake.versions or {}), "rows_digest": dataset.digest()}


def describe_training(
    slot: Slot,
    training_data: TrainingData,
    all_requests: Dataset,
    split: Split,
    datasets: SplitDatasets,
    candidate_plan: CandidatePlan,
    dropped_count: int,
    settings: TrainSettings,
    now: int,
) -> dict[str, Any]:
    """Return facts about the training for its report, as JSON."""
    borders = {
        "from": datasets.train.t[0],
        "train_until": split.train_until,
        "test_from": split.validation_until,
        "test_to": all_requests.t[-1],
    }
    return {
        "slot": slot.name,
        **({"arm": settings.arm} if settings.arm else {}),
        "objective": dict(slot.objective),
        "source": "logged answers" if training_data.is_logged else "what people chose",
        "sources": candidate_plan.source_limits,
        "live_columns": list(candidate_plan.live_columns.names),
        "scheme": dict(datasets.train.provenance),
        "window": {name: int(ts) for name, ts in borders.items()},
        "window_text": {name: to_iso(int(ts)) for name, ts in borders.items()},
        "requests": {
            "train": datasets.train.request_count,
            "validation": datasets.validation.request_count,
            "test": datasets.test.request_count,
        },
        "dropped": {
            "label window reaches over a border": split.dropped_count,
            "above the limit": dropped_count,
        },
        "items_as_of": to_iso(now),
        "seed": settings.seed,
        "shuffled": settings.shuffle,
        "tuned": settings.tuned or "no",
    }


def other_slot_notes(
    fitted_model: FittedModel, slot: Slot, registry: Registry, champion: str
) -> list[str]:
    """Describe what other slots gain and lose by this model, which is evaluated on this slot."""
    notes = []
    if gained_heads := [head for head in fitted_model.model_by_head if head not in slot.objective]:
        notes.append(
            f"carries {', '.join(gained_heads)} for other slots, learned from the rows of slot "
            f"{slot.name}; the gate does not look at it"
        )
    champion_heads = next(
        (info.heads for info in registry.versions() if info.version == champion), ()
    )
    if lost_heads := [head for head in champion_heads if head not in fitted_model.model_by_head]:
        notes.append(
            f"does not predict {', '.join(lost_heads)}, as the champion {champion} does: slots "
            "that ask for it would lose it"
        )
    return notes


def comparison_notes(
    champion: str,
    champion_bundle: Bundle | None,
    unevaluated_reason: str,
    test_data: Dataset,
    test_from: int,
) -> list[str]:
    """Describe caveats of the comparison with the champion."""
    if unevaluated_reason:
        return [describe_unevaluated(champion, unevaluated_reason)]
    if champion_bundle is None or champion_bundle.manifest.window.ts_to <= test_from:
        return []
    share = float(np.mean(test_data.t < champion_bundle.manifest.window.ts_to))
    return [
        f"the champion {champion_bundle.version} learned from {share:.0%} of the test requests, "
        "so the comparison favours it"
    ]


def tuning_notes(settings: TrainSettings, test_from: int) -> list[str]:
    """Describe whether settings were tuned, and whether tuning saw the test part."""
    if not settings.tuned:
        return []
    if settings.tuned_until <= test_from:
        return [settings.tuned]
    return [
        f"{settings.tuned}: this reaches into the test part, which begins at "
        f"{to_iso(test_from)}, so figures flatter the model"
    ]
