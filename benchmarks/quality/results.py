"""Write `docs/results.md` from the figures of the quality benchmarks: `make results`.

    python -m benchmarks.quality.results [--data PATH] [--keep FOLDER] [--only NAME …]
    [--take FILE …] [--render]

Each benchmark runs in a process of its own, and its JSON is kept in `benchmarks/quality/figures/`.
The tables of the page come from there, with command, revision and machine; the text around them is
written by hand. A run that was cut short goes on: it leaves out benchmarks whose figures are of
this revision already, unless `--only` names them. `--take` keeps the output of a command with
`--json`; `--render` only writes the page.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.quality.pages import (
    exploration_page,
    leaving_page,
    monitoring_page,
    off_policy_page,
    off_policy_site_page,
    product_page,
    rectools_page,
    search_page,
    tasks_page,
    validity_page,
    validity_pictures,
)
from benchmarks.quality.running import revision

HERE = Path(__file__).parent
FIGURES = HERE / "figures"
PAGE = HERE.parents[1] / "docs" / "results.md"
BEGIN, END = "<!-- generated: begin -->", "<!-- generated: end -->"
COMMANDS = {
    "product-globo": "product --set globo --cut a b c",
    "product-globo_sessions": "product --set globo_sessions --cut test",
    "product-retail": "product --set retail --cut test",
    "product-journey": "product --set journey --cut test",
    "product-eshop": "product --set eshop --cut test",
    "product-movielens": "product --set movielens --cut test",
    "product-simulated": "product --set simulated",
    "rectools": "rectools",
    "cdnow": "cdnow",
    "retail": "retail",
    "kuairand": "kuairand",
    "search": "search",
    "off_policy": "off_policy",
    "off_policy_site": "off_policy_site",
    "exploration": "exploration",
    "validity": "validity",
}
WITHOUT_DATA = ("product-simulated", "exploration", "off_policy_site")  # their data are generated
SECTION_BY_KIND = (
    (rectools_page.is_rectools, rectools_page.section),
    (leaving_page.is_churn, leaving_page.section),
    (tasks_page.is_tasks, tasks_page.section),
    (search_page.is_search, search_page.section),
    (off_policy_page.is_off_policy, off_policy_page.section),
    (off_policy_site_page.is_off_policy_site, off_policy_site_page.section),
    (exploration_page.is_exploration, exploration_page.section),
    (validity_page.is_validity, validity_page.section),
)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality.results",
        description="Measure, and write docs/results.md",
    )
    parser.add_argument("--data", help="the folder that holds the data sets")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=COMMANDS,
        help="run these alone, again too; the others' figures stay",
    )
    parser.add_argument(
        "--keep",
        type=Path,
        help="keep what is done of the product's benchmarks in this folder, and go on from there",
    )
    parser.add_argument(
        "--render",
        action="store_true",
        help="write the page from the figures that are there; run nothing",
    )
    parser.add_argument(
        "--take",
        nargs="+",
        type=Path,
        help="take what commands wrote with --json in place of running anything",
    )
    arguments = parser.parse_args()
    for file in arguments.take or ():
        store_figures(file.read_text())
    if not arguments.render and not arguments.take:
        names = arguments.only or [name for name in COMMANDS if not is_current(name)]
        for done, name in enumerate(names):
            print(
                f"{done + 1} of {len(names)}: {describe_time_left(names[done:])}", file=sys.stderr
            )
            measure(name, arguments.data, arguments.keep)
    results = read_figures()
    text = render_page(
        PAGE.read_text() if PAGE.exists() else f"# Results\n\n{BEGIN}\n{END}\n", results
    )
    for result in filter(validity_page.is_validity, results):
        validity_pictures.write_pictures(PAGE.parent / "images", result)
    monitoring = _figure_file("monitoring")  # kept by the benchmark itself, part by part
    if monitoring.exists():
        text = monitoring_page.render(text, json.loads(monitoring.read_text()))
    PAGE.write_text(text)
    print(f"wrote {PAGE}")


def is_current(name: str) -> bool:
    """Return whether the figures of a benchmark are of the revision that is checked out."""
    file = _figure_file(name)
    stored = json.loads(file.read_text()).get("revision") if file.exists() else None
    return bool(stored) and revision().startswith(stored)


def describe_time_left(names: Sequence[str]) -> str:
    """Return how long these benchmarks took last time, in words."""
    files = [_figure_file(name) for name in names]
    stored = [json.loads(file.read_text()) if file.exists() else {} for file in files]
    seconds = [figures["elapsed_s"] for figures in stored if "elapsed_s" in figures]
    text = f"about {sum(seconds) / 60:.0f} minutes left" if seconds else "time left unknown"
    untimed = len(names) - len(seconds)
    return f"{text}, and {untimed} that were never timed" if seconds and untimed else text


def measure(name: str, data: str | None, keep: Path | None = None) -> None:
    """Run one benchmark and keep its figures; skip it if its data are missing."""
    module, *arguments = shlex.split(COMMANDS[name])
    arguments += ["--data", data] if data and name not in WITHOUT_DATA else []
    arguments += ["--keep", str(keep)] if keep is not None and module == "product" else []
    command = [sys.executable, "-m", f"benchmarks.quality.{module}", *arguments, "--json"]
    print(shlex.join(command[1:]), file=sys.stderr)
    measured_revision = revision()
    started = time.monotonic()
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if process.returncode == 3:  # Its data are missing, as it has said itself.
        return
    if process.returncode and not process.stdout:
        raise SystemExit(f"{name} failed; the same command goes on from here")
    store_figures(
        process.stdout,
        {"revision": measured_revision, "elapsed_s": round(time.monotonic() - started)},
    )


def store_figures(text: str, run: Mapping[str, Any] | None = None) -> None:
    """Keep the output of a benchmark; cases that it did not run stay as they were.

    Args:
        run: revision and duration, kept with the figures.

    Raises:
        SystemExit: the figures are of a small run.
    """
    figures = {**json.loads(text), **(run or {})}
    name = f"product-{figures['set']}" if product_page.is_product(figures) else figures["benchmark"]
    if figures.get("small"):
        raise SystemExit(f"{name}: the page holds figures of whole runs; run it without --small")
    file = _figure_file(name)
    if "cases" in figures and file.exists():
        figures["cases"] = dict(
            sorted({**json.loads(file.read_text())["cases"], **figures["cases"]}.items())
        )
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(figures, indent=1) + "\n")


def read_figures() -> list[dict[str, Any]]:
    """Return the figures that are there, in the order of the page."""
    files = (_figure_file(name) for name in COMMANDS)
    return [json.loads(file.read_text()) for file in files if file.exists()]


def _figure_file(name: str) -> Path:
    folder = HERE.parent / "figures" if name == "validity" else FIGURES
    return folder / f"{name}.json"


def render_page(text: str, results: list[dict[str, Any]]) -> str:
    """Return the page with its generated part replaced."""
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    product_results = [result for result in results if product_page.is_product(result)]
    churn_results = [result for result in results if leaving_page.is_churn(result)]
    sections = [product_page.summary(product_results)] if product_results else []
    sections += [leaving_page.summary(churn_results)] if churn_results else []
    shared = product_page.shared_protocol(product_results)
    sections += [product_page.section(result, shared) for result in product_results]
    sections += [
        next(section for matches, section in SECTION_BY_KIND if matches(result))(result)
        for result in results
        if not product_page.is_product(result)
    ]
    generated = "\n".join(sections)
    return f"{before}{BEGIN}\n\n{generated}\n{END}{after}"


if __name__ == "__main__":
    main()
