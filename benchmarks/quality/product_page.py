"""The sections of `docs/results.md` about what is served, from the JSON of
`benchmarks.quality.product`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

OURS, REPORT = "tailorbird", "report"
SHOWN = {
    "ndcg_10": "NDCG@10",
    "hr_20": "HR@20",
    "mrr": "MRR",
    "ndcg_10_ipw": "NDCG@10, weighted against popularity",
    "coverage_10": "coverage",
    "candidate_recall": "candidate recall",
    "reward": "true reward",
    "share_of_oracle": "share of the oracle's gain",
    "share_of_learner": "share of the learner's gain",
}


def is_product(result: dict[str, Any]) -> bool:
    """Whether figures are of what the default path serves."""
    return result["benchmark"] == "product"


def summary(results: Sequence[dict[str, Any]]) -> str:
    """A row for each set: what is served beside the best live baseline."""
    lines = [
        "| set | served | best live baseline | gain, 95 % interval | weighted against popularity "
        "| candidate recall | coverage | report − served | |",
        "|---" * 9 + "|",
    ]
    for result in results:
        name, best = result["set"], _best(result)
        figure = next(each for each in ("ndcg_10", "reward") if each in result["results"][OURS])
        ours, theirs, gain = result["results"][OURS], result["results"][best], result["gains"][best]
        cells = [
            f"[{name}](#product-{name})",
            _value(ours, figure),
            f"{best} {_value(theirs, figure)}",
            signed(gain, figure),
        ]
        cells += [
            f"{_value(ours, 'ndcg_10_ipw')}, {best} {_value(theirs, 'ndcg_10_ipw')}"
            if "ndcg_10_ipw" in ours
            else "–"
        ]
        cells += [_value(ours, "candidate_recall"), _value(ours, "coverage_10"), _gap(result)]
        lines.append(
            f"| {' | '.join([*cells, 'ahead' if gain[f'{figure}_low'] > 0 else '**not ahead**'])} |"
        )
    return "\n".join(lines) + "\n"


def section(result: dict[str, Any]) -> str:
    """Protocol, the table of all baselines, and what the command said of itself."""
    columns = [name for name in SHOWN if any(name in row for row in result["results"].values())]
    table = [
        f"| | {' | '.join(SHOWN[name] for name in columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name, row in sorted(
        result["results"].items(),
        key=lambda entry: -(entry[1].get("ndcg_10") or entry[1].get("reward") or 0),
    ):
        mark = "**" if name == OURS else ""
        told = "what `train` reported" if name == REPORT else name
        table.append(
            f"| {mark}{told}{mark} | {' | '.join(cell(row, column) for column in columns)} |"
        )
    parts = [
        f"## product {result['set']}",
        result["title"],
        f"`{result['command']}`",
        "\n".join(table),
    ]
    if late := result.get("by_hour"):
        parts.append(
            f"Served ÷ best baseline, hours 21–24 over hours 1–3: {cell(late, 'late_over_early')}."
        )
    parts += ["\n".join(_cut(name, cut) for name, cut in result["cuts"].items())]
    parts += ["\n".join(f"- {sentence}" for sentence in result["protocol"]), measured(result)]
    return "\n\n".join(parts) + "\n"


def measured(result: dict[str, Any]) -> str:
    """Day, machine and revision."""
    where = result["environment"]
    told = (
        f"Measured {where['day']} on {where['cpu']} ({where['cores']} cores, which others used "
        f"too), Tailorbird {where['tailorbird']}"
    )
    return f"{told} at revision `{result['revision'][:12]}`, LightGBM {where['lightgbm']}."


def cell(figures: Mapping[str, Any], name: str) -> str:
    """A figure with its interval, where it has one."""
    value = figures.get(name)
    if value is None:
        return "–"
    low, high = (figures.get(f"{name}_{end}") for end in ("low", "high"))
    return f"{value:.4f}" if low is None or high is None else f"{value:.4f} ({low:.4f}–{high:.4f})"


def signed(gain: dict[str, float], figure: str) -> str:
    """A gain with its sign and its interval."""
    return f"{gain[figure]:+.4f} ({gain[f'{figure}_low']:+.4f} to {gain[f'{figure}_high']:+.4f})"


def _best(result: dict[str, Any]) -> str:
    """The best of those that know no more than we do."""
    known = {"oracle", *result.get("knowing", ())}
    others = {name: result["results"][name] for name in result["gains"] if name not in known}
    return result.get("best_baseline") or max(others, key=lambda name: others[name]["reward"])


def _value(figures: dict[str, Any], name: str) -> str:
    value = figures.get(name)
    return "–" if value is None else f"{value:.4f}"


def _gap(result: dict[str, Any]) -> str:
    """By how much the report's gain over the best baseline that both have differs from the served
    gain.
    """
    told = result.get("report_gains") or {}
    if not told:
        return "–"
    best = max(told, key=lambda name: result["results"][name]["ndcg_10"])
    return f"{told[best]['report_minus_served']:+.4f} (over {best})"


def _cut(name: str, cut: dict[str, Any]) -> str:
    if "days" in cut:
        told, until = (
            f"- {cut['days']} days, then {cut['questions']:,} questions",
            f"within {cut['live_days']} days",
        )
    else:
        told = (
            f"- Cut `{name}`: {cut['train_rows']:,} rows until {cut['test_from'][:16]}, then "
            f"{cut['questions']:,} questions"
        )
        until = f"until {cut['test_to'][:16]}"
    trained = [f"seed {seed}: {_training(each)}" for seed, each in cut["training"].items()]
    return f"{told} {until}. Training, {'; '.join(trained)}."


def _training(each: dict[str, Any]) -> str:
    told = f"{each['seconds']:.0f} s, {each['peak_mb'] / 1000:.1f} GB"
    return (
        f"{told}, "
        f"{'promoted' if each['promoted'] else 'refused: ' + '; '.join(each.get('reasons', ['failed']))}"
    )
