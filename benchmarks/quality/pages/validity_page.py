"""The section of `docs/results.md` about experiments, from the JSON of `validity`."""

from typing import Any

METHODS = {
    "once": "fixed, one analysis",
    "peeked": "fixed, read at every stage",
    "obrien_fleming": "O'Brien–Fleming-like",
    "pocock": "Pocock-like",
    "anytime": "confidence sequence",
}


def is_validity(result: dict[str, Any]) -> bool:
    """Return True if figures are of the validity of experiments."""
    return result.get("benchmark") == "validity"


def section(result: dict[str, Any]) -> str:
    """Return false positives, power, coverage, sample ratio, CUPED and cost as tables."""
    results, stages = result["results"], str(result["stages"])
    aa = results["aa"]
    level = [
        f"| A/A, false positives, {stages} stages | {' | '.join(METHODS.values())} |",
        "|---" * (len(METHODS) + 1) + "|",
    ]
    for metric, cells in aa.items():
        units = result["units_per_arm"][metric]
        row = " | ".join(_percent(cells[method][stages]) for method in METHODS)
        level.append(f"| {metric}, {units:,} units an arm | {row} |")
    row = " | ".join(_percent(aa["normal"][method]["200"]) for method in METHODS)
    level.append(f"| normal, 200 stages | {row} |")
    power = ["| power where a fixed test has 80 % | rejected | sample used |", "|---|---|---|"]
    for method, cell in results["power"].items():
        power.append(f"| {METHODS[method]} | {_percent(cell)} | {cell['sample_used']:.0%} |")
    coverage = ["| 95 % intervals that hold the truth | share |", "|---|---|"]
    for name, cell in results["coverage"].items():
        coverage.append(f"| {name.replace('_', ' ')} | {_percent(cell)} |")
    srm = results["srm"]
    ratio = [
        "| alarms about the split, daily | right split | 50.5 : 49.5, 10,000 units a day |",
        "|---|---|---|",
    ]
    for method, label in (("tailorbird", "Tailorbird"), ("chi_square_daily", "χ² each day")):
        ratio.append(
            f"| {label} | {srm['right'][method]['value']:.3%} | {_percent(srm['wrong'][method])} |"
        )
    cuped = ["| correlation with the pre-period | variance left | 1 − ρ² |", "|---|---|---|"]
    for name, cell in results["cuped"].items():
        cuped.append(f"| {name} | {cell['value']:.3f} | {cell['expected']:.3f} |")
    cost = [
        "| planned sample over a fixed test's (expected use) | "
        + " | ".join(f"{count} stages" for count in results["cost"]["pocock"])
        + " |",
        "|---" * (len(results["cost"]["pocock"]) + 1) + "|",
    ]
    for method, cells in results["cost"].items():
        row = " | ".join(
            f"{cell['sample_ratio']:.3f} ({cell['expected_share']:.0%})" for cell in cells.values()
        )
        cost.append(f"| {METHODS[method]} | {row} |")
    runs = f"{aa['normal']['once'][stages]['n']:,}"
    return (
        "\n\n".join(
            [
                "## Experiments: level, power and coverage",
                "`python -m benchmarks.quality.validity`",
                f"Each cell has {runs} simulated experiments, with Wilson's 95 % interval. Coverage of "
                "stopped trials and the row below have fewer.",
                *("\n".join(table) for table in (level, power, coverage, ratio, cuped, cost)),
                "With information estimated at each stage, as in a report, the O'Brien–Fleming-like "
                f"test finds a difference in {_percent(results['information'])} of "
                f"{results['information']['n']:,} A/A trials. The test of the split finds the "
                f"imbalance after a median of {srm['days_to_alarm_median']:.0f} days, among those it "
                "finds.",
                *_assignment(results.get("cost_us")),
                f"Seed {result['seed']}, revision `{result['revision'][:12]}`.",
            ]
        )
        + "\n"
    )


def _assignment(costs: dict[str, Any] | None) -> list[str]:
    """Return the cost of the assignment of a request."""
    if costs is None:
        return []
    cell = costs["assignment"]
    return [
        "With 50 running experiments in 10 layers, the arm of a request takes "
        f"{cell['value']:.0f} µs ({cell['low']:.0f} to {cell['high']:.0f} in batches of requests)."
    ]


def _percent(cell: dict[str, float]) -> str:
    return f"{cell['value']:.1%} ({cell['low']:.1%} to {cell['high']:.1%})"
