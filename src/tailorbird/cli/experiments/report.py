"""`tailorbird experiment report`."""

import math
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird.cli.output import Json, console, print_json, print_table

if TYPE_CHECKING:
    from tailorbird.experiments.interleaving import InterleavingReport
    from tailorbird.experiments.trial import TrialReport

_PAGE_TEMPLATE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="content-security-policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse; width: 100% }}
td, th {{ padding: .25rem .6rem .25rem 0; text-align: right }}
td:first-child, th:first-child {{ text-align: left }}
svg {{ max-width: 100%; height: auto }}
</style>
{body}
</html>
"""


def report(
    slot: str = "",
    *,
    since: str = "",
    html: Path | None = None,
    notebook: Path | None = None,
    json: Json = False,
) -> None:
    """Report on an experiment: verdict and risk, boundary, guardrails, checks, segments.

    Of a permanent split of slots.py: arms, click rates and uplift.

    Example:  tailorbird -C shop experiment report home-model --notebook report.ipynb

    Example:  tailorbird -C shop experiment report home

    Example:  tailorbird -C shop experiment report home --since 14d --html report.html

    Parameters
    ----------
    slot:
        name of a started experiment, or of a slot; by default train.slot
    since:
        length of the most recent period of a slot's split to report on, such as 14d
    html:
        also write an HTML page with a chart to this file
    notebook:
        also write a notebook that computes the report again, of a started experiment
    """
    import dataclasses

    from tailorbird.config import open_project
    from tailorbird.errors import UsageError
    from tailorbird.experiments.interleaving import InterleavingReport
    from tailorbird.experiments.trial import TrialReport
    from tailorbird.platform.experiments import report_experiment

    project = open_project()
    result = report_experiment(project, slot, since=since)
    if isinstance(result, TrialReport):
        if notebook is not None:
            from tailorbird.experiments.views.notebook import report_notebook

            notebook.write_text(report_notebook(result, project.root))
        _print_trial(result, project.settings.project.name, html=html, json=json)
        return
    if isinstance(result, InterleavingReport):
        if html is not None:
            raise UsageError("an interleaved experiment has no page", where="--html", fix="--json")
        _print_interleaving(result, json=json)
        return
    if notebook is not None:
        raise UsageError(
            "a notebook is of a started experiment",
            where="--notebook",
            fix="leave it out, or name one that tailorbird experiment list shows",
        )
    if html is not None:
        from tailorbird.experiments.drawing import report_html

        title = f"{project.settings.project.name}: {result.experiment}"
        write_page(html, title, report_html(result))
    if json:
        print_json(dataclasses.asdict(result))
        return
    console().print(f"{result.verdict}\n", style="bold")
    rows = [
        (
            arm.arm,
            arm.users,
            arm.impressions,
            arm.clicks,
            _percent(arm.ctr),
            arm.purchases,
            _percent(arm.conversion),
        )
        for arm in result.arms
    ]
    columns = ["arm", "users", "impressions", "clicks", "CTR", "purchases", "conversion"]
    print_table("", columns, rows, right=columns[1:])
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
    if html is not None:
        console().print(f"Page: {html}")


def _print_trial(result: "TrialReport", project: str, *, html: Path | None, json: bool) -> None:
    from tailorbird.events import to_iso
    from tailorbird.experiments.trial_page import (
        find_crossing,
        format_interval,
        format_uplift,
        trial_html,
    )

    if html is not None:
        write_page(html, f"{project}: {result.experiment}", trial_html(result))
    if json:
        print_json(result.to_dict())
        return
    out = console()
    out.print(result.summary, style="bold")
    out.print(f"{result.advice}\n")
    print_table(
        "",
        ["arm", "units", "value"],
        [(arm.arm, f"{arm.units:,}", f"{arm.value:.4g}") for arm in result.arms],
        right=["units", "value"],
    )
    rows = [
        (
            each.metric,
            each.arm,
            format_uplift(each.uplift),
            format_interval(each.low, each.high),
            f"{each.variance_ratio:.0%}",
            kind,
        )
        for kind, results in (("primary", result.primary), ("guardrail", result.guardrails))
        for each in results
    ]
    print_table("", ["metric", "arm", "uplift", "interval", "CUPED leaves", "kind"], rows)
    for arm, stages in result.stages.items():
        crossing = find_crossing(result, arm)
        rows = [
            (
                number,
                f"{each.units:,}",
                f"{each.information:.0%}",
                format_uplift(each.uplift),
                f"{each.z:+.2f}",
                f"{each.bound:.2f}",
                "crossed" if number - 1 == crossing else "",
            )
            for number, each in enumerate(stages, 1)
        ]
        columns = ["analysis", "units", "information", "uplift", "z", "boundary", ""]
        print_table(f"{arm}, {result.stopping}", columns, rows, right=columns[:-1])
    checks = [(each.name, "ok" if each.passed else "FAILED", each.reason) for each in result.checks]
    print_table("", ["check", "result", "reason"], checks)
    for segment in result.segments:
        rows = [
            (
                each.name,
                f"{each.units:,}",
                format_uplift(each.uplift),
                format_interval(each.low, each.high),
            )
            for each in segment.segments.effects
        ]
        title = f"{segment.arm} by {segment.column}"
        print_table(title, ["segment", "units", "uplift, shrunk", "interval"], rows)
    for view in result.views:
        rows = [
            (
                each.name,
                f"{each.units:,}",
                format_uplift(each.uplift),
                format_interval(each.low, each.high),
            )
            for each in view.rows
        ]
        print_table(view.arm, [view.by, "units", "uplift", "interval"], rows)
    rows = [(to_iso(each.at)[:16], each.kind, each.what) for each in result.timeline]
    if rows:
        print_table("what else changed", ["time", "kind", "what"], rows)
    for note in result.notes:
        out.print(note)
    if html is not None:
        out.print(f"Page: {html}")


def _print_interleaving(result: "InterleavingReport", *, json: bool) -> None:
    if json:
        print_json(result.to_dict())
        return
    out = console()
    out.print(result.verdict, style="bold")
    out.print(f"{result.advice}\n")
    rows = [
        (
            each.event,
            f"{each.control:,}",
            f"{each.treatment:,}",
            f"{each.losses:,} : {each.wins:,} of {each.units:,}",
            _percent(each.share),
            f"{_percent(each.low)} to {_percent(each.high)}",
            f"{each.p:.3g}",
        )
        for each in result.preferences
        if each.units
    ]
    columns = ["credit", result.control, result.treatment, "units prefer", "share", "interval", "p"]
    print_table(f"{result.responses:,} responses", columns, rows, right=columns[1:])
    positions = [
        (each.position, f"{each.control:,}", f"{each.treatment:,}", f"{each.p:.3g}")
        for each in result.positions
    ]
    columns = ["position", result.control, result.treatment, "p"]
    print_table("items picked", columns, positions, right=columns)
    checks = [(each.name, "ok" if each.passed else "FAILED", each.reason) for each in result.checks]
    print_table("", ["check", "result", "reason"], checks)
    for note in result.notes:
        out.print(note)


def write_page(path: Path, title: str, body: str) -> None:
    """Write a section of HTML as a page of its own."""
    path.write_text(_PAGE_TEMPLATE.format(title=escape(title), body=body))


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2%}"
