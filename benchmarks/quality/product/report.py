"""Put the report of a run together: figures, gains, what commands reported, how it was run."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.quality.over_seeds import mean_over
from benchmarks.quality.pages.product_page import cell
from benchmarks.quality.product.baselines import DESCRIPTIONS
from benchmarks.quality.product.figures import OURS, metrics_by_hour, pool_metrics
from benchmarks.quality.product.replay import BATCH_US, CANDIDATES_MAX
from benchmarks.quality.product.run import CutResult, Run
from benchmarks.quality.running import environment
from tailorbird.events import MINUTE, to_iso

PROTOCOL = (
    "`tailorbird init --from`, `import` and `train` run as `init` prints them, `train` without "
    "`--budget`; no file is edited.",
    "Test events go to collector, router and worker on a simulated clock, in order of (time, row). "
    "A question comes 1 µs before its event, when every row before it is applied, and asks for 20 "
    f"items. Events come in at most {BATCH_US // MINUTE} minutes late. Answers are not logged.",
    "Baselines list 20 items of the whole catalogue each, from the same rows. Where the set has no "
    "repeats, lists of clicks and neighbours leave out what the person had before.",
    "Figures are means over questions; of several seeds, over these first. Intervals (95 %) "
    "resample people. Exploration of the slot is on, as `init` declares it.",
    f"`candidate_recall`: share of the truth among the first {CANDIDATES_MAX} candidates.",
)
COLUMNS = ("ndcg_10", "ndcg_20", "hr_20", "mrr", "coverage_10", "ndcg_10_ipw", "candidate_recall")
COLUMNS += ("reward", "share_of_oracle", "share_of_learner")
QUICK = "`train` was given --quick, which `init` does not print."


def make_report(run: Run, cuts: Sequence[CutResult]) -> dict[str, Any]:
    """Return the result of all cuts as one object for JSON."""
    parts = [cut.judged for cut in cuts]
    pooled_figures = pool_metrics(parts)
    reported = [training for cut in cuts for training in cut.trained.values()]
    results_by_entry = pooled_figures["results"]
    results = {OURS: results_by_entry[OURS], "report": _mean_report(reported)} | results_by_entry
    data_set = run.data_set
    return {
        "benchmark": "product",
        "set": data_set.name,
        "title": data_set.title,
        "small": run.small,
        "quick": run.quick,
        "protocol": [*PROTOCOL, *data_set.protocol, *([QUICK] if run.quick else [])],
        "results": results,
        "gains": pooled_figures["gains"],
        "best_baseline": pooled_figures["best_baseline"],
        "report_gains": compare_reported_gains(reported, pooled_figures["gains"]),
        **(
            {"by_hour": metrics_by_hour(parts, pooled_figures["best_baseline"])}
            if data_set.hourly
            else {}
        ),
        "baselines": DESCRIPTIONS,
        "cuts": {cut.name: _describe_cut(cut) for cut in cuts},
    }


REPORT_NAME_BY_BASELINE = {
    "clicked_1h": "popular:1h",
    "clicked_24h": "popular:24h",
    "clicked_7d": "popular:7d",
}


def compare_reported_gains(
    trainings: Sequence[Mapping[str, Any]], served: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """Return the gains that `train` reported over shared baselines, beside the served gains."""
    gains = {}
    for name, report_name in REPORT_NAME_BY_BASELINE.items():
        differences = [
            training_["report"]["differences"] for training_ in trainings if "report" in training_
        ]
        reported_values = [
            training_[report_name]["ndcg_10"]
            for training_ in differences
            if report_name in training_
        ]
        if reported_values and name in served:
            reported_gain, served_gain = (
                sum(reported_values) / len(reported_values),
                served[name]["ndcg_10"],
            )
            gains[name] = {
                "report": round(reported_gain, 6),
                "served": served_gain,
                "report_minus_served": round(reported_gain - served_gain, 6),
            }
    return gains


def describe_provenance(command: str) -> dict[str, Any]:
    """Return provenance of a result: the command, the source's revision, and the machine."""
    return {"command": command, "revision": _revision(), "environment": environment()}


def _mean_report(trainings: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Return the model's figures in `train`'s report, the mean over seeds and cuts."""
    reports = [
        training["report"]["results"][OURS] for training in trainings if "report" in training
    ]
    return mean_over(reports) if reports else {}


def _describe_cut(cut: CutResult) -> dict[str, Any]:
    """Return the facts of one cut and of its steps."""
    log, steps = cut.log, cut.imported["steps"]
    imported = steps["import"]["report"]
    return {
        "train_from": to_iso(log.cut.begin),
        "test_from": to_iso(log.cut.at),
        "test_to": to_iso(log.cut.end),
        "train_rows": log.test_from,
        "test_rows": len(log) - log.test_from,
        "questions": len(cut.questions),
        "truths": len(cut.questions.truth),
        "people": len(set(cut.judged.person.tolist())),
        "imported": {name: imported[name] for name in ("rows", "accepted", "refused")},
        "training": {str(seed): training_report(each) for seed, each in cut.trained.items()},
        "replay": {str(seed): each for seed, each in cut.replayed.items()},
        "seconds": {**{name: step["seconds"] for name, step in steps.items()}, **cut.seconds},
    }


def training_report(trained: Mapping[str, Any]) -> dict[str, Any]:
    """Return the report of one training with its cost."""
    facts = {name: trained[name] for name in ("seconds", "peak_mb")}
    command = [part for part in trained["command"].split() if "/" not in part and part != "-C"]
    facts["command"] = " ".join(command)
    if "failed" in trained:
        return {**facts, "failed": trained["failed"], "promoted": False}
    names = ("results", "differences", "promoted", "reasons", "notes", "rows", "requests", "people")
    report = trained["report"]
    return facts | {name: report[name] for name in names} | {"stages": report["seconds"]}


def _revision() -> str:
    """Return the git revision of the benchmark's source, `+` behind it where files were changed."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        process = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True)
        return process.stdout.strip()

    return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain") else "")


def print_report(result: Mapping[str, Any]) -> None:
    """Print a report for people."""
    print(result["title"])
    for sentence in result["protocol"]:
        print(f"  {sentence}")
    columns = [each for each in COLUMNS if any(each in row for row in result["results"].values())]
    print(f"{'':24}" + "".join(f"{name:>28}" for name in columns))
    for name, each in sorted(result["results"].items(), key=_sort_key):
        print(f"{name:24}" + "".join(f"{cell(each, column):>28}" for column in columns))
    for name, gain in result["gains"].items():
        print(f"over {name:19}{cell(gain, next(iter(gain))):>28}")
    for name, each in result.get("report_gains", {}).items():
        print(f"over {name}: report {each['report']:+.4f}, served {each['served']:+.4f}")
    if "by_hour" in result:
        hours = result["by_hour"]
        print("ours ÷ best, late over early hours:", cell(hours, "late_over_early").strip())
    for name, cut in result["cuts"].items():
        print(f"{name}: {cut['questions']:,} questions, seconds {cut['seconds']}")
        for seed, each in cut["replay"].items():
            training = cut["training"][seed]
            print(f"  seed {seed}: train {training['seconds']} s, promoted {training['promoted']}")
            print(f"  {training.get('failed', '; '.join(training.get('reasons', ())))}")
            print(f"  {each}")


def _sort_key(entry: tuple[str, Mapping[str, Any]]) -> float:
    return -(entry[1].get("ndcg_10") or entry[1].get("reward") or 0)
