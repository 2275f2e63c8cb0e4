"""Results of a project's calls, which print well in terminals and notebooks."""

import html
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailorbird.platform.frames import Frame, figures_frame, plot_figures
from tailorbird.platform.training import EvaluationOutcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tailorbird.serving.messages import Answer
    from tailorbird.training.churn.report import ChurnReport
    from tailorbird.training.settings import TrainReport


@dataclass(frozen=True, repr=False)
class TrainResult:
    """A trained model and how it compares with the baselines.

    Attributes:
        report: all figures; `report.plain()` is what `tailorbird train --json` prints.
    """

    report: "TrainReport | ChurnReport"

    @property
    def version(self) -> str:
        """Its version in the registry."""
        return self.report.version

    @property
    def is_promoted(self) -> bool:
        """True if it became the champion."""
        return self.report.promoted

    @property
    def reason(self) -> str:
        """The gate's reason for or against the promotion."""
        return self.report.decision.reason

    @property
    def page(self) -> Path | None:
        """The HTML report."""
        return self.report.report

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """The figures of the model and its baselines, by name."""
        return self.report.to_dict()["results"]

    def to_frame(self) -> Frame:
        """Return the figures as a table, the best model first."""
        return figures_frame(self.results)

    def plot(self, metric: str = "ndcg_10") -> "Figure":
        """Draw one metric of the model and its baselines, with 95 % intervals."""
        return plot_figures(self.results, metric)

    def __repr__(self) -> str:
        state = "promoted" if self.is_promoted else "not promoted"
        return f"{self.version}, {state}: {self.reason}\n{self.to_frame()!r}"

    def _repr_html_(self) -> str:
        state = "promoted" if self.is_promoted else "not promoted"
        return (
            f"<p><b>{self.version}</b>, {state}: {html.escape(self.reason)}</p>"
            f"{self.to_frame()._repr_html_()}"
        )


@dataclass(frozen=True, repr=False)
class EvaluationResult:
    """Versions compared with all baselines on the newest part of the log.

    Attributes:
        evaluated: the evaluation with its notes.
    """

    evaluated: EvaluationOutcome

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """The figures of each version and baseline, by name."""
        return self.evaluated.evaluation.to_dict()["results"]

    def to_frame(self) -> Frame:
        """Return the figures as a table, the best first."""
        return figures_frame(self.results)

    def plot(self, metric: str = "ndcg_10") -> "Figure":
        """Draw one metric with its 95 % intervals."""
        return plot_figures(self.results, metric)

    def __repr__(self) -> str:
        evaluation = self.evaluated.evaluation
        header = f"slot {self.evaluated.slot}: {evaluation.requests:,} requests"
        return f"{header}, {evaluation.people:,} people\n{self.to_frame()!r}"

    def _repr_html_(self) -> str:
        evaluation = self.evaluated.evaluation
        header = f"slot {self.evaluated.slot}: {evaluation.requests:,} requests"
        return (
            f"<p>{html.escape(header)}, {evaluation.people:,} people</p>"
            f"{self.to_frame()._repr_html_()}"
        )


@dataclass(frozen=True, repr=False)
class Slate:
    """A served list.

    Attributes:
        response: the response as a server sends it.
        note: a sentence if the response is as of another time than now, otherwise "".
    """

    response: "Answer"
    note: str = ""

    @property
    def item_ids(self) -> list[str]:
        """Ids of the items in their order."""
        return [item.item_id for item in self.response.items]

    def to_frame(self) -> Frame:
        """Return the items with their scores, reasons and propensities."""
        return Frame.from_rows(
            ["position", "item_id", "title", "score", "reason", "propensity"],
            [
                (
                    item.position,
                    item.item_id,
                    str((item.attributes or {}).get("title", "")),
                    item.score,
                    item.reason,
                    item.propensity,
                )
                for item in self.response.items
            ],
        )

    def __len__(self) -> int:
        return len(self.response.items)

    def __repr__(self) -> str:
        header = f"slot {self.response.slot}, model {self.response.model}"
        return "\n".join(filter(None, (self.note, header, repr(self.to_frame()))))

    def _repr_html_(self) -> str:
        note = f"<p>{html.escape(self.note)}</p>" if self.note else ""
        header = html.escape(f"slot {self.response.slot}, model {self.response.model}")
        return f"{note}<p>{header}</p>{self.to_frame()._repr_html_()}"
