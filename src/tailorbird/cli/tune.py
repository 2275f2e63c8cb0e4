"""`tailorbird tune`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tailorbird.cli.output import (
    Json,
    console,
    print_json,
    print_note,
    print_table,
    progress_bars,
    this_command,
)
from tailorbird.cli.train import Rows, names_of

if TYPE_CHECKING:
    from tailorbird.config import Project
    from tailorbird.training.tune.run import TuneReport

Sampler = Literal["tpe", "random"]
Pruner = Literal["median", "halving", "none"]


def tune(
    slot: str = "",
    *,
    trials: int | None = None,
    time: str = "",
    sampler: Sampler = "tpe",
    pruner: Pruner = "median",
    splits: int = 3,
    seeds: int = 3,
    finalists: int = 4,
    workers: int = 1,
    architectures: str = "gbdt",
    space: Path | None = None,
    window: str = "",
    rows: Rows = "auto",
    leave_out: str = "",
    quick: bool = False,
    seed: int = 7,
    as_of: str = "",
    more: bool = False,
    json: Json = False,
) -> None:
    """Look for better settings than the defaults, on several splits in time, and keep them for
    `tailorbird train` if they are better.

    Each trial learns from the past of a split and is judged by NDCG@10 on what follows; one that
    does worse than others by then is given up. The best few are fitted again under several seeds,
    and taken only if they gain more over the defaults than they vary. The first trial is the
    defaults. The part that `train` judges on is never looked at.

    What is chosen stands in tuned.toml; tune.toml, if there is one, says what is tried. A run that
    was stopped or killed goes on with the same command. Writes a report.

    Example:  tailorbird -C shop tune --trials 40

    Example:  tailorbird -C shop tune home --time 20m --workers 2 --sampler random

    Example:  tailorbird -C shop tune --more --trials 80

    Parameters
    ----------
    slot:
        train.slot unless told otherwise
    trials:
        of each architecture at most, from 1 on; 40 unless this or --time is given
    time:
        that fits of each architecture may take, such as 10m; all get the same
    sampler:
        tpe learns which settings do well together (multivariate TPE), random draws them evenly
    pruner:
        which trials are given up: below the median at a split, all but the best half (halving), or
            none
    splits:
        in time, each with a later origin; more of them are a harder test and take longer
    seeds:
        under each of which the best few are fitted again on every split
    finalists:
        how many are fitted again, beside the defaults
    workers:
        processes; with one, the same seed gives the same trials
    architectures:
        with commas between them; each gets the same budget
    space:
        a file that says what is tried, tune.toml in the project's folder unless told otherwise
    window:
        how much of the past to look at, train.window unless told otherwise
    rows:
        logged answers, or clicks with the candidates of that moment; auto: answers, where enough
            have a known outcome
    leave_out:
        columns that the model must not see, with commas between them
    quick:
        fewer rows and trees: to see what comes of it within a minute
    seed:
        of all draws
    as_of:
        tune as if it were this time, such as 2026-11-25, or `latest`: where the history in the lake
            ended, or now while events come
    more:
        go on with the last study, which came to its end, until it has so many trials
    """
    from tailorbird.config import open_project
    from tailorbird.config.schemas import for_training
    from tailorbird.errors import UsageError
    from tailorbird.events import SystemClock
    from tailorbird.platform.training import base_settings, span_of
    from tailorbird.platform.training import tune as run_tune
    from tailorbird.training.tune.page import write_tuning
    from tailorbird.training.tune.run import TuneSettings

    if trials is not None and trials < 1:
        fix = "tailorbird tune --trials 40, or --time 10m alone for as many as fit into it"
        raise UsageError(f"expected at least 1, got {trials}", where="--trials", fix=fix)
    project = for_training(open_project(), SystemClock()).project
    settings = TuneSettings(
        train=replace(
            base_settings(
                project, window=window, rows=rows, leave_out=names_of(leave_out), quick=quick
            ),
            seed=seed,
        ),
        names=tuple(name.strip() for name in architectures.split(",") if name.strip()),
        trials=trials or (0 if time else 40),
        seconds=span_of(time, "--time") / 1e6 if time else 0.0,
        sampler=sampler,
        pruner=pruner,
        splits=splits,
        seeds=seeds,
        finalists=finalists,
        workers=workers,
        seed=seed,
    )
    with progress_bars(quiet=json) as progress:
        report = run_tune(
            project,
            slot,
            settings,
            space=space,
            more=more,
            as_of=as_of,
            progress=progress,
            notify=print_note,
        )
    told = _keep(project, report)
    page = write_tuning(project.paths.reports, report, told)
    if json:
        print_json({**report.to_dict(), "report": str(page), "next": told})
        return
    _print(report)
    for line in (*told, f"Report: {page}"):
        console().print(line)


def _keep(project: "Project", report: "TuneReport") -> list[str]:
    """Write what was chosen where training takes it; what to do next, as lines."""
    from tailorbird.platform.training import keep_tuned
    from tailorbird.training.tune.tuned import FILE, read_tuned

    path, command = project.root / FILE, this_command()
    if not keep_tuned(project, report):
        if report.slot not in read_tuned(path):
            return ["Nothing was written: training goes on with its defaults."]
        return [
            f"{path} is as it was: it holds what an earlier tuning chose for {report.slot}; "
            "remove its section to train with defaults."
        ]
    return [
        f"Written to {path}. Training takes it, and judges it on the part that tuning did "
        "not look at:",
        f"  {command} train {report.slot}",
        "To undo it, remove its section from that file. To train once without it:",
        f"  {command} train {report.slot} --untuned",
    ]


def _print(report: "TuneReport") -> None:
    header = ["", "ndcg_10", "gain", "spread", "gain − spread", "seconds of a fit"]
    rows = [
        (
            one.name,
            float(one.quality.mean()),
            f"{one.gain:+.4f}",
            one.spread,
            f"{one.score:+.4f}",
            round(one.seconds, 2),
        )
        for one in report.choice.finalists
    ]
    print_table(
        f"Slot {report.slot}: the last few, on every split under every seed",
        header,
        rows,
        right=header[1:],
    )
    out = console()
    for name, trials in report.trials.items():
        pruned = sum(one.state == "pruned" for one in trials)
        failed = sum(one.state == "failed" for one in trials)
        spent = report.about["spent"][name]["seconds"]
        out.print(
            f"{name}: {len(trials)} trials, {pruned} given up early, {failed} failed, "
            f"{spent:,.0f} s of fits"
        )
    if report.about["untuned"]:
        out.print(f"Not tuned: {report.about['untuned']}")
    out.print(f"\n{report.choice.why}")
    if report.settings:
        out.print(
            "  " + ", ".join(f"{name} {_shown(value)}" for name, value in report.settings.items())
        )


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
