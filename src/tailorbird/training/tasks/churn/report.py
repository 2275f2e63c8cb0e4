"""Result of a churn training: as JSON, for the page (`training.tasks.churn.page`), and the model card."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tailorbird.events import DAY, to_iso
from tailorbird.ranking.churn.declaration import Churn
from tailorbird.training.evaluation.bootstrap import flatten_tables
from tailorbird.training.evaluation.gate import Decision
from tailorbird.training.report.card import NO_OWNER, format_table, gate_section
from tailorbird.training.tasks.churn.contact import ContactCurve
from tailorbird.training.tasks.churn.evaluation import CutMetrics
from tailorbird.training.tasks.churn.labels import Activity
from tailorbird.training.tasks.churn.model_choice import ModelChoice
from tailorbird.training.tasks.churn.rolling_origin import cuts_to_calibrate, required_history_us
from tailorbird.training.tasks.churn.training_rows import PersonMomentGrid

EVENTS_PER_DAY_MAX = 1.2  # a frequency column with more does not count days
CARD_FIGURES = ("auc", "ap", "log_loss", "lift_10", "calibration_error_debiased")
CARD_LIMITS = (
    "P(gone) says who will stay away, not whom a contact keeps: that takes an experiment in "
    "which some are left alone.",
    "It is about people who were there before; of newcomers without a purchase it says nothing.",
)


@dataclass(frozen=True)
class ChurnReport:
    """The result of a churn training.

    Attributes:
        version, promoted, champion, decision: as in `training.settings.TrainReport`.
        choice: the model in the bundle, and why it was chosen.
        curve: contact curve on the last cut.
        importance: share of the learned signal by column.
    """

    version: str
    promoted: bool
    champion: str
    decision: Decision
    cut_metrics: list[CutMetrics]
    choice: ModelChoice
    curve: ContactCurve
    importance: dict[str, float]
    notes: tuple[str, ...]
    about: dict[str, Any]
    seconds: dict[str, float]
    page_path: Path | None = None

    @property
    def last(self) -> CutMetrics:
        """The newest cut, which estimates the quality of the bundle."""
        return self.cut_metrics[-1]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON; `results` are of the last cut."""
        return {
            "version": self.version,
            "promoted": self.promoted,
            "reasons": list(self.decision.reasons),
            "champion": self.champion,
            "results": flatten_tables(self.last.results),
            "differences": flatten_tables(self.last.differences),
            "origins": [cut_to_dict(metrics) for metrics in self.cut_metrics],
            "choice": self.choice.description,
            "contact": {"best": self.curve.best_k, "curve": self.curve.points()},
            "importance": self.importance,
            "notes": list(self.notes),
            "about": self.about,
            "seconds": self.seconds,
            "report": str(self.page_path) if self.page_path else None,
        }


def describe_choices(
    judged_choice: ModelChoice, bundle_choice: ModelChoice, churn: Churn
) -> list[str]:
    """Return notes on missing calibration, or on a bundle that differs from the judged model.

    Each note says what history it would take.
    """
    if bundle_choice.uncalibrated_reason:
        return [
            f"not calibrated: {bundle_choice.uncalibrated_reason}; "
            f"{_required_history(churn, judged_choice=False)}"
        ]
    if _describe_choice(judged_choice) == _describe_choice(bundle_choice):
        return []
    reason = (
        f"{judged_choice.uncalibrated_reason}; {_required_history(churn, judged_choice=True)}"
        if judged_choice.uncalibrated_reason
        else "that was the better choice"
    )
    return [
        f"the bundle has {_describe_choice(bundle_choice)}, while the gate, the diagram and the "
        "list of whom "
        f"to contact judge {_describe_choice(judged_choice)}: by the "
        f"last origin {reason}"
    ]


