"""The report of a validation: comparisons, overfitting and leaks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.stats import norm

from tailorbird.experiments.analysis.multiple import adjust_holm
from tailorbird.platform.frames import Frame, figures_frame, plot_figures
from tailorbird.training.backtests.leaks import LEAK, Finding
from tailorbird.training.evaluation.bootstrap import Interval, flatten_intervals
from tailorbird.training.evaluation.figures import PRIMARY_METRIC, Evaluation

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class ComparisonTest:
    """A paired comparison: the model's gain over another, and its p-value.

    Attributes:
        competitor: the baseline or variant that the model is compared with.
        kind: `baseline`, or the kind of the variant.
        p: two-sided, from the width of the interval.
        p_adjusted: p after Holm's correction over all tests of the report.
    """

    competitor: str
    kind: str
    gain: Interval
    p: float
    p_adjusted: float

    @property
    def verdict(self) -> str:
        if not np.isfinite(self.p_adjusted) or self.p_adjusted >= 0.05:
            return "may be chance"
        return "ahead" if self.gain.value > 0 else "behind"

    def to_dict(self) -> dict[str, Any]:
        p_values = {"p": _round_or_none(self.p), "p_holm": _round_or_none(self.p_adjusted)}
        return {
            "other": self.competitor,
            "kind": self.kind,
            **flatten_intervals({"gain": self.gain}),
            **p_values,
            "verdict": self.verdict,
        }


def holm_adjust(comparisons: Sequence[tuple[str, str, Interval]]) -> list[ComparisonTest]:
    """Return paired tests with p-values adjusted by Holm's method.

    The family-wise error rate is 5 % at p < 0.05.

    Source: Holm, Scand. J. Statist. 6 (1979).
    """
    p_values = []
    for _, _, gain in comparisons:
        standard_error = (gain.high - gain.low) / (2 * 1.96)
        p_at_zero_error = 1.0 if gain.value == 0 else 0.0
        p = (
            float(2 * norm.sf(abs(gain.value) / standard_error))
            if standard_error > 0
            else p_at_zero_error
        )
        p_values.append(p if gain.has_bounds else float("nan"))
    adjusted_comparisons = zip(comparisons, p_values, adjust_holm(p_values).tolist(), strict=True)
    return [
        ComparisonTest(name, kind, gain, p, p_adjusted)
        for (name, kind, gain), p, p_adjusted in adjusted_comparisons
    ]


class PartFigures(NamedTuple):
    """One metric on the three parts of a split."""

    train: float
    validation: float
    holdout: float


@dataclass(frozen=True)
class OverfitGap:
    """Weighted AUC and log loss of one head on the parts of a split."""

    origin: str
    head: str
    auc: PartFigures
    log_loss: PartFigures

    @property
    def overfit(self) -> float:
        return self.auc.train - self.auc.holdout

    def to_dict(self) -> dict[str, Any]:
        part_names = ("train", "validation", "test")
        figures_by_metric = {"auc": self.auc, "log_loss": self.log_loss}
        values_by_name = {
            f"{metric}_{part}": _round_or_none(value)
            for metric, values in figures_by_metric.items()
            for part, value in zip(part_names, values, strict=True)
        }
        return {"origin": self.origin, "head": self.head, **values_by_name}


@dataclass(frozen=True, repr=False)
class ValidationReport:
    """The result of a validation.

    Attributes:
        evaluation: over all origins; sliced by origin, new and known users, devices, long tail
            and new items.
        tests: against baselines and other ways of training.
        learning_curve: share of the training requests → NDCG@10; 1 is the model.
        findings: suspected leaks, and overfitted heads.
        about: seed, settings, and period and architecture of each split.
        substitution: note that another architecture was requested than the slot is tuned to, or "".
    """

    slot: str
    evaluation: Evaluation
    tests: tuple[ComparisonTest, ...]
    overfit_gaps: tuple[OverfitGap, ...]
    learning_curve: Mapping[float, Interval]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    about: dict[str, Any]
    substitution: str = ""

    @property
    def architecture(self) -> str:
        """Names of the fitted architectures, without repeats."""
        return ", ".join(
            dict.fromkeys(split_summary["architecture"] for split_summary in self.about["splits"])
        )

    @property
    def leaks(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == LEAK)

    @property
    def _summary_line(self) -> str:
        leak_text = f"{len(self.leaks)} leaks" if self.leaks else "no leak"
        origin_count = len(self.about["splits"])
        request_count = self.evaluation.request_count
        return (
            f"slot {self.slot}: {origin_count} past cuts, {request_count:,} requests, "
            f"{leak_text} found"
        )

    def to_frame(self) -> Frame:
        """Return the figures over all origins, the best model first."""
        return figures_frame(self.evaluation.to_dict()["results"])

    def plot(self, metric: str = "ndcg_10") -> "Figure":
        """Draw one metric of all models, with 95 % intervals."""
        return plot_figures(self.evaluation.to_dict()["results"], metric)

    def __repr__(self) -> str:
        return f"{self._summary_line}\n{self.to_frame()!r}"

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(self._summary_line)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON."""
        learning_curve = [
            {"share": share, **flatten_intervals({PRIMARY_METRIC: interval})}
            for share, interval in self.learning_curve.items()
        ]
        tables = {
            "tests": [test.to_dict() for test in self.tests],
            "gaps": [gap.to_dict() for gap in self.overfit_gaps],
            "learning_curve": learning_curve,
        }
        details = {
            "findings": [finding.to_dict() for finding in self.findings],
            "notes": list(self.notes),
            "about": self.about,
        }
        return {
            "slot": self.slot,
            "instead": self.substitution,
            **self.evaluation.to_dict(),
            **tables,
            **details,
        }


def _round_or_none(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None
