"""Sections of `docs/results.md` about churn, from the JSON of `benchmarks.quality.leaving`."""

from collections.abc import Sequence
from typing import Any

from benchmarks.quality.pages.product_page import cell, format_revision

OURS = "tailorbird"
SHOWN = ("auc", "ap", "ap_gone", "log_loss", "lift_10", "calibration_error_debiased", "mae", "bias")


def is_churn(result: dict[str, Any]) -> bool:
    """Return True if a benchmark's figures are of churn."""
    return "origins" in result


def summary(results: Sequence[dict[str, Any]]) -> str:
    """Return a row for each origin: ours beside the best baseline, in AUC and log loss."""
    lines = [
        "| data set, origin | AUC | best baseline | gain, 95 % interval | log loss | best "
        "baseline | gain, 95 % interval | revision |",
        "|---" * 8 + "|",
    ]
    for result in results:
        for cut in result["origins"]:
            cells = [f"[{result['benchmark']}](#{result['benchmark']}) {cut['origin'][:10]}"]
            for figure, sign in (("auc", 1), ("log_loss", -1)):
                best = max(
                    (name for name in cut["results"] if name != OURS),
                    key=lambda name: sign * cut["results"][name][figure],
                )
                gain = cut["differences"][best]
                ends = sorted(sign * gain[f"{figure}_{end}"] for end in ("low", "high"))
                cells += [
                    f"{cut['results'][OURS][figure]:.4f}",
                    f"{best} {cut['results'][best][figure]:.4f}",
                ]
                cells.append(f"{sign * gain[figure]:+.4f} ({ends[0]:+.4f} to {ends[1]:+.4f})")
            lines.append(f"| {' | '.join([*cells, format_revision(result)])} |")
    return "\n".join(lines) + "\n"


def section(result: dict[str, Any]) -> str:
    """Return protocol, targets, and a table for each origin."""
    name, environment = result["benchmark"], result["environment"]
    parts = [
        f"## {name}",
        result["title"],
        f"`python -m benchmarks.quality.{name}`",
        "\n".join(f"- {sentence}" for sentence in result["protocol"]),
        f"Means over the seeds {', '.join(map(str, result['seeds']))}, 95 % intervals over "
        "people; ± is how far the seeds lie apart.",
    ]
    if result["targets"]:
        rows = [
            f"| {figure} | {_format_target(figure, entry['target'])} | {entry['found']:.4f} | "
            f"{'met' if entry['met'] else '**missed**'} |"
            for figure, entry in result["targets"].items()
        ]
        parts.append("\n".join(["| figure | target | found | |", "|---|---|---|---|", *rows]))
    for cut in result["origins"]:
        description = (
            f"{cut['origin'][:10]}: {cut['people']:,} people, {cut['gone']:.1%} gone within "
            f"{cut['window_days']:g} days"
        )
        heading = f"{description}. Taken: {_chosen_models(cut)}."
        ordered = sorted(cut["results"], key=lambda model: -(cut["results"][model]["auc"] or 0))
        table = [f"| | {' | '.join(SHOWN)} |", "|---" * (len(SHOWN) + 1) + "|"]
        for model in ordered:
            mark = "**" if model == OURS else ""
            table.append(
                f"| {mark}{model}{mark} | "
                f"{' | '.join(_cell(cut['results'][model], figure) for figure in SHOWN)} |"
            )
        parts += [heading, "\n".join(table)]
    parts += _ceiling_section(result["ceiling"], name) if "ceiling" in result else []
    counted = [
        f"- `{entry['query']}`: {entry['found']:,} (expected {entry['expected']:,})"
        for entry in result["counted"]
    ]
    parts += ["Of the lake, after the import:\n\n" + "\n".join(counted)] if counted else []
    machine = (
        f"Measured {environment['day']}, {format_revision(result)}, on {environment['cpu']} ({environment['cores']} "
        f"cores), Tailorbird {environment['tailorbird']}, "
    )
    parts.append(f"{machine}LightGBM {environment['lightgbm']}.")
    return "\n\n".join(parts) + "\n"


CEILING = ("auc", "ap", "mae", "bias", "mean", "share")


def _ceiling_section(rows: Sequence[dict[str, Any]], name: str) -> list[str]:
    """Return the best possible figures under a model, beside its figures on the real customers."""
    head = (
        f"How well could anybody do? `python -m benchmarks.quality.{name} --ceiling` fits a "
        "model and draws as many customers from it with the same first days. `posterior` knows "
        "the model and the history, `parameters` also each customer's own rate and chance of "
        "leaving. `real` is the same formula on the real customers. `mean` and `share` are what "
        "came: purchases a customer, and customers with any."
    )
    table = [
        f"| model, fitted to | told | {' | '.join(CEILING)} |",
        "|---" * (len(CEILING) + 2) + "|",
    ]
    for row in rows:
        for knowledge in ("real", "posterior", "parameters"):
            cells = " | ".join(f"{row[knowledge][figure]:.4f}" for figure in CEILING)
            table.append(f"| {row['model']}, {row['fitted_to']} | {knowledge} | {cells} |")
    limits = (
        "A ceiling is that of its model alone. Where `real` is far from `posterior`, the model "
        "is not true, and other columns may say more than its ceiling. Where counts are mostly 0, "
        "a smaller `mae` may come from saying too little, which `bias` shows."
    )
    return [head, "\n".join(table), limits]


def _chosen_models(cut: dict[str, Any]) -> str:
    return ", ".join(dict.fromkeys(choice.partition(",")[0] for choice in cut["choice"]))


def _format_target(figure: str, target: float) -> str:
    return (
        f"≤ {target:g}"
        if figure == "mae"
        else f"within ± {target:g}"
        if figure == "bias"
        else f"≥ {target:g}"
    )


def _cell(figures: dict[str, Any], name: str) -> str:
    seeds = figures.get(f"{name}_seeds")
    return cell(figures, name) + (f" ± {seeds:.4f}" if seeds else "")
