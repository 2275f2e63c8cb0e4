"""Prometheus metrics of a serve process. Labels are routes, stages, codes and sources, never ids of
people or items.

Each process has a registry of its own, so that tests and several servers in one process do not
share a global one. Where `up` runs several servers, whichever is scraped answers for all: what a
process counts has the label `process`, and what all read from the project stands there once. The
counts are not added up here, since a process that restarts would look like a counter that falls;
Prometheus adds them: `sum without (process) (rate(…))`.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tailorbird.features.parity.totals import ParityTotals
from tailorbird.features.state.progress import WorkerProgress
from tailorbird.periodic import PeriodicTask
from tailorbird.serving.collector.decisions import CollectorFigures
from tailorbird.serving.families import encode_families, merge_families
from tailorbird.serving.feature_metrics import CopiesCollector, FeaturesCollector, WorkersCollector
from tailorbird.serving.load_shedding import Shedder
from tailorbird.serving.metric_collectors import (
    BreakerCollector,
    CandidatesCollector,
    CollectorMetrics,
    HedgeCollector,
    LagCollector,
    LimitsCollector,
    RoleCounts,
    RolesCollector,
    RolloutCollector,
    SheddingCollector,
    ThreadsCollector,
)
from tailorbird.serving.pipeline.deadlines import BreakerState
from tailorbird.store.hedge import Hedge
from tailorbird.stream.lag import LagWatch

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1.0)


class Metrics:
    """The metrics of one serve process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.project_registry = CollectorRegistry()  # Facts that every process reads alike.
        self._process = ""
        self._other_processes: Callable[[], Iterable[bytes]] = tuple
        self._requests = Counter(
            "tailorbird_requests",
            "Requests by route and status.",
            ["route", "status"],
            registry=self.registry,
        )
        self._latency = self._create_histogram(
            "tailorbird_request_seconds", "Time from the first byte to the answer.", "route"
        )
        self._stage = self._create_histogram(
            "tailorbird_stage_seconds", "Time in one stage of an answer.", "stage"
        )
        self._degraded = Counter(
            "tailorbird_degraded", "Answers by what was missing.", ["what"], registry=self.registry
        )
        self._faults = Counter(
            "tailorbird_internal_faults",
            "Parts that failed and were worked around.",
            ["part"],
            registry=self.registry,
        )
        self._bundle_loads = Counter(
            "tailorbird_bundle_loads", "Bundles loaded and swapped in.", registry=self.registry
        )
        self._load_failures = Counter(
            "tailorbird_bundle_load_failures",
            "Bundles refused; the previous one serves on. Alarm on any.",
            registry=self.registry,
        )
        self._bundle = Gauge(
            "tailorbird_bundle_info",
            "1 for the bundle that serves.",
            ["version"],
            registry=self.registry,
        )
        self._wait = Histogram(
            "tailorbird_wait_seconds",
            "Time that questions waited for a thread.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._churn = Gauge(
            "tailorbird_churn_bundle_info",
            "1 for the churn bundles that answer.",
            ["name", "version"],
            registry=self.registry,
        )
        self._churn_versions: dict[str, str] = {}
        self._version = ""
        self._refusal_counters: dict[str, Counter] = {}
        self._lock = threading.Lock()

    def _create_histogram(self, name: str, text: str, label: str) -> Histogram:
        return Histogram(name, text, [label], buckets=_SECONDS, registry=self.registry)

    def record_request(self, route: str, status: int, seconds: float) -> None:
        self._requests.labels(route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def count_early_refusal(self, route: str) -> None:
        """Count a request that was shed before it was parsed, and thus has no duration.

        These are frequent, so the label is looked up once.
        """
        counter = self._refusal_counters.get(route)
        if counter is None:
            counter = self._refusal_counters[route] = self._requests.labels(route, "503")
        counter.inc()

    def record_stage(self, name: str, seconds: float) -> None:
        self._stage.labels(name).observe(seconds)

    def count_degraded(self, codes: Iterable[str]) -> None:
        for name in codes:
            self._degraded.labels(name).inc()

    def count_fault(self, part: str) -> None:
        """Count a part that failed while the answer was made without it."""
        self._faults.labels(part).inc()

    def observe_wait(self, seconds: float) -> None:
        """Record how long a request waited for a thread."""
        self._wait.observe(seconds)

    def watch_shedding(self, shedder: Shedder) -> None:
        """Export how much work waits, and how many requests were shed."""
        self.registry.register(SheddingCollector(shedder))

    def watch_limits(self, read_refusals_by_limit: Callable[[], dict[str, int]]) -> None:
        """Export the refusals by limit."""
        self.registry.register(LimitsCollector(read_refusals_by_limit))

    def bundle_loaded(self, version: str) -> None:
        with self._lock:
            if self._version:
                self._bundle.remove(self._version)
            self._bundle.labels(version).set(1)
            self._version = version
        self._bundle_loads.inc()

    def bundle_refused(self) -> None:
        self._load_failures.inc()

    def churn_loaded(self, name: str, version: str) -> None:
        """Export the version of a churn model that answers."""
        with self._lock:
            if previous_version := self._churn_versions.get(name):
                self._churn.remove(name, previous_version)
            self._churn.labels(name, version).set(1)
            self._churn_versions[name] = version

    def churn_refused(self, name: str) -> None:
        self._load_failures.inc()

    def watch_breakers(self, breaker_states: Callable[[], Iterable[BreakerState]]) -> None:
        """Export the state of the circuit breakers."""
        self.registry.register(BreakerCollector(breaker_states))

    def watch_hedge(self, hedge: Hedge) -> None:
        """Export how many reads were hedged."""
        self.registry.register(HedgeCollector(hedge))

    def watch_rollout(self, versions: Callable[[], dict[str, str]]) -> None:
        """Export which bundles are loaded, and in which role."""
        self.registry.register(RolloutCollector(versions))

    def watch_collector(self, read_figures: Callable[[], CollectorFigures]) -> None:
        """Export the figures of the event collector."""
        self.registry.register(CollectorMetrics(read_figures))

    def watch_features(self, parity_totals: Callable[[], ParityTotals | None]) -> None:
        """Export the result of comparing served features with the lake."""
        self.project_registry.register(FeaturesCollector(parity_totals))

    def watch_workers(self, read_figures: Callable[[], Iterable[WorkerProgress]]) -> None:
        """Export the figures of the feature workers."""
        self.project_registry.register(WorkersCollector(read_figures))

    def watch_copies(self, published_at: Callable[[], dict[str, int]]) -> None:
        """Export the age of the copies that features are read from."""
        self.registry.register(CopiesCollector(published_at))

    def watch_candidates(
        self, ages: Callable[[], Mapping[str, int]], sources: Sequence[str]
    ) -> None:
        """Export the age of the tables that candidate sources read."""
        self.registry.register(CandidatesCollector(ages, sources))

    def watch_threads(self, read_tasks: Callable[[], Iterable[PeriodicTask]]) -> None:
        """Export the unexpected failures of threads."""
        self.registry.register(ThreadsCollector(read_tasks))

    def watch_lag(self, lag_watch: LagWatch, *, is_of_project: bool = True) -> None:
        """Export the lag of the log readers: of all logs, or of those of this process alone."""
        registry = self.project_registry if is_of_project else self.registry
        registry.register(LagCollector(lag_watch))

    def watch_roles(self, roles: Callable[[], Iterable[RoleCounts]]) -> None:
        """Export how often `up` restarted each role."""
        self.project_registry.register(RolesCollector(roles))

    def name_process(self, name: str, read_other_processes: Callable[[], Iterable[bytes]]) -> None:
        """Label what this process counts, and answer for `read_other_processes`, which `encode` made."""
        self._process = name
        self._other_processes = read_other_processes

    def encode(self) -> bytes:
        """Return the metrics of this process alone for `text` of another one."""
        return encode_families(self.registry.collect(), self._process)

    def text(self) -> bytes:
        """Return the exposition that `/metrics` answers with, of all servers of this machine."""
        if not self._process:
            return generate_latest(self.registry) + generate_latest(self.project_registry)
        families = merge_families([self.encode(), *self._other_processes()])
        return families + generate_latest(self.project_registry)
