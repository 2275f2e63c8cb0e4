"""The section of `docs/results.md` about off-policy evaluation, from the JSON of `off_policy`."""

from typing import Any

ESTIMATORS = ("ips", "snips", "clipped", "dr", "switch_dr", "dros", "dm")
PROTOCOLS = {
    "actions": "single items",
    "item_position": "slates, by item and position",
    "cascade": "slates, cascade",
}


def is_off_policy(result: dict[str, Any]) -> bool:
    """Return True if figures are of off-policy evaluation."""
    return result.get("kind") == "off_policy"


def section(result: dict[str, Any]) -> str:
    """Return the tables of simulated logs and of Open Bandit."""
    cases, environment = result["results"]["ope"], result["environment"]
    parts = [
        "## off_policy",
        "One-step values of policies, estimated from the log of another one.",
        f"`python -m benchmarks.quality.off_policy`, revision {result['revision']}, measured "
        f"{environment['day']} on {environment['cpu']} ({environment['cores']} cores).",
        f"Simulated logs with known truth, {result['runs']:,} each. Bias, error and width are "
        "shares of the truth.",
        *(_simulated(label, cases[name]) for name, label in PROTOCOLS.items()),
    ]
    campaigns = {name: case for name, case in cases.items() if name.startswith("open_bandit")}
    if campaigns:
        parts += [
            "Open Bandit, 10,000 impressions of each policy. Errors are against the policy's own "
            "impressions, which have only 38 to 69 clicks.",
            _campaigns(campaigns),
        ]
    if (obp := result["results"].get("obp")) is not None:
        parts += _obp(obp)
    return "\n\n".join(parts) + "\n"


def _obp(obp: dict[str, Any]) -> list[str]:
    """Return the tables of obp's protocols: the relative error of both, by estimator."""
    pairs = {"ips": "ipw", "snips": "snipw", "dr": "dr", "switch_dr": "switch_dr", "dros": "dros"}
    parts = [
        f"Protocols of obp {obp['version']}, {obp['runs']:,} seeds, both with their defaults: mean "
        "absolute error, coverage and width as shares of the truth. Ours decides by `dr`. Revision "
        f"{obp['revision']}."
    ]
    if (same := obp.get("same_inputs")) is not None:
        parts.append(
            f"On the same {same['responses']:,} responses, the {len(same['difference'])} shared "
            "estimators differ from obp's by "
            f"{max(same['difference'].values()):.1g} of the value at most (target 1e-8)."
        )
    for protocol in ("synthetic", "digits"):
        case = obp[protocol]
        lines = [
            f"**obp, {protocol}**: {case['responses']:,} responses, effective "
            f"{case['effective']:,.0f}, refused {case['refused']['value']:.0%}",
            "",
            "| | obp's error | our error | coverage | width | interval score |",
            "|---|---|---|---|---|---|",
            f"| dm | {_range(case['obp']['dm']['error'])} | – | – | – | – |",
        ]
        for name, row in case["tailorbird"].items():
            theirs = case["obp"].get(pairs.get(name, ""), {}).get("error")
            width, score = (
                "–" if row[column] is None else f"{row[column]:.1%}"
                for column in ("width", "interval_score")
            )
            lines.append(
                f"| {name} | {_range(theirs)} | {_range(row['error'])} | {_range(row['coverage'])} "
                f"| {width} | {score} |"
            )
        parts.append("\n".join(lines))
    parts.append(
        "On digits one response has 4 % of the weight, and a log often lacks it. Intervals then "
        "reach as far as it could have earned. `switch_dr` cuts such weights, which stays its bias."
    )
    return parts


def _range(cell: dict[str, Any] | None) -> str:
    return "–" if cell is None else f"{cell['value']:.1%} ({cell['low']:.1%} – {cell['high']:.1%})"


def _simulated(label: str, case: dict[str, Any]) -> str:
    lines = [
        f"**{label}**: {case['responses']:,} responses, effective "
        f"{case['effective']:,.0f}, refused {case['refused']['value']:.0%}",
        "",
        "| | bias | error (RMSE) | coverage | width |",
        "|---|---|---|---|---|",
    ]
    for name in ESTIMATORS:
        row = case[name]
        bias, coverage = row["bias"], row["coverage"]
        lines.append(
            f"| {name} | {bias['value']:+.1%} ({bias['low']:+.1%} – {bias['high']:+.1%}) "
            f"| {row['rmse']:.1%} "
            f"| {coverage['value']:.1%} ({coverage['low']:.1%} – {coverage['high']:.1%}) "
            f"| {row['width']:.1%} |"
        )
    return "\n".join(lines)


def _campaigns(campaigns: dict[str, Any]) -> str:
    lines = [
        "| campaign | own clicks | effective sample size | ips | snips | dr |",
        "|---|---|---|---|---|---|",
    ]
    for name, case in campaigns.items():
        _, campaign, direction = name.split(".")
        own = case["on_policy"]
        cells = [_estimate(case[estimator]) for estimator in ("ips", "snips", "dr")]
        lines.append(
            f"| {campaign}, {direction.replace('_to_', ' → ')} "
            f"| {own['value']:.2%} ({own['low']:.2%} – {own['high']:.2%}) "
            f"| {case['effective']:,.0f} of {case['responses']:,} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def _estimate(row: dict[str, Any]) -> str:
    if row["value"] is None:
        return "refused"
    interval = f"{row['low']:.2%} – {row['high']:.2%}"
    return f"{row['value']:.2%} ({interval}), off by {row['relative_error']:.0%}"
