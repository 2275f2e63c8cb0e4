"""The sections of `docs/results.md` about what comes next, from the JSON of `next_click`, `next_click_product` and `next_item`."""

from typing import Any

OURS = "tailorbird"
CLICKS = ("next_click", "next_click_product")
KINDS = (*CLICKS, "next_item")
COVERAGE = 0.05
PUBLISHED = (
    "Published on a larger set of the same kind, MovieLens-20M with a global split in time, whole catalogue, NDCG@10: popular in the last "
    "7 days .1671, SASRec with sampled softmax .153, FuXi-α .1883. Of other films and people than ours: compare within the run."
)


def is_next(result: dict[str, Any]) -> bool:
    """Whether a benchmark's figures are of the whole catalogue."""
    return result["benchmark"] in KINDS


def summary(results: list[dict[str, Any]]) -> str:
    """A row for each data set: ours beside the best of the others."""
    lines = ["| whole catalogue | figure | default | best baseline | gain, 95 % interval | | coverage |", "|---" * 7 + "|"]
    for result in results:
        for name, each in _parts(result).items():
            figure = "ndcg_20" if result["benchmark"] in CLICKS else "ndcg_10"
            others = [model for model in each["results"] if model not in _ours(each)]
            best = max(others, key=lambda model: each["results"][model][figure])
            gain = each["differences"][best]
            low, high = gain[f"{figure}_low"], gain[f"{figure}_high"]
            verdict = "ahead" if low > 0 else f"{best} is the default" if each.get("default") == best else "**not ahead outside the noise**"
            lines.append(
                f"| [{name}](#{name}) | {figure} | {each['results'][OURS][figure]:.4f} | {best} {each['results'][best][figure]:.4f} | "
                f"{gain[figure]:+.4f} ({low:+.4f} to {high:+.4f}) | {verdict} | {_covered(each['results'][OURS])} |"
            )
    return "\n".join(lines) + "\n"


def _covered(ours: dict[str, Any]) -> str:
    """Share of the catalogue in any top 10, against the .05 that is wanted."""
    covered = ours.get("coverage_10")
    return "–" if covered is None else f"{covered:.3f}" + ("" if covered >= COVERAGE else f" **below {COVERAGE}**")


def section(result: dict[str, Any]) -> str:
    """Protocol and tables."""
    return _clicks(result) if result["benchmark"] in CLICKS else _items(result)


def _parts(result: dict[str, Any]) -> dict[str, Any]:
    return {result["benchmark"]: result} if result["benchmark"] in CLICKS else result["cases"]


def _ours(each: dict[str, Any]) -> tuple[str, ...]:
    """What is ours and no baseline: the default, and the models that only we bring."""
    return (OURS, "trees", "hourly_ranker", "bundle_all_day", *(name for name in each["results"] if name.startswith("transformer")))


def _clicks(result: dict[str, Any]) -> str:
    parts = [
        f"## {result['benchmark']}",
        result["title"],
        f"`python -m benchmarks.quality.{result['benchmark']}`",
        _list(result["protocol"]),
        f"{result['sessions']:,} sessions in {result['hours']} hours; what the sources found held {result['found']:.1%} of the truths.",
        _table(result["results"], ("ndcg_20", "hr_20")),
        _gains(result["differences"], ("ndcg_20", "hr_20")),
        *([_tree_seeds(result["tree_seeds"])] if result.get("tree_seeds") else []),
        _undrawn(result),
        *([_asked(result["asking"])] if "asking" in result else []),
        _measured(result["environment"], ", ".join(f"{seconds:.0f} s for {what}" for what, seconds in result["seconds"].items())),
    ]
    return "\n\n".join(parts) + "\n"


def _tree_seeds(seeds: dict[str, float]) -> str:
    return f"Seeds of the trees: {', '.join(f'{value:.4f}' for value in seeds.values())}."


def _undrawn(result: dict[str, Any]) -> str:
    """Which models every seed would give alike."""
    names = [f"`{name}`" for name in result["results"] if name not in _ours(result)]
    return f"Without randomness, so that one run is what every seed gives: {', '.join(names)}."


