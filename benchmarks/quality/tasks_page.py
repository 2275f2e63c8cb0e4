"""How the page of results shows a benchmark of several targets at once."""

from typing import Any

OURS, ALONE, TREES = "mmoe", "single", "lightgbm"
PUBLISHED = "published beside: on AliExpress's four countries, split in time, MMoE is behind nets for each task alone in two"


def is_tasks(result: dict[str, Any]) -> bool:
    """Whether figures are by target."""
    return result.get("kind") == "tasks"


def summary(results: list[dict[str, Any]]) -> str:
    """One net for all targets beside a net for each: no target may fall below the interval of its own net."""
    below_what = "targets below the interval of their own net | of their own trees"
    lines = [f"| several targets | mean AUC, {OURS} | {ALONE} nets | gain, 95 % interval | {below_what} |", "|" + "---|" * 6]
    for result in results:
        if OURS not in result["results"]:
            continue
        ours, alone, gain = result["results"][OURS], result["results"][ALONE], result["differences"][ALONE]
        floors = [result["results"][other] for other in (ALONE, TREES)]
        below, below_trees = (
            ", ".join(task for task in result["tasks"] if ours[f"auc_{task}"] < floor[f"auc_{task}_low"]) or "none" for floor in floors
        )
        span = f"{gain['auc']:+.4f} ({gain['auc_low']:+.4f} to {gain['auc_high']:+.4f})"
        name = result["benchmark"]
        lines.append(f"| [{name}](#{name}) | {ours['auc']:.4f} | {alone['auc']:.4f} | {span} | {below} | {below_trees} |")
    return "\n".join(lines) + "\n"


def section(result: dict[str, Any]) -> str:
    """Both figures by target and model, the gain of one net for all, and the curves."""
    tasks = list(result["tasks"])
    parts = [f"## {result['benchmark']}", result["title"], f"`python -m benchmarks.quality.{result['benchmark']}`"]
    parts.append("\n".join(f"- {sentence}" for sentence in (*result["protocol"], PUBLISHED)))
    for kind, title in (("auc", "AUC"), ("log_loss", "Log loss")):
        figures = [kind, *(f"{kind}_{task}" for task in tasks)]
        rows = [f"| {title} | mean | {' | '.join(tasks)} |", "|" + "---|" * (len(tasks) + 2)]
        for name, each in result["results"].items():
            mark = "**" if name == OURS else ""
            rows.append(f"| {mark}{name}{mark} | {' | '.join(_cell(each, figure) for figure in figures)} |")
        for other, each in result["differences"].items():
            rows.append(f"| {OURS} − {other} | {' | '.join(_cell(each, figure, sign='+') for figure in figures)} |")
        parts.append("\n".join(rows))
    counts = ", ".join(f"{task} {each['positives']:,}" for task, each in result["tasks"].items())
    parts.append(f"Positives of {next(iter(result['tasks'].values()))['rows']:,} judged rows: {counts}.")
    curves = [f"{name}: {_curve(series, 'train')}; later rows {_curve(series, 'validation')}" for name, series in result["curves"].items()]
    parts.append("Log loss by epoch, mean over targets, of the rows learned from: " + ". ".join(curves) + ".")
    parts.append("![Log loss by epoch: nets over ids over-fit](images/results-overfit.svg)")
    seconds = ", ".join(f"{name} {spent:.0f}" for name, spent in result["seconds"].items())
    environment = result["environment"]
    day = f"Measured {environment['day']} on {environment['cpu']} ({environment['cores']} cores), which others used too"
    parts.append(f"{day}; seconds of one fit: {seconds}.")
    return "\n\n".join(parts) + "\n"


def _cell(figures: dict[str, float], name: str, sign: str = "") -> str:
    return f"{figures[name]:{sign}.4f} ({figures[name + '_low']:{sign}.4f}–{figures[name + '_high']:{sign}.4f})"


def _curve(series: dict[str, list[float]], name: str) -> str:
    return " ".join(f"{value:.3f}" for value in series[name])
