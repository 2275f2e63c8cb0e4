"""`tailorbird features rank`: importance and cost of each column."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird.cli.output import (
    Json,
    console,
    print_json,
    print_note,
    print_table,
    progress_bars,
    this_command,
)
from tailorbird.cli.training.train import RowSource
from tailorbird.errors import UsageError

if TYPE_CHECKING:
    from tailorbird.training.selection.signals import SignalReport
    from tailorbird.training.selection.verdicts import Signal

_BAR_WIDTH = 12


def rank(
    *,
    slot: str = "",
    target: str = "",
    window: str = "",
    requests: int = 6_000,
    tolerance: float = 0.002,
    rows: RowSource = "auto",
    seed: int = 7,
    as_of: str = "",
    out: Path | None = None,
    json: Json = False,
) -> None:
    """Rank the columns of a model by importance and cost, and propose which to keep.

    Changes nothing. Trees learn from the first part of the time. On later data each column is
    permuted, and the drop of NDCG@10 is its importance. The report also has the gain against
    shuffled labels, the information of the column alone, groups of interchangeable columns, drift,
    missing values and the cost per request. A column that leaks the label is reported and excluded.
    The subset is chosen on one part of the later data, and its loss is measured on another.

    Writes a page, a picture and the figures. An interrupted run continues with the same command.

    Example:  tailorbird -C shop features rank

    Example:  tailorbird -C shop features rank --slot home --target purchase --requests 20000

    Parameters
    ----------
    slot:
        name of the slot; by default train.slot
    target:
        the label that columns should predict; by default the first of the slot's objective
    window:
        length of the past to learn from; by default train.window
    requests:
        maximum number of requests to learn from; as many with an outcome are used to choose and to
        evaluate
    tolerance:
        maximum loss of NDCG@10 for leaving out a redundant or unstable column
    rows:
        use logged answers, or clicks and other events with the candidates of that time; auto takes
        answers if enough of them have a known outcome
    seed:
        random seed; the same seed and data give the same figures
    as_of:
        rank as of this time, such as 2026-11-25, or `latest`: the end of the history in the lake,
        or now while events arrive
    out:
        folder of the report; by default signals-SLOT-TARGET in the project's reports
    """
    from tailorbird.config import open_project
    from tailorbird.platform.features.rank import rank_columns
    from tailorbird.training.selection.signals_page import write_signals

    _check_options(requests, tolerance)
    with progress_bars(quiet=json) as progress:
        report, folder = rank_columns(
            open_project(),
            slot,
            target=target,
            window=window,
            as_of=as_of,
            folder=out,
            progress=progress,
            notify=print_note,
            rows=rows,
            requests=requests,
            tolerance=tolerance,
            seed=seed,
        )
    instructions = removal_instructions(report)
    page_path, image_path = write_signals(folder, report, instructions)
    if json:
        print_json({**report.to_dict(), "report": str(page_path), "picture": str(image_path)})
        return
    _print_report(report)
    for line in ("", *instructions, "", f"Report: {page_path}", f"Picture: {image_path}"):
        console().print(line)


def _check_options(requests: int, tolerance: float) -> None:
    if requests < 1:
        raise UsageError(
            f"expected at least 1 request, got {requests}",
            where="--requests",
            fix="leave it out, or give some thousands",
        )
    if not tolerance >= 0:
        raise UsageError(f"expected 0 or more, got {tolerance}", where="--tolerance")


def removal_instructions(report: "SignalReport") -> list[str]:
    """Return the declarations to remove with their lines, and the command to train without them."""
    subset = report.subset
    if not subset.removed_columns:
        return ["No column is proposed for removal."]
    location_by_signal = {signal.name: signal.location for signal in report.signals}
    removable_names = subset.about["declarations_to_remove"]
    lines = [
        "To try it, with all declarations as they are:",
        f"  {this_command()} train {report.about['slot']} --leave-out {','.join(subset.removed_columns)}",
    ]
    if removable_names:
        lines.append("To do without them altogether, remove from features.py:")
        lines += [
            f"  {location_by_signal[name]}  {name}"
            for name in sorted(
                removable_names, key=lambda name: _location_key(location_by_signal[name])
            )
        ]
    if needed_names := subset.about["declarations_that_others_need"]:
        lines.append(
            f"Others are made from {', '.join(needed_names)}: leave these out of the model only."
        )
    return lines


def _location_key(location: str) -> tuple[str, int]:
    file, _, line = location.rpartition(":")
    return (file, int(line)) if line.isdigit() else (location, 0)


def _print_report(report: "SignalReport") -> None:
    finite_importances = [
        signal.importance.value
        for signal in report.signals
        if signal.importance.value == signal.importance.value
    ]
    importance_max = max([*finite_importances, 1e-9])
    titles = [
        "column",
        "",
        "importance",
        "null z",
        "mbit",
        "drift",
        "missing",
        "bytes",
        "µs",
        "verdict",
    ]
    table_rows = []
    for signal in report.signals:
        importance = signal.importance
        is_known = importance.value == importance.value
        bar_share = max(importance.value, 0.0) / importance_max if is_known else 0.0
        table_rows.append(
            (
                signal.name + (" †" if signal.is_request_level else ""),
                "█" * round(_BAR_WIDTH * bar_share),
                f"{importance.value:+.4f} ({importance.low:+.4f} – {importance.high:+.4f})"
                if is_known
                else "",
                f"{signal.null_z:.1f}" if is_known else "",
                f"{1000 * signal.bits:.2f}",
                f"{signal.drift:.2f}{'!' if signal.is_unstable else ''}",
                f"{signal.missing:.0%}",
                signal.request_bytes,
                f"{signal.finish_us:.1f}" if signal.finish_us == signal.finish_us else "",
                _describe_verdict(report.signals, signal),
            )
        )
    print_table(
        f"Columns that predict {report.target} in slot {report.about['slot']}",
        titles,
        table_rows,
        numeric_columns=titles[3:-1],
    )
    subset = report.subset
    out = console()
    out.print("† equal for all items of a request: it orders them only together with other columns")
    for note in report.notes:
        out.print(note)
    out.print(
        f"\n{len(subset.kept_columns)} of {len(report.signals)} columns are proposed to stay: "
        f"{', '.join(subset.kept_columns)}.\n"
        f"On {report.about['parts']['test']['with_something_to_find']:,} requests that had "
        "no say in the choice, NDCG@10 is "
        f"{subset.subset_metric} with them and {subset.full_metric} with all: it loses {subset.loss}."
    )
    if "read_us" in subset.about:
        from tailorbird.training.report.serving_cost import CANDIDATES_PER_REQUEST

        cost_figures = subset.about
        out.print(
            f"A request for {CANDIDATES_PER_REQUEST} items reads "
            f"{cost_figures['request_bytes_subset']:,} bytes of records instead of "
            f"{cost_figures['request_bytes']:,}, "
            f"in {cost_figures['read_us_subset']:,.0f} µs instead of "
            f"{cost_figures['read_us']:,.0f}."
        )


def _describe_verdict(signals: Sequence["Signal"], signal: "Signal") -> str:
    names_in_cluster = [
        other.name
        for other in signals
        if signal.cluster and other.cluster == signal.cluster and other is not signal
    ]
    verdict = signal.verdict + (
        f" (goes with {', '.join(names_in_cluster)})" if names_in_cluster else ""
    )
    return (
        verdict
        if signal.kept == (signal.verdict == "signal")
        else f"{verdict}, stays"
        if signal.kept
        else f"{verdict}, out"
    )