def _asked(asking: dict[str, float]) -> str:
    """Of each way of asking the bundle, what its sources gave."""
    lines = ["| asked with | candidates a question | that hold the truth | µs to find them, median |", "|---|---|---|---|"]
    for way in (name.removesuffix("_held") for name in asking if name.endswith("_held")):
        lines.append(f"| {way} | {asking[f'{way}_candidates']:.0f} | {asking[f'{way}_held']:.1%} | {asking[f'{way}_us']:,.0f} |")
    return "\n".join(lines)


def _items(result: dict[str, Any]) -> str:
    parts = ["## next_item", result["title"], "`python -m benchmarks.quality.next_item`", _list([*result["protocol"], PUBLISHED])]
    for name, each in result["cases"].items():
        parts += [f"### {name}", each["title"], _list(each["protocol"])]
        parts.append(_table(each["results"], ("ndcg_10", "ndcg_10_debiased", "recall_10", "coverage_10")))
        validated = ", ".join(f"{model} {value:.4f}" for model, value in sorted(each["validated"].items(), key=lambda entry: -entry[1]))
        parts.append(f"Default: `{each['default']}`, by NDCG@10 on validation B: {validated}.")
        parts.append(_gains(each["differences"], ("ndcg_10",)))
        if each.get("seeds"):
            told = ", ".join(f"{value:.4f}" for value in each["seeds"].values())
            parts.append(f"Seeds of the transformer: {told}.")
        if each.get("tree_seeds"):
            parts.append(_tree_seeds(each["tree_seeds"]))
        parts.append(_undrawn(each))
        if each.get("cold"):
            parts.append("NDCG@10 for people who were never seen before, by how many of their events have been seen:")
            parts.append(_curves(each["cold"]))
        parts.append("Variants taken: " + "; ".join(f"{model} `{recipe}`" for model, recipe in each["variants"].items()) + ".")
    parts.append("![NDCG@10 of new people by how many of their events were seen](images/results-cold.svg)")
    parts.append(_measured(result["environment"], ", ".join(f"{name} {each['seconds']:.0f} s" for name, each in result["cases"].items())))
    return "\n\n".join(parts) + "\n"


def _table(results: dict[str, Any], figures: tuple[str, ...]) -> str:
    lines = [f"| | {' | '.join(figures)} |", "|---" * (len(figures) + 1) + "|"]
    for model, each in sorted(results.items(), key=lambda entry: (-entry[1][figures[0]], entry[0] != OURS)):
        mark = "**" if model == OURS else ""
        lines.append(f"| {mark}{model}{mark} | {' | '.join(_cell(each, figure) for figure in figures)} |")
    return "\n".join(lines)


def _gains(differences: dict[str, Any], figures: tuple[str, ...]) -> str:
    lines = [f"| ahead of | {' | '.join(figures)} |", "|---" * (len(figures) + 1) + "|"]
    for model, each in differences.items():
        cells = []
        for figure in figures:
            cell = f"{each[figure]:+.4f} ({each[f'{figure}_low']:+.4f} to {each[f'{figure}_high']:+.4f})"
            if f"{figure}_hours_low" in each:
                cell += f"; hours {each[f'{figure}_hours_low']:+.4f} to {each[f'{figure}_hours_high']:+.4f}"
            cells.append(cell)
        lines.append(f"| {model} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _curves(cold: dict[str, Any]) -> str:
    lines = [f"| events seen | {' | '.join(str(count) for count in cold['events'])} |", "|---" * (len(cold["events"]) + 1) + "|"]
    lines.append(f"| questions | {' | '.join(f'{count:,}' for count in cold['questions'])} |")
    for model, values in cold["models"].items():
        lines.append(f"| {model} | {' | '.join('–' if v is None else f'{v[0]:.4f} ({v[1]:.4f}–{v[2]:.4f})' for v in values)} |")
    return "\n".join(lines)


def _cell(figures: dict[str, Any], name: str) -> str:
    value, low, high = (figures.get(name + end) for end in ("", "_low", "_high"))
    if value is None:
        return "–"
    return f"{value:.4f}" if low is None or high is None else f"{value:.4f} ({low:.4f}–{high:.4f})"


def _list(sentences: list[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _measured(environment: dict[str, str], spent: str) -> str:
    return (
        f"Measured {environment['day']} on {environment['cpu']} ({environment['cores']} cores), Tailorbird {environment['tailorbird']}, "
        f"LightGBM {environment['lightgbm']}; {spent}, on a machine that others used too."
    )
