"""Measure what monitoring detects, how soon, and how often it is wrong.

    python -m benchmarks.quality.monitoring [--small | --share 0.3] [--json] [--write]

Sites, faults and delays are drawn with known truth, see `sites.py`. `--write` stores the figures in
benchmarks/quality/figures/monitoring.json and their table in docs/results.md.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from tests.support.monitored import draw_visits, write_visits

from benchmarks.quality.monitoring import runs
from benchmarks.quality.running import revision
from tailorbird.version import __version__

ROOT = Path(__file__).parents[3]
FIGURES = ROOT / "benchmarks/quality/figures/monitoring.json"
PAGE = ROOT / "docs/results.md"
BEGIN, END = "<!-- monitoring: begin -->", "<!-- monitoring: end -->"
START = 1_790_553_600_000_000
ROWS = (
    (
        "false alarm episodes a month, one stated, 100 features",
        "false_alarms.tailorbird",
        ".5 to 1.1",
    ),
    ("the same, KS with Bonferroni's correction by day", "false_alarms.ks_bonferroni", ""),
    *(
        (f"roll-back, {fault}, seconds at 100 requests/s", f"rollback.{fault}", "60")
        for fault in ("errors", "not_finite", "empty", "ctr_halved")
    ),
    ("roll-back, CTR −20 %, seconds", "rollback.ctr_minus_20", "reported"),
    ("roll-back, CTR −10 %, seconds", "rollback.ctr_minus_10", "reported"),
    ("good champions rolled back, share", "rollback.none", ".01"),
    ("conversion after one day, bias", "delayed.bias", "±.02"),
    ("the same, coverage of the interval", "delayed.coverage", ".93 to .97"),
    ("the same, bias of what was observed so far", "delayed.bias_naive", ""),
    ("figures, µs a response, in the trainer", "cost_us.figures", ""),
    ("sketches of 100 features, µs a response, in the trainer", "cost_us.sketches", "60"),
    ("monitoring while serving, µs a response", "cost_us.serving", "60"),
)


def build_lake(folder: Path) -> int:
    """Write an hour of responses with a hundred features each; return their number."""
    rng = np.random.default_rng(0)
    responses = 5_000
    more = {"schema_hash": "s", "numeric": rng.normal(size=800).tolist()}
    write_visits(folder, draw_visits(rng, START, 3_600, responses, ctr=0.1, asked="v0001", **more))
    return responses


def measure(share: float) -> dict[str, Any]:
    """Measure everything, with a share of the full number of runs."""

    def count(full: int) -> int:
        return max(3, round(full * share))

    return {
        "false_alarms": runs.false_alarms(count(200)),
        "delay": runs.detection_delays(count(20)),
        "rollback": runs.rollback_times(count(50), 7_200),
        "delayed": runs.delayed_conversions(count(1_000)),
        "cost_us": runs.cost_us(build_lake),
    }


def table(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "| claim | measured | 95 % interval or 10–90 % | n | target |",
        "|---|---|---|---|---|",
    ]
    for text, path, target in ROWS:
        figure = results
        for part in path.split("."):
            figure = figure[part]
        value, low, high = (figure.get(name) for name in ("value", "low", "high"))
        interval = f"{low:.3g} to {high:.3g}" if low is not None and high is not None else ""
        shown = f"{value:.3g}" if value is not None else "not detected"
        lines.append(f"| {text} | {shown} | {interval} | {figure['n']} | {target} |")
    lines += ["", "| drift | hours to detection, median | 10–90 % | missed |", "|---|---|---|---|"]
    for kind, figures in results["delay"].items():
        hours, missed = figures["hours"], figures["missed"]["value"]
        shown = (
            f"{hours['value']:.3g} | {hours['low']:.3g} to {hours['high']:.3g}"
            if hours["value"] is not None
            else "– | –"
        )
        lines.append(f"| {kind.replace('_', ' ')} | {shown} | {missed:.0%} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.monitoring")
    parser.add_argument("--small", action="store_true", help="a tenth of the runs")
    parser.add_argument("--share", type=float, default=1.0, help="share of the full number of runs")
    parser.add_argument("--json", action="store_true", help="one JSON object and nothing else")
    parser.add_argument("--write", action="store_true", help="store the figures and their table")
    options = parser.parse_args()
    began = time.time()
    share = 0.1 if options.small else options.share
    results = measure(share)
    report = {
        "results": results,
        "about": {
            "version": __version__,
            "revision": revision("--short"),
            "share": share,
            "minutes": round((time.time() - began) / 60, 1),
        },
    }
    if options.write:
        FIGURES.write_text(json.dumps(report, indent=1) + "\n")
        text = PAGE.read_text()
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        note = f"Measured at revision {report['about']['revision']}."
        PAGE.write_text(f"{before}{BEGIN}\n\n{table(results)}\n\n{note}\n\n{END}{after}")
    sys.stdout.write((json.dumps(report) if options.json else table(results)) + "\n")


if __name__ == "__main__":
    main()
