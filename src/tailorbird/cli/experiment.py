"""`tailorbird experiment report`."""

from pathlib import Path

from tailorbird.cli.output import Json, console, print_json, print_table
from tailorbird.errors import UsageError


def report(slot: str = "", *, since: str = "", html: Path | None = None, json: Json = False) -> None:
    """Report on the experiment of a slot: arms, users, click rate, conversion, uplift with its interval, and a verdict in words.

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
    from tailorbird.events import SystemClock, duration
    from tailorbird.experiments.report import experiment_report
    from tailorbird.lake import Lake

    project = open_project()
    name = slot or project.settings.train.slot
    if name not in project.slots:
        raise UsageError(f"slots.py declares no slot {name!r}", fix=f"use one of {', '.join(project.slots)}")
    declared = project.slots[name]
    if declared.experiment is None:
        raise UsageError(f"slot {name} runs no experiment", fix=f"give it one in {project.root / 'slots.py'}")
    ts_from = SystemClock().now() - duration(since) if since else None
    found = experiment_report(
        Lake(project.paths.lake), declared.experiment, name, ts_from=ts_from, denominator=declared.denominator
    )  # fmt: skip
    if html is not None:
        from tailorbird.experiments.picture import report_page

        html.write_text(report_page(found))
    if json:
        print_json(dataclasses.asdict(found))
        return
    console().print(f"[bold]{found.verdict}[/bold]\n")
    rows = [(a.arm, a.users, a.impressions, a.clicks, f"{a.ctr:.2%}", a.purchases, f"{a.conversion:.2%}") for a in found.arms]
    columns = ["arm", "users", "impressions", "clicks", "CTR", "purchases", "conversion"]
    print_table("", columns, rows, right=columns[1:])
    for each in found.comparisons:
        interval = f"{each.uplift:+.1%}, 95 % interval {each.low:+.1%} to {each.high:+.1%}, p = {each.p:.3g}"
        always = f"{each.always_low:+.1%} to {each.always_high:+.1%} if looked at any time"
        console().print(f"{each.arm} over {each.control}: {interval} ({always})")
    console().print(f"split as declared: p = {found.srm_p:.3g}; users in several arms: {found.multiple_exposures}")
    if html is not None:
        console().print(f"Page: {html}")
