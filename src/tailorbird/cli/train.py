"""`tailorbird train`."""

import difflib
import getpass
from typing import TYPE_CHECKING, Literal

from tailorbird.cli.output import Json, console, print_json, print_table, progress_bars, this_command

if TYPE_CHECKING:
    from tailorbird.features import FeatureSet

Rows = Literal["auto", "answers", "clicks"]  # as training.rows has it, which takes half a second to load


def train(
    name: str = "",
    *,
    window: str = "",
    quick: bool = False,
    promote: bool = True,
    rows: Rows = "auto",
    leave_out: str = "",
    as_of: str = "",
    json: Json = False,
) -> None:
    """Train a model for a slot, or of churn, on what the lake holds, judge it beside baselines, and promote it if it passes the gate.

    A name that churn.py declares trains that churn model; any other is a slot's. Everything is split by time. A model that does
    not beat the incumbent, or the best baseline, outside the noise is kept and not promoted, with the reason. Writes a report.

    Example:  tailorbird -C shop train

    Example:  tailorbird -C shop train home --window 14d --quick

    Example:  tailorbird -C news train --as-of latest

    Example:  tailorbird -C shop train --leave-out device,user_spend_28d

    Example:  tailorbird -C shop train churn

    Parameters
    ----------
    name:
        a slot of slots.py, train.slot unless told otherwise, or a churn model of churn.py
    window:
        of a slot: how much of the past to learn from, train.window unless told otherwise
    quick:
        fewer rows and trees: a first model within seconds
    promote:
        let it go live if it passes the gate
    rows:
        of a slot: learn from logged answers, or from clicks with drawn candidates; auto: answers, where enough have a known outcome
    leave_out:
        columns that the model must not see, with commas between them, as `features rank` proposes them
    as_of:
        train as if it were this time, such as 2026-11-25, or `latest`: just behind the newest event, for a history that ended long ago
    """
    from tailorbird.cli.moment import clock_as_of
    from tailorbird.config import open_project
    from tailorbird.config.schemas import for_training
    from tailorbird.events import SystemClock, duration
    from tailorbird.training.baseline import ensure_champion
    from tailorbird.training.train import TrainSettings
    from tailorbird.training.train import train as run_train

    settled = for_training(open_project(), SystemClock())
    project = settled.project
    if settled.said:
        console(stderr=True).print(settled.said, markup=False)
    if name in project.churn:
        from tailorbird.cli.churn import train_named

        left_out = _left_out(leave_out, project.features)
        return train_named(project, name, quick=quick, promote=promote, as_of=as_of, leave_out=left_out, json=json)
    declared = project.slot(name)
    window_us = duration(window or project.settings.train.window)
    settings = TrainSettings(
        window_us=window_us, lateness_us=project.plan.lateness_us, quick=quick, rows=rows, leave_out=_left_out(leave_out, project.features)
    )
    paths, clock, by = project.paths, clock_as_of(as_of, project, declared), getpass.getuser()
    ensure_champion(project.features, lake=paths.lake, registry=paths.registry, clock=clock, by=by)
    with progress_bars(quiet=json) as progress:
        report = run_train(
            project.features,
            declared,
            lake=paths.lake,
            registry=paths.registry,
            reports=paths.reports,
            clock=clock,
            settings=settings,
            heads=[head for other in project.slots.values() for head in other.objective],
            by=by,
            promote=promote,
            progress=progress,
        )
    if json:
        print_json(report.plain())
        return
    print_results(report.evaluation.plain()["results"], "On the last part of the time, which nothing learned from")
    out = console()
    out.print(f"\n{report.version} {'goes live' if report.promoted else 'is kept, not promoted'}: {report.decision.reason}")
    if not report.promoted:
        out.print(f'  To let it answer nevertheless:  {this_command()} models promote {report.version} --why "a first try"')
    for note in (*report.decision.reasons[1:], *report.notes):
        out.print(f"  {note}")
    out.print(f"Report: {report.report}")


def _left_out(text: str, features: "FeatureSet") -> tuple[str, ...]:
    """The columns of `--leave-out`, each of which must exist."""
    from tailorbird.errors import UsageError
    from tailorbird.ranking.computed import COMPUTED

    names = tuple(name.strip() for name in text.split(",") if name.strip())
    known = (
        *features.numeric,
        *features.categorical,
        *COMPUTED,
        *(one.name for one in features.similarities),
        *(one.output for one in features.transforms),
    )
    if unknown := [name for name in names if name not in known]:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        fix = f"did you mean {near[0]}?" if near else "tailorbird features list"
        raise UsageError(f"there is no column {unknown[0]!r}", where="--leave-out", fix=fix)
    return names


def print_results(results: dict[str, dict[str, float | None]], title: str) -> None:
    """Figures of a model and its baselines, best first, with their 95 % intervals."""
    columns = ["ndcg_10", "recall_10", "mrr", "auc", "coverage_10"]
    known = [name for name in columns if any(name in figures for figures in results.values())]

    def cell(figures: dict[str, float | None], name: str) -> str:
        value, low, high = figures.get(name), figures.get(f"{name}_low"), figures.get(f"{name}_high")
        if value is None:
            return ""
        return f"{value:.4f}" if low is None or high is None else f"{value:.4f} ({low:.4f} – {high:.4f})"

    ranked = sorted(results.items(), key=lambda pair: -(pair[1].get("ndcg_10") or 0.0))
    rows = [(name, *(cell(figures, column) for column in known)) for name, figures in ranked]
    print_table(title, ["", *known], rows, right=known)
