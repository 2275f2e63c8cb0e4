"""Model cards: purpose, data, quality, weak slices and limits of a model, as Markdown.

    # Ranker of slot home
    ## Owner · ## Data · ## Columns · ## Quality · ## For whom
    ## Calibration · ## Gate · ## Limits

The card is stored in the bundle, in the manifest and as `card.md`; `tailorbird models show` prints
it. Slices that do worse than the whole are listed among the limits automatically.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tailorbird.ranking.policy.targets import is_amount_head
from tailorbird.ranking.slot import Slot
from tailorbird.training.evaluation.figures import PRIMARY_METRIC, Evaluation, HeadFigures
from tailorbird.training.evaluation.gate import Decision

_TABLES = ("events", "items", "answers")
SLICE_REQUESTS_MIN = 100  # with fewer requests, a slice's figure is too noisy
CALIBRATION_ERROR_MIN = 0.01  # debiased error of a slice that is listed among the limits
NO_OWNER = "nobody is named: set project.owner in tailorbird.toml"
GENERAL_LIMITS = (
    "Figures are of what was shown or drawn, not of what would have been shown instead: "
    "whether it helps, an experiment says.",
    "It orders items for a person at a moment. It is no statement about a person, and must "
    "not decide on prices, credit or access.",
)


def render_model_card(
    slot: Slot,
    evaluation: Evaluation,
    decision: Decision,
    about: Mapping[str, Any],
    notes: Sequence[str],
    by: str,
) -> str:
    """Render the card of a model."""
    calibrations = about.get("calibration", {})
    values = [
        f"{weight:g} · {'E' if is_amount_head(head) else 'P'}({head})"
        for head, weight in slot.objective.items()
        if head in calibrations
    ]
    left_out = [head for head in slot.objective if head not in calibrations]
    missing_note = (
        f" The slot asks for {', '.join(left_out)} too, which could not be learned: see the limits."
        if left_out
        else ""
    )
    parts = [
        f"# Ranker of slot {slot.name}",
        f"Trained by {by}: {about['architecture']}. "
        f"Orders items by {' + '.join(values)}.{missing_note}",
        "## Owner",
        about.get("owner") or NO_OWNER,
        "## Data",
        *_data_lines(about),
        "## Columns",
        "Learned from the training part alone.",
        format_table(["column", "how it is taken"], about["columns"].items()),
        "## Quality",
        format_table(
            ["", PRIMARY_METRIC],
            ((name, figures[PRIMARY_METRIC]) for name, figures in _ranked_figures(evaluation)),
        ),
        "\n".join(
            [
                *(_head_line(name, head) for name, head in evaluation.heads.items()),
                *_amount_lines(evaluation),
            ]
        ),
        "## For whom",
        _slices_table(evaluation),
        "## Calibration",
        "\n".join(
            f"- {head}: {description}" for head, description in about.get("calibration", {}).items()
        ),
        *(_calibration_table(name, head) for name, head in evaluation.heads.items() if head.slices),
        *gate_section(decision),
        "## Limits",
        "\n".join(
            f"- {limit}" for limit in (*notes, *describe_limits(evaluation), *GENERAL_LIMITS)
        ),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def gate_section(decision: Decision) -> list[str]:
    """Render the section on the gate's decision."""
    verdict = "Passed." if decision.promote else "Not passed."
    return ["## Gate", "\n".join([verdict, *(f"- {reason}" for reason in decision.reasons)])]


def describe_limits(evaluation: Evaluation) -> list[str]:
    """Describe slices where the model is weak, too small or badly calibrated."""
    best, notes = evaluation.best_baseline, []
    for name, (count, figures) in evaluation.slices.items():
        model_value = figures[evaluation.model].value
        if not count:
            notes.append(f"{name}: none in the test part, so nothing is known of them")
        elif count < SLICE_REQUESTS_MIN:
            notes.append(f"{name}: only {count:,} requests, so its figure says little")
        elif best and figures[best].value > model_value:
            notes.append(
                f"{name}: {best} orders them better "
                f"({figures[best].value:.4f} against {model_value:.4f})"
            )
    for head, head_figures in evaluation.heads.items():
        for name, slice_ in head_figures.slices.items():
            if slice_.debiased >= CALIBRATION_ERROR_MIN:
                notes.append(f"P({head}) is off by {slice_.debiased:.3f} for {name}")
    return notes


def _data_lines(about: Mapping[str, Any]) -> list[str]:
    window, requests = about["window_text"], about["requests"]
    return [
        f"{about['source']}; learned from {window['from']} to {window['train_until']} "
        f"({requests['train']:,} requests), "
        f"stopped and calibrated until {window['test_from']} ({requests['validation']:,}), "
        f"judged until {window['test_to']} ({requests['test']:,}).",
        f"Candidates are those of {', '.join(about['sources'])} at each request's moment; "
        f"items are known as of {about['items_as_of']}.",
        _table_versions(about),
    ]


def _slices_table(evaluation: Evaluation) -> str:
    """Render the slices, including the long tail, next to the best baseline."""
    best = evaluation.best_baseline
    header = ["slice", "requests", evaluation.model, *([best] if best else [])]
    return format_table(
        header,
        (
            (name, f"{count:,}", *(figures[model] if count else "–" for model in header[2:]))
            for name, (count, figures) in evaluation.slices.items()
        ),
    )


def _head_line(name: str, head: HeadFigures) -> str:
    return (
        f"- {name}: AUC {head.auc}, log loss {head.log_loss} (of always the mean "
        f"{head.log_loss_mean:.4f}), "
        f"calibration error {head.calibration_error}, debiased {head.calibration.debiased:.4f}"
    )


def _amount_lines(evaluation: Evaluation) -> list[str]:
    return [f"- {name}: {figures.summary}" for name, figures in evaluation.amounts.items()]


def _calibration_table(name: str, head: HeadFigures) -> str:
    rows = []
    for slice_, calibration in head.slices.items():
        count = calibration.count.sum()
        means = (
            f"{np.nansum(calibration.count * value) / count:.4f}"
            for value in (calibration.predicted, calibration.observed)
        )
        rows.append((slice_, f"{count:,.0f}", *means, f"{calibration.debiased:.4f}"))
    return format_table([f"{name}, for", "rows", "said", "happened", "error, debiased"], rows)


def format_table(header: Sequence[str], rows: Any) -> str:
    """Render a table in Markdown."""
    lines = (f"| {' | '.join(str(cell) for cell in cells)} |" for cells in rows)
    return "\n".join([f"| {' | '.join(header)} |", "|---" * len(header) + "|", *lines])


def _table_versions(about: Mapping[str, Any]) -> str:
    """Describe the table versions that were read, from which the rows can be rebuilt."""
    versions = ", ".join(
        f"{name} at version {table['version']}"
        for name, table in about.get("lake", {}).items()
        if name in _TABLES
    )
    return f"Read {versions}; digest of the rows {about['rows_digest']}." if versions else ""


def _ranked_figures(evaluation: Evaluation) -> list[tuple[str, Mapping[str, Any]]]:
    return sorted(evaluation.figures.items(), key=lambda entry: -entry[1][PRIMARY_METRIC].value)
