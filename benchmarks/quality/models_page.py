"""How the page of results shows what compares our own models: architectures on the simulated site, incremental training, tuning."""

from collections.abc import Callable, Mapping
from typing import Any

ORDER = ("ndcg_10", "ndcg_10_low", "ndcg_10_high")
ORACLES = {"oracle": "all that is true", "oracle_lasting": "all but the passing urge", "oracle_common": "what is common to one's kind"}


def is_models(result: Mapping[str, Any]) -> bool:
    """Whether a benchmark compares our own models."""
    return result["benchmark"] in SECTIONS


def summary(results: list[dict[str, Any]]) -> str:
    """A line for each."""
    lines = ["| our own models | |", "|---|---|"]
    for result in results:
        lines.append(f"| [{result['benchmark']}](#{result['benchmark']}) | {SUMMARIES[result['benchmark']](result)} |")
    return "\n".join(lines) + "\n"


def section(result: dict[str, Any]) -> str:
    """Protocol, tables and pictures."""
    name = result["benchmark"]
    head = [f"## {name}", result["title"], f"`{result.get('command', f'python -m benchmarks.quality.{name}')}`"]
    head += ["\n".join(f"- {sentence}" for sentence in result["protocol"])] if result.get("protocol") else []
    environment = result["environment"]
    day = f"Measured {environment['day']} on {environment['cpu']} ({environment['cores']} cores), which others used too."
    return "\n\n".join([*head, *SECTIONS[name](result), day]) + "\n"


def _architectures(result: dict[str, Any]) -> list[str]:
    lines = ["| | ndcg_10 | reward | µs | on the front |", "|---|---|---|---|---|"]
    for name, each in sorted(result["results"].items(), key=lambda entry: -entry[1]["reward"]):
        mark = "**" if name == result["default"] else ""
        order = _cell(each, "ndcg_10") if "ndcg_10" in each else "–"
        front = "yes" if name in result["front"] else "no" if "us" in each else "–"
        cost = f"{each['us']:,.0f}" if "us" in each else "–"
        lines.append(f"| {mark}{name}{mark} | {order} | {_cell(each, 'reward')} | {cost} | {front} |")
    popular = result["popular"]
    shares = [f"| share of the gain over {popular} of an oracle that knows | {' | '.join(ORACLES.values())} |", "|---|---|---|---|"]
    for name, each in result["shares"].items():
        shares.append(f"| {name} | {' | '.join(_span(each[oracle], '.3f') for oracle in ORACLES)} |")
    several = [_of_heads(result["heads"])] if "heads" in result else []
    seeds = "; ".join(f"{name} {', '.join(f'{value:.4f}' for value in each)}" for name, each in result["spread"].items())
    spent = ", ".join(f"{name} {value:.0f}" for name, value in result["seconds"].items())
    return [
        "\n".join(lines),
        "\n".join(shares),
        *several,
        f"`ndcg_10` by seed: {seeds}. Seconds of fitting, of a busy machine: {spent}.",
        f"What `tailorbird train` takes by itself, `{result['default']}`, {'lies' if result['default_on_front'] else '**does not lie**'} "
        "on the front of cost and quality; the command ends with status 1 where it does not.",
        "![Quality beside the cost of an answer](images/results-pareto.svg)",
        "![Reliability of the default's heads: what was said beside what happened](images/results-reliability.svg)",
    ]


def _of_heads(heads: dict[str, dict[str, dict[str, float]]]) -> str:
    """AUC and log loss by target, and where one net for all targets falls below the interval of a model for each."""
    targets = list(next(iter(heads.values())))
    columns = [(head, figure) for head in targets for figure in ("auc", "log_loss")]
    lines = [f"| by target | {' | '.join(f'{head}, {figure}' for head, figure in columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(_cell(each[head], figure) for head, figure in columns)} |" for name, each in heads.items()]
    below = [
        f"`{name}` on {head} (of `{alone}`)" for name in ("shared", "mmoe") for alone in ("gbdt", "mlp", "dcn") for head in targets
        if {name, alone} <= set(heads) and heads[name][head]["auc"] < heads[alone][head]["auc_low"]
    ]  # fmt: skip
    told = f"AUC of one net for all targets below the interval of a model for each: {', '.join(below) or 'none'}."
    return "\n".join(lines) + f"\n\n{told}"


