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

from benchmarks.quality.monitoring import peers, runs
from benchmarks.quality.monitoring.diagnosis import diagnose_incidents, replay_clicks
from benchmarks.quality.monitoring.label_free import label_free
from benchmarks.quality.running import default_data, find_data_set, revision
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
    ("right cause first, ten incidents", "incidents.all", "at least .85"),
    ("AUC without labels under covariate shift, error", "label_free.error", "at most NannyML's"),
    ("the same, NannyML's CBPE", "label_free.error_nannyml", ""),
    ("the same, AUC before the shift", "label_free.error_before_shift", ""),
    ("the same, coverage of the interval", "label_free.coverage", "reported"),
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

    folder = find_data_set("globo-clicks", default_data())
    quiet, thresholds = runs.false_alarms(count(200))
    return {
        "false_alarms": quiet,
        "delay": runs.detection_delays(count(20), thresholds),
        "incidents": diagnose_incidents(20),
        "label_free": label_free(count(100)),
        "globo": replay_clicks(folder / "clicks.parquet") if folder else None,
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
        shown = f"{value:.3g}" if value is not None else figure.get("cause", "not detected")
        lines.append(f"| {text} | {shown} | {interval} | {figure['n']} | {target} |")
    lines += ["", *_delay_table(results["delay"])]
    if results["globo"]:
        lines += ["", *_replay_table(results["globo"])]
    return "\n".join(lines)


def _delay_table(delay: dict[str, Any]) -> list[str]:
    """Return hours to detection by drift and method, all at the same rate of false alarms."""
    methods = ("tailorbird", *peers.METHODS)
    lines = [
        "Hours to detection, median (share missed). Each method has a threshold with the false "
        "alarms of Tailorbird.",
        "",
        f"| drift | {' | '.join(each.replace('_', ', ') for each in methods)} |",
        f"|---|{'---|' * len(methods)}",
    ]
    for kind, figures in delay.items():
        cells = []
        for method in methods:
            hours = figures[method]["hours"]["value"]
            missed = figures[method]["missed"]["value"]
            text = "not detected" if hours is None else f"{hours:.3g}"
            cells.append(text + (f" ({missed:.0%})" if missed else ""))
        lines.append(f"| {kind.replace('_', ' ')} | {' | '.join(cells)} |")
    return lines


def _replay_table(replay: dict[str, Any]) -> list[str]:
    """Return the episodes of the replayed log."""
    gap = replay["longest_gap"]
    lines = [
        f"Globo's clicks replayed ({replay['hours']} hours). Its only outage begins "
        f"{gap['since'][:16]}Z and takes {gap['minutes']:.0f} minutes.",
        "",
        "| since | until | likely cause | evidence |",
        "|---|---|---|---|",
    ]
    for each in (*replay["first_week"], *replay["later"]):
        lines.append(
            f"| {each['since']} | {each['until']} | {each['cause']} | {each['evidence']} |"
        )
    return lines


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
