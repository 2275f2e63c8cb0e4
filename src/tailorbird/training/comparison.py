"""The result of an evaluation in a notebook: a table, a plot, and what the registry needs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tailorbird.platform.frames import Frame, figures_frame, plot_figures
from tailorbird.training.evaluation.figures import Evaluation

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figure_name(metric: str) -> str:
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
        test: the requests.
        fitted: the models with export and calibration, by name.
    """

    slot: str
    evaluation: Evaluation
    metrics: tuple[str, ...]
    aucs: Mapping[str, float]
    models: Mapping[str, Any] = field(default_factory=dict)
    test: Any = None
    fitted: Mapping[str, Any] = field(default_factory=dict)

    @property
    def results(self) -> dict[str, dict[str, float | None]]:
        """The shown figures by model, with the ends of their 95 % intervals."""
        all_figures = self.evaluation.to_dict()["results"]
        figure_names = [figure_name(metric) for metric in self.metrics if metric != "auc"]
        results = {
            name: {
                key: value
                for metric in figure_names
                for key, value in figures.items()
                if key in (metric, f"{metric}_low", f"{metric}_high")
            }
            for name, figures in all_figures.items()
        }
        if "auc" in self.metrics:
            for name, figures in results.items():
                figures["auc"] = self.aucs.get(name)
        return results

    def to_frame(self) -> Frame:
        """Return the figures as a table, the best model first."""
        return figures_frame(self.results)

    def plot(self, metric: str = "") -> "Figure":
        """Draw one metric of all models, by default the first, with 95 % intervals."""
        return plot_figures(self.results, figure_name(metric or self.metrics[0]))

    @property
    def _header(self) -> str:
        requests, people = self.evaluation.requests, self.evaluation.people
        return f"slot {self.slot}: {requests:,} requests, {people:,} people"

    def __repr__(self) -> str:
        return f"{self._header}\n{self.to_frame()!r}"

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(self._header)
