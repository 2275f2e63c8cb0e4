"""What a serve process tells Prometheus. Labels are routes, stages, codes and sources: never an id of a person or an item.

The registry is this process's own, so that tests and several servers in one process do not meet in a global one.
"""

import threading
import time
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from tailorbird.features.compared import Compared
from tailorbird.features.figures import Figures
from tailorbird.serving.decisions import DoorFigures
from tailorbird.stream.lag import LagWatch

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1.0)


class Metrics:
    """The figures of one serve process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter("tailorbird_requests", "Requests by route and status.", ["route", "status"], registry=self.registry)
        self._latency = self._histogram("tailorbird_request_seconds", "Time from the first byte to the answer.", "route")
        self._stage = self._histogram("tailorbird_stage_seconds", "Time in one stage of an answer.", "stage")
        self._degraded = Counter("tailorbird_degraded", "Answers by what was missing.", ["what"], registry=self.registry)
        self._faults = Counter("tailorbird_internal_faults", "Parts that failed and were worked around.", ["part"], registry=self.registry)
        self._loads = Counter("tailorbird_bundle_loads", "Bundles loaded and swapped in.", registry=self.registry)
        self._load_failures = Counter(
            "tailorbird_bundle_load_failures", "Bundles refused; the previous one serves on. Alarm on any.", registry=self.registry
        )
        self._bundle = Gauge("tailorbird_bundle_info", "1 for the bundle that serves.", ["version"], registry=self.registry)
        self._shed = Counter("tailorbird_shed", "Requests refused because too many waited.", registry=self.registry)
        self._version = ""
        self._lock = threading.Lock()

    def _histogram(self, name: str, text: str, label: str) -> Histogram:
        return Histogram(name, text, [label], buckets=_SECONDS, registry=self.registry)

    def request(self, route: str, status: int, seconds: float) -> None:
        self._requests.labels(route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def stage(self, name: str, seconds: float) -> None:
        self._stage.labels(name).observe(seconds)

    def degraded(self, what: Iterable[str]) -> None:
        for name in what:
            self._degraded.labels(name).inc()

    def fault(self, part: str) -> None:
        """A part failed and the answer was made without it."""
        self._faults.labels(part).inc()

    def shed(self) -> None:
        self._shed.inc()

    def watch_limits(self, limited: Callable[[], dict[str, int]]) -> None:
        """Let each scrape read what was refused for a limit's sake."""
        self.registry.register(_LimitsCollector(limited))

    def bundle_loaded(self, version: str) -> None:
        with self._lock:
            if self._version:
                self._bundle.remove(self._version)
            self._bundle.labels(version).set(1)
            self._version = version
        self._loads.inc()

    def bundle_refused(self) -> None:
        self._load_failures.inc()

    def watch_door(self, figures: Callable[[], DoorFigures]) -> None:
        """Let each scrape read the door."""
        self.registry.register(_DoorCollector(figures))

    def watch_features(self, compared: Callable[[], Compared | None]) -> None:
        """Let each scrape read what the comparison of served features with the lake came to."""
        self.registry.register(_FeaturesCollector(compared))

    def watch_workers(self, figures: Callable[[], Iterable[Figures]]) -> None:
        """Let each scrape read what the workers of the features have told."""
        self.registry.register(_WorkersCollector(figures))

    def watch_lag(self, lag: LagWatch) -> None:
        """Let each scrape read how far the readers of the logs are behind."""
        self.registry.register(_LagCollector(lag))

    def text(self) -> bytes:
        """The exposition that `/metrics` answers with."""
        return generate_latest(self.registry)


class _FeaturesCollector:
    """The lake role counts, once for all serve processes: take the maximum over these, not the sum."""

    def __init__(self, compared: Callable[[], Compared | None]) -> None:
        self._compared = compared

    def collect(self) -> Iterable[Metric]:
        now = self._compared()
        if now is None:
            return
        for name, text, counts in (
            ("tailorbird_features_compared", "Served values recomputed from the lake.", now.compared),
            ("tailorbird_features_unequal", "Of these, values that differ in any bit. Alarm on any.", now.unequal),
        ):
            family = CounterMetricFamily(name, text, labels=["feature"])
            for feature, count in counts.items():
                family.add_metric([feature], count)
            yield family
        text = "Values that differ because a cap may have dropped their entities."
        yield CounterMetricFamily("tailorbird_features_compared_dropped", text, value=now.dropped)
        text = "When served features were last compared with the lake."
        yield GaugeMetricFamily("tailorbird_features_compared_at_seconds", text, value=now.at / 1e6)
        text = "1 while the comparison fails; doctor says why."
        yield GaugeMetricFamily("tailorbird_features_compare_failing", text, value=int(bool(now.error)))


class _LimitsCollector:
    def __init__(self, limited: Callable[[], dict[str, int]]) -> None:
        self._limited = limited

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily("tailorbird_limited", "Requests refused for a limit's sake, by limit.", labels=["limit"])
        for limit, count in self._limited().items():
            family.add_metric([limit], count)
        yield family


