"""Results of a project's calls, which print well in terminals and notebooks."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tailorbird.platform.frames import Frame, figures_frame, plot_figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tailorbird.monitoring.drift.judgement import DriftRow
    from tailorbird.monitoring.drift.training import Shift
    from tailorbird.serving.messages import RecommendResponse
    from tailorbird.training.evaluation.figures import Evaluation
    from tailorbird.training.settings import TrainReport
    from tailorbird.training.tasks.churn.report import ChurnReport

HISTORY = "history"  # what episodes of drift are found against, unless it is a training


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
    def page_path(self) -> Path | None:
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
        training_end_by_version: version → end of its training data, ISO 8601.
        note: why another version than the champion was evaluated, otherwise "".
    """

    slot: str
    evaluation: "Evaluation"
    training_end_by_version: dict[str, str]
    note: str = ""

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """The figures of each version and baseline, by name."""
        return self.evaluation.to_dict()["results"]

    @property
    def _header(self) -> str:
        requests = self.evaluation.request_count
        people = self.evaluation.user_count
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
            "learned_until": self.training_end_by_version,
            "source": self.evaluation.data_summary["source"],
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


@dataclass(frozen=True, repr=False)
class DriftResult:
    """Episodes of drift, the newest first.

    Attributes:
        against: `history`, or `training of` a version.
        shift_by_signal: signal → its distance to the training, now and then; the largest first.
    """

    false_alarms_a_month: float
    history_days: int
    signal_count: int
    episodes: "list[DriftRow]"
    against: str = HISTORY
    shift_by_signal: "dict[str, Shift]" = field(default_factory=dict)

    def to_frame(self) -> Frame:
        """Return the episodes as a table."""
        names = ["since", "until", "cause", "evidence", "runbook", "moved"]
        return Frame.from_rows(
            names,
            [
                (row.since, row.until, row.cause, row.evidence, row.runbook, ", ".join(row.moved))
                for row in self.episodes
            ],
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what `tailorbird monitor drift --json` prints."""
        return {
            "false_alarms_a_month": self.false_alarms_a_month,
            "history_days": self.history_days,
            "signals": self.signal_count,
            "against": self.against,
            "episodes": msgspec.to_builtins(self.episodes),
            "shifts": [
                {
                    "name": name,
                    "now": None if math.isnan(shift.current_distance) else shift.current_distance,
                    "then": None
                    if math.isnan(shift.training_distance)
                    else shift.training_distance,
                    "is_skew": shift.is_skew,
                }
                for name, shift in self.shift_by_signal.items()
            ],
        }

    @property
    def header(self) -> str:
        history_period = f"{self.history_days} days before"
        against = (
            history_period
            if self.against == HISTORY
            else f"the {self.against}, as {history_period} vary"
        )
        return (
            f"{self.signal_count} signals against {against}; chance alone causes "
            f"{self.false_alarms_a_month:g} episodes a month"
        )

    def __repr__(self) -> str:
        episodes = repr(self.to_frame()) if self.episodes else "no episode"
        return f"{self.header}\n{episodes}"

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(self.header)
