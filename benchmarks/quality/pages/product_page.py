"""Sections of `docs/results.md` about the served product, from the JSON of `product`."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
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
    """Return True if figures are of the default path."""
    return result["benchmark"] == "product"


def format_revision(result: Mapping[str, Any]) -> str:
    """Return the revision that a benchmark measured, as its figures have it."""
    stored = result.get("revision")
    return f"revision `{stored[:12]}`" if stored else "revision not recorded"


def summary(results: Sequence[dict[str, Any]]) -> str:
    """Return a row for each set: the served lists beside the best live baseline."""
    lines = [
        "| set | served | best live baseline | gain, 95 % interval | weighted against popularity "
        "| candidate recall | coverage | report − served | | revision |",
        "|---" * 10 + "|",
    ]
    for result in results:
        name, best = result["set"], _best_baseline(result)
        figure = next(
            figure for figure in ("ndcg_10", "reward") if figure in result["results"][OURS]
        )
        ours, baseline, gain = (
            result["results"][OURS],
            result["results"][best],
            result["gains"][best],
        )
        cells = [
            f"[{name}](#product-{name})",
            _format_value(ours, figure),
            f"{best} {_format_value(baseline, figure)}",
            format_gain(gain, figure),
        ]
        cells += [
            f"{_format_value(ours, 'ndcg_10_ipw')}, {best} {_format_value(baseline, 'ndcg_10_ipw')}"
            if "ndcg_10_ipw" in ours
            else "–"
        ]
        cells += [
            _format_value(ours, "candidate_recall"),
            _format_value(ours, "coverage_10"),
            _report_gap(result),
        ]
        cells.append("ahead" if gain[f"{figure}_low"] > 0 else "**not ahead**")
        lines.append(f"| {' | '.join([*cells, format_revision(result)])} |")
    lines += ["", "Unless a set says otherwise:", ""]
    lines += [f"- {sentence}" for sentence in shared_protocol(results)]
    return "\n".join(lines) + "\n"


def shared_protocol(results: Sequence[dict[str, Any]]) -> list[str]:
    """Return the sentences of the protocol that hold for most sets."""
    counts = Counter(sentence for result in results for sentence in result["protocol"])
    return [sentence for sentence, count in counts.items() if 2 * count > len(results)]


def section(result: dict[str, Any], shared: Collection[str] = ()) -> str:
    """Return the table of all baselines, the command's own report and its part of the protocol.

    Args:
        shared: sentences of the protocol that stand with the summary of all sets.
    """
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
        label = "what `train` reported" if name == REPORT else name
        table.append(
            f"| {mark}{label}{mark} | {' | '.join(cell(row, column) for column in columns)} |"
        )
    parts = [
        f"## product {result['set']}",
        result["title"],
        f"`{result['command']}`",
        "\n".join(table),
    ]
    if hours := result.get("by_hour"):
        parts.append(
            f"Served ÷ best baseline, hours 21–24 over hours 1–3: {cell(hours, 'late_over_early')}."
        )
    parts += ["\n".join(_describe_cut(name, cut) for name, cut in result["cuts"].items())]
    own = [f"- {sentence}" for sentence in result["protocol"] if sentence not in shared]
    parts += ["\n".join(own), format_machine(result)]
    return "\n\n".join(parts) + "\n"


def format_machine(result: dict[str, Any]) -> str:
    """Return day, machine and revision."""
    environment = result["environment"]
    return (
        f"Measured {environment['day']}, {format_revision(result)}, "
        f"{environment['cpu']} ({environment['cores']} shared cores), "
        f"LightGBM {environment['lightgbm']}."
    )


def cell(figures: Mapping[str, Any], name: str) -> str:
    """Format a figure with its interval, if it has one."""
    value = figures.get(name)
    if value is None:
        return "–"
    low, high = (figures.get(f"{name}_{end}") for end in ("low", "high"))
    return f"{value:.4f}" if low is None or high is None else f"{value:.4f} ({low:.4f}–{high:.4f})"


def format_gain(gain: dict[str, float], figure: str) -> str:
    """Format a gain with its sign and its interval."""
    return f"{gain[figure]:+.4f} ({gain[f'{figure}_low']:+.4f} to {gain[f'{figure}_high']:+.4f})"


def _best_baseline(result: dict[str, Any]) -> str:
    """Return the best of the baselines that know no more than we do."""
    informed = {"oracle", *result.get("knowing", ())}
    rivals = {name: result["results"][name] for name in result["gains"] if name not in informed}
    return result.get("best_baseline") or max(rivals, key=lambda name: rivals[name]["reward"])


def _format_value(figures: dict[str, Any], name: str) -> str:
    value = figures.get(name)
    return "–" if value is None else f"{value:.4f}"


def _report_gap(result: dict[str, Any]) -> str:
    """Return the reported minus the served gain over the best shared baseline."""
    gains = result.get("report_gains") or {}
    if not gains:
        return "–"
    best = max(gains, key=lambda name: result["results"][name]["ndcg_10"])
    return f"{gains[best]['report_minus_served']:+.4f} (over {best})"


def _describe_cut(name: str, cut: dict[str, Any]) -> str:
    if "days" in cut:
        description, end = (
            f"- {cut['days']} days, then {cut['questions']:,} questions",
            f"within {cut['live_days']} days",
        )
    else:
        description = (
            f"- Cut `{name}`: {cut['train_rows']:,} rows until {cut['test_from'][:16]}, then "
            f"{cut['questions']:,} questions"
        )
        end = f"until {cut['test_to'][:16]}"
    trained = [_describe_training(each) for each in cut["training"].values()]
    return f"{description} {end}. Trained in {'; '.join(trained)}."


def _describe_training(training: dict[str, Any]) -> str:
    cost = f"{training['seconds']:.0f} s ({training['peak_mb'] / 1000:.1f} GB)"
    if training["promoted"]:
        return cost
    return f"{cost}, refused: {'; '.join(training.get('reasons', ['failed']))}"
