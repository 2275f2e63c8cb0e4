"""`tailorbird experiment report`."""

import math
from html import escape
from pathlib import Path

from tailorbird.cli.output import Json, console, print_json, print_table

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
    slot: str = "", *, since: str = "", html: Path | None = None, json: Json = False
) -> None:
    """Report on a slot's experiment: arms, click rates, uplift with its interval, verdict.

    Example:  tailorbird -C shop experiment report home

    Example:  tailorbird -C shop experiment report home --since 14d --html report.html

    Parameters
    ----------
    slot:
        name of the slot; by default train.slot
    since:
        length of the most recent period to report on, such as 14d
    html:
        also write an HTML page with a chart to this file
    """
    import dataclasses

    from tailorbird.config import open_project
    from tailorbird.platform.experiments import report_experiment

    project = open_project()
    result = report_experiment(project, slot, since=since)
    if html is not None:
        from tailorbird.experiments.drawing import report_html

        html.write_text(
            _PAGE_TEMPLATE.format(
                title=escape(f"{project.settings.project.name}: {result.experiment}"),
                body=report_html(result),
            )
        )
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


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2%}"
