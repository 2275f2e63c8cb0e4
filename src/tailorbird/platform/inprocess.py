"""A project's serving pipeline in this process.

`recommend` uses it without a server, and the demo for its bulk traffic on a simulated clock.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from tailorbird.config import Project
from tailorbird.config.candidates import required_contract
from tailorbird.events import Clock
from tailorbird.ranking import Slot
from tailorbird.ranking.bundle import Bundle
from tailorbird.registry import Registry
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.serving.experiments import DeclaredExperiments, LiveExperiments
from tailorbird.serving.metrics import Metrics
from tailorbird.serving.models.candidates import LiveTables
from tailorbird.serving.models.catalogue import Catalogue
from tailorbird.serving.models.rollout import Rollout
from tailorbird.serving.models.schemas import LiveFeatureProvider
from tailorbird.serving.pipeline.editorial import LISTS_FILE, LiveEditorialLists
from tailorbird.serving.pipeline.formulas import LiveFormulas
from tailorbird.serving.pipeline.pipeline import Pipeline
from tailorbird.serving.pipeline.protocols import (
    ArmAssigner,
    BundleSelector,
    FeatureAccess,
    FeatureProvider,
)
from tailorbird.store import CopyTarget


class InProcessServer:
    """The parts of a serving process without HTTP.

    `pipeline` answers requests, `rollout` has the loaded bundles of champion, canary and shadow,
    and `refresh()` loads new bundles and items.

    Args:
        collector: logs the responses; None logs nothing.
        seed: seed of exploration and request ids; None draws one.
        pseudonymise: hash the user ids of requests, which come from outside; ids in our own
            logs are hashed already.
        copy_target: a Valkey to read features from, as servers do; None reads the local state.
        probe_bundle: tries each bundle in a child process first (see `serving.models.bundles`), for
            processes that must survive a bundle that crashes its loader.
        are_reads_late: asked at each request whether its features come too late to be used; plays
            a slow store.
    """

    def __init__(
        self,
        project: Project,
        clock: Clock,
        *,
        collector: EventCollector | None,
        seed: int | None,
        pseudonymise: bool = True,
        copy_target: CopyTarget | None = None,
        probe_bundle: Callable[[Path], None] | None = None,
        are_reads_late: Callable[[], bool] | None = None,
    ) -> None:
        self._are_reads_late = are_reads_late
        self._clock = clock
        self._pseudonyms = project.pseudonyms() if pseudonymise else None
        self.feature_provider = LiveFeatureProvider(
            project.paths.state, project.features, copies=copy_target, workers=project.workers
        )
        registry = Registry(project.paths.registry, clock=clock)
        self._catalogue = Catalogue(project.routed)
        self.candidate_tables = LiveTables(
            project.paths.candidates,
            clock,
            copies=copy_target,
            read_expected_contract=partial(required_contract, project),
            read_log_end=lambda: self._catalogue.position,
        )
        self.candidate_tables.tick()
        self.rollout = Rollout(
            registry,
            lambda folder: self.feature_provider.attach_schema(Bundle.load(folder)),
            Metrics(),
            self.feature_provider,
            probe=probe_bundle,
            tables=self.candidate_tables,
        )
        self._formulas = LiveFormulas(registry, project.slots)
        self._experiments = LiveExperiments(registry, project.slots, versions=self.rollout.arms)
        self._editorial_lists = LiveEditorialLists(project.root / LISTS_FILE)
        self.refresh()
        self.pipeline = self._build_pipeline(
            project.slots, collector, seed, self._experiments, self.rollout
        )

    def pipeline_for(
        self, slots: Mapping[str, Slot], seed: int | None, *, version: str = ""
    ) -> Pipeline:
        """Return another pipeline over the same parts that logs nothing.

        It has its own slots, and only their permanent splits assign arms.

        Args:
            version: answers everybody, in place of the champion.
        """
        bundle_selector = self.rollout.pin_version(version) if version else self.rollout
        return self._build_pipeline(slots, None, seed, DeclaredExperiments(), bundle_selector)

    def _build_pipeline(
        self,
        slots: Mapping[str, Slot],
        collector: EventCollector | None,
        seed: int | None,
        arm_assigner: ArmAssigner,
        bundle_selector: BundleSelector,
    ) -> Pipeline:
        feature_provider: FeatureProvider = self.feature_provider
        if self._are_reads_late is not None:
            feature_provider = _LateReads(feature_provider, self._are_reads_late)
        return Pipeline(
            slots=slots,
            bundle_selector=bundle_selector,
            feature_provider=feature_provider,
            index_overlay=self._catalogue,
            response_log=collector,
            clock=self._clock,
            rng=np.random.default_rng(seed),
            pseudonyms=self._pseudonyms,
            formula_provider=self._formulas,
            arm_assigner=arm_assigner,
            editorial_lists=self._editorial_lists,
            table_provider=self.candidate_tables,
        )

    def refresh(self) -> None:
        """Load what is new: candidate tables, a promoted bundle, a formula, and items."""
        self.candidate_tables.tick()
        self.rollout.tick()
        self._formulas.reload_if_changed()
        self._experiments.refresh()
        self._editorial_lists.reload_if_changed()
        self._catalogue.refresh()

    def close(self) -> None:
        self.feature_provider.close()
        self._catalogue.stop()
        self.candidate_tables.stop()


class _LateReads:
    """A feature provider whose store does not answer some requests in time."""

    def __init__(self, provider: FeatureProvider, are_reads_late: Callable[[], bool]) -> None:
        self._provider = provider
        self._are_reads_late = are_reads_late

    @contextmanager
    def open_features(self, bundle: Bundle | None) -> Iterator[FeatureAccess]:
        with self._provider.open_features(bundle) as access:
            yield replace(access, reader=None) if self._are_reads_late() else access

    def is_ready(self, bundle: Bundle | None) -> bool:
        return self._provider.is_ready(bundle)


@contextmanager
def open_pipeline(project: Project, clock: Clock, *, seed: int | None) -> Iterator[Pipeline]:
    """Open a pipeline that logs nothing, for the duration of the block."""
    server = InProcessServer(project, clock, collector=None, seed=seed)
    try:
        yield server.pipeline
    finally:
        server.close()
