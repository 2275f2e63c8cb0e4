"""Go on from the champion's trees: add trees that learn from the newest rows.

The encoder stays, so that the columns mean the same. As for nets, the rows are those since the end
of the champion's training part, and as many before them; only their candidates and features are
computed, which is most of a training's time. The bundle of the champion has the boosters.

A champion's vectors are not kept: they know the clicks of these rows. They are learned anew, as of
each index, by the same recipe. The trees read two numbers of them, a log of a chance and a cosine,
which mean the same in every such space; in a training from scratch too, rows have several. Whether
vectors are used, and for how many candidates, stays as the champion has it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from lightgbm import Booster

from tailorbird.events import to_iso
from tailorbird.features import FeatureSet
from tailorbird.ranking.bundle import Bundle
from tailorbird.ranking.encode.encoder import Encoder
from tailorbird.ranking.encode.steps import TargetEncoding
from tailorbird.registry import Registry, read_sealed
from tailorbird.training.dataset.dataset import Dataset
from tailorbird.training.dataset.rows import TrainingData
from tailorbird.training.dataset.split import Split
from tailorbird.training.fit.towers import explain_missing_tower
from tailorbird.training.settings import CONTINUATION, NO_CONTINUATION, TrainSettings

BOOSTERS_FOLDER = "boosters"  # folder of a bundle: HEAD.txt, as LightGBM writes it
POSITIVES_MIN = 30  # positives of a head in the training part; heads with fewer are left out


@dataclass(frozen=True)
class WarmTrees:
    """Trees to go on from; without a version a training from scratch.

    Attributes:
        rows_since: rows before this time are left out, microseconds.
        vector_share: share of the candidates that the champion gets by vectors, 0 without vectors;
            None for a training from scratch, which chooses it.
        summary: sentence for the report, "" if that was not asked for.
    """

    champion_version: str = ""
    encoder: Encoder | None = None
    boosters: Mapping[str, Booster] = field(default_factory=dict)
    rows_since: int = 0
    vector_share: float | None = None
    summary: str = ""

    def restrict_split(self, split: Split, data: Dataset, index_parts: int) -> tuple[Split, int]:
        """Return the split with the newest rows of the training part alone, and its index parts.

        There are as many indexes for a time as from scratch.
        """
        newest_requests = split.train[data.t[split.train] >= self.rows_since]
        newest_index_parts = math.ceil(index_parts * len(newest_requests) / len(split.train))
        return replace(split, train=newest_requests), newest_index_parts


FROM_SCRATCH = WarmTrees()


def find_warm_trees(
    settings: TrainSettings,
    recipe: str,
    champion: Bundle | None,
    features: FeatureSet,
    registry: Registry,
    training_data: TrainingData,
    split: Split,
) -> WarmTrees:
    """Return the champion's trees if the settings ask to go on from them and they fit."""
    if not settings.incremental or settings.architecture != "gbdt":
        return FROM_SCRATCH
    mismatch = _explain_mismatch(settings, recipe, champion, features, training_data)
    trees_or_reason = (
        mismatch
        if champion is None or mismatch
        else _load_champion_trees(champion, registry, training_data, split)
    )
    if isinstance(trees_or_reason, WarmTrees):
        return trees_or_reason
    return WarmTrees(summary=f"{NO_CONTINUATION}{trees_or_reason}")


def _explain_mismatch(
    settings: TrainSettings,
    recipe: str,
    champion: Bundle | None,
    features: FeatureSet,
    training_data: TrainingData,
) -> str:
    if champion is None:
        return "there is no champion to go on from"
    if champion.manifest.metrics.get("about", {}).get("recipe") != recipe:
        return f"{champion.version} was made by another recipe"
    if settings.challengers:
        return "the estimators of models.py are fitted too, from all rows"
    if champion.tower is not None and (reason := explain_missing_tower(features)):
        return f"{champion.version} has vectors: {reason}"
    if any(
        isinstance(step, TargetEncoding)
        for output in champion.encoder.transforms
        for step in output.steps
    ):
        return "target encodings were learned from a part of these rows"
    return "" if training_data.is_logged else training_data.source_note


def _load_champion_trees(
    champion: Bundle, registry: Registry, training_data: TrainingData, split: Split
) -> WarmTrees | str:
    """Return the trees of the champion, or what is missing."""
    files = read_sealed(registry.resolve(champion.version)).files
    file_by_head = {head: f"{BOOSTERS_FOLDER}/{head}.txt" for head in champion.heads}
    if missing := [head for head, name in file_by_head.items() if name not in files]:
        return f"{champion.version} has no trees of {', '.join(missing)}"
    data = training_data.dataset
    train = split.train
    window = champion.manifest.metrics["about"]["window"]
    rows_since = 2 * int(window["train_until"]) - split.train_until
    is_recent = np.isin(data.request_index, train[data.t[train] >= rows_since])
    for head in champion.heads:
        positive_count = int(np.sum(data.labels[head][is_recent] > 0)) if head in data.labels else 0
        if positive_count < POSITIVES_MIN:
            return (
                f"{positive_count} positives of {head} are in the rows since {to_iso(rows_since)}"
            )
    boosters = {
        head: Booster(model_str=bytes(files[name]).decode()) for head, name in file_by_head.items()
    }
    summary = f"{CONTINUATION}trees of {champion.version}, over the rows since {to_iso(rows_since)}"
    vector_share = 0.0 if champion.tower is None else champion.tower.plan.share
    return WarmTrees(
        champion_version=champion.version,
        encoder=champion.encoder,
        boosters=boosters,
        rows_since=rows_since,
        vector_share=vector_share,
        summary=summary,
    )
