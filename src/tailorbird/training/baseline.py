"""The first bundle of a project: an index alone, so that lists, similar items and search work before a model has earned its place."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from tailorbird.errors import NotReadyError
from tailorbird.events import Clock, to_iso
from tailorbird.features import FeatureSet
from tailorbird.features.declare import HORIZON
from tailorbird.lake import Lake
from tailorbird.places import Place
from tailorbird.ranking.bundle import write_bundle
from tailorbird.ranking.encoders import fit_encoder
from tailorbird.registry import Registry
from tailorbird.training.card import NOBODY
from tailorbird.training.indexes import READ, IndexSettings, no_items, write_index
from tailorbird.training.matrix import columns_of

WHY = "there was no champion: popular items, until a model has earned its place"


def ensure_champion(features: FeatureSet, *, lake: Place, registry: Path, clock: Clock, by: str, owner: str = "") -> str:
    """The champion's version. Where there is none, an index of what the lake holds becomes it, as a bundle without heads.

    Raises:
        NotReadyError: there is none, and the lake has nothing to make an index of.
    """
    store = Registry(registry, clock=clock)
    champion = store.champion()
    if champion is not None:
        return champion.name
    source, now = Lake(lake), clock.now()
    if not source.exists("events"):
        raise NotReadyError("the lake is empty", where=str(lake), fix="tailorbird import brings events in")
    events = source.events(columns=list(READ), ts_from=now - HORIZON)
    items = source.table("items", ["id", "valid_from", "attributes", "timeless"]) if source.exists("items") else no_items()
    if not events.num_rows:
        raise NotReadyError("the lake holds no event", where=str(lake), fix="tailorbird import brings events in")
    columns = columns_of(features)
    with tempfile.TemporaryDirectory(prefix="tailorbird-bundle-") as folder:
        write_index(Path(folder) / "index", events, items, now, IndexSettings())
        write_bundle(
            Path(folder) / "bundle",
            created_at=now,
            features=features,
            encoder=fit_encoder(columns, np.zeros((0, len(columns.categorical)), np.uint64)),
            models={},
            heads=[],
            index=Path(folder) / "index",
            golden=np.zeros((0, 0), np.float32),
            card=_card(events, now, owner),
        )
        version = store.add(Path(folder) / "bundle", by=by, why=WHY)
    store.promote(version, by=by, why=WHY)
    return version


def _card(events: pa.Table, now: int, owner: str) -> str:
    parts = [
        "# An index without a model",
        f"Made because {WHY}. Answers are the most popular items, what goes with a person's last ones, and what is new.",
        "## Owner",
        owner or NOBODY,
        "## Data",
        f"{events.num_rows:,} events from {to_iso(now - HORIZON)} to {to_iso(now)}.",
        "## Limits",
        "- Nothing was learned and nothing was judged: there is no figure of quality.",
    ]
    return "\n\n".join(parts) + "\n"
