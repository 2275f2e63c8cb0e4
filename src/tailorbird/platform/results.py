"""Results of a project's calls, which print well in terminals and notebooks."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailorbird.platform.frames import Frame, figures_frame, plot_figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tailorbird.serving.messages import RecommendResponse
    from tailorbird.training.evaluation.figures import Evaluation
    from tailorbird.training.settings import TrainReport
    from tailorbird.training.tasks.churn.report import ChurnReport


def _to_text(lines: Iterable[str], frame: Frame) -> str:
    return "\n".join((*lines, repr(frame)))


@dataclass(frozen=True, repr=False)
class TrainResult:
    """A trained model and how it compares with the baselines.

    Attributes:
        report: all figures; `report.to_dict()` is what `tailorbird train --json` prints.
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
        return self.report.page_path

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """The figures of the model and its baselines, by name."""
        return self.report.to_dict()["results"]

    @property
    def _header(self) -> str:
        state = "promoted" if self.is_promoted else "not promoted"
        return f"{self.version}, {state}: {self.reason}"

    def to_frame(self) -> Frame:
        """Return the figures as a table, the best model first."""
        return figures_frame(self.results)

    def plot(self, metric: str = "ndcg_10") -> "Figure":
        """Draw one metric of all models, with 95 % intervals."""
        return plot_figures(self.results, metric)

    def __repr__(self) -> str:
        return _to_text([self._header], self.to_frame())

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(self._header)


@dataclass(frozen=True, repr=False)
class EvaluationResult:
    """Versions compared with all baselines on the newest part of the log.

    Attributes:
        slot: slot whose requests were evaluated.
        evaluation: all figures.
        learned_until: version → end of its training data, ISO 8601.
        note: why another version than the champion was evaluated, otherwise "".
    """

    slot: str
    evaluation: "Evaluation"
    learned_until: dict[str, str]
    note: str = ""

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """The figures of each version and baseline, by name."""
        return self.evaluation.to_dict()["results"]

    @property
    def _header(self) -> str:
        requests, people = self.evaluation.requests, self.evaluation.people
        return f"slot {self.slot}: {requests:,} requests, {people:,} people"

    def to_frame(self) -> Frame:
        """Return the figures as a table, the best model first."""
        return figures_frame(self.results)

    def plot(self, metric: str = "ndcg_10") -> "Figure":
        """Draw one metric of all models, with 95 % intervals."""
        return plot_figures(self.results, metric)

    def __repr__(self) -> str:
        return _to_text([self._header], self.to_frame())

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(self._header)

    def to_dict(self) -> dict[str, Any]:
        """Return what `tailorbird evaluate --json` prints."""
        return {
            "slot": self.slot,
            "learned_until": self.learned_until,
            "source": self.evaluation.about["source"],
            **self.evaluation.to_dict(),
        }


@dataclass(frozen=True, repr=False)
class Slate:
    """A served list.

    Attributes:
        response: the response as a server sends it.
        note: a sentence if the response is as of another time than now, otherwise "".
    """

    response: "RecommendResponse"
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

    @property
    def _header(self) -> list[str]:
        summary = f"slot {self.response.slot}, model {self.response.model}"
        return [self.note, summary] if self.note else [summary]

    def __repr__(self) -> str:
        return _to_text(self._header, self.to_frame())

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(*self._header)
