"""The section of `docs/results.md` about exploration, from the JSON of `exploration`."""

from collections.abc import Mapping
from typing import Any

COLUMNS = {
    "cost_share": "cost, 95 % interval",
    "new_items_shown": "new items shown",
    "best_new_items_shown": "best shown",
}


def is_exploration(result: dict[str, Any]) -> bool:
    """Return True if figures are of what exploration costs and shows."""
    return result["benchmark"] == "exploration"


def section(result: dict[str, Any]) -> str:
    """Return the table by rate, with command and revision."""
    results = result["results"]
    first = results["rates"][0]
    parts = [
        "## exploration",
        f"`{result['command']}`, revision `{result['revision'][:12]}`",
        table(results),
        f"{results['questions']:,} requests of the simulated site, asked at each rate. The cost is a "
        f"share of the true reward. {first['new_items_shown']['n']} new items had under 100 "
        f"impressions before, the best {first['best_new_items_shown']['n']} by true appeal.",
    ]
    return "\n\n".join(parts) + "\n"


def table(results: Mapping[str, Any]) -> str:
    """Return a row for each rate."""
    lines = [
        f"| rate | reward | {' | '.join(COLUMNS.values())} | explored places, with new items |",
        "|---" * (len(COLUMNS) + 3) + "|",
    ]
    for row in results["rates"]:
        cost = row["cost_share"]
        cells = [f"{row['reward']['value']:.4f}"]
        cells += [f"{cost['value']:.2%} ({cost['low']:.2%} to {cost['high']:.2%})"]
        cells += [f"{row[name]['value']:.1%}" for name in COLUMNS if name != "cost_share"]
        cells += [f"{row['explored']:,}, {row['explored_new']:,}"]
        lines.append(f"| {row['rate']:g} | {' | '.join(cells)} |")
    return "\n".join(lines)
