"""The section of `docs/results.md` about experiments, from the JSON of `validity`."""

from typing import Any

CHI_ERRORS = 3.29  # of the χ² at p = .001
METHODS = {
    "once": "fixed, one analysis",
    "peeked": "fixed, read at every stage",
    "obrien_fleming": "O'Brien–Fleming-like",
    "pocock": "Pocock-like",
    "anytime": "confidence sequence",
}
PICTURES = ("level", "power", "coverage")

PEERS = {
    "tea_tasting": "tea-tasting",
    "gbstats": "GrowthBook",
    "gbstats_sequential": "GrowthBook, sequential",
    "confseq": "confseq",
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
    many = [(metric, cells) for metric, cells in aa.items() if "200" in cells["once"]]
    for metric, cells in many:
        row = " | ".join(_percent(cells[method]["200"]) for method in METHODS)
        level.append(f"| {metric}, 200 stages, n = {cells['once']['200']['n']:,} | {row} |")
    power = ["| power where a fixed test has 80 % | rejected | sample used |", "|---|---|---|"]
    for method, cell in results["power"].items():
        power.append(f"| {METHODS[method]} | {_percent(cell)} | {cell['sample_used']:.0%} |")
    coverage = ["| 95 % intervals that hold the truth | share |", "|---|---|"]
    coverage_runs = max(cell["n"] for cell in results["coverage"].values())
    for name, cell in results["coverage"].items():
        fewer = f", n = {cell['n']:,}" if cell["n"] != coverage_runs else ""
        coverage.append(f"| {name.replace('_', ' ')}{fewer} | {_percent(cell)} |")
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
                *(f"![{name}](images/results-{name}.svg)" for name in PICTURES),
                "`python -m benchmarks.quality.validity`",
                f"Each cell has {runs} simulated experiments, or as many as it says, with Wilson's "
                "95 % interval."
                + ("" if len(many) == len(aa) else f" 200 stages: {', '.join(dict(many))} only."),
                *("\n".join(table) for table in (level, power, coverage, ratio, cuped, cost)),
                *(_interleaving(results["interleaving"]) if "interleaving" in results else ()),
                "With information estimated at each stage, as in a report, the O'Brien–Fleming-like "
                f"test finds a difference in {_percent(results['information'])} of "
                f"{results['information']['n']:,} A/A trials.",
                *_split(srm, result["stages"]),
                *_assignment(results.get("cost_us")),
                *_peers(results.get("peers"), stages),
                *_asos(results.get("asos")),
                f"Seed {result['seed']}, revision `{result['revision'][:12]}`"
                + "".join(
                    f"; {part}: `{name[:12]}`" for part, name in result.get("later", {}).items()
                )
                + ".",
            ]
        )
        + "\n"
    )


def _split(srm: dict[str, Any], stages: int) -> list[str]:
    """Return why the test of the split finds a small imbalance late."""
    days, errors = srm["days_to_alarm"], srm["standard_errors"]
    return [
        f"After {stages} days, the imbalance is {errors['imbalance']:.1f} standard errors. An alarm "
        f"that may be read on any day needs {errors['alarm']:.1f}, the χ² {CHI_ERRORS:.1f}. The test "
        f"finds half of these imbalances within {days['value']:.0f} days, and 10 to 90 % within "
        f"{days['low']:.0f} to {days['high']:.0f}."
    ]


def _assignment(costs: dict[str, Any] | None) -> list[str]:
    """Return the cost of the assignment of a request."""
    if costs is None:
        return []
    cell = costs["assignment"]
    return [
        "With 50 running experiments in 10 layers, the arm of a request takes "
        f"{cell['value']:.0f} µs ({cell['low']:.0f} to {cell['high']:.0f} in batches of requests)."
    ]


