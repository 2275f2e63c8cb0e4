"""A project's serving pipeline in this process.

`recommend` uses it without a server, and the demo for its bulk traffic on a simulated clock.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from tailorbird.config import Project
from tailorbird.config.candidates import required_contract
from tailorbird.events import Clock
from tailorbird.ranking import Slot
from tailorbird.registry import Registry
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.serving.experiments import DeclaredExperiments, LiveExperiments
from tailorbird.serving.metrics import Metrics
from tailorbird.serving.models.candidates import LiveTables
from tailorbird.serving.models.catalogue import Catalogue
from tailorbird.serving.models.rollout import Rollout
from tailorbird.serving.models.schemas import Schemas
from tailorbird.serving.pipeline.editorial import FILE as LISTS_FILE
from tailorbird.serving.pipeline.editorial import LiveLists
from tailorbird.serving.pipeline.formulas import LiveFormulas
from tailorbird.serving.pipeline.pipeline import Pipeline, load_bundle
from tailorbird.serving.pipeline.protocols import Assignments, Bundles
from tailorbird.store import CopyTarget


class InProcessServer:
    """The parts of a serving process without HTTP.

    `pipeline` answers requests, `refresh()` loads new bundles and items.

    Args:
        collector: logs the responses; None logs nothing.
        seed: seed of exploration and request ids; None draws one.
        pseudonymise: hash the user ids of requests, which come from outside; ids in our own
            logs are hashed already.
        copies: a Valkey to read features from, as servers do; None reads the local state.
        probe: tries each bundle in a child process first (see `serving.models.bundles`), for
            processes that must survive a bundle that crashes its loader.
    """

    def __init__(
        self,
        project: Project,
        clock: Clock,
        *,
        collector: EventCollector | None,
        seed: int | None,
        pseudonymise: bool = True,
        copies: CopyTarget | None = None,
        probe: Callable[[Path], None] | None = None,
    ) -> None:
        self._clock, self._pseudonyms = clock, project.pseudonyms() if pseudonymise else None
        self.schemas = Schemas(
            project.paths.state, project.features, copies=copies, workers=project.workers
        )
        registry = Registry(project.paths.registry, clock=clock)
        self._catalogue = Catalogue(project.routed)
        self.tables = LiveTables(
            project.paths.candidates,
            clock,
            copies=copies,
            expected_contract=partial(required_contract, project),
            log_end=lambda: self._catalogue.position,
        )
        self.tables.tick()
        self.bundles = Rollout(
            registry,
            lambda folder: self.schemas.complete(load_bundle(folder)),
            Metrics(),
            self.schemas,
            probe=probe,
            tables=self.tables,
        )
        self._formulas = LiveFormulas(registry, project.slots)
        self._experiments = LiveExperiments(registry, project.slots, versions=self.bundles.arms)
        self._lists = LiveLists(project.root / LISTS_FILE)
        self.refresh()
        self.pipeline = self._build_pipeline(
            project.slots, collector, seed, self._experiments, self.bundles
        )

    def pipeline_for(
        self, slots: Mapping[str, Slot], seed: int | None, *, version: str = ""
    ) -> Pipeline:
        """Return another pipeline over the same parts that logs nothing.

        It has its own slots, and only their permanent splits assign arms.

        Args:
            version: answers everybody, in place of the champion.
        """
        bundles = self.bundles.pinned(version) if version else self.bundles
        return self._build_pipeline(slots, None, seed, DeclaredExperiments(), bundles)

    def _build_pipeline(
        self,
        slots: Mapping[str, Slot],
        collector: EventCollector | None,
        seed: int | None,
        experiments: Assignments,
        bundles: Bundles,
    ) -> Pipeline:
        return Pipeline(
            slots=slots,
            bundles=bundles,
            feature_provider=self.schemas,
            catalogue=self._catalogue,
            response_log=collector,
            clock=self._clock,
            rng=np.random.default_rng(seed),
            pseudonyms=self._pseudonyms,
            formulas=self._formulas,
            experiments=experiments,
            editorial_lists=self._lists,
            tables=self.tables,
        )

    def refresh(self) -> None:
        """Load what is new: candidate tables, a promoted bundle, a formula, and items."""
        self.tables.tick()
        self.bundles.tick()
        self._formulas.tick()
        self._experiments.refresh()
        self._lists.tick()
        self._catalogue.refresh()

    def close(self) -> None:
        self.schemas.close()
        self._catalogue.stop()
        self.tables.stop()


@contextmanager
def open_pipeline(project: Project, clock: Clock, *, seed: int | None) -> Iterator[Pipeline]:
    """Open a pipeline that logs nothing, for the duration of the block."""
    parts = InProcessServer(project, clock, collector=None, seed=seed)
    try:
        yield parts.pipeline
    finally:
        parts.close()
