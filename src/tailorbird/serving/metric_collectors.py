"""Prometheus collectors of figures that other parts hold, read at each scrape of `/metrics`.

`serving.metrics` has what a serve process counts by itself.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tailorbird.candidates.query import table_group
from tailorbird.periodic import PeriodicTask
from tailorbird.probes import ProgressEvent
from tailorbird.serving.collector.decisions import CollectorFigures
from tailorbird.serving.load_shedding import Shedder
from tailorbird.serving.pipeline.deadlines import BreakerState
from tailorbird.serving.scores.log import ScoreFigures
from tailorbird.store.hedge import Hedge
from tailorbird.stream.lag import LagWatch


class RoleCounts(Protocol):
    """How often a role was restarted; of these, because it made no progress."""

    @property
    def name(self) -> str: ...
    @property
    def restarts(self) -> int: ...
    @property
    def hung(self) -> int: ...


class RolesCollector(Collector):
    """Restarts of the roles by `up`."""

    def __init__(self, roles: Callable[[], Iterable[RoleCounts]]) -> None:
        self._roles = roles

    def collect(self) -> Iterable[Metric]:
        text = "Restarts of roles by up: hung ones made no progress. Alarm on any that is hung."
        family = CounterMetricFamily("tailorbird_role_restarts", text, labels=["role", "reason"])
        for role in self._roles():
            family.add_metric([role.name, "hung"], role.hung)
            family.add_metric([role.name, "ended"], role.restarts - role.hung)
        yield family


class CandidatesCollector(Collector):
    """Age of the tables that each candidate source reads.

    It grows if the candidates role stopped, or lags behind the log.
    """

    def __init__(self, ages: Callable[[], Mapping[str, int]], sources: Sequence[str]) -> None:
        self._ages = ages
        self._sources = sources

    def collect(self) -> Iterable[Metric]:
        text = (
            "For how long a candidate source has not been known to show the newest state of "
            "the log. "
        )
        text += (
            "Alarm beyond 30 seconds; of session_knn and stan, whose tables come once a "
            "minute, beyond two minutes."
        )
        age = GaugeMetricFamily("tailorbird_candidates_age_seconds", text, labels=["source"])
        ages = self._ages()
        for name in self._sources:
            if (group := table_group(name)) in ages:
                age.add_metric([name], ages[group] / 1e6)
        yield age


class SheddingCollector(Collector):
    def __init__(self, shedder: Shedder) -> None:
        self._shedder = shedder

    def collect(self) -> Iterable[Metric]:
        text = "Requests refused because too much work waited."
        yield CounterMetricFamily("tailorbird_shed", text, value=self._shedder.refused)
        text = "How long a question that came now would have to wait for a thread."
        yield GaugeMetricFamily(
            "tailorbird_expected_wait_seconds", text, value=self._shedder.expected_wait_s()
        )
        yield GaugeMetricFamily(
            "tailorbird_waiting", "Questions that run or wait.", value=self._shedder.waiting
        )


class BreakerCollector(Collector):
    def __init__(self, states: Callable[[], Iterable[BreakerState]]) -> None:
        self._states = states

    def collect(self) -> Iterable[Metric]:
        labels = ["dependency"]
        text = (
            "1 while the circuit breaker of a dependency is open, since it failed or was late "
            "three times in a row. Alarm when it lasts."
        )
        is_open = GaugeMetricFamily("tailorbird_breaker_open", text, labels=labels)
        opened = CounterMetricFamily(
            "tailorbird_breaker_opened",
            "How often its breaker opened, for a second at a time.",
            labels=labels,
        )
        late = CounterMetricFamily(
            "tailorbird_late", "Answers of it that took longer than its budget.", labels=labels
        )
        for state in self._states():
            for family, value in (
                (is_open, int(state.open)),
                (opened, state.open_count),
                (late, state.late_count),
            ):
                family.add_metric([state.name], value)
        yield from (is_open, opened, late)


class HedgeCollector(Collector):
    def __init__(self, hedge: Hedge) -> None:
        self._hedge = hedge

    def collect(self) -> Iterable[Metric]:
        hedge = self._hedge
        for name, text, value in (
            ("tailorbird_store_reads", "Round trips to the Valkey that read.", hedge.read_count),
            (
                "tailorbird_store_reads_hedged",
                "Of these, how many took so long that they were sent a second time.",
                hedge.hedged_count,
            ),
            (
                "tailorbird_store_hedges_won",
                "Of these, how many the second read answered first.",
                hedge.won_count,
            ),
        ):
            yield CounterMetricFamily(name, text, value=value)


class RolloutCollector(Collector):
    def __init__(self, versions: Callable[[], dict[str, str]]) -> None:
        self._versions = versions

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(
            "tailorbird_rollout_info",
            "1 for each bundle that is loaded, and as what.",
            labels=["role", "version"],
        )
        for role, version in self._versions().items():
            family.add_metric([role, version], 1)
        yield family


class LimitsCollector:
    def __init__(self, read_refusals_by_limit: Callable[[], dict[str, int]]) -> None:
        self._read_refusals_by_limit = read_refusals_by_limit

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(
            "tailorbird_limited", "Requests refused for a limit's sake, by limit.", labels=["limit"]
        )
        for limit, count in self._read_refusals_by_limit().items():
            family.add_metric([limit], count)
        yield family


class LagCollector(Collector):
    """Lag of the log readers. Each serve process measures the same: aggregate by maximum, not by
    sum.
    """

    def __init__(self, lag_watch: LagWatch) -> None:
        self._lag_watch = lag_watch

    def collect(self) -> Iterable[Metric]:
        labels = ["reader", "log"]
        rows = GaugeMetricFamily(
            "tailorbird_lag_rows", "Rows of a log that its reader has yet to take.", labels=labels
        )
        blocks = GaugeMetricFamily(
            "tailorbird_lag_blocks",
            "Blocks (messages of a topic) that hold these rows.",
            labels=labels,
        )
        text = (
            "For how long the first of these rows has been waiting; 0 where none is, or where "
            "its log does not say."
        )
        seconds = GaugeMetricFamily("tailorbird_lag_seconds", text, labels=labels)
        lost = GaugeMetricFamily(
            "tailorbird_lag_lost_rows",
            "Rows that were read and that the log lost since. Alarm on any.",
            labels=labels,
        )
        now = int(time.time() * 1e6)
        for lag in self._lag_watch.lags:
            for family, value in (
                (rows, lag.rows),
                (blocks, lag.blocks),
                (seconds, lag.seconds(now)),
                (lost, lag.lost_rows),
            ):
                family.add_metric([lag.reader, lag.log], value)
        yield from (rows, blocks, seconds, lost)
        text = "When this was last measured; old: a log cannot be read."
        yield GaugeMetricFamily(
            "tailorbird_lag_measured_at_seconds", text, value=self._lag_watch.measured_at
        )


class ThreadsCollector(Collector):
    def __init__(self, read_tasks: Callable[[], Iterable[PeriodicTask]]) -> None:
        self._read_tasks = read_tasks

    def collect(self) -> Iterable[Metric]:
        text = "Unforeseen failures of a thread, which goes on; the log has each. Alarm on any."
        failures = CounterMetricFamily("tailorbird_thread_failures", text, labels=["thread"])
        for task in self._read_tasks():
            failures.add_metric([task.name], task.failure_count)
        yield failures


class RoleCollector(Collector):
    def __init__(self, role: str, progress: ProgressEvent) -> None:
        self._role = role
        self._progress = progress

    def collect(self) -> Iterable[Metric]:
        labels = ["role"]
        text = "How long ago the role's loop last came round. Alarm when it grows."
        age = GaugeMetricFamily("tailorbird_role_age_seconds", text, labels=labels)
        rounds = CounterMetricFamily(
            "tailorbird_role_rounds", "How often it came round.", labels=labels
        )
        age.add_metric([self._role], self._progress.age_s())
        rounds.add_metric([self._role], self._progress.rounds)
        yield from (age, rounds)


def role_metrics(
    role: str, progress: ProgressEvent, collectors: Iterable[Collector]
) -> Callable[[], bytes]:
    """Return a renderer of the metrics of a role without HTTP: its heartbeat, and those of
    `collectors`.
    """
    registry = CollectorRegistry()
    for collector in (RoleCollector(role, progress), *collectors):
        registry.register(collector)
    return lambda: generate_latest(registry)


class ScoresCollector(Collector):
    """Counters of the score role since its start."""

    def __init__(self, read_figures: Callable[[], ScoreFigures]) -> None:
        self._read_figures = read_figures

    def collect(self) -> Iterable[Metric]:
        figures = self._read_figures()
        rows = CounterMetricFamily(
            "tailorbird_score_rows", "Rows of the routed log that were looked at."
        )
        rows.add_metric([], figures.rows)
        scores = CounterMetricFamily(
            "tailorbird_scores", "Scores that were appended.", labels=["name"]
        )
        unscored = CounterMetricFamily(
            "tailorbird_unscored",
            "People who were not scored, as no model answered.",
            labels=["name"],
        )
        for family, counts in ((scores, figures.scores), (unscored, figures.unscored_by_name)):
            for name, count in counts.items():
                family.add_metric([name], count)
        yield from (rows, scores, unscored)


class CollectorMetrics:
    def __init__(self, read_figures: Callable[[], CollectorFigures]) -> None:
        self._read_figures = read_figures

    def collect(self) -> Iterable[Metric]:
        figures = self._read_figures()
        refused = CounterMetricFamily(
            "tailorbird_events_refused", "Events refused, by code.", labels=["code"]
        )
        for code, count in figures.refused.items():
            refused.add_metric([code], count)
        yield refused
        for name, text, value in (
            ("tailorbird_events_accepted", "Events acknowledged.", figures.accepted),
            ("tailorbird_log_commits", "Commits of the raw log.", figures.batches),
            ("tailorbird_log_failures", "Commits of the raw log that failed.", figures.failures),
            ("tailorbird_answers", "Answers given.", figures.responses),
            (
                "tailorbird_answers_dropped",
                "Answers that could not be logged.",
                figures.responses_dropped,
            ),
            (
                "tailorbird_answers_lost",
                "Answers that the last run lost by dying, at most.",
                figures.responses_lost,
            ),
            (
                "tailorbird_answers_ahead",
                "Answers dated ahead of the clock, as what they read of is. Alarm on any.",
                figures.responses_ahead,
            ),
            (
                "tailorbird_clock_set_back",
                "Times that the clock was set back, from far ahead. Alarm on any.",
                figures.clock_set_back,
            ),
        ):
            yield CounterMetricFamily(name, text, value=value)
        for name, text, value in (
            (
                "tailorbird_log_set_aside",
                "Damaged ends of logs, and lost logs, in files beside them; they may hold "
                "acknowledged events. Alarm on any.",
                figures.set_aside,
            ),
            (
                "tailorbird_answers_waiting",
                "Answers that a crash now would lose.",
                figures.responses_waiting,
            ),
            ("tailorbird_log_queue_bytes", "Bytes that wait for the log.", figures.queue_bytes),
            ("tailorbird_log_open", "1 while the log takes writes.", int(figures.open)),
        ):
            yield GaugeMetricFamily(name, text, value=value)
