"""`tailorbird validate`."""

from typing import TYPE_CHECKING, Any

from tailorbird.cli.output import Json, console, print_json, print_note, print_table, progress_bars
from tailorbird.cli.train import Architecture, Rows, names_of, parameters_of

if TYPE_CHECKING:
    from tailorbird.training.bootstrap import Interval
    from tailorbird.training.validate.run import ValidationReport


def validate(
    slot: str = "",
    *,
    splits: int = 3,
    variants: bool = True,
    window: str = "",
    rows: Rows = "auto",
    architecture: Architecture | None = None,
    parameters: str = "",
    leave_out: str = "",
    untuned: bool = False,
    quick: bool = False,
    seed: int = 7,
    as_of: str = "",
    strict: bool = False,
    json: Json = False,
) -> None:
    """Say whether the way a slot's model is trained is sound, and what it is worth, for whom, and
    by what. Changes nothing.

    At several origins in time the model that `train` would train, trees or a net, learns from the
    past and is judged on what follows, beside the baselines. It looks for columns that know the
    answer or the future, profiles without a time and a log that repeats itself; holds the model
    against itself with less data, without each group of columns and for people it has not seen, and
    a net against trees (paired tests, adjusted after Holm); and tells the figures of the long tail,
    new items and new users, and how far the model is over-fitted. Writes a report.

    What `features rank` found earlier is taken up: its leaks are told, its subset is tried.

    Example:  tailorbird -C shop validate

    Example:  tailorbird -C shop validate home --splits 5 --window 28d --strict

    Example:  tailorbird -C shop validate --architecture dcn

    Parameters
    ----------
    slot:
        train.slot unless told otherwise
    splits:
        origins in time
    variants:
        try less data, fewer columns and unseen people too, and trees beside a net: a dozen fits or
            more an origin, most of the time
    window:
        how much of the past to look at, train.window unless told otherwise
    rows:
        logged answers, or clicks with the candidates of that moment; auto: answers, where enough
            have a known outcome
    architecture:
        as for `train`: boosted trees (gbdt), a net (mlp, dcn, shared, mmoe), or auto: at each
        origin a net only where what it watches shows that it orders better than trees. Unless told
        otherwise what tuned.toml names, or gbdt
    parameters:
        of a net, as for `train`: what differs from the architecture's own, as a JSON object
    leave_out:
        columns that the model must not see, with commas between them
    untuned:
        leave out of account what `tailorbird tune` chose
    quick:
        fewer rows and trees
    seed:
        of all draws
    as_of:
        validate as if it were this time, such as 2026-11-25, or `latest`: where the history in the
            lake ended, or now while events come
    strict:
        end with status 1 if there is a leak
    """
    from tailorbird.config import open_project
    from tailorbird.platform.training import TrainOptions, backtest
    from tailorbird.training.validate.page import write_validation

    project = open_project()
    options = TrainOptions(
        window=window,
        quick=quick,
        rows=rows,
        architecture=architecture or "",
        parameters=parameters_of(parameters),
        leave_out=names_of(leave_out),
        untuned=untuned,
        seed=seed,
    )
    with progress_bars(quiet=json) as progress:
        report = backtest(
            project,
            slot,
            options,
            splits=splits,
            variants=variants,
            as_of=as_of,
            progress=progress,
            notify=print_note,
        )
    page = write_validation(project.paths.reports, report)
    if json:
        print_json({**report.to_dict(), "report": str(page)})
    else:
        _print(report)
        console().print(f"Report: {page}")
    if strict and report.leaks:
        raise SystemExit(1)


def _print(report: "ValidationReport") -> None:
    from tailorbird.training.validate.page import best_baseline
    from tailorbird.training.validate.run import NAME

    evaluation, out = report.evaluation, console()
    if report.substitution:
        out.print(f"{report.substitution}.\n")
    best = best_baseline(report)
    title = (
        f"Slot {report.slot}: NDCG@10 of {report.architecture} over "
        f"{len(report.about['splits'])} origins, {evaluation.requests:,} requests"
    )
    table = [
        (name, count, _interval(figures[NAME]), _interval(figures[best]) if best else "")
        for name, (count, figures) in {
            "all": (evaluation.requests, _primary(report)),
            **evaluation.slices,
        }.items()
    ]
    print_table(title, ["", "requests", NAME, best], table, right=["requests", NAME, best])
    tests = [
        (one.other, one.kind, _gained(one.gain), one.adjusted, one.verdict) for one in report.tests
    ]
    header = ["against", "kind", "gain", "p, Holm", "verdict"]
    print_table("\nPaired tests on the same requests", header, tests, right=["gain", "p, Holm"])
    gaps = [(one.origin, one.head, *one.auc, *one.log_loss) for one in report.gaps]
    names = [
        f"{figure} {part}" for figure in ("AUC", "loss") for part in ("train", "valid.", "test")
    ]
    print_table("\nOver-fit gap", ["origin", "head", *names], gaps, right=names)
    out.print("")
    for one in report.findings:
        out.print(f"{one.severity.upper()}  {one.subject}: {one.why}")
    if not report.leaks:
        out.print("No leak was found.")
    for note in report.notes:
        out.print(note)


def _primary(report: "ValidationReport") -> dict[str, Any]:
    from tailorbird.training.judge import PRIMARY

    return {name: figures[PRIMARY] for name, figures in report.evaluation.figures.items()}


def _interval(figure: Any) -> str:
    if figure.value != figure.value:
        return ""
    return f"{figure.value:.4f}" + (
        f" ({figure.low:.4f} – {figure.high:.4f})" if figure.known else ""
    )


def _gained(gain: "Interval") -> str:
    return f"{gain.value:+.4f}" + (
        f" ({gain.low:+.4f} – {gain.high:+.4f})" if gain.has_bounds else ""
    )
