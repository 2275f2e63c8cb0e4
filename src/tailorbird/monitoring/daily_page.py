"""HTML page of the daily checks: the newest day in words, earlier days as a grid.

It loads nothing from the network.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird.atomic_write import atomic_write

if TYPE_CHECKING:
    from tailorbird.monitoring.daily import DayReport
    from tailorbird.monitoring.verdict import Check

DAYS_SHOWN = 60
_WORDS = {"ok": "fine", "failed": "failed", "none": "not judged"}
_SIGNS = {"ok": "✓", "failed": "✗", "none": "·"}
_STYLE = """
:root { color-scheme: light dark; --ink: #1d2529; --soft: #5c6b73; --line: #d7dee2; }
:root { --ok: #1b6e5f; --failed: #b3261e; --paper: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4eaed; --soft: #9aa8b0; --line: #37444b; }
  :root { --ok: #58c2ab; --failed: #ff8a80; --paper: #141a1d; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
body { max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: .6rem 0 1.4rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem .25rem 0; text-align: left; vertical-align: top; }
th, td { border-bottom: 1px solid var(--line); }
.ok { color: var(--ok); } .none { color: var(--soft); }
.failed { color: var(--failed); font-weight: 600; }
.grid td, .grid th { text-align: center; padding: .15rem .5rem; }
.grid td:first-child { text-align: left; white-space: nowrap; }
"""


def write_page(path: Path, reports: "Sequence[DayReport]") -> Path:
    """Write the page of reports, newest first, and return its path."""
    body = (
        _newest(reports[0]) + _grid(reports[:DAYS_SHOWN])
        if reports
        else "<p>No day was checked yet.</p>"
    )
    text = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Daily checks · '
        "Tailorbird</title>"
        f"<style>{_STYLE}</style><body><h1>Daily checks</h1>{body}</body></html>"
    )
    atomic_write(path, text.encode())
    return path


def _newest(report: "DayReport") -> str:
    rows = "".join(_row(check) for check in report.checks)
    failed = len(report.failed)
    verdict = (
        f'<span class="failed">{failed} failed</span>'
        if failed
        else '<span class="ok">nothing failed</span>'
    )
    head = "<tr><th>check</th><th></th><th>what was found</th><th>figure</th><th>limit</th></tr>"
    return (
        f"<h2>{escape(report.day)}: {report.rows:,} events, {verdict}</h2><p>Checked at "
        f"{escape(report.at)}.</p><table>{head}{rows}</table>"
    )


def _row(check: "Check") -> str:
    explanation = "<br>".join(escape(line) for line in check.details or [check.told])
    status = f'<td class="{check.status}">{_WORDS[check.status]}</td>'
    return (
        f"<tr><td>{escape(check.name)}</td>{status}<td>{explanation}</td>"
        f"<td>{check.value:.3g}</td><td>{check.limit:.3g}</td></tr>"
    )


def _grid(reports: "Sequence[DayReport]") -> str:
    names = list(dict.fromkeys(check.name for report in reports for check in report.checks))
    head = (
        "<tr><th>day</th><th>events</th>"
        + "".join(f"<th>{escape(name)}</th>" for name in names)
        + "</tr>"
    )
    rows = []
    for report in reports:
        by_name = {check.name: check for check in report.checks}
        cells = "".join(_cell(by_name.get(name)) for name in names)
        rows.append(f"<tr><td>{escape(report.day)}</td><td>{report.rows:,}</td>{cells}</tr>")
    return f'<h2>The days before</h2><table class="grid">{head}{"".join(rows)}</table>'


def _cell(check: "Check | None") -> str:
    if check is None:
        return "<td></td>"
    return (
        f'<td class="{check.status}" '
        f'title="{escape(check.told, quote=True)}">{_SIGNS[check.status]}</td>'
    )
