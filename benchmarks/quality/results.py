"""Write `docs/results.md` from the figures of the quality benchmarks: `make results`.

    python -m benchmarks.quality.results [--data PATH] [--keep FOLDER] [--only NAME …] [--take FILE
    …] [--render]

Each benchmark runs in a process of its own, and its JSON is kept in `benchmarks/quality/figures/`.
The tables of the page come from there, with command, revision and machine; what is said around them
is written by hand. `--take` keeps what a command wrote with `--json`; `--render` only writes the
page.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.quality import leaving_page, product_page, rectools_page, search_page, tasks_page

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
}
WITHOUT_DATA = ("product-simulated",)  # of data that are made here
KINDS = (
    (product_page.is_product, product_page.section),
    (rectools_page.is_rectools, rectools_page.section),
    (leaving_page.is_churn, leaving_page.section),
    (tasks_page.is_tasks, tasks_page.section),
    (search_page.is_search, search_page.section),
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
        default=COMMANDS,
        help="run these alone; the others' figures stay",
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
    given = parser.parse_args()
    for file in given.take or ():
        take(file.read_text())
    for name in () if given.render or given.take else given.only:
        measure(name, given.data, given.keep)
    PAGE.write_text(
        page(PAGE.read_text() if PAGE.exists() else f"# Results\n\n{BEGIN}\n{END}\n", read())
    )
    print(f"wrote {PAGE}")


def measure(name: str, data: str | None, keep: Path | None = None) -> None:
    """Run one benchmark and keep its figures; one whose data are not here is left as it was."""
    module, *arguments = shlex.split(COMMANDS[name])
    arguments += ["--data", data] if data and name not in WITHOUT_DATA else []
    arguments += ["--keep", str(keep)] if keep is not None and module == "product" else []
    command = [sys.executable, "-m", f"benchmarks.quality.{module}", *arguments, "--json"]
    print(shlex.join(command[1:]), file=sys.stderr)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 3:
        print(done.stderr.strip(), file=sys.stderr)
        return
    if done.returncode and not done.stdout:
        raise SystemExit(done.stderr)
    take(done.stdout)


def take(text: str) -> None:
    """Keep what a benchmark wrote; of one with several cases, those that it was not asked for stay
    as they were.

    Raises:
        SystemExit: the figures are of a small run.
    """
    found = json.loads(text)
    name = f"product-{found['set']}" if product_page.is_product(found) else found["benchmark"]
    if found.get("small"):
        raise SystemExit(f"{name}: the page holds figures of whole runs; run it without --small")
    file = FIGURES / f"{name}.json"
    if "cases" in found and file.exists():
        found["cases"] = dict(
            sorted({**json.loads(file.read_text())["cases"], **found["cases"]}.items())
        )
    FIGURES.mkdir(exist_ok=True)
    file.write_text(json.dumps(found, indent=1) + "\n")


def read() -> list[dict[str, Any]]:
    """Return the figures that are there, in the order of the page."""
    files = (FIGURES / f"{name}.json" for name in COMMANDS)
    return [json.loads(file.read_text()) for file in files if file.exists()]


def page(text: str, results: list[dict[str, Any]]) -> str:
    """Return the page with its generated part replaced."""
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    served = [each for each in results if product_page.is_product(each)]
    leaving = [each for each in results if leaving_page.is_churn(each)]
    parts = [product_page.summary(served)] if served else []
    parts += [leaving_page.summary(leaving)] if leaving else []
    parts += [next(section for chosen, section in KINDS if chosen(each))(each) for each in results]
    made = "\n".join(parts)
    return f"{before}{BEGIN}\n\n{made}\n{END}{after}"


if __name__ == "__main__":
    main()
