"""Bundles without a model: an item index and a baseline that orders it.

The first bundle of a project orders items by popularity. After a training has evaluated the
baselines, the best one replaces it where the gate rejects the model.
"""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from tailorbird.errors import BundleError, NotReadyError
from tailorbird.events import Clock, to_iso
from tailorbird.features import FeatureSet
from tailorbird.features.declare.limits import LOOK_BACK_MAX
from tailorbird.lake import Lake
from tailorbird.ranking.baseline import FALLBACK, default_baselines
from tailorbird.ranking.bundle import Bundle, write_bundle
from tailorbird.ranking.encode.encoder_fit import fit_encoder
from tailorbird.ranking.slot import Slot
from tailorbird.registry import Registry
from tailorbird.retrieval import TextVectorSettings
from tailorbird.storage_paths import StoragePath
from tailorbird.training.dataset.indexes import EVENT_COLUMNS, empty_items, write_index
from tailorbird.training.dataset.matrix import bundle_columns
from tailorbird.training.dataset.rows import TrainingData
from tailorbird.training.evaluation.figures import PRIMARY_METRIC, Evaluation
from tailorbird.training.report.card import NO_OWNER

NO_CHAMPION_REASON = "there was no champion: popular items, until a model has earned its place"


def ensure_champion(
    features: FeatureSet,
    *,
    lake: StoragePath,
    registry: Path,
    clock: Clock,
    by: str,
    owner: str = "",
    meaning: TextVectorSettings | None = None,
) -> str:
    """Return the champion's version; add and promote a popularity baseline if there is none.

    Raises:
        NotReadyError: there is no champion, and the lake has nothing to build an index from.
    """
    model_registry = Registry(registry, clock=clock)
    champion = model_registry.champion_folder()
    if champion is not None:
        return champion.name
    event_lake = Lake(lake)
    now = clock.now()
    if not event_lake.exists("events"):
        raise NotReadyError(
            "the lake is empty", where=str(lake), fix="tailorbird import brings events in"
        )
    events = event_lake.events(columns=list(EVENT_COLUMNS), ts_from=now - LOOK_BACK_MAX)
    items = (
        event_lake.table("items", ["id", "valid_from", "attributes", "timeless", "p"])
        if event_lake.exists("items")
        else empty_items()
    )
    if not events.num_rows:
        raise NotReadyError(
            "the lake holds no event", where=str(lake), fix="tailorbird import brings events in"
        )
    quality_note = "Nothing was learned and nothing was judged: there is no figure of quality."
    card = _render_card(
        FALLBACK,
        NO_CHAMPION_REASON,
        f"{events.num_rows:,} events from {to_iso(now - LOOK_BACK_MAX)} to {to_iso(now)}",
        quality_note,
        owner,
    )
    version = _add_baseline_bundle(
        model_registry=model_registry,
        features=features,
        events=events,
        items=items,
        baseline=FALLBACK,
        now=now,
        card=card,
        why=NO_CHAMPION_REASON,
        by=by,
        meaning=meaning,
    )
    model_registry.promote(version, by=by, why=NO_CHAMPION_REASON)
    return version


def serve_best_baseline(
    model_registry: Registry,
    evaluation: Evaluation,
    features: FeatureSet,
    slot: Slot,
    training_data: TrainingData,
    now: int,
    *,
    by: str,
    owner: str,
    meaning: TextVectorSettings | None = None,
) -> str:
    """Promote the best evaluated baseline where no model serves.

    Return its version, or "" if that baseline serves already.

    Args:
        meaning: how the index of items gets text vectors; None searches by words alone.
    """
    champion = model_registry.champion_folder()
    serving_baseline = ""
    if champion is not None:
        try:
            bundle = Bundle.load(champion, schema_hash=None)
        except BundleError:
            return ""
        if bundle.heads:
            return ""
        serving_baseline = bundle.baseline
    quality_by_baseline = {
        name: evaluation.intervals[name][PRIMARY_METRIC]
        for name in default_baselines(slot.sources)
        if name in evaluation.intervals
    }
    if not quality_by_baseline:
        return ""
    best_baseline = max(quality_by_baseline, key=lambda name: quality_by_baseline[name].value)
    if best_baseline == serving_baseline:
        return ""
    why = (
        f"the gate refused the model, and nothing judged served: {best_baseline} was the best "
        "baseline, "
        f"{PRIMARY_METRIC} {quality_by_baseline[best_baseline]}"
    )
    quality_note = (
        f"{PRIMARY_METRIC} {quality_by_baseline[best_baseline]} on "
        f"{evaluation.request_count:,} requests of the test part."
    )
    card = _render_card(
        best_baseline,
        why,
        f"{training_data.events.num_rows:,} events until {to_iso(now)}",
        quality_note,
        owner,
    )
    version = _add_baseline_bundle(
        model_registry=model_registry,
        features=features,
        events=training_data.events,
        items=training_data.item_profiles,
        baseline=best_baseline,
        now=now,
        card=card,
        why=why,
        by=by,
        meaning=meaning,
    )
    model_registry.promote(version, by=by, why=why)
    return version


def _add_baseline_bundle(
    model_registry: Registry,
    features: FeatureSet,
    events: pa.Table,
    items: pa.Table,
    baseline: str,
    now: int,
    card: str,
    *,
    why: str,
    by: str,
    meaning: TextVectorSettings | None,
) -> str:
    columns = bundle_columns(features)
    with tempfile.TemporaryDirectory(prefix="tailorbird-bundle-") as folder:
        write_index(Path(folder) / "index", events, items, now, text_vector_settings=meaning)
        write_bundle(
            Path(folder) / "bundle",
            created_at=now,
            features=features,
            encoder=fit_encoder(columns, np.zeros((0, len(columns.categorical)), np.uint64)),
            models={},
            heads=[],
            index=Path(folder) / "index",
            golden=np.zeros((0, 0), np.float32),
            card=card,
            baseline=baseline,
        )
        return model_registry.add(Path(folder) / "bundle", by=by, why=why)


def _render_card(baseline: str, why: str, data_note: str, quality_note: str, owner: str) -> str:
    paragraphs = [
        f"# A baseline: {baseline}",
        f"Made because {why}. Items are ordered by the scores of these sources, added up.",
        "## Owner",
        owner or NO_OWNER,
        "## Data",
        f"{data_note}.",
        "## Figures",
        quality_note,
    ]
    return "\n\n".join(paragraphs) + "\n"
