"""`tailorbird features rank`."""

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
from tailorbird.cli.train import Rows
from tailorbird.errors import UsageError

if TYPE_CHECKING:
    from tailorbird.config import Project
    from tailorbird.ranking.slot import Slot
    from tailorbird.training.signals import RankSettings, SignalReport
    from tailorbird.training.subset import Signal

_BAR = 12


def rank(
    *,
    slot: str = "",
    target: str = "",
    window: str = "",
    requests: int = 6_000,
    tolerance: float = 0.002,
    rows: Rows = "auto",
    seed: int = 7,
    as_of: str = "",
    out: Path | None = None,
    json: Json = False,
) -> None:
    """Say what each column that the model sees is worth and what it costs, and propose which to
    keep. Changes nothing.

    Trees learn from the first part of the time. On later data each column is permuted, and the drop
    of NDCG@10 is its importance. Beside it: the gain of trees against shuffled labels, what the
    column alone tells, which columns stand for each other, how it drifts, how often it is missing,
    and what it costs a request. A column that knows the answer is called out and left out. The
    subset is chosen on one part of the later data; what it loses is told on another.

    Writes a page, a picture and the figures. A run that was interrupted goes on with the same
    command.

    Example:  tailorbird -C shop features rank

    Example:  tailorbird -C shop features rank --slot home --target purchase --window 28d --requests 20000 --out signals

    Parameters
    ----------
    slot:
        train.slot unless told otherwise
    target:
        what columns should tell, the first of the slot's objective unless told otherwise
    window:
        how much of the past to look at, train.window unless told otherwise
    requests:
        requests to learn from at most, and with something to find to choose by and to judge by
    tolerance:
        how much NDCG@10 a redundant or unstable column may cost where the subset is chosen, to be
            left out
    rows:
        logged answers, or clicks and the like with the candidates of that moment; auto: answers,
            where enough have a known outcome
    seed:
        of all draws; the same seed and data give the same figures
    as_of:
        rank as if it were this time, such as 2026-11-25, or `latest`: where the history in the lake
            ended, or now while events come
    out:
        folder of the report, signals-SLOT-TARGET in the project's reports unless told otherwise
    """
    from tailorbird.config import open_project
    from tailorbird.platform.training import window_of
    from tailorbird.training.signals import RankSettings
    from tailorbird.training.signals_page import write_signals

    _check(requests, tolerance)
    project = open_project()
    declared = project.slot(slot)
    goal = target or next(iter(declared.objective))
    folder = out or project.paths.reports / f"signals-{declared.name}-{goal}"
    _check_out(folder)
    settings = RankSettings(
        window_us=window_of(window, project),
        lateness_us=project.plan.lateness_us,
        rows=rows,
        requests=requests,
        tolerance=tolerance,
        seed=seed,
    )
    report = _ranked(project, declared, goal, as_of, folder, settings, quiet=json)
    paste = to_paste(report)
    page, image = write_signals(folder, report, paste)
    if json:
        print_json({**report.to_dict(), "report": str(page), "picture": str(image)})
        return
    _print(report)
    for line in ("", *paste, "", f"Report: {page}", f"Picture: {image}"):
        console().print(line)


def _check(requests: int, tolerance: float) -> None:
    if requests < 1:
        raise UsageError(
            f"expected at least 1 request, got {requests}",
            where="--requests",
            fix="leave it out, or give some thousands",
        )
    if not tolerance >= 0:
        raise UsageError(f"expected 0 or more, got {tolerance}", where="--tolerance")


def _check_out(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file", where="--out", fix="name a folder")


def _ranked(
    project: "Project",
    slot: "Slot",
    target: str,
    as_of: str,
    out: Path,
    settings: "RankSettings",
    *,
    quiet: bool,
) -> "SignalReport":
    from tailorbird.platform.moment import clock_as_of
    from tailorbird.training.signals import rank_signals

    with progress_bars(quiet=quiet) as progress:
        return rank_signals(
            project.features,
            slot,
            lake=project.paths.lake,
            clock=clock_as_of(as_of, project, notify=print_note),
            out=out,
            target=target,
            settings=settings,
            event_types=project.plan.event_types,
            progress=progress,
        )


def to_paste(report: "SignalReport") -> list[str]:
    """The declarations that may go, each with its line, and the command that trains without the
    columns.
    """
    subset = report.subset
    if not subset.remove:
        return ["No column is proposed for removal."]
    places = {one.name: one.place for one in report.signals}
    gone = subset.about["declarations_to_remove"]
    lines = [
        "To try it, with all declarations as they are:",
        f"  {this_command()} train {report.about['slot']} --leave-out {','.join(subset.remove)}",
    ]
    if gone:
        lines.append("To do without them altogether, remove from features.py:")
        lines += [
            f"  {places[name]}  {name}"
            for name in sorted(gone, key=lambda name: _line(places[name]))
        ]
    if stay := subset.about["declarations_that_others_need"]:
        lines.append(f"Others are made from {', '.join(stay)}: leave these out of the model only.")
    return lines


def _line(place: str) -> tuple[str, int]:
    file, _, line = place.rpartition(":")
    return (file, int(line)) if line.isdigit() else (place, 0)


def _print(report: "SignalReport") -> None:
    finite = [
        one.importance.value
        for one in report.signals
        if one.importance.value == one.importance.value
    ]
    most = max([*finite, 1e-9])
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
    table = []
    for one in report.signals:
        value = one.importance
        known = value.value == value.value
        share = max(value.value, 0.0) / most if known else 0.0
        table.append(
            (
                one.name + (" †" if one.of_request else ""),
                "█" * round(_BAR * share),
                f"{value.value:+.4f} ({value.low:+.4f} – {value.high:+.4f})" if known else "",
                f"{one.null_z:.1f}" if known else "",
                f"{1000 * one.bits:.2f}",
                f"{one.drift:.2f}{'!' if one.unstable else ''}",
                f"{one.missing:.0%}",
                one.request_bytes,
                f"{one.finish_us:.1f}" if one.finish_us == one.finish_us else "",
                _verdict(report.signals, one),
            )
        )
    print_table(
        f"What tells {report.target} in slot {report.about['slot']}",
        titles,
        table,
        right=titles[3:-1],
    )
    subset, out = report.subset, console()
    out.print(
        "† the same for all items of a request: it can order them only together with other columns"
    )
    for note in report.notes:
        out.print(note)
    out.print(
        f"\n{len(subset.keep)} of {len(report.signals)} columns are proposed to stay: "
        f"{', '.join(subset.keep)}.\n"
        f"On {report.about['parts']['judge']['with_something_to_find']:,} requests that had "
        "no say in the choice, NDCG@10 is "
        f"{subset.subset} with them and {subset.full} with all: it loses {subset.loss}."
    )
    if "read_us" in subset.about:
        from tailorbird.training.serving_cost import ITEMS

        told = subset.about
        out.print(
            f"A request for {ITEMS} items reads {told['request_bytes_subset']:,} bytes of "
            f"records instead of {told['request_bytes']:,}, "
            f"in {told['read_us_subset']:,.0f} µs instead of {told['read_us']:,.0f}."
        )


def _verdict(signals: Sequence["Signal"], one: "Signal") -> str:
    like = [
        other.name
        for other in signals
        if one.cluster and other.cluster == one.cluster and other is not one
    ]
    told = one.verdict + (f" (goes with {', '.join(like)})" if like else "")
    return (
        told
        if one.kept == (one.verdict == "signal")
        else f"{told}, stays"
        if one.kept
        else f"{told}, out"
    )