def _incremental(result: dict[str, Any]) -> list[str]:
    ways = [name for name in result["days"][0] if name in ("scratch", "incremental", "popular_3h")]
    lines = [
        f"| day | {' | '.join(ways)} | incremental − scratch | seconds, scratch | seconds, incremental |",
        "|---" * (len(ways) + 4) + "|",
    ]
    for one in result["days"]:
        cells = [f"{one[way]:.4f}" for way in ways]
        gain = _span(one["difference"], "+.4f") if one["warm"] else "the first: both from scratch"
        told = f"{one['seconds_scratch']:.0f} | {one['seconds_incremental']:.0f}"
        lines.append(f"| {one['day']} | {' | '.join(cells)} | {gain} | {told} |")
    mean = ", ".join(f"{name} {_cell(each, 'ndcg_20')}" for name, each in result["results"].items())
    return [
        "\n".join(lines),
        f"All days but the first, NDCG@20: {mean}. **Incremental ÷ scratch: quality {_span(result['quality_ratio'], '.3f')}, "
        f"time {result['time_ratio']:.2f}**; difference {_span(result['difference'], '+.4f')}.",
        "![NDCG@20 by day](images/results-incremental.svg)",
    ]


def _tuning(result: dict[str, Any]) -> list[str]:
    parts = []
    for name, case in result["cases"].items():
        lines = [
            "| architecture | sampler | trials | given up | seconds | best trial on its splits | gain ± spread there | on later data | "
            "gain there over its defaults |",
            "|---" * 9 + "|",
        ]
        for one in case["searches"]:
            best = one["best"]
            lines.append(
                f"| {one['architecture']} | {one['sampler']} | {one['trials']} | {one['pruned']} | {one['seconds']:.0f} | "
                f"{best['quality']:.4f} | {best['gain']:+.4f} ± {best['spread']:.4f}{', taken' if one['taken'] else ''} | "
                f"{_cell(one['later'], 'ndcg_10')} | {_cell(one['gain_later'], 'ndcg_10', '+')} |"
            )
        parts += [f"### tuning: {name}", "\n".join(lines)]
        defaults = ", ".join(f"{architecture} {_cell(each, 'ndcg_10')}" for architecture, each in case["defaults"].items())
        best = f"{case['best_baseline']} {_cell(case['baseline'], 'ndcg_10')}"
        parts.append(f"Defaults on later data ({case['requests']:,} requests): {defaults}; best baseline {best}.")
    return parts


def _learnable(result: dict[str, Any]) -> list[str]:
    names = list(result["knowing"])
    lines = [
        f"| days of log | clicks | items shown to who asks | {' | '.join(f'`{name}`' for name in names)} |",
        "|---" * (len(names) + 3) + "|",
    ]
    for days, each in result["lengths"].items():
        cells = [_span(each["shares"][name], ".3f") for name in names]
        known = each["shares"].get("learner_often")
        cells.append(f"{_span(known, '.3f')}: {each['often']:.0%} of requests" if known else "–")
        lines.append(f"| {days} | {each['clicks']:,} | {each['shown']:,.0f} | {' | '.join(cells)} |")
    sites = "; ".join(
        f"{days} days {', '.join(f'{value:.3f}' for value in each['by_seed']['learner'])}" for days, each in result["lengths"].items()
    )
    return [
        "Who knows what:\n\n" + "\n".join(f"- `{name}`: {what}" for name, what in result["knowing"].items()),
        "\n".join(lines),
        f"`learner` by site: {sites}.",
    ]


