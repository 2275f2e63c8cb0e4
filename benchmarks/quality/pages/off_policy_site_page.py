"""The section of `docs/results.md` about estimates of bundles, from `off_policy_site`."""

from typing import Any

ESTIMATORS = ("dr", "ips", "snips", "clipped", "switch_dr", "dros", "dm")
SHARE = ("log", "pairs", "trial")  # keys of the results that are no bundle


def is_off_policy_site(result: dict[str, Any]) -> bool:
    """Return True if figures are of bundles on the simulated site."""
    return result.get("kind") == "off_policy_site"


def section(result: dict[str, Any]) -> str:
    """Return the tables of bundles, of pairs, and of the later trial."""
    site, environment = result["results"]["ope"]["site"], result["environment"]
    log = site["log"]
    bundles = {name: case for name, case in site.items() if name not in SHARE}
    parts = [
        "## off_policy_site",
        f"Bundles on the simulated site, estimated from {result['runs']:,} logs of a champion that "
        "draws 10 % of its slates. The truth is the clicks expected of a bundle in the same requests.",
        f"`python -m benchmarks.quality.off_policy_site`, revision {result['revision']}, measured "
        f"{environment['day']} on {environment['cpu']} ({environment['cores']} cores).",
        f"A log has {log['run_responses']:,.0f} responses of people drawn from {log['people']:,}. "
        "The champion is replayed; served, it ranked alike at "
        f"{log['propensities_reproduced']:.0%} of the positions.",
        _bundles(bundles),
        _pairs(site["pairs"]),
        _trial(site["trial"]),
    ]
    return "\n\n".join(parts) + "\n"


def _bundles(bundles: dict[str, Any]) -> str:
    lines = [
        "| bundle | uplift | effective | refused | | bias | error | RMSE | coverage | width "
        "| interval score |",
        f"|{'---|' * 11}",
    ]
    for name, case in bundles.items():
        first = (
            f"{name} | {case['uplift']:+.1%} | {case['effective']:,.0f} | {_range(case['refused'])}"
        )
        for estimator in ESTIMATORS:
            row = case[estimator]
            if row is not None:
                lines.append(
                    f"| {first} | {estimator} | {_range(row['bias'])} | {_range(row['error'])} "
                    f"| {row['rmse']:.1%} | {_range(row['coverage'])} | {row['width']:.1%} "
                    f"| {row['interval_score']:.1%} |"
                )
                first = "| | |"
        if all(case[estimator] is None for estimator in ESTIMATORS):
            lines.append(f"| {first} {'| ' * 7}|")
    return "\n".join(lines)


def _pairs(pairs: dict[str, Any]) -> str:
    lines = [
        "Order by `dr`: decided if the interval excludes 0, clear if the truth differs by over 5 %.",
        "",
        "| new − old | true | refused | coverage | right | decided | right if decided |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, pair in pairs.items():
        if name != "clear":
            lines.append(
                f"| {name} | {pair['difference']:+.1%} | {pair['refused']['value']:.0%} "
                f"| {_range(pair['coverage'])} | {_range(pair['right'])} "
                f"| {_share(pair['decided'])} | {_range(pair['right_if_decided'])} |"
            )
    clear = pairs["clear"]
    lines.append(
        f"| all that are clear | | | | {_range(clear['right'])} | {_share(clear['decided'])} "
        f"| {_range(clear['right_if_decided'])} |"
    )
    return "\n".join(lines)


def _trial(trial: dict[str, Any]) -> str:
    people = " + ".join(f"{count:,}" for count in trial["people"].values())
    lines = [
        "Uplift: true, estimated by the command from the served log, and measured by a later trial "
        f"of {people} people.",
        "",
        "| | true, one-step | estimated | trial |",
        "|---|---|---|---|",
    ]
    for name, row in trial.items():
        if name != "people":
            estimated = row["estimated"]
            told = (
                f"refused, effective sample size {row['effective']:,.0f} of {row['responses']:,}"
                if estimated is None
                else _range(estimated)
            )
            lines.append(
                f"| {name} | {row['one_step']:+.1%} | {told} | {_range(row['measured'])} |"
            )
    return "\n".join(lines)


def _share(cell: dict[str, Any] | None) -> str:
    return "–" if cell is None else f"{cell['value']:.0%}"


def _range(cell: dict[str, Any] | None) -> str:
    if cell is None or cell["value"] is None:
        return "–"
    return f"{cell['value']:.1%} ({cell['low']:.1%} – {cell['high']:.1%})"
