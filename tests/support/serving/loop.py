"""The whole loop in one process, on a clock of its own."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from tests.support.shops import serving_shop

from tailorbird.events import SECOND, RoutePlan, SimulatedClock
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.router import Router, to_table
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.serving.models.catalogue import Catalogue
from tailorbird.serving.models.schemas import SingleSchema
from tailorbird.serving.models.state import StateReader
from tailorbird.serving.pipeline.pipeline import Pipeline
from tailorbird.serving.pipeline.protocols import FixedBundle
from tailorbird.stream import open_reader, routed_path


class Loop:
    """A project's roles around one pipeline."""

    def __init__(
        self, folder: Path, features: Any, bundle: Any = None, pseudonyms: Any = None
    ) -> None:
        self.folder, self.features, self.bundle, self.pseudonyms = (
            folder,
            features,
            bundle,
            pseudonyms,
        )
        self.clock = SimulatedClock(serving_shop.NOW)
        plan = RoutePlan(
            user_attributes=features.user_attributes, item_attributes=features.item_attributes
        )
        self.collector = EventCollector(
            folder / "stream", "serve-1", plan, self.clock, pseudonyms=pseudonyms
        )
        self.router = Router(folder / "stream", plan, clock=self.clock)
        self.worker = FeatureWorker(
            routed_path(folder / "stream"), folder / "state", features, clock=self.clock
        )
        self.reader = StateReader(folder / "state", features, retry_s=0)
        self.catalogue = Catalogue(routed_path(folder / "stream"))
        self.live_tables = serving_shop.LiveTables()
        self.pipeline = self.make_pipeline(bundle)
        self.sent = self.published_position = 0

    def make_pipeline(self, bundle: Any) -> Pipeline:
        return Pipeline(
            slots=serving_shop.slots(),
            bundle_selector=FixedBundle(bundle),
            index_overlay=self.catalogue,
            feature_provider=SingleSchema(self.features, self.reader),
            response_log=self.collector,
            clock=self.clock,
            rng=np.random.default_rng(0),
            pseudonyms=self.pseudonyms,
            table_provider=self.live_tables,
        )

    def send(self, type_: str, **more) -> None:
        self.sent += 1
        self.clock.advance_to(self.clock.now() + SECOND)
        event = {"event_id": f"e{self.sent}", "type": type_, "ts": self.clock.now(), **more}
        [decision] = self.collector.submit(msgspec.json.encode(event))
        assert decision.accepted, decision

    def settle(self) -> None:
        while self.router.step().rows:
            pass
        while self.worker.step().rows:
            pass
        self.catalogue.refresh()
        with open_reader(routed_path(self.folder / "stream")) as reader:
            for stored_block in reader.read(self.published_position):
                if stored_block.block.kind == "events":
                    self.live_tables.append(to_table(stored_block.block))
                self.published_position = stored_block.end

    def routed(self) -> list[dict[str, Any]]:
        with open_reader(routed_path(self.folder / "stream")) as reader:
            return [
                row
                for stored_block in reader.read(0)
                if stored_block.block.kind == "events"
                for row in to_table(stored_block.block).to_pylist()
            ]

    def close(self) -> None:
        for part in (self.collector, self.router, self.worker, self.reader):
            part.close()
        self.catalogue.stop()