def describe_day_mismatch(churn: Churn, grid: PersonMomentGrid, activity: Activity) -> str:
    """Return a note if BG/NBD is fitted on days but its frequency column counts events, or ""."""
    if not churn.rfm or churn.per != "day":
        return ""
    moment = int(grid.moment.max())
    newest_rows = np.flatnonzero(grid.moment == moment)
    event_counts = grid.table.numeric[
        newest_rows, grid.table.columns.numeric.index(churn.frequency)
    ]
    day_counts = activity.as_of(moment).rfm(grid.person[newest_rows], moment).frequency
    is_finite = np.isfinite(event_counts)
    events_per_day = float(event_counts[is_finite].sum() / max(day_counts[is_finite].sum(), 1.0))
    if events_per_day < EVENTS_PER_DAY_MAX:
        return ""
    return (
        f"{churn.frequency} counts {events_per_day:.1f} events for each day with any, while "
        "BG/NBD is "
        'fitted on days (per="day"): it takes people '
        'for more frequent than they are; send one event a purchase, or say per="event" in churn.py'
    )


def _describe_choice(choice: ModelChoice) -> str:
    name = choice.calibrator.name
    return f"{choice.model} {'without calibration' if name == 'none' else f'calibrated by {name}'}"


def _required_history(churn: Churn, *, judged_choice: bool) -> str:
    cuts = cuts_to_calibrate(churn, with_judged_cut=judged_choice)
    days = -(-required_history_us(churn, cuts) // DAY)
    return f"that takes {cuts} origins, which a history of {days} days has (--quick asks at two)"


def cut_to_dict(metrics: CutMetrics) -> dict[str, Any]:
    """Return the metrics of a cut as JSON."""
    window = metrics.cut.scores.window
    cut = metrics.cut
    return {
        "origin": to_iso(window.origin),
        "window_days": window.length / DAY,
        "people": len(cut.churned),
        "gone": float(cut.churned.mean()),
        "merged": cut.merged,
        "choice": cut.choice.description,
        "results": flatten_tables(metrics.results),
        "differences": flatten_tables(metrics.differences),
        "slices": {
            name: {
                "people": int(slice_.counts.sum()),
                "calibration_error_debiased": round(slice_.debiased_error, 6),
            }
            for name, slice_ in metrics.slices.items()
        },
    }


def write_churn_card(
    churn: Churn,
    metrics: CutMetrics,
    choice: ModelChoice,
    decision: Decision,
    about: Mapping[str, Any],
    notes: Sequence[str],
    by: str,
) -> str:
    """Return the model card in Markdown: what the model predicts, for whom, how well, its limits."""
    cut = metrics.cut
    window = metrics.cut.scores.window
    quality = (
        (name, *(result[metric] for metric in CARD_FIGURES))
        for name, result in metrics.results.items()
    )
    slices = (
        (name, f"{slice_.counts.sum():,.0f}", f"{slice_.debiased_error:.4f}")
        for name, slice_ in metrics.slices.items()
    )
    window_text = about["window_text"]
    paragraphs = [
        f"# Churn model {churn.name}",
        f"Trained by {by}. Gone means: {about['definition']}.",
        "## Owner",
        about.get("owner") or NO_OWNER,
        "## Data",
        f"{about['people']:,} people from {window_text['from']} to {window_text['to']}; "
        f"{about['asked_now']:,} are asked about now.",
        f"Judged at {len(about['origins'])} past origins; the last is "
        f"{to_iso(window.origin)}, with {len(cut.churned):,} people, "
        f"{cut.churned.mean():.1%} of whom were gone.",
        f"Taken: {choice.description}.",
        "## Quality at the last origin",
        format_table(["", *CARD_FIGURES], quality),
        format_table(["people with", "people", "calibration error, debiased"], slices),
        *gate_section(decision),
        "## Columns",
        format_table(["column", "how it is taken"], about["columns"].items()),
        "## Limits",
        "\n".join(f"- {note}" for note in (*notes, *CARD_LIMITS)),
    ]
    return "\n\n".join(paragraphs) + "\n"
