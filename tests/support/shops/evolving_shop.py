"""A shop whose features change."""

from pathlib import Path

import numpy as np
from tests.support.shops import serving_shop

from tailorbird.config import Project, open_project
from tailorbird.events import SystemClock
from tailorbird.features import FeatureSet
from tailorbird.ranking.bundle import write_bundle
from tailorbird.ranking.encode.encoder_fit import fit_encoder
from tailorbird.registry import ColumnNames, Head, Registry

CLOCK = SystemClock()


# One column more, one changed, one gone: another entity, and an attribute of items that the router
# did not keep before.
REPLACEMENTS = (
    (
        'item_clicks_1d = count("item_clicks_1d", item, "click", window="1d"',
        'item_clicks_1d = count("item_clicks_1d", item, "click", window="2d"',
    ),
    ('device = context("device")\n', ""),
)


ADDED_FEATURES = """
brand_views = count("brand_views", entity("item.maker"), "view", window="7d")
user_dear = count("user_dear", user, "click", window="7d", where="item.price > 20 and item.stock > 0")
"""


def change_features(project: Project) -> Project:
    file = project.root / "features.py"
    text = file.read_text()
    for old, new in REPLACEMENTS:
        assert old in text
        text = text.replace(old, new)
    file.write_text(text + ADDED_FEATURES)
    return open_project(project.root)


def write_clicks_bundle(folder: Path, features: FeatureSet) -> Path:
    """Write a bundle whose model uses the clicks of an item."""
    index = folder.with_name(f"{folder.name}-index")
    serving_shop.build_shop_index(index)
    columns = ColumnNames(features.numeric, features.categorical, features.sequences)
    encoder = fit_encoder(columns, np.zeros((0, len(columns.categorical)), np.uint64))
    write_bundle(
        folder,
        created_at=serving_shop.NOW,
        features=features,
        encoder=encoder,
        models={
            "model/click.onnx": serving_shop.make_linear_model(
                encoder.names, {"item_clicks_7d": 0.1}
            )
        },
        heads=[Head("click", "model/click.onnx")],
        index=index,
        golden=np.zeros((4, len(encoder.names)), np.float32),
        formula={"click": 1.0},
    )
    return folder


def promote(project: Project, features: FeatureSet, name: str) -> str:
    registry = Registry(project.paths.registry, clock=CLOCK)
    version = registry.add(write_clicks_bundle(project.root / name, features), by="test")
    registry.promote(version, by="test", why="to see it answer")
    return version


def make_item_events() -> list[dict]:
    profiles = [
        serving_shop.item_profile(number) | {"maker": f"b{number % 5}"}
        for number in range(serving_shop.ITEM_COUNT)
    ]
    return [
        {"event_id": f"item-{n}", "type": "item", "item_id": f"i{n}", "properties": profile}
        for n, profile in enumerate(profiles)
    ]


def make_visitor_events(number: int) -> list[dict]:
    identity = {"user_id": f"u{number % 7}"} if number % 3 else {"anonymous_id": f"a{number % 5}"}
    kinds = ("view", "click", "click", "purchase")

    def make_event(n: int) -> dict:
        return {
            "event_id": f"e{number}-{n}",
            "type": kinds[(number + n) % 4],
            "item_id": f"i{(number * 7 + n) % 20}",
        }

    return [make_event(n) | identity | {"properties": {"price": 9.5}} for n in range(3)]
