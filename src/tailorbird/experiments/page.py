"""The page of an experiment's report: a section of HTML by kind, without scripts or network."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tailorbird import pages
from tailorbird.events import to_iso
from tailorbird.experiments.drawing import preferences_svg, report_svg, stages_svg
from tailorbird.experiments.metrics import GUARDRAIL_TUNED_FOR_UNITS

if TYPE_CHECKING:
    from tailorbird.experiments.interleaving import InterleavingReport
    from tailorbird.experiments.report import Report
    from tailorbird.experiments.trial import TrialReport


GUARDRAIL_NOTE = (
    "Intervals of guardrails are confidence sequences, valid on any day and narrowest at "
    f"{GUARDRAIL_TUNED_FOR_UNITS:,} units."
)


class Section(Protocol):
    """A report that is a section of HTML."""

    @property
    def experiment(self) -> str: ...
    def _repr_html_(self) -> str: ...


def write_report(path: Path, project: str, report: Section) -> Path:
    """Write a report as a page, and return its path."""
    from markupsafe import Markup

    title = f"{project}: {report.experiment}"
    section = Markup(report._repr_html_())  # escaped by its template
    return pages.write_page(path, "experiment", title, section=section)


def split_html(report: "Report") -> str:
    """Return the report of a slot's split as a section of HTML."""
    return _render("split", report, chart=report_svg(report))


def interleaving_html(report: "InterleavingReport") -> str:
    """Return the report of an interleaved experiment as a section of HTML."""
    return _render("interleaving", report, chart=preferences_svg(report))


def trial_html(report: "TrialReport") -> str:
    """Return the report of a planned experiment as a section of HTML."""
    charts = {arm: stages_svg(report, arm) for arm, stages in report.stages.items() if stages}
    return _render("trial", report, charts=charts, guardrail_note=GUARDRAIL_NOTE)


def _render(template: str, report: object, **values: Any) -> str:
    return pages.render(
        f"experiments/{template}",
        report=report,
        format_minute=lambda moment: to_iso(moment)[:16],
        format_number=format_number,
        format_share=format_share,
        format_uplift=format_uplift,
        format_interval=format_interval,
        **values,
    )


def format_number(value: float) -> str:
    """Format the value of a metric."""
    return f"{value:,.4g}" if math.isfinite(value) else "–"


def format_share(value: float) -> str:
    """Format a rate or a share."""
    return f"{value:.2%}" if math.isfinite(value) else "–"


def format_uplift(value: float) -> str:
    """Format a relative uplift, or an end of its interval."""
    if math.isnan(value):
        return "–"
    return f"{value:+.1%}" if math.isfinite(value) else "unbounded"


def format_interval(low: float, high: float) -> str:
    """Format the interval of a relative uplift."""
    return "–" if math.isnan(low) else f"{format_uplift(low)} to {format_uplift(high)}"