def _interleaving(result: dict[str, Any]) -> tuple[str, str]:
    """Return the balance without a difference, and the people needed, as text and table."""
    aa, uplift, times = result["aa"], result["uplift"], result["times_fewer"]
    worst = min(min(row["picks_p"], row["clicks_p"]) for row in aa["positions"])
    first, second = (name.replace("_", " ") for name in result["rankers"])
    text = (
        f"Interleaving prefers one of two equal rankers in {_percent(aa['fixed'])} of "
        f"{aa['fixed']['n']:,} trials by the interval of one look, and in {_percent(aa['anytime'])} "
        f"by that of any look. The worst position has p = {worst:.2g} (Holm). Between *{first}* and "
        f"*{second}*, whose A/B uplift is {_percent(uplift)}, it needs {times['value']:.1f} "
        f"({times['low']:.1f} to {times['high']:.1f}) times fewer people than the split without "
        f"CUPED. Revision `{result['revision'][:12]}`."
    )
    if spread := result.get("spread"):
        text += (
            f" It removes the spread between people, which is small here: a person's clicks vary "
            f"{spread['value']:.1f} ({spread['low']:.1f} to {spread['high']:.1f}) times as much as "
            "independent ones."
        )
    people = ["| people for 80 % power at 5 % | people |", "|---|---|"]
    for name, label in (("people_interleaving", "interleaving"), ("people_ab", "A/B test")):
        cell = result[name]
        people.append(
            f"| {label} | {cell['value']:,.0f} ({cell['low']:,.0f} to {cell['high']:,.0f}) |"
        )
    return text, "\n".join(people)


def _peers(peers: dict[str, Any] | None, stages: str) -> list[str]:
    """Return the table of other libraries, read once and at every stage."""
    if peers is None:
        return []
    there = [method for method in PEERS if method in peers["power"]]
    names = [f"{PEERS[each]}, {looks}" for each in there for looks in ("once", f"{stages} stages")]
    rows = [(f"| {metric}, A/A", peers["aa"][metric]) for metric in peers["aa"]] + [
        ("| normal, power", peers["power"])
    ]
    table = [f"| other libraries | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for label, cells in rows:
        row = " | ".join(f"{cells[m][n]['value']:.1%}" for m in there for n in ("1", stages))
        table.append(f"{label} | {row} |")
    versions = ", ".join(f"{name} {number}" for name, number in peers["versions"].items())
    missing = "".join(f" {name} did not install: {why}." for name, why in peers["missing"].items())
    coverage = ", ".join(
        f"{name} {_percent(cell)}" for name, cell in peers["coverage"]["tea_tasting"].items()
    )
    return [
        "\n".join(table),
        f"Rejections of {versions} in {peers['runs']:,} of the same draws, revision "
        f"`{peers['revision'][:12]}`. GrowthBook's sequential interval is tuned for 5,000 units, as "
        "it ships. confseq is its normal mixture around tea-tasting's statistic. tea-tasting's "
        f"intervals hold the truth in: {coverage}.{missing}",
    ]


def _asos(asos: dict[str, Any] | None) -> list[str]:
    """Return the table of decisions on the tests of ASOS."""
    if asos is None:
        return []
    table = [
        "| tests of ASOS | finds a difference | stops early | days used | agrees with fixed |",
        "|---|---|---|---|---|",
    ]
    for rule, cells in asos["rules"].items():
        row = [_percent(cells["decided"]), _percent(cells["stopped_early"])]
        row += [f"{cells['days_used']:.0%}", _percent(cells["agrees"])]
        name = METHODS["once" if rule == "fixed" else rule]
        table.append(f"| {name} | {' | '.join(row)} |")
    return [
        "\n".join(table),
        f"{asos['series']:,} series of a treatment and a metric, a median of "
        f"{asos['days_median']:.0f} days, read daily. The last day is taken as the planned end, in "
        f"hindsight. Data of ASOS, CC BY 4.0. Revision `{asos['revision'][:12]}`.",
    ]


def _percent(cell: dict[str, float]) -> str:
    return f"{cell['value']:.1%} ({cell['low']:.1%} to {cell['high']:.1%})"
