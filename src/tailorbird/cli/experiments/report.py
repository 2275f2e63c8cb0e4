"""`tailorbird experiment report`."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird.cli.output import Json, console, print_json, print_table

if TYPE_CHECKING:
    from tailorbird.experiments.interleaving import InterleavingReport
    from tailorbird.experiments.report import Report
    from tailorbird.experiments.run_report import RunReport
    from tailorbird.experiments.trial import TrialReport


def report(
    slot: str = "",
    *,
    since: str = "",
    as_of: str = "",
    html: Path | None = None,
    notebook: Path | None = None,
    json: Json = False,
) -> None:
    """Report on an experiment: verdict and risk, boundary, guardrails, checks, segments.

    Of a permanent split of slots.py: arms, click rates and uplift.

    Example:  tailorbird -C shop experiment report home-model --notebook report.ipynb

    Example:  tailorbird -C shop experiment report home-model --as-of 2026-11-25

    Example:  tailorbird -C shop experiment report home --since 14d --html report.html

    Parameters
    ----------
    slot:
        name of a started experiment, or of a slot; by default train.slot
    since:
        length of the most recent period of a slot's split to report on, such as 14d
    as_of:
        report as it stood at this time, such as 2026-11-25T12:00, or `latest`: the end of the
        history in the lake
    html:
        also write an HTML page with a chart to this file
    notebook:
        also write a notebook that computes the report again, of a started experiment
    """
    from tailorbird.config import open_project
    from tailorbird.errors import UsageError
    from tailorbird.experiments.interleaving import InterleavingReport
    from tailorbird.experiments.page import write_report
    from tailorbird.experiments.trial import TrialReport
    from tailorbird.platform.experiments.commands import report_experiment

    project = open_project()
    result = report_experiment(project, slot, since=since, as_of=as_of)
    if notebook is not None:
        if not isinstance(result, TrialReport):
            raise UsageError(
                "a notebook is of a started A/B experiment",
                where="--notebook",
                fix="leave it out, or name one that tailorbird experiment list shows",
            )
        from tailorbird.experiments.views.notebook import report_notebook

        notebook.write_text(report_notebook(result, project.root))
    if html is not None:
        write_report(html, project.settings.project.name, result)
    if json:
        print_json(result.to_dict())
        return
    match result:
        case TrialReport():
            _print_trial(result)
        case InterleavingReport():
            _print_interleaving(result)
        case _:
            _print_split(result)
    if html is not None:
        console().print(f"Page: {html}")


def _print_split(result: "Report") -> None:
    from tailorbird.experiments.page import format_share

    console().print(f"{result.verdict}\n", style="bold")
    rows = [
        (
            arm.arm,
            arm.users,
            arm.impressions,
            arm.clicks,
            format_share(arm.ctr),
            arm.purchases,
            format_share(arm.conversion),
        )
        for arm in result.arms
    ]
    columns = ["arm", "users", "impressions", "clicks", "CTR", "purchases", "conversion"]
    print_table("", columns, rows, numeric_columns=columns[1:])
    for comparison in result.comparisons:
        if math.isnan(comparison.uplift):
            console().print(f"{comparison.arm} over {comparison.control}: too little data yet")
            continue
        interval = (
            f"{comparison.uplift:+.1%}, 95 % interval {comparison.low:+.1%} to "
            f"{comparison.high:+.1%}, p = "
            f"{comparison.p:.3g}"
        )
        anytime_interval = (
            f"{comparison.always_low:+.1%} to {comparison.always_high:+.1%} if looked at any time"
        )
        console().print(
            f"{comparison.arm} over {comparison.control}: {interval} ({anytime_interval})"
        )
    console().print(
        f"split as declared: p = {result.srm_p:.3g}; users in several arms: "
        f"{result.multiple_exposures}"
    )


def _print_trial(result: "TrialReport") -> None:
    from tailorbird.events import to_iso
    from tailorbird.experiments.page import GUARDRAIL_NOTE, format_interval, format_uplift

    _print_conclusion(result)
    print_table(
        "",
        ["arm", "units", "value"],
        [(arm.arm, f"{arm.units:,}", f"{arm.value:.4g}") for arm in result.arms],
        numeric_columns=["units", "value"],
    )
    rows = [
        (
            metric_result.metric,
            metric_result.arm,
            format_uplift(metric_result.uplift),
            format_interval(metric_result.low, metric_result.high),
            f"{metric_result.variance_ratio:.0%}",
            kind,
        )
        for kind, results in (("primary", result.primary), ("guardrail", result.guardrails))
        for metric_result in results
    ]
    print_table("", ["metric", "arm", "uplift", "interval", "CUPED leaves", "kind"], rows)
    if result.guardrails:
        console().print(f"{GUARDRAIL_NOTE}\n")
    for arm, stages in result.stages.items():
        crossing = result.find_crossing(arm)
        rows = [
            (
                number,
                f"{stage.units:,}",
                f"{stage.information:.0%}",
                format_uplift(stage.uplift),
                f"{stage.z:+.2f}",
                f"{stage.bound:.2f}",
                "crossed" if number - 1 == crossing else "",
            )
            for number, stage in enumerate(stages, 1)
        ]
        columns = ["analysis", "units", "information", "uplift", "z", "boundary", ""]
        print_table(f"{arm}, {result.stopping}", columns, rows, numeric_columns=columns[:-1])
    _print_checks(result)
    for segment in result.segments:
        rows = [
            (
                effect.name,
                f"{effect.units:,}",
                format_uplift(effect.uplift),
                format_interval(effect.low, effect.high),
            )
            for effect in segment.segments.effects
        ]
        title = f"{segment.arm} by {segment.column}"
        print_table(title, ["segment", "units", "uplift, shrunk", "interval"], rows)
    for view in result.views:
        rows = [
            (
                row.name,
                f"{row.units:,}",
                format_uplift(row.uplift),
                format_interval(row.low, row.high),
            )
            for row in view.rows
        ]
        print_table(view.arm, [view.by, "units", "uplift", "interval"], rows)
    rows = [(to_iso(change.at)[:16], change.kind, change.what) for change in result.timeline]
    if rows:
        print_table("what else changed", ["time", "kind", "what"], rows)
    _print_notes(result)


def _print_interleaving(result: "InterleavingReport") -> None:
    from tailorbird.experiments.page import format_share

    _print_conclusion(result)
    rows = [
        (
            preference.event,
            f"{preference.control:,}",
            f"{preference.treatment:,}",
            f"{preference.losses:,} : {preference.wins:,} of {preference.units:,}",
            format_share(preference.share),
            f"{format_share(preference.low)} to {format_share(preference.high)}",
            f"{preference.p:.3g}",
        )
        for preference in result.preferences
        if preference.units
    ]
    columns = ["credit", result.control, result.treatment, "units prefer", "share", "interval", "p"]
    print_table(f"{result.responses:,} responses", columns, rows, numeric_columns=columns[1:])
    position_rows = [
        (position.position, f"{position.control:,}", f"{position.treatment:,}", f"{position.p:.3g}")
        for position in result.positions
    ]
    columns = ["position", result.control, result.treatment, "p"]
    print_table("items picked", columns, position_rows, numeric_columns=columns)
    _print_checks(result)
    _print_notes(result)


def _print_conclusion(result: "RunReport") -> None:
    console().print(result.summary, style="bold")
    console().print(f"{result.advice}\n")


def _print_checks(result: "RunReport") -> None:
    check_rows = [
        (check.name, "ok" if check.passed else "FAILED", check.reason) for check in result.checks
    ]
    print_table("", ["check", "result", "reason"], check_rows)


def _print_notes(result: "RunReport") -> None:
    for note in result.notes:
        console().print(note)
