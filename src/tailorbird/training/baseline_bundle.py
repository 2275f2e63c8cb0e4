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
from tailorbird.features.declare.limits import HORIZON
from tailorbird.lake import Lake
from tailorbird.ranking.baseline import FALLBACK, default_baselines
from tailorbird.ranking.bundle import Bundle, write_bundle
from tailorbird.ranking.encode.encoder_fit import fit_encoder
from tailorbird.ranking.slot import Slot
from tailorbird.registry import Registry
from tailorbird.retrieval import MeaningSettings
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
    meaning: MeaningSettings | None = None,
) -> str:
    """Return the champion's version; add and promote a popularity baseline if there is none.

    Raises:
        NotReadyError: there is no champion, and the lake has nothing to build an index from.
    """
    store = Registry(registry, clock=clock)
    champion = store.champion()
    if champion is not None:
        return champion.name
    source, now = Lake(lake), clock.now()
    if not source.exists("events"):
        raise NotReadyError(
            "the lake is empty", where=str(lake), fix="tailorbird import brings events in"
        )
    events = source.events(columns=list(EVENT_COLUMNS), ts_from=now - HORIZON)
    items = (
        source.table("items", ["id", "valid_from", "attributes", "timeless", "p"])
        if source.exists("items")
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
        f"{events.num_rows:,} events from {to_iso(now - HORIZON)} to {to_iso(now)}",
        quality_note,
        owner,
    )
    version = _add_bundle(
        store,
        features,
        events,
        items,
        FALLBACK,
        now,
        card,
        why=NO_CHAMPION_REASON,
        by=by,
        meaning=meaning,
    )
    store.promote(version, by=by, why=NO_CHAMPION_REASON)
    return version


def serve_best_baseline(
    store: Registry,
    evaluation: Evaluation,
    features: FeatureSet,
    slot: Slot,
    training_data: TrainingData,
    now: int,
    *,
    by: str,
    owner: str,
    meaning: MeaningSettings | None = None,
) -> str:
    """Promote the best evaluated baseline where no model serves.

    Return its version, or "" if that baseline serves already.
    """
    champion = store.champion()
    serving_baseline = ""
    if champion is not None:
        try:
            bundle = Bundle.load(champion, schema_hash=None)
        except BundleError:
            return ""
        if bundle.heads:
            return ""
        serving_baseline = bundle.baseline
    candidates = {
        name: evaluation.figures[name][PRIMARY_METRIC]
        for name in default_baselines(slot.sources)
        if name in evaluation.figures
    }
    if not candidates:
        return ""
    best = max(candidates, key=lambda name: candidates[name].value)
    if best == serving_baseline:
        return ""
    why = (
        f"the gate refused the model, and nothing judged served: {best} was the best baseline, "
        f"{PRIMARY_METRIC} {candidates[best]}"
    )
    quality_note = (
        f"{PRIMARY_METRIC} {candidates[best]} on {evaluation.requests:,} requests of the test part."
    )
    card = _render_card(
        best,
        why,
        f"{training_data.events.num_rows:,} events until {to_iso(now)}",
        quality_note,
        owner,
    )
    version = _add_bundle(
        store,
        features,
        training_data.events,
        training_data.items,
        best,
        now,
        card,
        why=why,
        by=by,
        meaning=meaning,
    )
    store.promote(version, by=by, why=why)
    return version


def _add_bundle(
    store: Registry,
    features: FeatureSet,
    events: pa.Table,
    items: pa.Table,
    baseline: str,
    now: int,
    card: str,
    *,
    why: str,
    by: str,
    meaning: MeaningSettings | None,
) -> str:
    columns = bundle_columns(features)
    with tempfile.TemporaryDirectory(prefix="tailorbird-bundle-") as folder:
        write_index(Path(folder) / "index", events, items, now, meaning=meaning)
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
        return store.add(Path(folder) / "bundle", by=by, why=why)


def _render_card(baseline: str, why: str, data: str, quality_note: str, owner: str) -> str:
    parts = [
        f"# A baseline: {baseline}",
        f"Made because {why}. Items are ordered by the scores of these sources, added up.",
        "## Owner",
        owner or NO_OWNER,
        "## Data",
        f"{data}.",
        "## Figures",
        quality_note,
    ]
    return "\n\n".join(parts) + "\n"
