"""`tailorbird tune`: search for better settings."""

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
from tailorbird.cli.training.train import RowSource, split_names

if TYPE_CHECKING:
    from tailorbird.config import Project
    from tailorbird.training.tuning.run import TuneReport

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
    rows: RowSource = "auto",
    leave_out: str = "",
    quick: bool = False,
    seed: int = 7,
    as_of: str = "",
    more: bool = False,
    json: Json = False,
) -> None:
    """Search for better settings than the defaults on several splits in time.

    Each trial learns from the past of a split and is evaluated by NDCG@10 on what follows. Trials
    that fall behind are stopped early. The best few are fitted again under several seeds, and
    chosen only if they gain more over the defaults than they vary. The first trial is the defaults.
    The part that `train` evaluates on is never used.

    The chosen settings are written to tuned.toml, which `train` reads. tune.toml, if there is one,
    defines the search space. An interrupted run continues with the same command. Writes a report.

    Example:  tailorbird -C shop tune --trials 40

    Example:  tailorbird -C shop tune home --time 20m --workers 2 --sampler random

    Example:  tailorbird -C shop tune --more --trials 80

    Parameters
    ----------
    slot:
        name of the slot; by default train.slot
    trials:
        maximum number of trials per architecture, at least 1; by default 40, or unlimited with
        --time
    time:
        time limit for the fits of each architecture, such as 10m
    sampler:
        tpe learns which settings do well together (multivariate TPE), random draws them evenly
    pruner:
        which trials to stop early: those below the median at a split, all but the best half
        (halving), or none
    splits:
        number of splits in time, each with a later origin; more splits are a harder test and take
        longer
    seeds:
        number of seeds under which the best few are fitted again on every split
    finalists:
        number of trials to fit again, in addition to the defaults
    workers:
        number of processes; with one, the same seed gives the same trials
    architectures:
        names of architectures, separated by commas; each gets the same budget
    space:
        file with the search space; by default tune.toml in the project's folder
    window:
        length of the past to learn from; by default train.window
    rows:
        use logged answers, or clicks with the candidates of that time; auto takes answers if enough
        of them have a known outcome
    leave_out:
        columns to exclude from the model, separated by commas
    quick:
        use fewer rows and trees, for a first result within a minute
    seed:
        random seed
    as_of:
        tune as of this time, such as 2026-11-25, or `latest`: the end of the history in the lake,
        or now while events arrive
    more:
        continue the last, completed study up to this number of trials
    """
    from tailorbird.config import open_project
    from tailorbird.config.schemas import resolve_for_training
    from tailorbird.errors import UsageError
    from tailorbird.events import SystemClock
    from tailorbird.platform.train_options import base_settings, parse_span
    from tailorbird.platform.training import tune as run_tune
    from tailorbird.training.tuning.page import write_tuning
    from tailorbird.training.tuning.settings import TuneSettings

    if trials is not None and trials < 1:
        fix = "tailorbird tune --trials 40, or --time 10m alone for as many as fit into it"
        raise UsageError(f"expected at least 1, got {trials}", where="--trials", fix=fix)
    project = resolve_for_training(open_project(), SystemClock()).project
    settings = TuneSettings(
        train=replace(
            base_settings(
                project, window=window, rows=rows, leave_out=split_names(leave_out), quick=quick
            ),
            seed=seed,
        ),
        architecture_names=tuple(name.strip() for name in architectures.split(",") if name.strip()),
        trials=trials or (0 if time else 40),
        seconds=parse_span(time, "--time") / 1e6 if time else 0.0,
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
            resume=more,
            as_of=as_of,
            progress=progress,
            notify=print_note,
        )
    next_steps = _save_tuned_settings(project, report)
    page_path = write_tuning(project.paths.reports, report, next_steps)
    if json:
        print_json({**report.to_dict(), "report": str(page_path), "next": next_steps})
        return
    _print_report(report)
    for line in (*next_steps, f"Report: {page_path}"):
        console().print(line)


def _save_tuned_settings(project: "Project", report: "TuneReport") -> list[str]:
    """Write the chosen settings where training reads them; return the next steps as lines."""
    from tailorbird.platform.training import save_tuned_settings
    from tailorbird.training.tuning.tuned import TUNED_FILE, read_tuned

    tuned_file = project.root / TUNED_FILE
    command = this_command()
    if not save_tuned_settings(project, report):
        if report.slot not in read_tuned(tuned_file):
            return ["Nothing was written: training goes on with its defaults."]
        return [
            f"{tuned_file} is as it was: it holds what an earlier tuning chose for {report.slot}; "
            "remove its section to train with defaults."
        ]
    return [
        f"Written to {tuned_file}. Training takes it, and judges it on the part that tuning did "
        "not look at:",
        f"  {command} train {report.slot}",
        "To undo it, remove its section from that file. To train once without it:",
        f"  {command} train {report.slot} --untuned",
    ]


def _print_report(report: "TuneReport") -> None:
    titles = ["", "ndcg_10", "gain", "spread", "gain − spread", "seconds of a fit"]
    rows = [
        (
            finalist.name,
            float(finalist.ndcg.mean()),
            f"{finalist.gain:+.4f}",
            finalist.spread,
            f"{finalist.score:+.4f}",
            round(finalist.seconds, 2),
        )
        for finalist in report.choice.finalists
    ]
    print_table(
        f"Slot {report.slot}: the last few, on every split under every seed",
        titles,
        rows,
        numeric_columns=titles[1:],
    )
    out = console()
    for architecture, trials in report.trials.items():
        pruned_count = sum(trial.state == "pruned" for trial in trials)
        failed_count = sum(trial.state == "failed" for trial in trials)
        spent_s = report.about["spent"][architecture]["seconds"]
        out.print(
            f"{architecture}: {len(trials)} trials, {pruned_count} given up early, "
            f"{failed_count} failed, {spent_s:,.0f} s of fits"
        )
    if report.about["untuned"]:
        out.print(f"Not tuned: {report.about['untuned']}")
    out.print(f"\n{report.choice.why}")
    if report.settings:
        out.print(
            "  "
            + ", ".join(f"{name} {_format_value(value)}" for name, value in report.settings.items())
        )


def _format_value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
