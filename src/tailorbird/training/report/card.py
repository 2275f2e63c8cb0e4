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
from tailorbird.training.evaluation.figures import PRIMARY_METRIC, Evaluation, HeadMetrics
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
    """Render the card of a model.

    Args:
        about: the facts of the training report.
        notes: limits that the training found.
        by: who trained it, as the registry records it.
    """
    calibrations = about.get("calibration", {})
    formula_terms = [
        f"{weight:g} · {'E' if is_amount_head(head) else 'P'}({head})"
        for head, weight in slot.objective.items()
        if head in calibrations
    ]
    missing_heads = [head for head in slot.objective if head not in calibrations]
    missing_note = (
        f" The slot asks for {', '.join(missing_heads)} too, which could not be learned: see the "
        "limits."
        if missing_heads
        else ""
    )
    sections = [
        f"# Ranker of slot {slot.name}",
        f"Trained by {by}: {about['architecture']}. "
        f"Orders items by {' + '.join(formula_terms)}.{missing_note}",
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
            (
                (name, intervals[PRIMARY_METRIC])
                for name, intervals in _ranked_intervals(evaluation)
            ),
        ),
        "\n".join(
            [
                *(_head_line(name, head) for name, head in evaluation.head_metrics.items()),
                *_amount_lines(evaluation),
            ]
        ),
        "## For whom",
        _slices_table(evaluation),
        "## Calibration",
        "\n".join(
            f"- {head}: {description}" for head, description in about.get("calibration", {}).items()
        ),
        *(
            _calibration_table(name, head)
            for name, head in evaluation.head_metrics.items()
            if head.calibration_by_slice
        ),
        *gate_section(decision),
        "## Limits",
        "\n".join(
            f"- {limit}" for limit in (*notes, *describe_limits(evaluation), *GENERAL_LIMITS)
        ),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def gate_section(decision: Decision) -> list[str]:
    """Render the section on the gate's decision."""
    verdict = "Passed." if decision.is_accepted else "Not passed."
    return ["## Gate", "\n".join([verdict, *(f"- {reason}" for reason in decision.reasons)])]


def describe_limits(evaluation: Evaluation) -> list[str]:
    """Describe slices where the model is weak, too small or badly calibrated."""
    best_baseline = evaluation.best_baseline
    notes = []
    for name, (request_count, intervals) in evaluation.slices.items():
        model_value = intervals[evaluation.model_name].value
        if not request_count:
            notes.append(f"{name}: none in the test part, so nothing is known of them")
        elif request_count < SLICE_REQUESTS_MIN:
            notes.append(f"{name}: only {request_count:,} requests, so its figure says little")
        elif best_baseline and intervals[best_baseline].value > model_value:
            notes.append(
                f"{name}: {best_baseline} orders them better "
                f"({intervals[best_baseline].value:.4f} against {model_value:.4f})"
            )
    for head, head_metrics in evaluation.head_metrics.items():
        for name, bins in head_metrics.calibration_by_slice.items():
            if bins.debiased_error >= CALIBRATION_ERROR_MIN:
                notes.append(f"P({head}) is off by {bins.debiased_error:.3f} for {name}")
    return notes


def _data_lines(about: Mapping[str, Any]) -> list[str]:
    window = about["window_text"]
    requests = about["requests"]
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
    best_baseline = evaluation.best_baseline
    header = [
        "slice",
        "requests",
        evaluation.model_name,
        *([best_baseline] if best_baseline else []),
    ]
    return format_table(
        header,
        (
            (
                name,
                f"{request_count:,}",
                *(intervals[model] if request_count else "–" for model in header[2:]),
            )
            for name, (request_count, intervals) in evaluation.slices.items()
        ),
    )


def _head_line(name: str, head_metrics: HeadMetrics) -> str:
    return (
        f"- {name}: AUC {head_metrics.auc}, log loss {head_metrics.log_loss} (of always the mean "
        f"{head_metrics.log_loss_of_mean:.4f}), "
        f"calibration error {head_metrics.calibration_error}, debiased "
        f"{head_metrics.calibration_bins.debiased_error:.4f}"
    )


def _amount_lines(evaluation: Evaluation) -> list[str]:
    return [
        f"- {name}: {amount_metrics.summary}"
        for name, amount_metrics in evaluation.amount_metrics.items()
    ]


def _calibration_table(name: str, head_metrics: HeadMetrics) -> str:
    rows = []
    for slice_name, bins in head_metrics.calibration_by_slice.items():
        row_count = bins.counts.sum()
        means = (
            f"{np.nansum(bins.counts * value) / row_count:.4f}"
            for value in (bins.predicted, bins.observed)
        )
        rows.append((slice_name, f"{row_count:,.0f}", *means, f"{bins.debiased_error:.4f}"))
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


def _ranked_intervals(evaluation: Evaluation) -> list[tuple[str, Mapping[str, Any]]]:
    return sorted(evaluation.intervals.items(), key=lambda entry: -entry[1][PRIMARY_METRIC].value)
