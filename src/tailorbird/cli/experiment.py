"""`tailorbird experiment report`."""

import math
from html import escape
from pathlib import Path

from tailorbird.cli.output import Json, console, print_json, print_table

_PAGE = """<!doctype html>
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
    """Report on the experiment of a slot: arms, users, click rate, conversion, uplift with its
    interval, and a verdict in words.

    Example:  tailorbird -C shop experiment report home

    Example:  tailorbird -C shop experiment report home --since 14d --html report.html

    Parameters
    ----------
    slot:
        the slot whose experiment it is, train.slot unless told otherwise
    since:
        only the last while, such as 14d
    html:
        also write a page with a picture
    """
    import dataclasses

    from tailorbird.config import open_project
    from tailorbird.platform.experiments import report_experiment

    project = open_project()
    found = report_experiment(project, slot, since=since)
    if html is not None:
        from tailorbird.experiments.drawing import report_html

        html.write_text(
            _PAGE.format(
                title=escape(f"{project.settings.project.name}: {found.experiment}"),
                body=report_html(found),
            )
        )
    if json:
        print_json(dataclasses.asdict(found))
        return
    console().print(f"{found.verdict}\n", style="bold")
    rows = [
        (
            a.arm,
            a.users,
            a.impressions,
            a.clicks,
            _percent(a.ctr),
            a.purchases,
            _percent(a.conversion),
        )
        for a in found.arms
    ]
    columns = ["arm", "users", "impressions", "clicks", "CTR", "purchases", "conversion"]
    print_table("", columns, rows, right=columns[1:])
    for each in found.comparisons:
        if math.isnan(each.uplift):
            console().print(f"{each.arm} over {each.control}: too little data yet")
            continue
        interval = (
            f"{each.uplift:+.1%}, 95 % interval {each.low:+.1%} to {each.high:+.1%}, p = "
            f"{each.p:.3g}"
        )
        always = f"{each.always_low:+.1%} to {each.always_high:+.1%} if looked at any time"
        console().print(f"{each.arm} over {each.control}: {interval} ({always})")
    console().print(
        f"split as declared: p = {found.srm_p:.3g}; users in several arms: "
        f"{found.multiple_exposures}"
    )
    if html is not None:
        console().print(f"Page: {html}")


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2%}"
