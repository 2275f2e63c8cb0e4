"""The section of `docs/results.md` about several targets, from the JSON of `benchmarks.quality.kuairand`."""

from typing import Any

from benchmarks.quality.product_page import cell


def is_tasks(result: dict[str, Any]) -> bool:
    """Whether figures are of several targets at once."""
    return result.get("kind") == "tasks"


def section(result: dict[str, Any]) -> str:
    """AUC of each target by model."""
    tasks = list(result["tasks"])
    table = [f"| AUC | {' | '.join(tasks)} |", "|---" * (len(tasks) + 1) + "|"]
    for name, row in result["results"].items():
        table.append(f"| {name} | {' | '.join(cell(row, f'auc_{task}') for task in tasks)} |")
    where = result["environment"]
    told = f"Measured {where['day']} on {where['cpu']} ({where['cores']} cores), Tailorbird {where['tailorbird']}."
    protocol = "\n".join(f"- {sentence}" for sentence in result["protocol"])
    parts = [f"## {result['benchmark']}", result["title"], f"`python -m benchmarks.quality.{result['benchmark']}`"]
    return "\n\n".join([*parts, "\n".join(table), protocol, told]) + "\n"
