"""`docs/results.md` from the figures of the quality benchmarks: `make results`.

    python -m benchmarks.quality.results [--data PATH] [--only NAME …] [--render]

Runs each benchmark in a process of its own, keeps its JSON in `benchmarks/quality/figures/`, and writes the page from what lies there.
`--render` only writes the page. What the page says around the tables stands between its marks and is written by hand.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.quality import leaving_page

HERE = Path(__file__).parent
FIGURES = HERE / "figures"
PAGE = HERE.parents[1] / "docs" / "results.md"
BEGIN, END = "<!-- generated: begin -->", "<!-- generated: end -->"
NAMES = ("globo", "globo_full", "movielens", "baskets", "simulated", "cdnow", "retail")
SHOWN = ("ndcg_10", "recall_10", "mrr", "list_auc", "coverage_10")
OURS = "tailorbird"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.results", description="Measure, and write docs/results.md")
    parser.add_argument("--data", help="the folder that holds the data sets")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="run these alone; the others' figures stay")
    parser.add_argument("--render", action="store_true", help="write the page from the figures that are there; run nothing")
    given = parser.parse_args()
    if not given.render:
        for name in given.only:
            measure(name, given.data)
    PAGE.write_text(page(PAGE.read_text() if PAGE.exists() else f"# Results\n\n{BEGIN}\n{END}\n", read()))
    print(f"wrote {PAGE}")


def measure(name: str, data: str | None) -> None:
    """Run one benchmark and keep its figures; one whose data are not here is left as it was."""
    command = [sys.executable, "-m", f"benchmarks.quality.{name}", "--json", *(["--data", data] if data else [])]
    print(" ".join(command[1:]), file=sys.stderr)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 3:
        print(done.stderr.strip(), file=sys.stderr)
        return
    if done.returncode:
        raise SystemExit(done.stderr)
    FIGURES.mkdir(exist_ok=True)
    (FIGURES / f"{name}.json").write_text(json.dumps(json.loads(done.stdout), indent=1) + "\n")


def read() -> list[dict[str, Any]]:
    """The figures that are there, in the order of the page."""
    files = (FIGURES / f"{name}.json" for name in NAMES)
    return [json.loads(file.read_text()) for file in files if file.exists()]


def page(text: str, results: list[dict[str, Any]]) -> str:
    """The page with its generated part replaced."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    ranked, leaving = ([each for each in results if leaving_page.is_churn(each) == churn] for churn in (False, True))
    of_churn = [leaving_page.summary(leaving)] if leaving else []
    sections = (leaving_page.section(each) if leaving_page.is_churn(each) else _section(each) for each in results)
    made = "\n".join([_summary(ranked), *of_churn, *sections])
    return f"{before}{BEGIN}\n\n{made}\n{END}{after}"


def _summary(results: list[dict[str, Any]]) -> str:
    lines = ["| data set | NDCG@10 | best baseline | gain, 95 % interval | |", "|---|---|---|---|---|"]
    for result in results:
        best = _best(result)
        gain = result["differences"][best]
        low = gain["ndcg_10_low"]
        verdict = "ahead" if low is not None and low > 0 else "**not ahead outside the noise**"
        span = f"{gain['ndcg_10']:+.4f} ({_signed(low)} to {_signed(gain['ndcg_10_high'])})"
        theirs = f"{best} {result['results'][best]['ndcg_10']:.4f}"
        ours, name = result["results"][OURS]["ndcg_10"], result["benchmark"]
        lines.append(f"| [{name}](#{name}) | {ours:.4f} | {theirs} | {span} | {verdict} |")
    return "\n".join(lines) + "\n"


def _section(result: dict[str, Any]) -> str:
    name, about, environment = result["benchmark"], result["about"], result["environment"]
    ordered = sorted(result["results"], key=lambda model: -(result["results"][model]["ndcg_10"] or 0))
    table = [f"| | {' | '.join(SHOWN)} |", "|---" * (len(SHOWN) + 1) + "|"]
    for model in ordered:
        mark = "**" if model == OURS else ""
        table.append(f"| {mark}{model}{mark} | {' | '.join(_cell(result['results'][model], figure) for figure in SHOWN)} |")
    best = _best(result)
    slices = [f"| slice | requests | {OURS} | {best} |", "|---|---|---|---|"]
    for title, figures in result["slices"].items():
        slices.append(f"| {title} | {figures['requests']:,} | {_cell(figures[OURS], 'ndcg_10')} | {_cell(figures[best], 'ndcg_10')} |")
    counted = [f"- `{each['query']}`: {each['found']:,} ({_agrees(each)})" for each in result["counted"]]
    heads = [_head(head, figures) for head, figures in result["heads"].items()]
    day = f"Measured {environment['day']} on {environment['cpu']} ({environment['cores']} cores), Tailorbird {environment['tailorbird']}, "
    seconds = result["seconds"]
    imported = f"import {seconds['import']:.0f} s, " if "import" in seconds else ""
    rest = sum(spent for stage, spent in seconds.items() if stage != "import")
    day += f"LightGBM {environment['lightgbm']}; {imported}training and judging {rest:.0f} s, on a machine that others used too."
    parts = [
        f"## {name}",
        result["title"],
        f"`python -m benchmarks.quality.{name}`",
        "\n".join(f"- {sentence}" for sentence in result["protocol"]),
        "\n".join(table),
        "\n".join(slices),
        "\n".join(heads),
        f"Gate: {'; '.join(result['reasons'])}. Index as of {' to '.join(dict.fromkeys(about['index_judged_as_of']))}.",
        *(["Of the lake, after the import:\n\n" + "\n".join(counted)] if counted else []),
        day,
    ]
    return "\n\n".join(parts) + "\n"


def _head(name: str, figures: dict[str, Any]) -> str:
    calibration = f"calibration error {_cell(figures, 'calibration_error')}, debiased {figures['calibration_error_debiased']:.4f}"
    loss = f"log loss {_cell(figures, 'log_loss')}, of always the mean {figures['log_loss_mean']:.4f}"
    return f"Head `{name}` ({figures['positives']:,} of {figures['rows']:,} rows): AUC {_cell(figures, 'auc')}; {loss}; {calibration}."


def _best(result: dict[str, Any]) -> str:
    return max((model for model in result["results"] if model != OURS), key=lambda model: result["results"][model]["ndcg_10"] or 0)


def _cell(figures: dict[str, Any], name: str) -> str:
    value, low, high = (figures[name + end] for end in ("", "_low", "_high"))
    if value is None:
        return "–"
    return f"{value:.4f}" if low is None or high is None else f"{value:.4f} ({low:.4f}–{high:.4f})"


def _signed(value: float | None) -> str:
    return "unknown" if value is None else f"{value:+.4f}"


def _agrees(each: dict[str, Any]) -> str:
    return "as its description says" if each["found"] == each["expected"] else f"its description says {each['expected']:,}"


if __name__ == "__main__":
    main()
