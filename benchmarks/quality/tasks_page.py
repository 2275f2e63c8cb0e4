"""The section of `docs/results.md` about several targets, from the JSON of
`benchmarks.quality.kuairand`.
"""

from typing import Any

from benchmarks.quality.product_page import cell


def is_tasks(result: dict[str, Any]) -> bool:
    """Whether figures are of several targets at once."""
    return result.get("kind") == "tasks"


def section(result: dict[str, Any]) -> str:
    """AUC of each target by model, and how far `mmoe` is ahead of each other model on the same
    rows.
    """
    tasks = list(result["tasks"])
    table = [f"| AUC | {' | '.join(tasks)} |", "|---" * (len(tasks) + 1) + "|"]
    for name, row in result["results"].items():
        table.append(f"| {name} | {' | '.join(cell(row, f'auc_{task}') for task in tasks)} |")
    paired = [f"| AUC, mmoe − | {' | '.join(tasks)} |", "|---" * (len(tasks) + 1) + "|"]
    for name, row in result["differences"].items():
        paired.append(f"| {name} | {' | '.join(_gain(row, f'auc_{task}') for task in tasks)} |")
    where = result["environment"]
    told = (
        f"Measured {where['day']} on {where['cpu']} ({where['cores']} cores), Tailorbird "
        f"{where['tailorbird']}."
    )
    protocol = "\n".join(f"- {sentence}" for sentence in result["protocol"])
    parts = [
        f"## {result['benchmark']}",
        result["title"],
        f"`python -m benchmarks.quality.{result['benchmark']}`",
    ]
    return "\n\n".join([*parts, "\n".join(table), "\n".join(paired), protocol, told]) + "\n"


def _gain(row: dict[str, float], name: str) -> str:
    return f"{row[name]:+.4f} ({row[f'{name}_low']:+.4f} to {row[f'{name}_high']:+.4f})"
