"""The result of an evaluation in a notebook: a table, a plot, and what the registry needs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tailorbird.platform.frames import Frame, figures_frame, plot_figures
from tailorbird.training.evaluation.figures import Evaluation

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def metric_key(metric: str) -> str:
    """Return the name of a metric in tables: `ndcg@10` is `ndcg_10`."""
    return metric.replace("@", "_")


@dataclass(frozen=True, repr=False)
class Comparison:
    """Models and baselines on the same test requests.

    Attributes:
        evaluation: all figures, with intervals and slices.
        metrics: those that are shown.
        aucs: model → AUC of the first head.
        models: what was evaluated, by name.
        test_requests: the requests.
        fitted_models: the models with export and calibration, by name.
    """

    slot: str
    evaluation: Evaluation
    metrics: tuple[str, ...]
    aucs: Mapping[str, float]
    models: Mapping[str, Any] = field(default_factory=dict)
    test_requests: Any = None
    fitted_models: Mapping[str, Any] = field(default_factory=dict)

    @property
    def results(self) -> dict[str, dict[str, float | None]]:
        """The shown figures by model, with the ends of their 95 % intervals."""
        metrics_by_model = self.evaluation.to_dict()["results"]
        metric_keys = [metric_key(metric) for metric in self.metrics if metric != "auc"]
        results = {
            name: {
                key: value
                for metric in metric_keys
                for key, value in metrics.items()
                if key in (metric, f"{metric}_low", f"{metric}_high")
            }
            for name, metrics in metrics_by_model.items()
        }
        if "auc" in self.metrics:
            for name, metrics in results.items():
                metrics["auc"] = self.aucs.get(name)
        return results

    def to_frame(self) -> Frame:
        """Return the figures as a table, the best model first."""
        return figures_frame(self.results)

    def plot(self, metric: str = "") -> "Figure":
        """Draw one metric of all models, by default the first, with 95 % intervals."""
        return plot_figures(self.results, metric_key(metric or self.metrics[0]))

    @property
    def _header(self) -> str:
        request_count = self.evaluation.request_count
        user_count = self.evaluation.user_count
        return f"slot {self.slot}: {request_count:,} requests, {user_count:,} people"

    def __repr__(self) -> str:
        return f"{self._header}\n{self.to_frame()!r}"

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(self._header)
