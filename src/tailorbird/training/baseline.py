"""Bundles without a model: items to search in and a baseline to order them by, until a model has
earned its place.

The first bundle of a project orders by what is popular. Once a training has judged baselines, the
best of them takes its place where the gate refuses the model.
"""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from tailorbird.errors import BundleError, NotReadyError
from tailorbird.events import Clock, to_iso
from tailorbird.features import FeatureSet
from tailorbird.features.declare import HORIZON
from tailorbird.lake import Lake
from tailorbird.places import Place
from tailorbird.ranking.baseline import FALLBACK, default_baselines
from tailorbird.ranking.bundle import Bundle, write_bundle
from tailorbird.ranking.encoders import fit_encoder
from tailorbird.ranking.slot import Slot
from tailorbird.registry import Registry
from tailorbird.retrieval import MeaningSettings
from tailorbird.training.card import NOBODY
from tailorbird.training.indexes import READ, no_items, write_index
from tailorbird.training.judge import PRIMARY, Evaluation
from tailorbird.training.matrix import columns_of
from tailorbird.training.rows import Material

WHY = "there was no champion: popular items, until a model has earned its place"


def ensure_champion(
    features: FeatureSet,
    *,
    lake: Place,
    registry: Path,
    clock: Clock,
    by: str,
    owner: str = "",
    meaning: MeaningSettings | None = None,
) -> str:
    """Return the champion's version. Where there is none, what is popular becomes it, over the
    items that the lake holds.

    Raises:
        NotReadyError: there is none, and the lake has nothing to make an index of.
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
    events = source.events(columns=list(READ), ts_from=now - HORIZON)
    items = (
        source.table("items", ["id", "valid_from", "attributes", "timeless", "p"])
        if source.exists("items")
        else no_items()
    )
    if not events.num_rows:
        raise NotReadyError(
            "the lake holds no event", where=str(lake), fix="tailorbird import brings events in"
        )
    told = "Nothing was learned and nothing was judged: there is no figure of quality."
    card = _card(
        FALLBACK,
        WHY,
        f"{events.num_rows:,} events from {to_iso(now - HORIZON)} to {to_iso(now)}",
        told,
        owner,
    )
    version = _add(
        store, features, events, items, FALLBACK, now, card, why=WHY, by=by, meaning=meaning
    )
    store.promote(version, by=by, why=WHY)
    return version


def serve_best_baseline(
    store: Registry,
    evaluation: Evaluation,
    features: FeatureSet,
    slot: Slot,
    material: Material,
    now: int,
    *,
    by: str,
    owner: str,
    meaning: MeaningSettings | None = None,
) -> str:
    """Promote the best judged baseline where no model serves and another baseline does; its
    version, "" if nothing was changed.
    """
    champion = store.champion()
    before = ""
    if champion is not None:
        try:
            bundle = Bundle.load(champion, schema_hash=None)
        except BundleError:
            return ""
        if bundle.heads:
            return ""
        before = bundle.baseline
    judged = {
        name: evaluation.figures[name][PRIMARY]
        for name in default_baselines(slot.sources)
        if name in evaluation.figures
    }
    if not judged:
        return ""
    best = max(judged, key=lambda name: judged[name].value)
    if best == before:
        return ""
    why = (
        f"the gate refused the model, and nothing judged served: {best} was the best baseline, "
        f"{PRIMARY} {judged[best]}"
    )
    told = f"{PRIMARY} {judged[best]} on {evaluation.requests:,} requests of the test part."
    card = _card(best, why, f"{material.events.num_rows:,} events until {to_iso(now)}", told, owner)
    version = _add(
        store,
        features,
        material.events,
        material.items,
        best,
        now,
        card,
        why=why,
        by=by,
        meaning=meaning,
    )
    store.promote(version, by=by, why=why)
    return version


def _add(
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
    columns = columns_of(features)
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


def _card(baseline: str, why: str, data: str, judged: str, owner: str) -> str:
    parts = [
        f"# A baseline: {baseline}",
        f"Made because {why}. Items are ordered by the scores of these sources, added up.",
        "## Owner",
        owner or NOBODY,
        "## Data",
        f"{data}.",
        "## Figures",
        judged,
    ]
    return "\n\n".join(parts) + "\n"
