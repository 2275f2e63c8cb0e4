"""The section of `docs/results.md` about several targets, from the JSON of `kuairand`."""

from typing import Any

from benchmarks.quality.pages.product_page import cell, format_revision


def is_tasks(result: dict[str, Any]) -> bool:
    """Return True if figures are of several targets at once."""
    return result.get("kind") == "tasks"


def section(result: dict[str, Any]) -> str:
    """Return AUC of each target by model, and the paired lead of `mmoe` over each other model."""
    tasks = list(result["tasks"])
    table = [f"| AUC | {' | '.join(tasks)} |", "|---" * (len(tasks) + 1) + "|"]
    for name, row in result["results"].items():
        table.append(f"| {name} | {' | '.join(cell(row, f'auc_{task}') for task in tasks)} |")
    paired = [f"| AUC, mmoe − | {' | '.join(tasks)} |", "|---" * (len(tasks) + 1) + "|"]
    for name, row in result["differences"].items():
        paired.append(f"| {name} | {' | '.join(_gain(row, f'auc_{task}') for task in tasks)} |")
    environment = result["environment"]
    machine = (
        f"Measured {environment['day']}, {format_revision(result)}, on {environment['cpu']} ({environment['cores']} "
        "cores), Tailorbird "
        f"{environment['tailorbird']}."
    )
    protocol = "\n".join(f"- {sentence}" for sentence in result["protocol"])
    parts = [
        f"## {result['benchmark']}",
        result["title"],
        f"`python -m benchmarks.quality.{result['benchmark']}`",
    ]
    return "\n\n".join([*parts, "\n".join(table), "\n".join(paired), protocol, machine]) + "\n"


def _gain(row: dict[str, float], name: str) -> str:
    return f"{row[name]:+.4f} ({row[f'{name}_low']:+.4f} to {row[f'{name}_high']:+.4f})"
