"""A pipeline whose versions are rolled out."""

from typing import Any

import numpy as np
from tests.support.shops import serving_shop

from tailorbird.events import SimulatedClock
from tailorbird.serving.models.schemas import SingleSchema
from tailorbird.serving.pipeline.pipeline import Pipeline


class CaughtUpSchemas:
    """Schemas whose states are all there; notes what is to be kept open."""

    def __init__(self) -> None:
        self.kept_open: dict[str, set[str]] = {}

    def is_caught_up(self, bundle: Any, serving_bundle: Any) -> bool:
        return True

    def set_serving(self, bundle: Any) -> None: ...

    def keep_open(self, schema_hashes: Any, *, owner: str) -> None:
        self.kept_open[owner] = set(schema_hashes)


def make_pipeline(
    rollout: Any, features: Any, response_log: Any = None, experiments: Any = None
) -> Any:
    return Pipeline(
        slots=serving_shop.slots(),
        bundle_selector=rollout,
        feature_provider=SingleSchema(features, serving_shop.FakeReader(features)),
        response_log=response_log,
        arm_assigner=experiments,
        clock=SimulatedClock(serving_shop.NOW),
        rng=np.random.default_rng(0),
        table_provider=serving_shop.LiveTables(),
    )
