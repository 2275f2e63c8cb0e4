"""`docs/results.md` from the figures of the quality benchmarks: `make results`.

    python -m benchmarks.quality.results [--data PATH] [--keep FOLDER] [--only NAME …] [--take FILE …] [--render]

Runs each benchmark in a process of its own, keeps its JSON in `benchmarks/quality/figures/`, and writes the page and its pictures from
what lies there. With `--keep` what the long ones have done stays done, so that a run may be cut short and go on. `--render` only writes the
page. What the page says around the tables stands outside its marks and is written by hand.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.quality import (
    architectures,
    leaving_page,
    models_page,
    next_item_page,
    peers_page,
    pictures,
    search_page,
    targets_page,
    tasks_page,
)
from benchmarks.quality.commands import commands_of, runs_of

HERE = Path(__file__).parent
FIGURES = HERE / "figures"
PAGE = HERE.parents[1] / "docs" / "results.md"
BEGIN, END = "<!-- generated: begin -->", "<!-- generated: end -->"
NAMES = (
    "globo",
    "globo_full",
    "movielens",
    "baskets",
    "simulated",
    "cdnow",
    "retail",
    "next_click",
    "next_click_product",
    "next_item",
    "kuairand",
)
NAMES += ("architectures", "default_columns", "learnable", "incremental", "tuning", "peers", "search")
MADE = ("architectures", "default_columns", "learnable")  # of data that are made here
KEEPING = ("next_click", "next_click_product", "next_item", "kuairand", "architectures", "learnable", "incremental", "tuning", "peers")
KEEPING += ("default_columns", "globo", "movielens", "baskets", "simulated")
SHOWN = ("ndcg_10", "recall_10", "mrr", "list_auc", "coverage_10")
OURS = "tailorbird"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.results", description="Measure, and write docs/results.md")
    parser.add_argument("--data", help="the folder that holds the data sets")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="run these alone; the others' figures stay")
    parser.add_argument("--keep", type=Path, help=f"keep what is done of {', '.join(KEEPING)} in this folder, and go on from there")
    parser.add_argument("--render", action="store_true", help="write the page from the figures that are there; run nothing")
    parser.add_argument("--take", nargs="+", type=Path, help="take what commands wrote with --json in place of running anything")
    given = parser.parse_args()
    for file in given.take or ():
        take(file.read_text())
    for name in () if given.render or given.take else given.only:
        measure(name, given.data, given.keep)
    pictures.draw(read(), PAGE.parent / "images")
    PAGE.write_text(page(PAGE.read_text() if PAGE.exists() else f"# Results\n\n{BEGIN}\n{END}\n", read()))
    print(f"wrote {PAGE}")


def measure(name: str, data: str | None, keep: Path | None = None) -> None:
    """Run one benchmark and keep its figures; one whose data are not here is left as it was."""
    named = ["--data", data] if data and name not in MADE else []
    kept = ["--keep", str(keep / name)] if keep is not None and name in KEEPING else []
    for options in runs_of(name):
        command = [sys.executable, "-m", f"benchmarks.quality.{name}", *options.split(), "--json", *named, *kept]
        print(" ".join(command[1:]), file=sys.stderr)
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 3:
            print(done.stderr.strip(), file=sys.stderr)
            return
        if done.returncode and not done.stdout:
            raise SystemExit(done.stderr)
        take(done.stdout)


def take(text: str) -> None:
    """Keep what a benchmark wrote; of one with several data sets or peers, those that it was not asked for stay as they were."""
    found = json.loads(text)
    if found.get("small"):
        raise SystemExit(f"{found['benchmark']}: the page holds figures of whole runs; run it without --small")
    file = FIGURES / f"{found['benchmark']}.json"
    if "cases" in found and file.exists():
        before = json.loads(file.read_text())
        for part in ("cases", "versions"):
            if part in found:
                found[part] = dict(sorted({**before.get(part, {}), **found[part]}.items()))
    if found.get("some"):
        if not file.exists():
            raise SystemExit(
                f"{found['benchmark']}: figures of {', '.join(found['some'])} alone, and none of the others: run it without --only"
            )
        try:
            found = architectures.joined(json.loads(file.read_text()), found)
        except ValueError as error:
            raise SystemExit(f"{found['benchmark']}: {error}") from error
    FIGURES.mkdir(exist_ok=True)
    file.write_text(json.dumps(found, indent=1) + "\n")


def read() -> list[dict[str, Any]]:
    """The figures that are there, in the order of the page."""
    files = (FIGURES / f"{name}.json" for name in NAMES)
    return [json.loads(file.read_text()) for file in files if file.exists()]


def page(text: str, results: list[dict[str, Any]]) -> str:
    """The page with its generated part replaced."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    kinds = (leaving_page.is_churn, next_item_page.is_next, tasks_page.is_tasks, models_page.is_models, peers_page.is_peers)
    kinds += (search_page.is_search,)
    leaving, coming, several, models, peers, _ = ([each for each in results if chosen(each)] for chosen in kinds)
    ranked = [each for each in results if not any(chosen(each) for chosen in kinds)]
    of_churn = [leaving_page.summary(leaving)] if leaving else []
    of_next = [next_item_page.summary(coming)] if coming else []
    of_tasks = [tasks_page.summary(several)] if several else []
    of_models = [models_page.summary(models)] if models else []
    of_peers = [peers_page.summary(peers)] if peers else []
    sections = (next(page for chosen, page in _KINDS if chosen(each))(each) for each in results)
    wanted = [f"What was wanted, and what was found:\n\n{targets_page.table(results)}"]
    made = "\n".join([*wanted, _summary(ranked), *of_next, *of_churn, *of_tasks, *of_models, *of_peers, *sections])
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
        f"`{commands_of(name)[0]}`",
        "\n".join(f"- {sentence}" for sentence in result["protocol"]),
        "\n".join(table),
        *([_seeds(result["seeds"])] if "seeds" in result else []),
        "\n".join(slices),
        "\n".join(heads),
        f"Gate: {'; '.join(result['reasons'])}. Index as of {' to '.join(dict.fromkeys(about['index_judged_as_of']))}.",
        *(["Of the lake, after the import:\n\n" + "\n".join(counted)] if counted else []),
        day,
    ]
    return "\n\n".join(parts) + "\n"


def _seeds(seeds: dict[str, dict[str, float]]) -> str:
    told = ", ".join(f"{each['ndcg_10']:.4f} ({each['gain']:+.4f})" for each in seeds.values())
    return f"Means over the seeds {', '.join(seeds)}, their intervals too; NDCG@10 of each, and its gain over the best baseline: {told}."


def _head(name: str, figures: dict[str, Any]) -> str:
    calibration = f"calibration error {_cell(figures, 'calibration_error')}, debiased {figures['calibration_error_debiased']:.4f}"
    loss = f"log loss {_cell(figures, 'log_loss')}, of always the mean {figures['log_loss_mean']:.4f}"
    return f"Head `{name}` ({figures['positives']:,} of {figures['rows']:,} rows): AUC {_cell(figures, 'auc')}; {loss}; {calibration}."


_KINDS: tuple[tuple[Callable[[dict[str, Any]], bool], Callable[[dict[str, Any]], str]], ...] = (
    (leaving_page.is_churn, leaving_page.section),
    (next_item_page.is_next, next_item_page.section),
    (tasks_page.is_tasks, tasks_page.section),
    (models_page.is_models, models_page.section),
    (peers_page.is_peers, peers_page.section),
    (search_page.is_search, search_page.section),
    (lambda _: True, _section),
)


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
