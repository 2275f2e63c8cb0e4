"""The model card: what a model learned from, how good it is, for whom less so, and what it must not be used for; Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from tailorbird.ranking.slot import Slot
from tailorbird.training.gate import Decision
from tailorbird.training.judge import PRIMARY, Evaluation

_READ = ("events", "items", "answers")


def model_card(slot: Slot, evaluation: Evaluation, decision: Decision, about: Mapping[str, Any], notes: Sequence[str], by: str) -> str:
    """The card as it lies in the bundle."""
    window, requests = about["window_text"], about["requests"]
    objective = " + ".join(f"{weight:g} · P({head})" for head, weight in slot.objective.items())
    rows = [f"| {name} | {figures[PRIMARY]} |" for name, figures in _by_value(evaluation)]
    slices = [f"| {name} | {count:,} | {figures[evaluation.model]} |" for name, (count, figures) in evaluation.slices.items()]
    heads = [
        f"- {name}: AUC {head.auc}, log loss {head.log_loss} (of always the mean {head.log_loss_mean:.4f}), "
        f"calibration error {head.calibration_error}"
        for name, head in evaluation.heads.items()
    ]
    parts = [
        f"# Ranker of slot {slot.name}",
        f"Trained by {by}. Orders items by {objective}.",
        "## Data",
        f"{about['source']}; learned from {window['from']} to {window['train_until']} ({requests['train']:,} requests), "
        f"stopped and calibrated until {window['test_from']} ({requests['validation']:,}), "
        f"judged until {window['test_to']} ({requests['test']:,}).",
        f"Judged over an index as of {' to '.join(dict.fromkeys(about['index_judged_as_of']))}; "
        f"carries one as of {about['index_served_as_of']}.",
        _read(about),
        "## Columns",
        "Learned from the training part alone.",
        "\n".join(["| column | how it is taken |", "|---|---|", *(f"| {name} | {told} |" for name, told in about["columns"].items())]),
        "## Quality",
        "\n".join([f"| | {PRIMARY} |", "|---|---|", *rows]),
        "\n".join(heads),
        "\n".join([f"| slice | requests | {PRIMARY} |", "|---|---|---|", *slices]),
        "## Gate",
        "\n".join([("Passed." if decision.promote else "Not passed."), *(f"- {reason}" for reason in decision.reasons)]),
        "## Limits",
        "\n".join(f"- {note}" for note in (*notes, "Figures are of what was shown or drawn, not of what would have been shown instead.")),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _read(about: Mapping[str, Any]) -> str:
    """Which versions of the tables were read, by which the set can be drawn again."""
    versions = ", ".join(f"{name} at version {each['version']}" for name, each in about.get("lake", {}).items() if name in _READ)
    return f"Read {versions}; digest of the rows {about['rows_digest']}." if versions else ""


def _by_value(evaluation: Evaluation) -> list[tuple[str, Mapping[str, Any]]]:
    return sorted(evaluation.figures.items(), key=lambda entry: -entry[1][PRIMARY].value)
