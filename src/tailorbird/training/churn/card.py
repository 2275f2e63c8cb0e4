"""Write the model card of a churn model in Markdown.

It states what the model predicts, for whom, its quality at past origins, and its limits.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tailorbird.events import to_iso
from tailorbird.ranking.churn.declaration import Churn
from tailorbird.training.churn.evaluation import CutMetrics
from tailorbird.training.churn.model_choice import Choice
from tailorbird.training.evaluation.gate import Decision
from tailorbird.training.report.card import NO_OWNER, gate_section, render_table

SHOWN = ("auc", "ap", "log_loss", "lift_10", "calibration_error_debiased")
LIMITS = (
    "P(gone) says who will stay away, not whom a contact keeps: that takes an experiment in "
    "which some are left alone.",
    "It is about people who were there before; of newcomers without a purchase it says nothing.",
)


def churn_card(
    churn: Churn,
    figures: CutMetrics,
    choice: Choice,
    decision: Decision,
    about: Mapping[str, Any],
    notes: Sequence[str],
    by: str,
) -> str:
    """Return the text of the card that is stored in the bundle."""
    cut, window = figures.cut, figures.cut.scores.window
    quality = (
        (name, *(each[figure] for figure in SHOWN)) for name, each in figures.results.items()
    )
    slices = (
        (name, f"{each.count.sum():,.0f}", f"{each.debiased:.4f}")
        for name, each in figures.slices.items()
    )
    text = about["window_text"]
    parts = [
        f"# Churn model {churn.name}",
        f"Trained by {by}. Gone means: {about['definition']}.",
        "## Owner",
        about.get("owner") or NO_OWNER,
        "## Data",
        f"{about['people']:,} people from {text['from']} to {text['to']}; "
        f"{about['asked_now']:,} are asked about now.",
        f"Judged at {len(about['origins'])} past origins; the last is "
        f"{to_iso(window.origin)}, with {len(cut.churned):,} people, "
        f"{cut.churned.mean():.1%} of whom were gone.",
        f"Taken: {choice.description}.",
        "## Quality at the last origin",
        render_table(["", *SHOWN], quality),
        render_table(["people with", "people", "calibration error, debiased"], slices),
        *gate_section(decision),
        "## Columns",
        render_table(["column", "how it is taken"], about["columns"].items()),
        "## Limits",
        "\n".join(f"- {note}" for note in (*notes, *LIMITS)),
    ]
    return "\n\n".join(parts) + "\n"