def _default_columns(result: dict[str, Any]) -> list[str]:
    figures = ("columns", "backfill_s", "read_us", "request_bytes", "score_us")
    lines = [f"| | {' | '.join(figures)} | ndcg_10 | by seed |", "|---" * (len(figures) + 3) + "|"]
    for name, cost in result["cost"].items():
        quality = result["quality"][name]
        cells = [f"{({**cost, **quality})[figure]:,.6g}" for figure in figures]
        seeds = ", ".join(f"{value:.4f}" for value in result["spread"][name])
        lines.append(f"| {name} | {' | '.join(cells)} | {_cell(quality, 'ndcg_10')} | {seeds} |")
    ratios = result["ratios"]
    lines.append(f"| with ÷ without | – | {' | '.join(f'× {ratios[figure]:.2f}' for figure in figures[1:])} | | |")
    return ["\n".join(lines)]


def _of_default_columns(result: dict[str, Any]) -> str:
    ratios, gain = result["ratios"], result["quality"]["with"]["ndcg_10"] - result["quality"]["without"]["ndcg_10"]
    return (
        f"the seven columns of people's kind bring {gain:+.4f} NDCG@10 and cost × {ratios['backfill_s']:.2f} of a backfill, × "
        f"{ratios['read_us']:.2f} of reading a request, × {ratios['request_bytes']:.2f} of its bytes and × "
        f"{ratios['score_us']:.2f} of scoring it"
    )


def _of_architectures(result: dict[str, Any]) -> str:
    default = result["default"]
    gain, popular = result["shares"][default], result["popular"]
    percent = "{:.0%} ({:.0%} to {:.0%})".format(*gain["oracle"])
    common = "{:.0%}".format(gain["oracle_common"][0])
    verdict = "met" if gain["oracle"][0] >= 0.9 else "**missed**"
    return (
        f"`{default}` has {percent} of the oracle's true gain over {popular} (wanted 90 %: {verdict}), {common} of what knowing exactly "
        f"what is common to one's kind gains; it {'lies' if result['default_on_front'] else 'does not lie'} on the front "
        "of cost and quality"
    )


def _of_learnable(result: dict[str, Any]) -> str:
    days, longest = list(result["lengths"].items())[-1]
    told = "{:.0%} of the oracle's true gain ({:.0%} to {:.0%})"
    learner, lasting = (told.format(*longest["shares"][name]) for name in ("learner", "lasting"))
    return (
        f"whoever is told all but the person's own taste, exactly, has {learner} after {days} days of log; who is told that too, and not "
        f"the passing urge, {lasting}"
    )


def _of_incremental(result: dict[str, Any]) -> str:
    return f"incremental ÷ scratch: NDCG@20 {_span(result['quality_ratio'], '.3f')}, processor time {result['time_ratio']:.2f}"


def _of_tuning(result: dict[str, Any]) -> str:
    counted = sum(len(case["searches"]) for case in result["cases"].values())
    ahead = sum(1 for case in result["cases"].values() for one in case["searches"] if (one["gain_later"]["ndcg_10_low"] or 0) > 0)
    behind = sum(1 for case in result["cases"].values() for one in case["searches"] if (one["gain_later"]["ndcg_10_high"] or 0) < 0)
    return (
        f"of {counted} searches under equal budgets, {ahead} are ahead of their defaults on later data outside the noise, {behind} behind"
    )


Section = Callable[[dict[str, Any]], list[str]]
SECTIONS: dict[str, Section] = {
    "architectures": _architectures,
    "default_columns": _default_columns,
    "learnable": _learnable,
    "incremental": _incremental,
    "tuning": _tuning,
}
SUMMARIES: dict[str, Callable[[dict[str, Any]], str]] = {
    "architectures": _of_architectures,
    "default_columns": _of_default_columns,
    "learnable": _of_learnable,
    "incremental": _of_incremental,
    "tuning": _of_tuning,
}


def _cell(figures: Mapping[str, Any], name: str, sign: str = "") -> str:
    value, low, high = (figures.get(name + end) for end in ("", "_low", "_high"))
    if value is None:
        return "–"
    return f"{value:{sign}.4f}" if low is None or high is None else f"{value:{sign}.4f} ({low:{sign}.4f}–{high:{sign}.4f})"


def _span(interval: list[float], form: str) -> str:
    value, low, high = (format(each, form) for each in interval)
    return f"{value} ({low} to {high})"
