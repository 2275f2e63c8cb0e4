"""Live figures of the last hour, drift, steps and overdue trainings as Prometheus metrics."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tailorbird.monitoring.figures.report import Figures

METRIC_HELP = {
    "requests": "Responses of the last hour.",
    "error_rate": "Share of responses whose model failed, in the last hour.",
    "empty_rate": "Share of responses without an item, in the last hour.",
    "degraded_rate": "Share of responses that lacked something, in the last hour.",
    "latency_ms_p95": "95th percentile of the time of a response, in the last hour.",
    "ctr": "Clicks per item seen, in the last hour.",
    "conversion": "Share of responses with a purchase, corrected for those still to come.",
    "revenue": "Revenue that followed the responses of the last hour.",
    "dwell_s": "Mean time on an item, in the last hour.",
    "coverage": "Distinct items served in the last hour, relative to the catalogue.",
    "novelty": "Mean of -log2 of an item's share of yesterday's clicks, in the last hour.",
    "calibration": "Predicted clicks divided by clicks, in the last hour.",
}


class FiguresCollector(Collector):
    """Exports figures by slot and version.

    Args:
        read_figures: returns slot and figures of each version of it, as last computed.
    """

    def __init__(self, read_figures: Callable[[], Sequence[tuple[str, Figures]]]) -> None:
        self._read_figures = read_figures

    def collect(self) -> Iterable[Metric]:
        slot_figures = self._read_figures()
        for name, help_text in METRIC_HELP.items():
            metric = GaugeMetricFamily(
                f"tailorbird_live_{name}", help_text, labels=["slot", "version"]
            )
            for slot, version_figures in slot_figures:
                if not math.isnan(value := getattr(version_figures, name)):
                    metric.add_metric([slot, version_figures.group], value)
            yield metric


class RolloutCollector(Collector):
    """Exports open episodes of drift, steps of models, and what waits.

    Args:
        read_causes: returns the cause of each open episode.
        read_actions: returns the action of each step of the last 24 hours.
        read_waiting_steps: returns each step that waits for a person.
        read_overdue_slots: returns each slot whose training is due and did not succeed.
    """

    def __init__(
        self,
        read_causes: Callable[[], Sequence[str]],
        read_actions: Callable[[], Sequence[str]],
        read_waiting_steps: Callable[[], Sequence[str]],
        read_overdue_slots: Callable[[], Sequence[str]],
    ) -> None:
        self._read_causes = read_causes
        self._read_actions = read_actions
        self._read_waiting_steps = read_waiting_steps
        self._read_overdue_slots = read_overdue_slots

    def collect(self) -> Iterable[Metric]:
        for name, help_text, label, values in (
            (
                "drift_episodes",
                "Open episodes of drift by likely cause.",
                "cause",
                self._read_causes(),
            ),
            ("rollout_steps", "Steps of models in 24 hours.", "action", self._read_actions()),
            ("steps_waiting", "Steps that wait for a person.", "step", self._read_waiting_steps()),
            (
                "trainings_overdue",
                "1 for a slot whose training is due and cannot run.",
                "slot",
                self._read_overdue_slots(),
            ),
        ):
            metric = GaugeMetricFamily(f"tailorbird_{name}", help_text, labels=[label])
            for value, count in sorted(Counter(values).items()):
                metric.add_metric([value], count)
            yield metric
