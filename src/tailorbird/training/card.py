"""The model card: what a model is for, what it learned from, how good it is, for whom less so, and
what it must not be used for; Markdown.

    # Ranker of slot home ## Owner · ## Data · ## Columns · ## Quality · ## For whom · ##
    Calibration · ## Gate · ## Limits

It lies in the bundle, in the manifest and as `card.md`; `tailorbird models show` prints it. What is
worse for some than for all stands among the limits by itself: nobody has to look for it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tailorbird.ranking.slot import Slot
from tailorbird.ranking.targets import is_amount
from tailorbird.training.gate import Decision
from tailorbird.training.judge import PRIMARY, Evaluation, HeadFigures

_READ = ("events", "items", "answers")
FEW = 100  # requests of a slice, below which its figure says little
OFF = 0.01  # of a slice's probabilities, beyond the noise: said among the limits
NOBODY = "nobody is named: set project.owner in tailorbird.toml"
ALWAYS = (
    "Figures are of what was shown or drawn, not of what would have been shown instead: "
    "whether it helps, an experiment says.",
    "It orders items for a person at a moment. It is no statement about a person, and must "
    "not decide on prices, credit or access.",
)


def model_card(
    slot: Slot,
    evaluation: Evaluation,
    decision: Decision,
    about: Mapping[str, Any],
    notes: Sequence[str],
    by: str,
) -> str:
    """The card as it lies in the bundle."""
    learned = about.get("calibration", {})
    values = [
        f"{weight:g} · {'E' if is_amount(head) else 'P'}({head})"
        for head, weight in slot.objective.items()
        if head in learned
    ]
    left_out = [head for head in slot.objective if head not in learned]
    without = (
        f" The slot asks for {', '.join(left_out)} too, which could not be learned: see the limits."
        if left_out
        else ""
    )
    parts = [
        f"# Ranker of slot {slot.name}",
        f"Trained by {by}: {about['architecture']}. Orders items by {' + '.join(values)}.{without}",
        "## Owner",
        about.get("owner") or NOBODY,
        "## Data",
        *_data(about),
        "## Columns",
        "Learned from the training part alone.",
        _table(["column", "how it is taken"], about["columns"].items()),
        "## Quality",
        _table(
            ["", PRIMARY], ((name, figures[PRIMARY]) for name, figures in _by_value(evaluation))
        ),
        "\n".join(
            [*(_head(name, head) for name, head in evaluation.heads.items()), *_amounts(evaluation)]
        ),
        "## For whom",
        _slices(evaluation),
        "## Calibration",
        "\n".join(f"- {head}: {told}" for head, told in about.get("calibration", {}).items()),
        *(_calibration(name, head) for name, head in evaluation.heads.items() if head.slices),
        "## Gate",
        "\n".join(
            [
                ("Passed." if decision.promote else "Not passed."),
                *(f"- {reason}" for reason in decision.reasons),
            ]
        ),
        "## Limits",
        "\n".join(f"- {each}" for each in (*notes, *limits(evaluation), *ALWAYS)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def limits(evaluation: Evaluation) -> list[str]:
    """For whom the model is no better than the best baseline, whom hardly anything is known of, and
    whose probabilities are off.
    """
    best, found = evaluation.best_baseline, []
    for name, (count, figures) in evaluation.slices.items():
        ours = figures[evaluation.model].value
        if not count:
            found.append(f"{name}: none in the test part, so nothing is known of them")
        elif count < FEW:
            found.append(f"{name}: only {count:,} requests, so its figure says little")
        elif best and figures[best].value > ours:
            found.append(
                f"{name}: {best} orders them better ({figures[best].value:.4f} against {ours:.4f})"
            )
    for head, each in evaluation.heads.items():
        for name, slice_ in each.slices.items():
            if slice_.debiased >= OFF:
                found.append(f"P({head}) is off by {slice_.debiased:.3f} for {name}")
    return found


def _data(about: Mapping[str, Any]) -> list[str]:
    window, requests = about["window_text"], about["requests"]
    return [
        f"{about['source']}; learned from {window['from']} to {window['train_until']} "
        f"({requests['train']:,} requests), "
        f"stopped and calibrated until {window['test_from']} ({requests['validation']:,}), "
        f"judged until {window['test_to']} ({requests['test']:,}).",
        f"Candidates are those of {', '.join(about['sources'])} at each request's moment; "
        f"items are known as of {about['items_as_of']}.",
        _read(about),
    ]


def _slices(evaluation: Evaluation) -> str:
    """Each slice, the long tail among them, beside the best baseline."""
    best = evaluation.best_baseline
    header = ["slice", "requests", evaluation.model, *([best] if best else [])]
    return _table(
        header,
        (
            (name, f"{count:,}", *(figures[model] if count else "–" for model in header[2:]))
            for name, (count, figures) in evaluation.slices.items()
        ),
    )


def _head(name: str, head: HeadFigures) -> str:
    return (
        f"- {name}: AUC {head.auc}, log loss {head.log_loss} (of always the mean "
        f"{head.log_loss_mean:.4f}), "
        f"calibration error {head.calibration_error}, debiased {head.calibration.debiased:.4f}"
    )


def _amounts(evaluation: Evaluation) -> list[str]:
    return [f"- {name}: {each.told}" for name, each in evaluation.amounts.items()]


def _calibration(name: str, head: HeadFigures) -> str:
    rows = []
    for slice_, each in head.slices.items():
        count = each.count.sum()
        means = (
            f"{np.nansum(each.count * value) / count:.4f}"
            for value in (each.predicted, each.observed)
        )
        rows.append((slice_, f"{count:,.0f}", *means, f"{each.debiased:.4f}"))
    return _table([f"{name}, for", "rows", "said", "happened", "error, debiased"], rows)


def _table(header: Sequence[str], rows: Any) -> str:
    lines = (f"| {' | '.join(str(cell) for cell in cells)} |" for cells in rows)
    return "\n".join([f"| {' | '.join(header)} |", "|---" * len(header) + "|", *lines])


def _read(about: Mapping[str, Any]) -> str:
    """Which versions of the tables were read, by which the set can be drawn again."""
    versions = ", ".join(
        f"{name} at version {each['version']}"
        for name, each in about.get("lake", {}).items()
        if name in _READ
    )
    return f"Read {versions}; digest of the rows {about['rows_digest']}." if versions else ""


def _by_value(evaluation: Evaluation) -> list[tuple[str, Mapping[str, Any]]]:
    return sorted(evaluation.figures.items(), key=lambda entry: -entry[1][PRIMARY].value)
