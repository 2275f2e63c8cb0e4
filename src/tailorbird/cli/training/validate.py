"""`tailorbird validate`: backtest the training of a slot."""

from typing import TYPE_CHECKING, Any

from tailorbird.cli.output import Json, console, print_json, print_note, print_table, progress_bars
from tailorbird.cli.training.train import RowSource, parse_parameters, split_names

if TYPE_CHECKING:
    from tailorbird.training.backtests.report import ValidationReport
    from tailorbird.training.evaluation.bootstrap import Interval


def validate(
    slot: str = "",
    *,
    splits: int = 3,
    variants: bool = True,
    window: str = "",
    rows: RowSource = "auto",
    architecture: str = "",
    parameters: str = "",
    leave_out: str = "",
    untuned: bool = False,
    quick: bool = False,
    seed: int = 7,
    as_of: str = "",
    strict: bool = False,
    json: Json = False,
) -> None:
    """Backtest the training of a slot's model, and report its quality and its leaks.

    Changes nothing. At several past cuts the model that `train` would train, trees or a neural
    network, learns from the past and is evaluated on what follows, next to the baselines. The
    command looks for columns that leak the label or the future, profiles without a time, and a log
    that repeats itself. It compares the model with variants: less data, without each group of
    columns, unseen people, and trees instead of a network (paired tests, adjusted after Holm). It
    reports figures for the long tail, new items and new users, and the over-fitting. Writes a
    report.

    Earlier results of `features rank` are included: its leaks are reported, and its subset is
    tried.

    Example:  tailorbird -C shop validate

    Example:  tailorbird -C shop validate home --splits 5 --window 28d --strict

    Example:  tailorbird -C shop validate --architecture dcn

    Parameters
    ----------
    slot:
        name of the slot; by default train.slot
    splits:
        number of past cuts
    variants:
        also evaluate with less data, with fewer columns, on unseen people, and trees next to a
        network; this adds a dozen or more fits per cut and takes most of the time
    window:
        length of the past to learn from; by default train.window
    rows:
        use logged answers, or clicks with the candidates of that time; auto takes answers if enough
        of them have a known outcome
    architecture:
        boosted trees (gbdt), logistic regression (logistic), an estimator of models.py, a neural
        network (mlp, dcn, shared, mmoe), or auto: at each cut a network only if it orders its
        validation part better than trees; by default the one in tuned.toml, or gbdt and the
        estimators of models.py beside it
    parameters:
        for neural networks: overrides of the architecture's defaults, as a JSON object
    leave_out:
        columns to exclude from the model, separated by commas
    untuned:
        ignore the settings that `tailorbird tune` chose
    quick:
        use fewer rows and trees
    seed:
        random seed
    as_of:
        validate as of this time, such as 2026-11-25, or `latest`: the end of the history in the
        lake, or now while events arrive
    strict:
        end with status 1 if there is a leak
    """
    from tailorbird.config import open_project
    from tailorbird.platform.train_options import TrainOptions
    from tailorbird.platform.training import backtest
    from tailorbird.training.backtests.page import write_validation

    project = open_project()
    options = TrainOptions(
        window=window,
        quick=quick,
        rows=rows,
        architecture=architecture,
        parameters=parse_parameters(parameters),
        leave_out=split_names(leave_out),
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
    page_path = write_validation(project.paths.reports, report)
    if json:
        print_json({**report.to_dict(), "report": str(page_path)})
    else:
        _print_report(report)
        console().print(f"Report: {page_path}")
    if strict and report.leaks:
        raise SystemExit(1)


def _print_report(report: "ValidationReport") -> None:
    from tailorbird.training.backtests.page import best_baseline
    from tailorbird.training.backtests.run import MODEL_NAME

    evaluation = report.evaluation
    out = console()
    if report.substitution:
        out.print(f"{report.substitution}.\n")
    baseline = best_baseline(report)
    slice_title = (
        f"Slot {report.slot}: NDCG@10 of {report.architecture} over "
        f"{len(report.about['splits'])} origins, {evaluation.request_count:,} requests"
    )
    slice_rows = [
        (
            name,
            count,
            _format_interval(interval_by_model[MODEL_NAME]),
            _format_interval(interval_by_model[baseline]) if baseline else "",
        )
        for name, (count, interval_by_model) in {
            "all": (evaluation.request_count, _primary_intervals(report)),
            **evaluation.slices,
        }.items()
    ]
    print_table(
        slice_title,
        ["", "requests", MODEL_NAME, baseline],
        slice_rows,
        numeric_columns=["requests", MODEL_NAME, baseline],
    )
    test_rows = [
        (test.competitor, test.kind, _format_gain(test.gain), test.p_adjusted, test.verdict)
        for test in report.tests
    ]
    test_titles = ["against", "kind", "gain", "p, Holm", "verdict"]
    print_table(
        "\nPaired tests on the same requests",
        test_titles,
        test_rows,
        numeric_columns=["gain", "p, Holm"],
    )
    gap_rows = [(gap.origin, gap.head, *gap.auc, *gap.log_loss) for gap in report.overfit_gaps]
    gap_titles = [
        f"{metric} {part}" for metric in ("AUC", "loss") for part in ("train", "valid.", "test")
    ]
    print_table(
        "\nOver-fit gap", ["origin", "head", *gap_titles], gap_rows, numeric_columns=gap_titles
    )
    out.print("")
    for finding in report.findings:
        out.print(f"{finding.severity.upper()}  {finding.subject}: {finding.why}")
    if not report.leaks:
        out.print("No leak was found.")
    for note in report.notes:
        out.print(note)


def _primary_intervals(report: "ValidationReport") -> dict[str, Any]:
    from tailorbird.training.evaluation.figures import PRIMARY_METRIC

    return {
        name: interval_by_metric[PRIMARY_METRIC]
        for name, interval_by_metric in report.evaluation.intervals.items()
    }


def _format_interval(interval: Any) -> str:
    if interval.value != interval.value:
        return ""
    return f"{interval.value:.4f}" + (
        f" ({interval.low:.4f} – {interval.high:.4f})" if interval.has_bounds else ""
    )


def _format_gain(gain: "Interval") -> str:
    return f"{gain.value:+.4f}" + (
        f" ({gain.low:+.4f} – {gain.high:+.4f})" if gain.has_bounds else ""
    )