class _LagCollector:
    """Each serve process measures the same: take the maximum over these, not the sum."""

    def __init__(self, lag: LagWatch) -> None:
        self._lag = lag

    def collect(self) -> Iterable[Metric]:
        names = ["reader", "log"]
        rows = GaugeMetricFamily("tailorbird_lag_rows", "Rows of a log that its reader has yet to take.", labels=names)
        blocks = GaugeMetricFamily("tailorbird_lag_blocks", "Blocks (messages of a topic) that hold these rows.", labels=names)
        text = "For how long the first of these rows has been waiting; 0 where none is, or where its log does not say."
        seconds = GaugeMetricFamily("tailorbird_lag_seconds", text, labels=names)
        now = int(time.time() * 1e6)
        for lag in self._lag.lags:
            for family, value in ((rows, lag.rows), (blocks, lag.blocks), (seconds, lag.seconds(now))):
                family.add_metric([lag.reader, lag.log], value)
        yield from (rows, blocks, seconds)
        text = "When this was last measured; old: a log cannot be read."
        yield GaugeMetricFamily("tailorbird_lag_measured_at_seconds", text, value=self._lag.measured_at)


class _WorkersCollector:
    """Each worker counts, once for all serve processes: take the maximum over these, not the sum."""

    def __init__(self, figures: Callable[[], Iterable[Figures]]) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        found = list(self._figures())
        if not found:
            return
        one = ["schema"]
        at = GaugeMetricFamily("tailorbird_worker_told_at_seconds", "When the worker last told its figures; old: it is gone.", labels=one)
        text = "Rows of the routed log that the worker has yet to take in."
        behind = GaugeMetricFamily("tailorbird_worker_behind_rows", text, labels=one)
        rows = CounterMetricFamily("tailorbird_worker_rows", "Rows of the routed log taken into the state.", labels=one)
        unfit = [CounterMetricFamily(f"tailorbird_features_{name}", text, labels=[*one, "field"]) for name, text in _UNFIT]
        kinds = [family(name, text, labels=[*one, "entity"]) for name, text, family, _ in _KINDS]
        for now in found:
            schema = now.schema_hash
            for family, value in ((at, now.at / 1e6), (behind, now.behind), (rows, now.rows)):
                family.add_metric([schema], value)
            for family, (name, _) in zip(unfit, _UNFIT, strict=True):
                for field, count in getattr(now, name).items():
                    family.add_metric([schema, field], count)
            for entity, kind in now.kinds.items():
                for family, (*_, attribute) in zip(kinds, _KINDS, strict=True):
                    family.add_metric([schema, entity], getattr(kind, attribute))
        yield from (at, behind, rows, *unfit, *kinds)


_UNFIT = (
    ("capped", "Values above the maximum that is declared for them, counted as that, by what is summed."),
    ("unreadable", "Values that are missing because they are no number or text as declared."),
    ("converted", "Truths and lists that were taken as numbers."),
)
_KINDS = (
    ("tailorbird_state_entities", "Entities that have records.", GaugeMetricFamily, "entities"),
    ("tailorbird_state_bytes", "Bytes of their state records.", GaugeMetricFamily, "state_bytes"),
    ("tailorbird_state_expired", "Entities let go because nothing of them could be read any more.", CounterMetricFamily, "expired"),
    ("tailorbird_state_dropped", "Entities dropped to stay within entities_max. Alarm on any.", CounterMetricFamily, "dropped"),
)


class _DoorCollector:
    def __init__(self, figures: Callable[[], DoorFigures]) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        now = self._figures()
        refused = CounterMetricFamily("tailorbird_events_refused", "Events refused, by code.", labels=["code"])
        for code, count in now.refused.items():
            refused.add_metric([code], count)
        yield refused
        for name, text, value in (
            ("tailorbird_events_accepted", "Events acknowledged.", now.accepted),
            ("tailorbird_log_commits", "Commits of the raw log.", now.batches),
            ("tailorbird_log_failures", "Commits of the raw log that failed.", now.failures),
            ("tailorbird_answers", "Answers given.", now.answers),
            ("tailorbird_answers_dropped", "Answers that could not be logged.", now.answers_dropped),
            ("tailorbird_answers_lost", "Answers that the last run lost by dying, at most.", now.answers_lost),
        ):
            yield CounterMetricFamily(name, text, value=value)
        for name, text, value in (
            (
                "tailorbird_log_set_aside",
                "Damaged ends of logs in files beside them; they may hold acknowledged events. Alarm on any.",
                now.set_aside,
            ),
            ("tailorbird_answers_waiting", "Answers that a crash now would lose.", now.answers_waiting),
            ("tailorbird_log_queue_bytes", "Bytes that wait for the log.", now.queue_bytes),
            ("tailorbird_log_open", "1 while the log takes writes.", int(now.open)),
        ):
            yield GaugeMetricFamily(name, text, value=value)
