"""Messages by receiver, and receivers that fail, as Prometheus metrics."""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

Counts = Mapping[tuple[str, str], int]  # (receiver, sent or failed) → messages


class NotifyCollector(Collector):
    """Exports how many messages were sent or failed, and which receivers fail.

    Args:
        read_counts: returns the messages since the start of this process.
        read_failing: returns each receiver, and whether it fails.
    """

    def __init__(
        self, read_counts: Callable[[], Counts], read_failing: Callable[[], Mapping[str, bool]]
    ) -> None:
        self._read_counts = read_counts
        self._read_failing = read_failing

    def collect(self) -> Iterable[Metric]:
        messages = CounterMetricFamily(
            "tailorbird_notify_messages",
            "Messages by receiver: sent, or failed and tried again.",
            labels=["receiver", "outcome"],
        )
        for (receiver, outcome), count in sorted(self._read_counts().items()):
            messages.add_metric([receiver, outcome], count)
        yield messages
        failing = GaugeMetricFamily(
            "tailorbird_notify_failing",
            "1 for a receiver that accepts no message. Alarm on any.",
            labels=["receiver"],
        )
        for receiver, is_failing in sorted(self._read_failing().items()):
            failing.add_metric([receiver], float(is_failing))
        yield failing
