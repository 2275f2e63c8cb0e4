"""Prometheus collectors of figures of feature states, their copies and their workers."""

import time
from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tailorbird.features.parity.totals import ParityTotals
from tailorbird.features.state.progress import WorkerProgress


class FeaturesCollector(Collector):
    """Results of the feature comparison. The lake role counts once for all processes: aggregate by
    maximum, not by sum.
    """

    def __init__(self, read_totals: Callable[[], ParityTotals | None]) -> None:
        self._read_totals = read_totals

    def collect(self) -> Iterable[Metric]:
        totals = self._read_totals()
        if totals is None:
            return
        for name, text, counts in (
            (
                "tailorbird_features_compared",
                "Served values recomputed from the lake.",
                totals.compared,
            ),
            (
                "tailorbird_features_unequal",
                "Of these, values that differ in any bit. Alarm on any.",
                totals.unequal,
            ),
        ):
            family = CounterMetricFamily(name, text, labels=["feature"])
            for feature, count in counts.items():
                family.add_metric([feature], count)
            yield family
        text = "Values that differ because a cap may have dropped their entities."
        yield CounterMetricFamily(
            "tailorbird_features_compared_dropped", text, value=totals.dropped
        )
        text = "When served features were last compared with the lake."
        yield GaugeMetricFamily(
            "tailorbird_features_compared_at_seconds", text, value=totals.at / 1e6
        )
        text = "1 while the comparison fails; doctor says why."
        yield GaugeMetricFamily(
            "tailorbird_features_compare_failing", text, value=int(bool(totals.error))
        )


class CopiesCollector:
    """Age of the feature copies as this server last read them.

    It grows if the worker stopped, if the worker cannot reach the Valkey, or if this server cannot.
    """

    def __init__(self, published_at: Callable[[], dict[str, int]]) -> None:
        self._published_at = published_at

    def collect(self) -> Iterable[Metric]:
        text = (
            "For how long the copies that features are read from have not been known to be up "
            "to date. Alarm beyond store.stale_after."
        )
        age = GaugeMetricFamily("tailorbird_features_age_seconds", text, labels=["schema"])
        now = time.time()
        for schema, published_at in self._published_at().items():
            age.add_metric([schema], max(0.0, now - published_at / 1e6))
        yield age


class WorkersCollector(Collector):
    """Figures of the workers. Each worker counts once for all processes: aggregate by maximum,
    not by sum.
    """

    def __init__(self, figures: Callable[[], Iterable[WorkerProgress]]) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        figures = list(self._figures())
        if not figures:
            return
        labels = ["schema"]
        reported_at = GaugeMetricFamily(
            "tailorbird_worker_told_at_seconds",
            "When the worker last told its figures; old: it is gone.",
            labels=labels,
        )
        text = "Rows of the routed log that the worker has yet to take in."
        lag_rows = GaugeMetricFamily("tailorbird_worker_behind_rows", text, labels=labels)
        rows = CounterMetricFamily(
            "tailorbird_worker_rows", "Rows of the routed log taken into the state.", labels=labels
        )
        value_families = [
            CounterMetricFamily(f"tailorbird_features_{name}", text, labels=[*labels, "field"])
            for name, text in _VALUE_METRICS
        ]
        entity_families = [
            family_type(name, text, labels=[*labels, "entity"])
            for name, text, family_type, _ in _ENTITY_METRICS
        ]
        copy_gauges = [
            GaugeMetricFamily(f"tailorbird_copies_{name}", text, labels=labels)
            for name, text in _COPY_METRICS
        ]
        for worker in figures:
            schema = worker.schema_hash
            if worker.copies is not None:
                age_s = max(0.0, time.time() - worker.copies.at / 1e6)
                values = (
                    age_s,
                    worker.copies.commits,
                    worker.copies.records,
                    int(worker.copies.failing),
                )
                for gauge, value in zip(copy_gauges, values, strict=True):
                    gauge.add_metric([schema], value)
            for family, value in (
                (reported_at, worker.at / 1e6),
                (lag_rows, worker.behind),
                (rows, worker.rows),
            ):
                family.add_metric([schema], value)
            for family, (name, _) in zip(value_families, _VALUE_METRICS, strict=True):
                for field, count in getattr(worker, name).items():
                    family.add_metric([schema, field], count)
            for entity, entity_figures in worker.kinds.items():
                for family, (*_, attribute) in zip(entity_families, _ENTITY_METRICS, strict=True):
                    family.add_metric([schema, entity], getattr(entity_figures, attribute))
        yield from (reported_at, lag_rows, rows, *value_families, *entity_families, *copy_gauges)


_VALUE_METRICS = (
    (
        "capped",
        "Values above the maximum that is declared for them, counted as that, by what is summed.",
    ),
    ("unreadable", "Values that are missing because they are no number or text as declared."),
    ("converted", "Truths and lists that were taken as numbers."),
)
_COPY_METRICS = (
    (
        "age_seconds",
        "For how long the copies in Valkey have not been known to be up to date. Alarm "
        "beyond store.stale_after.",
    ),
    ("behind_commits", "Commits of the state that the copies lack."),
    ("behind_rows", "Records that wait to be copied; 0 too where all are to be copied anew."),
    ("failing", "1 while the copies cannot be renewed; the worker's log says why."),
)
_ENTITY_METRICS = (
    ("tailorbird_state_entities", "Entities that have records.", GaugeMetricFamily, "entities"),
    ("tailorbird_state_bytes", "Bytes of their state records.", GaugeMetricFamily, "state_bytes"),
    (
        "tailorbird_state_expired",
        "Entities let go because nothing of them could be read any more.",
        CounterMetricFamily,
        "expired",
    ),
    (
        "tailorbird_state_dropped",
        "Entities dropped to stay within entities_max. Alarm on any.",
        CounterMetricFamily,
        "dropped",
    ),
)
