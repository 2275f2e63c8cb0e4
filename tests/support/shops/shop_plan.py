"""The shop's declarations alone, for a serve process: what makes bundles (onnx) must not be loaded
there.
"""

from collections.abc import Iterable

from tailorbird.candidates.contract import Contract, build_contract
from tailorbird.candidates.query import select_live_sources
from tailorbird.experiments.assign import Experiment
from tailorbird.features import FeatureSet, attribute, context, count, entity, sequence
from tailorbird.ranking import Explore, Slot


def feature_set() -> FeatureSet:
    user, item = entity("user"), entity("item")
    return FeatureSet.from_declarations(
        [
            count("item_clicks", item, "click", window="7d"),
            count("user_clicks", user, "click", window="7d"),
            attribute("price", item, "price", kind="numeric"),
            attribute("category", item, "category", kind="categorical"),
            context("device"),
            sequence("recent", user, ["click", "purchase"], length=16),
        ]
    )


def slots(**home) -> dict[str, Slot]:
    settings = {
        "size": 6,
        "sources": {"item_knn": 20, "popular": 30, "new_items": 5},
        "objective": {"click": 1.0},
        "rules": ["item.stock > 0"],
    }
    return {
        "home": Slot("home", **(settings | home)),
        "search": Slot("search", size=5, sources={"search": 50}, hide_seen=()),
        "tried": Slot(
            "tried",
            size=6,
            sources={"popular": 40},
            explore=Explore(rate=0.5, pool=10),
            experiment=Experiment("home-model", arms={"popular": 0.5, "model": 0.5}),
        ),
    }


def contract(sources: Iterable[str] = ()) -> Contract:
    """The candidate tables that the slots ask for, and further sources."""
    slot_sources = [name for slot in slots().values() for name in (*slot.sources, *slot.columns)]
    return build_contract(select_live_sources([*slot_sources, *sources]))
